#include "target.h"

#if defined(__x86_64__)
TARGET("avx2,fma,f16c,bmi2,avxvnni")
#define LEVEL_AVX2
#define LEVEL_AVXVNNI
#include "level.h"

const struct kernels kernels_avxvnni = {KERNELS("avxvnni")};
TARGET_END
#endif
