#include "target.h"

#if defined(__aarch64__)
TARGET("arch=armv8.2-a+dotprod")
#define LEVEL_NEON
#include "level.h"

const struct kernels kernels_neon = {KERNELS("neon")};
TARGET_END
#endif
