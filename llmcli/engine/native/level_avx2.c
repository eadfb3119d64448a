#if defined(__x86_64__)
#pragma GCC target("avx2,fma,f16c,bmi2")
#define LEVEL_AVX2
#include "level.h"

const struct kernels kernels_avx2 = {KERNELS("avx2")};
#endif
