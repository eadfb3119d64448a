/* Plain C: the reference, and what any processor can run. */
#include "level.h"

const struct kernels kernels_c = {KERNELS("c")};
