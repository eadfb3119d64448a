/* AVX-512 with matrix units (AMX): integers as everywhere else, and bfloat16 for whole blocks of a
 * prompt. */
#include "target.h"

#if defined(__x86_64__)
TARGET("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c,bmi2,"
       "avx512bf16,amx-tile,amx-int8,amx-bf16")
#define LEVEL_AVX512
#include "level.h"

/* Tiles 0 to 3 are sums of up to 16 rows by 16 outputs; 4 and 5 rows of activations, 64 bytes of
 * each; 6 and 7 what a panel has for these: 16 lines of 64 bytes. */
enum { TILE = 16, TILE_BYTES = 64, WORTH_TILES = 8 };

INLINE void configure(int rows)
{
    struct {
        uint8_t palette, start, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } __attribute__((packed, aligned(64))) config = {.palette = 1};
    for (int tile = 0; tile < 8; tile++) {
        config.bytes[tile] = TILE_BYTES;
        config.rows[tile] = (uint8_t)(tile < 6 ? rows : TILE);
    }
    _tile_loadconfig(&config);
}

/* Up to 16 rows through a panel. The sums of a group are exact, and are added like elsewhere. */
INLINE void int8_block(const struct linear *layer, const struct quantized *q, int64_t row,
                       int64_t panel, float *out, int64_t out_stride, const int rows, int real)
{
    const int8_t *w = (const int8_t *)layer->weights + panel * q->width * LANES;
    const int8_t *x = q->values + row * q->width;
    const float *scales = q->scales + row * q->groups;
    _Alignas(64) int32_t dots[2][TILE][LANES];
    vec sum[TILE];
    UNROLL for (int r = 0; r < rows; r++) sum[r] = v_zero();
    /* Two groups in turn, so that the units work while sums of the other are added. */
    _tile_zero(0);
    _tile_loadd(4, x, q->width);
    _tile_loadd(6, w, TILE_BYTES);
    _tile_dpbssd(0, 4, 6);
    _tile_stored(0, dots[0], TILE_BYTES);
    for (int64_t group = 0; group < q->groups; group++) {
        if (group + 1 < q->groups) {
            const int8_t *x_next = x + (group + 1) * INT8_GROUP;
            const int8_t *w_next = w + (group + 1) * INT8_GROUP * LANES;
            if (group % 2) {
                _tile_zero(0);
                _tile_loadd(4, x_next, q->width);
                _tile_loadd(6, w_next, TILE_BYTES);
                _tile_dpbssd(0, 4, 6);
                _tile_stored(0, dots[0], TILE_BYTES);
            } else {
                _tile_zero(1);
                _tile_loadd(5, x_next, q->width);
                _tile_loadd(7, w_next, TILE_BYTES);
                _tile_dpbssd(1, 5, 7);
                _tile_stored(1, dots[1], TILE_BYTES);
            }
        }
        UNROLL for (int r = 0; r < rows; r++)
            sum[r] = v_fma(i_to_float(_mm512_load_si512(dots[group % 2][r])),
                           v_set(scales[MIN(r, real - 1) * q->groups + group]), sum[r]);
    }
    vec scale = v_load((const float *)layer->scales + panel * LANES);
    for (int r = 0; r < real; r++)
        v_store(out + r * out_stride, v_mul(sum[r], scale));
}

static void int8_full(const struct linear *layer, const struct quantized *q, int64_t row,
                      int64_t panel, float *out, int64_t out_stride)
{
    int8_block(layer, q, row, panel, out, out_stride, TILE, TILE);
}

static void int8_rest(const struct linear *layer, const struct quantized *q, int64_t row,
                      int64_t panel, float *out, int64_t out_stride, int rows)
{
    int8_block(layer, q, row, panel, out, out_stride, TILE, rows);
}

static void int8_tiles(const struct linear *layer, const struct quantized *q, int64_t first,
                       int64_t last, int64_t from, int64_t to, float *out, int64_t out_stride)
{
    int64_t whole = first + (last - first) / TILE * TILE;
    if (whole > first) {
        configure(TILE);
        for (int64_t panel = from; panel < to; panel++)
            for (int64_t row = first; row < whole; row += TILE)
                int8_full(layer, q, row, panel,
                          out + (row - first) * out_stride + (panel - from) * LANES, out_stride);
    }
    if (whole < last) {
        configure((int)(last - whole));
        for (int64_t panel = from; panel < to; panel++)
            int8_rest(layer, q, whole, panel,
                      out + (whole - first) * out_stride + (panel - from) * LANES, out_stride,
                      (int)(last - whole));
    }
    _tile_release();
}

/* bfloat16 of rows; padding is zero. */
static void round_rows(const float *x, int64_t stride, int64_t rows, int64_t k, uint16_t *to)
{
    int64_t width = padded(k, BF16_GROUP);
    for (int64_t row = 0; row < rows; row++, x += stride, to += width)
        for (int64_t i = 0; i < width; i += LANES) {
            vec v = v_load_some(x + i, i < k ? k - i : 0);
            _mm256_storeu_si256((__m256i *)(to + i), (__m256i)_mm512_cvtneps_pbh(v));
        }
}

/* Rows, rounded to bfloat16, through panels. */
static void bf16_tiles(const struct linear *layer, const uint16_t *x, int64_t rows, int64_t from,
                       int64_t to, float *out, int64_t out_stride)
{
    int64_t width = padded(layer->k, BF16_GROUP);
    for (int64_t row = 0; row < rows;) {
        int here = (int)MIN(TILE, rows - row), pair = rows - row >= 2 * TILE;
        const uint16_t *low = x + row * width, *high = low + TILE * width;
        float *y = out + row * out_stride;
        configure(here);
        for (int64_t panel = from; panel < to; panel += 2) {
            const uint16_t *w = (const uint16_t *)layer->weights + panel * width * LANES;
            const uint16_t *next = panel + 1 < to ? w + width * LANES : w;
            _tile_zero(0);
            _tile_zero(1);
            _tile_zero(2);
            _tile_zero(3);
            for (int64_t i = 0; i < width; i += BF16_GROUP) {
                _tile_loadd(4, low + i, width * 2);
                _tile_loadd(6, w + i * LANES, TILE_BYTES);
                _tile_loadd(7, next + i * LANES, TILE_BYTES);
                _tile_dpbf16ps(0, 4, 6);
                _tile_dpbf16ps(1, 4, 7);
                if (pair) {
                    _tile_loadd(5, high + i, width * 2);
                    _tile_dpbf16ps(2, 5, 6);
                    _tile_dpbf16ps(3, 5, 7);
                }
            }
            float *at = y + (panel - from) * LANES;
            _tile_stored(0, at, out_stride * 4);
            if (panel + 1 < to)
                _tile_stored(1, at + LANES, out_stride * 4);
            if (pair) {
                _tile_stored(2, at + TILE * out_stride, out_stride * 4);
                if (panel + 1 < to)
                    _tile_stored(3, at + TILE * out_stride + LANES, out_stride * 4);
            }
        }
        row += pair ? 2 * TILE : here;
    }
    _tile_release();
}

static void product_by_tiles(const struct linear *layer, const struct input *in, int64_t first,
                             int64_t last, int64_t from, int64_t to, float *out, int64_t out_stride)
{
    if (layer->type == TYPE_INT8 && last - first >= WORTH_TILES) {
        int8_tiles(layer, &in->q, first, last, from, to, out, out_stride);
    } else if (layer->type == TYPE_BF16 && in->rounded) {
        for (int64_t row = first; row < last;) {
            int64_t end = row + 1;
            while (end < last && in->canonical[end] == in->canonical[row])
                end++;
            float *y = out + (row - first) * out_stride;
            if (in->canonical[row])
                bf16_tiles(layer, in->rounded + row * padded(layer->k, BF16_GROUP), end - row, from,
                           to, y, out_stride);
            else
                product(layer, in, row, end, from, to, y, out_stride);
            row = end;
        }
    } else {
        product(layer, in, first, last, from, to, out, out_stride);
    }
}

const struct kernels kernels_amx = {
    .name = "amx",
    .norm = norm,
    .quantize = quantize,
    .round = round_rows,
    .product = product_by_tiles,
    .finish = finish,
    .append = append,
    .attend = attend,
    .cap = cap,
    .slice = slice_of, .tempered = tempered,
    .weigh = weigh,
    .weigh_from = weigh_from,
    .weigh_from_each = weigh_from_each,
    .find_between = find_between,
};
TARGET_END
#endif
