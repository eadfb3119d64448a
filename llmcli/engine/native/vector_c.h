/* Sixteen lanes in plain C: the reference, and what any other processor gets. */

/* GCC's own vectors, which it makes of whatever there is. */
typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));
typedef int8_t bytes __attribute__((vector_size(4 * LANES)));
typedef ivec uvec;

enum { TILE_ROWS = 2, INT_ROWS = 2 };
#define TILE_PANELS(rows) 1
#define INT_PANELS(rows) 1

#define EACH(type, name, parameters, ...)                                                          \
    INLINE type name parameters                                                                    \
    {                                                                                              \
        type made;                                                                                 \
        for (int j = 0; j < LANES; j++)                                                            \
            made[j] = __VA_ARGS__;                                                            \
        return made;                                                                               \
    }

INLINE float float_of(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, 4);
    return x;
}
INLINE uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return bits;
}
INLINE float float_of_half(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, rest = half & 0x7fff;
    if (rest >= 0x7c00)
        return float_of(sign | 0x7f800000 | (rest & 0x3ff) << 13);
    if (rest >= 0x400)
        return float_of(sign | ((rest << 13) + (112u << 23)));
    float small = (float)rest * 0x1p-24f;
    return sign ? -small : small;
}
INLINE uint16_t half_of_float(float x)
{
    uint32_t bits = bits_of(x), sign = bits >> 16 & 0x8000, size = bits & 0x7fffffff;
    if (size > 0x7f800000)
        return (uint16_t)(sign | 0x7e00);
    if (size >= 0x477ff000) /* rounds beyond 65504 */
        return (uint16_t)(sign | 0x7c00);
    if (size < 0x38800000) /* a subnormal: adding 0.5 leaves its bits, rounded, at the end */
        return (uint16_t)(sign | (bits_of(float_of(size) + 0.5f) - 0x3f000000));
    return (uint16_t)(sign | ((size - (112u << 23) + 0xfff + (size >> 13 & 1)) >> 13));
}

INLINE vec v_zero(void) { return (vec){0}; }
INLINE vec v_set(float x) { return x - (vec){0}; }
INLINE vec v_load(const float *p)
{
    vec made;
    memcpy(&made, p, sizeof made);
    return made;
}
INLINE void v_store(float *p, vec v) { memcpy(p, &v, sizeof v); }
EACH(vec, v_load_some, (const float *p, int64_t n), j < n ? p[j] : 0)
INLINE void v_store_some(float *p, int64_t n, vec v)
{
    for (int j = 0; j < LANES && j < n; j++)
        p[j] = v[j];
}
EACH(vec, v_load_half, (const uint16_t *p), float_of_half(p[j]))
INLINE void v_store_half(uint16_t *p, vec v)
{
    for (int j = 0; j < LANES; j++)
        p[j] = half_of_float(v[j]);
}
INLINE void v_load_pairs(const uint16_t *p, vec *even, vec *odd)
{
    for (int j = 0; j < LANES; j++) {
        (*even)[j] = float_of((uint32_t)p[2 * j] << 16);
        (*odd)[j] = float_of((uint32_t)p[2 * j + 1] << 16);
    }
}
INLINE vec v_add(vec a, vec b) { return a + b; }
INLINE vec v_sub(vec a, vec b) { return a - b; }
INLINE vec v_mul(vec a, vec b) { return a * b; }
INLINE vec v_div(vec a, vec b) { return a / b; }
EACH(vec, v_fma, (vec a, vec b, vec c), fmaf(a[j], b[j], c[j]))
EACH(vec, v_max, (vec a, vec b), a[j] > b[j] ? a[j] : b[j])
EACH(vec, v_min, (vec a, vec b), a[j] < b[j] ? a[j] : b[j])
EACH(vec, v_abs, (vec v), fabsf(v[j]))
EACH(vec, v_copysign, (vec size, vec sign), copysignf(size[j], sign[j]))
EACH(vec, v_where_negative, (vec v, vec a, vec b), v[j] < 0 ? a[j] : b[j])
INLINE float v_sum(vec v)
{
    for (int width = LANES / 2; width > 0; width /= 2)
        for (int j = 0; j < width; j++)
            v[j] += v[j + width];
    return v[0];
}
INLINE float v_largest(vec v)
{
    for (int width = LANES / 2; width > 0; width /= 2)
        for (int j = 0; j < width; j++)
            v[j] = v[j] > v[j + width] ? v[j] : v[j + width];
    return v[0];
}
/* What is no number, or too large, becomes 0 here and something else at other levels; nobody
 * uses it. */
EACH(ivec, v_to_int, (vec v), fabsf(v[j]) < 2e9f ? (int32_t)rintf(v[j]) : 0)
EACH(vec, i_to_float, (ivec i), (float)i[j])
EACH(vec, v_power, (ivec i), float_of((uint32_t)(i[j] + 127) << 23))
INLINE ivec i_zero(void) { return (ivec){0}; }
INLINE ivec i_add(ivec a, ivec b) { return a + b; }
INLINE ivec i_sub(ivec a, ivec b) { return a - b; }
INLINE ivec i_half(ivec i) { return i >> 1; }
INLINE int32_t i_sum(ivec i)
{
    int32_t sum = 0;
    for (int j = 0; j < LANES; j++)
        sum += i[j];
    return sum;
}
EACH(vec, v_load_bytes, (const int8_t *p), p[j])
INLINE void i_store_bytes(int8_t *p, ivec i)
{
    for (int j = 0; j < LANES; j++)
        p[j] = (int8_t)i[j];
}
INLINE bytes b_load(const int8_t *p)
{
    bytes made;
    memcpy(&made, p, sizeof made);
    return made;
}
INLINE ivec i_start(int32_t sum)
{
    (void)sum;
    return i_zero();
}
INLINE ivec i_dot(ivec i, bytes w, int32_t x)
{
    int8_t part[4];
    memcpy(part, &x, 4);
    for (int j = 0; j < LANES; j++)
        for (int of = 0; of < 4; of++)
            i[j] += w[4 * j + of] * part[of];
    return i;
}
INLINE void n_load(const uint8_t *p, bytes *low, bytes *high)
{
    for (int j = 0; j < 4 * LANES; j++) {
        (*low)[j] = (int8_t)(p[j] & 15);
        (*high)[j] = (int8_t)(p[j] >> 4);
    }
}
INLINE uvec u_start(void) { return i_zero(); }
INLINE uvec u_dot(uvec u, bytes w, int32_t x) { return i_dot(u, w, x); }
INLINE ivec u_end(uvec u) { return u; }
