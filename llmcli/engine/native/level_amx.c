#if defined(__x86_64__)
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c,bmi2")
#define LEVEL_AVX512
#include "level.h"

const struct kernels kernels_amx = {KERNELS("amx")};
#endif
