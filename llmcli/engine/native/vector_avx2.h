/* Sixteen lanes in two registers: AVX2 with FMA and F16C, and AVX-VNNI with LEVEL_AVXVNNI. */
#include <immintrin.h>

typedef struct {
    __m256 a, b;
} vec;
typedef struct {
    __m256i a, b;
} ivec;
typedef ivec bytes;
typedef ivec uvec;

/* Tiles of rows and panels that fill the 16 registers. */
enum { TILE_ROWS = 6, INT_ROWS = 4 };
#define TILE_PANELS(rows) ((rows) <= 1 ? 4 : (rows) <= 3 ? 2 : 1)
#define INT_PANELS(rows) ((rows) <= 1 ? 2 : 1)

#define BOTH(type, name, parameters, first, second)                                                \
    INLINE type name parameters                                                                    \
    {                                                                                              \
        return (type){first, second};                                                              \
    }

BOTH(vec, v_zero, (void), _mm256_setzero_ps(), _mm256_setzero_ps())
BOTH(vec, v_set, (float x), _mm256_set1_ps(x), _mm256_set1_ps(x))
BOTH(vec, v_load, (const float *p), _mm256_loadu_ps(p), _mm256_loadu_ps(p + 8))
INLINE void v_store(float *p, vec v)
{
    _mm256_storeu_ps(p, v.a);
    _mm256_storeu_ps(p + 8, v.b);
}
INLINE __m256i v_mask(int64_t n, int first)
{
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    int32_t some = n > LANES ? LANES : (int32_t)n;
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(some - first), lane);
}
BOTH(vec, v_load_some, (const float *p, int64_t n), _mm256_maskload_ps(p, v_mask(n, 0)),
     _mm256_maskload_ps(p + 8, v_mask(n, 8)))
INLINE void v_store_some(float *p, int64_t n, vec v)
{
    _mm256_maskstore_ps(p, v_mask(n, 0), v.a);
    _mm256_maskstore_ps(p + 8, v_mask(n, 8), v.b);
}
BOTH(vec, v_load_half, (const uint16_t *p), _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)),
     _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + 8))))
INLINE void v_store_half(uint16_t *p, vec v)
{
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(v.a, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128((__m128i *)(p + 8), _mm256_cvtps_ph(v.b, _MM_FROUND_TO_NEAREST_INT));
}
INLINE void v_load_pairs(const uint16_t *p, vec *even, vec *odd)
{
    const __m256i upper = _mm256_set1_epi32((int)0xffff0000);
    __m256i a = _mm256_loadu_si256((const __m256i *)p);
    __m256i b = _mm256_loadu_si256((const __m256i *)(p + 16));
    even->a = _mm256_castsi256_ps(_mm256_slli_epi32(a, 16));
    even->b = _mm256_castsi256_ps(_mm256_slli_epi32(b, 16));
    odd->a = _mm256_castsi256_ps(_mm256_and_si256(a, upper));
    odd->b = _mm256_castsi256_ps(_mm256_and_si256(b, upper));
}
BOTH(vec, v_add, (vec x, vec y), _mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b))
BOTH(vec, v_sub, (vec x, vec y), _mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b))
BOTH(vec, v_mul, (vec x, vec y), _mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b))
BOTH(vec, v_div, (vec x, vec y), _mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b))
BOTH(vec, v_fma, (vec x, vec y, vec z), _mm256_fmadd_ps(x.a, y.a, z.a),
     _mm256_fmadd_ps(x.b, y.b, z.b))
BOTH(vec, v_max, (vec x, vec y), _mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b))
BOTH(vec, v_min, (vec x, vec y), _mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b))
#define SIGN _mm256_set1_ps(-0.0f)
BOTH(vec, v_abs, (vec v), _mm256_andnot_ps(SIGN, v.a), _mm256_andnot_ps(SIGN, v.b))
BOTH(vec, v_copysign, (vec x, vec y),
     _mm256_or_ps(_mm256_andnot_ps(SIGN, x.a), _mm256_and_ps(SIGN, y.a)),
     _mm256_or_ps(_mm256_andnot_ps(SIGN, x.b), _mm256_and_ps(SIGN, y.b)))
#define BELOW(x) _mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_LT_OQ)
BOTH(vec, v_where_negative, (vec v, vec x, vec y), _mm256_blendv_ps(y.a, x.a, BELOW(v.a)),
     _mm256_blendv_ps(y.b, x.b, BELOW(v.b)))
INLINE float v_sum(vec v)
{
    __m256 eight = _mm256_add_ps(v.a, v.b);
    __m128 some = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    some = _mm_add_ps(some, _mm_movehl_ps(some, some));
    return _mm_cvtss_f32(_mm_add_ss(some, _mm_movehdup_ps(some)));
}
INLINE float v_largest(vec v)
{
    __m256 eight = _mm256_max_ps(v.a, v.b);
    __m128 some = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    some = _mm_max_ps(some, _mm_movehl_ps(some, some));
    return _mm_cvtss_f32(_mm_max_ss(some, _mm_movehdup_ps(some)));
}
BOTH(ivec, v_to_int, (vec v), _mm256_cvtps_epi32(v.a), _mm256_cvtps_epi32(v.b))
BOTH(vec, i_to_float, (ivec i), _mm256_cvtepi32_ps(i.a), _mm256_cvtepi32_ps(i.b))
#define POWER(i)                                                                                   \
    _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(i, _mm256_set1_epi32(127)), 23))
BOTH(vec, v_power, (ivec i), POWER(i.a), POWER(i.b))
BOTH(ivec, i_zero, (void), _mm256_setzero_si256(), _mm256_setzero_si256())
BOTH(ivec, i_add, (ivec x, ivec y), _mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b))
BOTH(ivec, i_sub, (ivec x, ivec y), _mm256_sub_epi32(x.a, y.a), _mm256_sub_epi32(x.b, y.b))
BOTH(ivec, i_half, (ivec i), _mm256_srai_epi32(i.a, 1), _mm256_srai_epi32(i.b, 1))
INLINE int32_t i_sum(ivec i)
{
    __m256i eight = _mm256_add_epi32(i.a, i.b);
    __m128i some = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    some = _mm_add_epi32(some, _mm_shuffle_epi32(some, 0x4e));
    some = _mm_add_epi32(some, _mm_shuffle_epi32(some, 0xb1));
    return _mm_cvtsi128_si32(some);
}
#define EIGHT(p)                                                                                   \
    _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(p))))
BOTH(vec, v_load_bytes, (const int8_t *p), EIGHT(p), EIGHT(p + 8))
INLINE void i_store_bytes(int8_t *p, ivec i)
{
    /* Packing works within halves of 128 bits; the permutation puts them in order. */
    __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(i.a, i.b), 0xd8);
    _mm_storeu_si128((__m128i *)p, _mm_packs_epi16(_mm256_castsi256_si128(words),
                                                   _mm256_extracti128_si256(words, 1)));
}
BOTH(bytes, b_load_as_is, (const void *p), _mm256_loadu_si256((const __m256i *)p),
     _mm256_loadu_si256((const __m256i *)p + 1))
INLINE void n_load(const uint8_t *p, bytes *low, bytes *high)
{
    const __m256i mask = _mm256_set1_epi8(15);
    bytes both = b_load_as_is(p);
    low->a = _mm256_and_si256(both.a, mask);
    low->b = _mm256_and_si256(both.b, mask);
    high->a = _mm256_and_si256(_mm256_srli_epi16(both.a, 4), mask);
    high->b = _mm256_and_si256(_mm256_srli_epi16(both.b, 4), mask);
}

#ifdef LEVEL_AVXVNNI
/* The instruction wants weights unsigned: 128 is added, and i_start takes it away again. */
INLINE bytes b_load(const int8_t *p)
{
    const __m256i sign = _mm256_set1_epi8((char)0x80);
    bytes both = b_load_as_is(p);
    return (bytes){_mm256_xor_si256(both.a, sign), _mm256_xor_si256(both.b, sign)};
}
BOTH(ivec, i_start, (int32_t sum), _mm256_set1_epi32(-128 * sum), _mm256_set1_epi32(-128 * sum))
BOTH(ivec, i_dot, (ivec i, bytes w, int32_t x),
     _mm256_dpbusd_avx_epi32(i.a, w.a, _mm256_set1_epi32(x)),
     _mm256_dpbusd_avx_epi32(i.b, w.b, _mm256_set1_epi32(x)))
BOTH(uvec, u_start, (void), _mm256_setzero_si256(), _mm256_setzero_si256())
INLINE uvec u_dot(uvec u, bytes w, int32_t x) { return i_dot(u, w, x); }
INLINE ivec u_end(uvec u) { return u; }
#else
INLINE bytes b_load(const int8_t *p) { return b_load_as_is(p); }
INLINE ivec i_start(int32_t sum)
{
    (void)sum;
    return i_zero();
}
/* maddubs takes one side unsigned and saturates at 16 bits: |w| and x with w's sign, both of
 * which are at most 127, give 2 * 127 * 127 = 32258 at most. */
INLINE __m256i i_dot_half(__m256i i, __m256i w, __m256i x)
{
    __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
    return _mm256_add_epi32(i, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
BOTH(ivec, i_dot, (ivec i, bytes w, int32_t x), i_dot_half(i.a, w.a, _mm256_set1_epi32(x)),
     i_dot_half(i.b, w.b, _mm256_set1_epi32(x)))
/* Eight times two products of at most 15 * 127 stay within 16 bits. */
BOTH(uvec, u_start, (void), _mm256_setzero_si256(), _mm256_setzero_si256())
BOTH(uvec, u_dot, (uvec u, bytes w, int32_t x),
     _mm256_add_epi16(u.a, _mm256_maddubs_epi16(w.a, _mm256_set1_epi32(x))),
     _mm256_add_epi16(u.b, _mm256_maddubs_epi16(w.b, _mm256_set1_epi32(x))))
BOTH(ivec, u_end, (uvec u), _mm256_madd_epi16(u.a, _mm256_set1_epi16(1)),
     _mm256_madd_epi16(u.b, _mm256_set1_epi16(1)))
#endif
