/* Sixteen lanes in four registers: NEON with the dot product. */
#include <arm_neon.h>

typedef float32x4x4_t vec;
typedef int32x4x4_t ivec;
typedef int8x16x4_t bytes;
typedef ivec uvec;

/* Tiles of rows and panels that fill the 32 registers. */
enum { TILE_ROWS = 6, INT_ROWS = 4 };
#define TILE_PANELS(rows) ((rows) <= 1 ? 4 : (rows) <= 3 ? 2 : 1)
#define INT_PANELS(rows) ((rows) <= 2 ? 2 : 1)

#define EACH(type, name, parameters, ...)                                                          \
    INLINE type name parameters                                                                    \
    {                                                                                              \
        type made;                                                                                 \
        UNROLL for (int j = 0; j < 4; j++) made.val[j] = __VA_ARGS__;                              \
        return made;                                                                               \
    }

EACH(vec, v_zero, (void), vdupq_n_f32(0))
EACH(vec, v_set, (float x), vdupq_n_f32(x))
EACH(vec, v_load, (const float *p), vld1q_f32(p + 4 * j))
INLINE void v_store(float *p, vec v)
{
    UNROLL for (int j = 0; j < 4; j++) vst1q_f32(p + 4 * j, v.val[j]);
}
INLINE vec v_load_some(const float *p, int64_t n)
{
    if (n >= LANES)
        return v_load(p);
    float some[LANES] = {0};
    memcpy(some, p, (size_t)n * sizeof *some);
    return v_load(some);
}
INLINE void v_store_some(float *p, int64_t n, vec v)
{
    float some[LANES];
    v_store(some, v);
    memcpy(p, some, (size_t)(n > LANES ? LANES : n) * sizeof *some);
}
EACH(vec, v_load_half, (const uint16_t *p),
     vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * j))))
INLINE void v_store_half(uint16_t *p, vec v)
{
    UNROLL for (int j = 0; j < 4; j++)
        vst1_u16(p + 4 * j, vreinterpret_u16_f16(vcvt_f16_f32(v.val[j])));
}
INLINE void v_load_pairs(const uint16_t *p, vec *even, vec *odd)
{
    UNROLL for (int j = 0; j < 4; j++) {
        uint32x4_t both = vreinterpretq_u32_u16(vld1q_u16(p + 8 * j));
        even->val[j] = vreinterpretq_f32_u32(vshlq_n_u32(both, 16));
        odd->val[j] = vreinterpretq_f32_u32(vandq_u32(both, vdupq_n_u32(0xffff0000)));
    }
}
EACH(vec, v_add, (vec a, vec b), vaddq_f32(a.val[j], b.val[j]))
EACH(vec, v_sub, (vec a, vec b), vsubq_f32(a.val[j], b.val[j]))
EACH(vec, v_mul, (vec a, vec b), vmulq_f32(a.val[j], b.val[j]))
EACH(vec, v_div, (vec a, vec b), vdivq_f32(a.val[j], b.val[j]))
EACH(vec, v_fma, (vec a, vec b, vec c), vfmaq_f32(c.val[j], a.val[j], b.val[j]))
/* NEON's own maximum treats NaN otherwise. */
EACH(vec, v_max, (vec a, vec b), vbslq_f32(vcgtq_f32(a.val[j], b.val[j]), a.val[j], b.val[j]))
EACH(vec, v_min, (vec a, vec b), vbslq_f32(vcltq_f32(a.val[j], b.val[j]), a.val[j], b.val[j]))
EACH(vec, v_abs, (vec v), vabsq_f32(v.val[j]))
EACH(vec, v_copysign, (vec size, vec sign),
     vbslq_f32(vdupq_n_u32(0x80000000), sign.val[j], size.val[j]))
EACH(vec, v_where_negative, (vec v, vec a, vec b),
     vbslq_f32(vcltq_f32(v.val[j], vdupq_n_f32(0)), a.val[j], b.val[j]))
INLINE float v_sum(vec v)
{
    float32x4_t some = vaddq_f32(vaddq_f32(v.val[0], v.val[2]), vaddq_f32(v.val[1], v.val[3]));
    float32x2_t two = vadd_f32(vget_low_f32(some), vget_high_f32(some));
    return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}
INLINE float v_largest(vec v)
{
    float lane[LANES];
    v_store(lane, v);
    UNROLL for (int width = 8; width > 0; width /= 2)
        for (int i = 0; i < width; i++)
            lane[i] = lane[i] > lane[i + width] ? lane[i] : lane[i + width];
    return lane[0];
}
EACH(ivec, v_to_int, (vec v), vcvtnq_s32_f32(v.val[j]))
EACH(vec, i_to_float, (ivec i), vcvtq_f32_s32(i.val[j]))
EACH(vec, v_power, (ivec i),
     vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(i.val[j], vdupq_n_s32(127)), 23)))
EACH(ivec, i_zero, (void), vdupq_n_s32(0))
EACH(ivec, i_add, (ivec a, ivec b), vaddq_s32(a.val[j], b.val[j]))
EACH(ivec, i_sub, (ivec a, ivec b), vsubq_s32(a.val[j], b.val[j]))
EACH(ivec, i_half, (ivec i), vshrq_n_s32(i.val[j], 1))
INLINE int32_t i_sum(ivec i)
{
    return vaddvq_s32(vaddq_s32(vaddq_s32(i.val[0], i.val[1]), vaddq_s32(i.val[2], i.val[3])));
}
INLINE vec v_load_bytes(const int8_t *p)
{
    int8x16_t all = vld1q_s8(p);
    int16x8_t low = vmovl_s8(vget_low_s8(all)), high = vmovl_s8(vget_high_s8(all));
    return (vec){{vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))),
                  vcvtq_f32_s32(vmovl_s16(vget_high_s16(low))),
                  vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))),
                  vcvtq_f32_s32(vmovl_s16(vget_high_s16(high)))}};
}
INLINE void i_store_bytes(int8_t *p, ivec i)
{
    int16x8_t low = vcombine_s16(vqmovn_s32(i.val[0]), vqmovn_s32(i.val[1]));
    int16x8_t high = vcombine_s16(vqmovn_s32(i.val[2]), vqmovn_s32(i.val[3]));
    vst1q_s8(p, vcombine_s8(vqmovn_s16(low), vqmovn_s16(high)));
}
EACH(bytes, b_load, (const int8_t *p), vld1q_s8(p + 16 * j))
INLINE ivec i_start(int32_t sum)
{
    (void)sum;
    return i_zero();
}
EACH(ivec, i_dot, (ivec i, bytes w, int32_t x),
     vdotq_s32(i.val[j], w.val[j], vreinterpretq_s8_s32(vdupq_n_s32(x))))
INLINE void n_load(const uint8_t *p, bytes *low, bytes *high)
{
    UNROLL for (int j = 0; j < 4; j++) {
        uint8x16_t both = vld1q_u8(p + 16 * j);
        low->val[j] = vreinterpretq_s8_u8(vandq_u8(both, vdupq_n_u8(15)));
        high->val[j] = vreinterpretq_s8_u8(vshrq_n_u8(both, 4));
    }
}
INLINE uvec u_start(void) { return i_zero(); }
INLINE uvec u_dot(uvec u, bytes w, int32_t x) { return i_dot(u, w, x); }
INLINE ivec u_end(uvec u) { return u; }
