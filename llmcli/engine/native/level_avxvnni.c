#if defined(__x86_64__)
#pragma GCC target("avx2,fma,f16c,bmi2,avxvnni")
#define LEVEL_AVX2
#define LEVEL_AVXVNNI
#include "level.h"

const struct kernels kernels_avxvnni = {KERNELS("avxvnni")};
#endif
