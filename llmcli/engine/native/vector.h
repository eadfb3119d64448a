/* What every file does with a vector of 16 floats. */
#ifndef LLMCLI_VECTOR_H
#define LLMCLI_VECTOR_H

#include <immintrin.h>
#include <stdint.h>

#define FAST __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c,fma,bmi2")))
#define INLINE static inline __attribute__((always_inline)) FAST

enum { LANES = 16 };

/* The first `count` lanes, all of them from 16 on, none from 0 down. */
INLINE __mmask16 lanes(int64_t count)
{
    return count >= LANES ? 0xffff : count > 0 ? (__mmask16)((1u << count) - 1) : 0;
}

/* exp(x) by 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2] (its Taylor series to x^7). */
INLINE __m512 exp512(__m512 x)
{
    /* x comes second, for of two numbers that cannot be compared the second is taken: NaN stays. */
    x = _mm512_min_ps(_mm512_set1_ps(88.8f), _mm512_max_ps(_mm512_set1_ps(-104.0f), x));
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 8);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
    __m512 p = _mm512_set1_ps(1.0f / 5040);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 720));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 120));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 24));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 6));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.5f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(p, n);
}

#endif
