/* Sixteen lanes in one register: AVX-512 with VNNI. */
#include <immintrin.h>

typedef __m512 vec;
typedef __m512i ivec;
typedef __m512i bytes;
typedef __m512i uvec;

/* Tiles of rows and panels that fill the 32 registers. */
enum { TILE_ROWS = 12, INT_ROWS = 6 };
#define TILE_PANELS(rows) ((rows) <= 6 ? 4 : 2)
#define INT_PANELS(rows) ((rows) <= 3 ? 4 : 2)

INLINE __mmask16 v_mask(int64_t n)
{
    return n >= LANES ? 0xffff : (__mmask16)((1u << n) - 1);
}

INLINE vec v_zero(void) { return _mm512_setzero_ps(); }
INLINE vec v_set(float x) { return _mm512_set1_ps(x); }
INLINE vec v_load(const float *p) { return _mm512_loadu_ps(p); }
INLINE void v_store(float *p, vec v) { _mm512_storeu_ps(p, v); }
INLINE vec v_load_some(const float *p, int64_t n) { return _mm512_maskz_loadu_ps(v_mask(n), p); }
INLINE void v_store_some(float *p, int64_t n, vec v) { _mm512_mask_storeu_ps(p, v_mask(n), v); }
INLINE vec v_load_half(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
INLINE void v_store_half(uint16_t *p, vec v)
{
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}
INLINE void v_load_pairs(const uint16_t *p, vec *even, vec *odd)
{
    __m512i both = _mm512_loadu_si512(p);
    *even = _mm512_castsi512_ps(_mm512_slli_epi32(both, 16));
    *odd = _mm512_castsi512_ps(_mm512_and_si512(both, _mm512_set1_epi32((int)0xffff0000)));
}
INLINE vec v_add(vec a, vec b) { return _mm512_add_ps(a, b); }
INLINE vec v_sub(vec a, vec b) { return _mm512_sub_ps(a, b); }
INLINE vec v_mul(vec a, vec b) { return _mm512_mul_ps(a, b); }
INLINE vec v_div(vec a, vec b) { return _mm512_div_ps(a, b); }
INLINE vec v_fma(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }
INLINE vec v_max(vec a, vec b) { return _mm512_max_ps(a, b); }
INLINE vec v_min(vec a, vec b) { return _mm512_min_ps(a, b); }
INLINE vec v_abs(vec v) { return _mm512_abs_ps(v); }
INLINE vec v_copysign(vec size, vec sign)
{
    const __m512i bit = _mm512_set1_epi32((int)0x80000000);
    /* bit ? sign : size */
    return _mm512_castsi512_ps(_mm512_ternarylogic_epi32(bit, _mm512_castps_si512(sign),
                                                         _mm512_castps_si512(size), 0xca));
}
INLINE vec v_where_negative(vec v, vec a, vec b)
{
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(v, _mm512_setzero_ps(), _CMP_LT_OQ), b, a);
}
INLINE float v_sum(vec v)
{
    __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 some = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    some = _mm_add_ps(some, _mm_movehl_ps(some, some));
    return _mm_cvtss_f32(_mm_add_ss(some, _mm_movehdup_ps(some)));
}
INLINE float v_largest(vec v)
{
    __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 some = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    some = _mm_max_ps(some, _mm_movehl_ps(some, some));
    return _mm_cvtss_f32(_mm_max_ss(some, _mm_movehdup_ps(some)));
}
INLINE ivec v_to_int(vec v) { return _mm512_cvtps_epi32(v); }
INLINE vec i_to_float(ivec i) { return _mm512_cvtepi32_ps(i); }
INLINE vec v_power(ivec i)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(i, _mm512_set1_epi32(127)), 23));
}
INLINE ivec i_zero(void) { return _mm512_setzero_si512(); }
INLINE ivec i_add(ivec a, ivec b) { return _mm512_add_epi32(a, b); }
INLINE ivec i_sub(ivec a, ivec b) { return _mm512_sub_epi32(a, b); }
INLINE ivec i_half(ivec i) { return _mm512_srai_epi32(i, 1); }
INLINE int32_t i_sum(ivec i) { return _mm512_reduce_add_epi32(i); }
INLINE vec v_load_bytes(const int8_t *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
}
INLINE void i_store_bytes(int8_t *p, ivec i)
{
    _mm_storeu_si128((__m128i *)p, _mm512_cvtsepi32_epi8(i));
}
/* The instruction wants weights unsigned: 128 is added, and i_start takes it away again. */
INLINE bytes b_load(const int8_t *p)
{
    return _mm512_xor_si512(_mm512_loadu_si512(p), _mm512_set1_epi8((char)0x80));
}
INLINE ivec i_start(int32_t sum) { return _mm512_set1_epi32(-128 * sum); }
INLINE ivec i_dot(ivec i, bytes weights, int32_t x)
{
    return _mm512_dpbusd_epi32(i, weights, _mm512_set1_epi32(x));
}
INLINE void n_load(const uint8_t *p, bytes *low, bytes *high)
{
    const __m512i mask = _mm512_set1_epi8(15);
    __m512i both = _mm512_loadu_si512(p);
    *low = _mm512_and_si512(both, mask);
    *high = _mm512_and_si512(_mm512_srli_epi16(both, 4), mask);
}
INLINE uvec u_start(void) { return _mm512_setzero_si512(); }
INLINE uvec u_dot(uvec u, bytes weights, int32_t x) { return i_dot(u, weights, x); }
INLINE ivec u_end(uvec u) { return u; }
