/* Sixteen lanes on every processor.
 *
 * Kernels are written once, over the operations below, and compiled once a level: level_*.c sets
 * LEVEL_<NAME>, includes this file and then the kernels, all of whose functions are static. What
 * a level's file makes may run only where the processor has the level; the table that it exports
 * (kernels.h) is how the rest of the library reaches it.
 *
 * Types: vec, 16 floats; ivec, 16 int32; bytes, 64 int8 (four inputs of 16 lanes), as the level's
 * dot product wants them. All levels give the same bits: floats are IEEE, v_fma rounds once, and
 * nothing is contracted (the library is compiled with -ffp-contract=off).
 *
 *   v_zero() v_set(float)                      all lanes alike
 *   v_load(p) v_store(p, v)                    16 floats, no alignment needed
 *   v_load_some(p, n) v_store_some(p, n, v)    the first n lanes (0 <= n; the rest reads as 0)
 *   v_load_half(p) v_store_half(p, v)          16 float16; to the nearest, to even
 *   v_load_bytes(p)                            16 int8
 *   v_load_pairs(p, &even, &odd)               16 pairs of bfloat16
 *   v_add v_sub v_mul v_div v_fma(a, b, c)     c + a * b
 *   v_max(a, b) v_min(a, b)                    a > b ? a : b, a < b ? a : b: NaN in b stays
 *   v_abs(v) v_copysign(size, sign)
 *   v_where_negative(v, a, b)                  a where v < 0, else b
 *   v_sum(v) v_largest(v)                      lane i with i + 8, then i + 4, i + 2, i + 1
 *   v_to_int(v) i_to_float(i)                  to the nearest, to even
 *   v_power(i)                                 2^i, -126 <= i <= 127
 *   i_zero() i_add(a, b) i_half(i) i_sub(a, b) i_half: shifted right by one, with sign
 *   i_sum(i) i_store_bytes(p, i)               16 int8; within -128 .. 127
 *   b_load(p)                                  64 signed weights
 *   i_start(sum) i_dot(i, bytes, x)            i += the four products of each lane with the four
 *                                              int8 at x; i_start begins, given the sum of all x
 *   n_load(p, &low, &high)                     64 halves of bytes each
 *   u_start() u_dot(u, bytes, x) u_end(u)      the same with unsigned weights up to 15, for up
 *                                              to 32 inputs
 */
#ifndef LLMCLI_VECTOR_H
#define LLMCLI_VECTOR_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "native.h"

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

#if defined(LEVEL_AVX512)
#include "vector_avx512.h"
#elif defined(LEVEL_AVX2)
#include "vector_avx2.h"
#elif defined(LEVEL_NEON)
#include "vector_neon.h"
#else
#include "vector_c.h"
#endif

/* Four int8 as one number. */
INLINE int32_t four(const int8_t *values)
{
    int32_t bits;
    memcpy(&bits, values, 4);
    return bits;
}

/* -- functions ------------------------------------------------------------------------------ */

/* x = n ln 2 + r; returns e^r - 1 (its Taylor series to r^7, |r| <= ln 2 / 2) and n. */
INLINE vec v_reduced(vec x, ivec *n)
{
    *n = v_to_int(v_mul(x, v_set(1.44269504f)));
    vec whole = i_to_float(*n);
    vec r = v_fma(whole, v_set(-0.693359375f), x);
    r = v_fma(whole, v_set(2.12194440e-4f), r);
    vec p = v_set(1.0f / 5040);
    p = v_fma(p, r, v_set(1.0f / 720));
    p = v_fma(p, r, v_set(1.0f / 120));
    p = v_fma(p, r, v_set(1.0f / 24));
    p = v_fma(p, r, v_set(1.0f / 6));
    p = v_fma(p, r, v_set(0.5f));
    p = v_fma(p, r, v_set(1.0f));
    return v_mul(p, r);
}

/* e^x; 0 below -104, and never more than floats hold. */
INLINE vec v_exp(vec x)
{
    /* x comes second, for of two numbers that cannot be compared the second is taken. */
    x = v_min(v_set(88.7f), v_max(v_set(-110.0f), x));
    ivec n;
    vec p = v_add(v_reduced(x, &n), v_set(1.0f));
    /* In two steps, for 2^n alone may be too small for a float. */
    ivec first = i_half(n);
    return v_mul(v_mul(p, v_power(first)), v_power(i_sub(n, first)));
}

INLINE vec v_tanh(vec x)
{
    /* (e^2x - 1) / (e^2x + 1), by e^2x - 1, which keeps small x exact. */
    vec twice = v_min(v_set(20.0f), v_add(v_abs(x), v_abs(x)));
    ivec n;
    vec p = v_reduced(twice, &n), power = v_power(n);
    vec less_one = v_fma(p, power, v_sub(power, v_set(1.0f)));
    return v_copysign(v_div(less_one, v_add(less_one, v_set(2.0f))), x);
}

/* x / (1 + e^-gate): what SiLU and both approximations of GELU are. */
INLINE vec v_gate(vec x, vec gate)
{
    return v_div(x, v_add(v_set(1.0f), v_exp(v_sub(v_zero(), gate))));
}

/* x (1 + erf(x / sqrt 2)) / 2 = x Q for x < 0, x - x Q else, where Q = erfc(|x| / sqrt 2) / 2 is
 * e^(-x^2 / 2) times a polynomial of t = 1 / (1 + |x| / (2 sqrt 2)), fitted on |x| <= 14 to
 * 3e-7 of Q. */
INLINE vec v_gelu(vec x)
{
    static const float fitted[] = {-0.0278819316f, 0.133745396f, -0.224609642f, 0.115276882f,
                                   0.00505508085f, 0.092272905f, 0.124402987f, 0.140639306f,
                                   0.141101622f, -2.62245178e-06f};
    vec size = v_min(v_set(14.0f), v_abs(x));
    vec t = v_div(v_set(1.0f), v_fma(size, v_set(0.35355339f), v_set(1.0f)));
    vec p = v_set(fitted[0]);
    for (unsigned i = 1; i < sizeof fitted / sizeof *fitted; i++)
        p = v_fma(p, t, v_set(fitted[i]));
    vec tail = v_mul(p, v_exp(v_mul(v_mul(size, size), v_set(-0.5f))));
    vec part = v_mul(x, tail);
    return v_where_negative(x, part, v_sub(x, part));
}

INLINE vec v_activate(vec x, int32_t activation)
{
    switch (activation) {
    case ACT_GELU_TANH: {
        /* 0.5 x (1 + tanh u) = x / (1 + exp(-2 u)), u = sqrt(2 / pi) (x + 0.044715 x^3) */
        vec u = v_fma(v_mul(v_mul(x, x), x), v_set(0.044715f), x);
        return v_gate(x, v_mul(u, v_set(2 * 0.7978845608f)));
    }
    case ACT_GELU:
        return v_gelu(x);
    case ACT_GELU_QUICK:
        return v_gate(x, v_mul(x, v_set(1.702f)));
    case ACT_RELU:
        return v_max(v_zero(), x);
    case ACT_RELU_SQUARED: {
        vec some = v_max(v_zero(), x);
        return v_mul(some, some);
    }
    case ACT_SILU:
        return v_gate(x, x);
    case ACT_TANH:
        return v_tanh(x);
    }
    return x;
}

#endif
