#include "target.h"

#if defined(__x86_64__)
TARGET("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c,bmi2")
#define LEVEL_AVX512
#include "level.h"

const struct kernels kernels_avx512 = {KERNELS("avx512")};
TARGET_END
#endif
