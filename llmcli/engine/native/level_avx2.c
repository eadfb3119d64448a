#include "target.h"

#if defined(__x86_64__)
TARGET("avx2,fma,f16c,bmi2")
#define LEVEL_AVX2
#include "level.h"

const struct kernels kernels_avx2 = {KERNELS("avx2")};
TARGET_END
#endif
