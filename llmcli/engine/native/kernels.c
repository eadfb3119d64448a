/* Rows of activations through a layer's weights, one panel or column after the other. */
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "native.h"
#include "vector.h"

enum { INT8_GROUP = 64, INT4_GROUP = 32, COLUMNS_IN_CACHE = 64 << 10 };

int64_t padded(int64_t count, int64_t to)
{
    return (count + to - 1) / to * to;
}

/* -- elementwise --------------------------------------------------------------------------- */

/* x / (1 + exp(-factor * x')) with x' = x or a polynomial of x: GELU's and SiLU's common form. */
INLINE __m512 gated(__m512 x, __m512 gate)
{
    __m512 one = _mm512_set1_ps(1.0f);
    __m512 minus = _mm512_sub_ps(_mm512_setzero_ps(), gate);
    return _mm512_div_ps(x, _mm512_add_ps(one, exp512(minus)));
}

INLINE __m512 activated(__m512 x, int32_t activation)
{
    if (activation == ACT_GELU_TANH) {
        /* 0.5 x (1 + tanh u) = x / (1 + exp(-2 u)), u = sqrt(2 / pi) (x + 0.044715 x^3) */
        __m512 cube = _mm512_mul_ps(_mm512_mul_ps(x, x), x);
        __m512 u = _mm512_fmadd_ps(cube, _mm512_set1_ps(0.044715f), x);
        return gated(x, _mm512_mul_ps(u, _mm512_set1_ps(2 * 0.7978845608f)));
    }
    if (activation == ACT_SILU)
        return gated(x, x);
    return _mm512_max_ps(_mm512_setzero_ps(), x); /* in this order NaN stays */
}

FAST void activate(float *values, int64_t count, int32_t activation)
{
    if (activation == ACT_NONE)
        return;
    if (activation == ACT_GELU || activation == ACT_TANH) {
        for (int64_t i = 0; i < count; i++)
            values[i] = activation == ACT_TANH ? tanhf(values[i])
                                               : 0.5f * values[i] * (1 + erff(values[i] * 0.70710678f));
        return;
    }
    for (int64_t i = 0; i < count; i += LANES) {
        __mmask16 some = lanes(count - i);
        __m512 x = _mm512_maskz_loadu_ps(some, values + i);
        _mm512_mask_storeu_ps(values + i, some, activated(x, activation));
    }
}

FAST void layer_norm(const float *x, float *y, int64_t width, const struct norm *norm, float epsilon)
{
    __m512 total = _mm512_setzero_ps(), squares = _mm512_setzero_ps();
    for (int64_t i = 0; i < width; i += LANES)
        total = _mm512_add_ps(total, _mm512_maskz_loadu_ps(lanes(width - i), x + i));
    __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(total) / (float)width);
    for (int64_t i = 0; i < width; i += LANES) {
        __mmask16 some = lanes(width - i);
        __m512 away = _mm512_maskz_sub_ps(some, _mm512_maskz_loadu_ps(some, x + i), mean);
        squares = _mm512_fmadd_ps(away, away, squares);
    }
    float variance = _mm512_reduce_add_ps(squares) / (float)width;
    __m512 scale = _mm512_set1_ps(1.0f / sqrtf(variance + epsilon));
    for (int64_t i = 0; i < width; i += LANES) {
        __mmask16 some = lanes(width - i);
        __m512 away = _mm512_sub_ps(_mm512_maskz_loadu_ps(some, x + i), mean);
        __m512 weight = _mm512_maskz_loadu_ps(some, norm->weight + i);
        __m512 bias = _mm512_maskz_loadu_ps(some, norm->bias + i);
        _mm512_mask_storeu_ps(y + i, some, _mm512_fmadd_ps(_mm512_mul_ps(away, scale), weight, bias));
    }
}

/* -- activations as 8-bit integers --------------------------------------------------------- */

static int64_t group_of(int32_t form)
{
    return form == INT8_PANELS ? INT8_GROUP : INT4_GROUP;
}

static struct quantized quantized_in(const struct linear *layer, int64_t rows, void *memory)
{
    struct quantized q = {.group = group_of(layer->form)};
    q.width = padded(layer->k, q.group);
    q.groups = q.width / q.group;
    q.scales = memory;
    q.sums = (int32_t *)(q.scales + rows * q.groups);
    q.values = (int8_t *)(q.sums + rows * q.groups);
    return q;
}

int64_t activation_bytes(const struct linear *layer, int64_t rows)
{
    if (layer->form < INT8_PANELS)
        return 0;
    int64_t width = padded(layer->k, INT8_GROUP);
    return rows * (width + width / INT4_GROUP * 8) + 64;
}

/* Each group of a row by its own largest value: an outlier coarsens its neighbours only. */
FAST static void quantize_rows(struct quantized *q, const float *x, int64_t rows, int64_t k)
{
    for (int64_t row = 0; row < rows; row++, x += k) {
        for (int64_t group = 0; group < q->groups; group++) {
            int64_t start = group * q->group;
            __m512 largest = _mm512_setzero_ps();
            for (int64_t i = start; i < start + q->group; i += LANES) {
                __mmask16 some = k > i ? lanes(k - i) : 0;
                largest = _mm512_max_ps(largest, _mm512_abs_ps(_mm512_maskz_loadu_ps(some, x + i)));
            }
            float most = _mm512_reduce_max_ps(largest);
            __m512 inverse = _mm512_set1_ps(most > 0 ? 127.0f / most : 0.0f);
            __m512i sum = _mm512_setzero_si512();
            int8_t *values = q->values + row * q->width;
            for (int64_t i = start; i < start + q->group; i += LANES) {
                __mmask16 some = k > i ? lanes(k - i) : 0;
                __m512 scaled = _mm512_mul_ps(_mm512_maskz_loadu_ps(some, x + i), inverse);
                __m512i rounded = _mm512_cvtps_epi32(scaled);
                sum = _mm512_add_epi32(sum, rounded);
                _mm_storeu_si128((__m128i *)(values + i), _mm512_cvtsepi32_epi8(rounded));
            }
            /* A NaN must come out as NaN: max() may have passed over it. */
            __m512 check = _mm512_setzero_ps();
            for (int64_t i = start; i < start + q->group && i < k; i += LANES)
                check = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(lanes(k - i), x + i),
                                        _mm512_setzero_ps(), check);
            float nan = _mm512_reduce_add_ps(check);
            q->scales[row * q->groups + group] = most / 127.0f + nan;
            q->sums[row * q->groups + group] = _mm512_reduce_add_epi32(sum);
        }
    }
}

/* -- panels -------------------------------------------------------------------------------- */

INLINE void put(const struct linear *layer, __m512 sum, int64_t panel, float *y, int accumulate)
{
    int64_t first = panel * LANES;
    __mmask16 some = lanes(layer->n - first);
    if (layer->bias)
        sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(some, layer->bias + first));
    if (accumulate)
        sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(some, y + first));
    if (layer->activation == ACT_GELU_TANH || layer->activation == ACT_SILU ||
        layer->activation == ACT_RELU)
        sum = activated(sum, layer->activation);
    _mm512_mask_storeu_ps(y + first, some, sum);
    if (layer->activation == ACT_GELU || layer->activation == ACT_TANH)
        activate(y + first, layer->n - first < LANES ? layer->n - first : LANES, layer->activation);
}

/* Four inputs of one row for all lanes. */
INLINE __m512i four(const int8_t *values)
{
    int32_t bits;
    memcpy(&bits, values, 4);
    return _mm512_set1_epi32(bits);
}

INLINE void int8_panel(const struct linear *layer, const struct quantized *q, int64_t panel,
                       int64_t row, const int rows, float *y, int64_t y_stride, int accumulate)
{
    const uint8_t *weights = (const uint8_t *)layer->weights + panel * q->width * LANES;
    __m512 sum[4];
    for (int r = 0; r < rows; r++)
        sum[r] = _mm512_setzero_ps();
    for (int64_t group = 0; group < q->groups; group++) {
        __m512i dot[4];
        /* Weights are stored with 128 added, because the instruction wants them unsigned. */
        for (int r = 0; r < rows; r++)
            dot[r] = _mm512_set1_epi32(-128 * q->sums[(row + r) * q->groups + group]);
        for (int i = 0; i < INT8_GROUP; i += 4, weights += 64) {
            __m512i w = _mm512_loadu_si512(weights);
            for (int r = 0; r < rows; r++)
                dot[r] = _mm512_dpbusd_epi32(
                    dot[r], w, four(q->values + (row + r) * q->width + group * INT8_GROUP + i));
        }
        for (int r = 0; r < rows; r++)
            sum[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[r]),
                                     _mm512_set1_ps(q->scales[(row + r) * q->groups + group]), sum[r]);
    }
    __mmask16 some = lanes(layer->n - panel * LANES);
    __m512 scale = _mm512_maskz_loadu_ps(some, (const float *)layer->scales + panel * LANES);
    for (int r = 0; r < rows; r++)
        put(layer, _mm512_mul_ps(sum[r], scale), panel, y + (row + r) * y_stride, accumulate);
}

INLINE void int4_panel(const struct linear *layer, const struct quantized *q, int64_t panel,
                       int64_t row, const int rows, float *y, int64_t y_stride, int accumulate)
{
    const uint8_t *weights = (const uint8_t *)layer->weights + panel * q->width * LANES / 2;
    const uint16_t *scales = (const uint16_t *)layer->scales + panel * q->groups * 2 * LANES;
    const __m512i low = _mm512_set1_epi8(15);
    __m512 sum[4];
    for (int r = 0; r < rows; r++)
        sum[r] = _mm512_setzero_ps();
    for (int64_t group = 0; group < q->groups; group++, scales += 2 * LANES) {
        __m512i dot[4];
        for (int r = 0; r < rows; r++)
            dot[r] = _mm512_setzero_si512();
        for (int i = 0; i < INT4_GROUP; i += 8, weights += 64) {
            __m512i both = _mm512_loadu_si512(weights);
            __m512i first = _mm512_and_si512(both, low);
            __m512i second = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
            for (int r = 0; r < rows; r++) {
                const int8_t *x = q->values + (row + r) * q->width + group * INT4_GROUP + i;
                dot[r] = _mm512_dpbusd_epi32(dot[r], first, four(x));
                dot[r] = _mm512_dpbusd_epi32(dot[r], second, four(x + 4));
            }
        }
        __m512 scale = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)scales));
        __m512 offset = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(scales + LANES)));
        for (int r = 0; r < rows; r++) {
            float x_scale = q->scales[(row + r) * q->groups + group];
            float x_sum = x_scale * (float)q->sums[(row + r) * q->groups + group];
            __m512 scaled = _mm512_mul_ps(scale, _mm512_set1_ps(x_scale));
            sum[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[r]), scaled, sum[r]);
            sum[r] = _mm512_fmadd_ps(offset, _mm512_set1_ps(x_sum), sum[r]);
        }
    }
    for (int r = 0; r < rows; r++)
        put(layer, sum[r], panel, y + (row + r) * y_stride, accumulate);
}

/* bfloat16 is the upper half of a float: two of them make two floats with a shift and a mask. */
INLINE void bf16_panel(const struct linear *layer, const float *x, int64_t panel, int64_t row,
                       const int rows, float *y, int64_t y_stride, int accumulate)
{
    int64_t k = layer->k, pairs = (k + 1) / 2;
    const uint16_t *weights = (const uint16_t *)layer->weights + panel * padded(k, 64) * LANES;
    const __m512i upper = _mm512_set1_epi32((int)0xffff0000);
    __m512 sum[4][4];
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < 4; i++)
            sum[r][i] = _mm512_setzero_ps();
    int64_t pair = 0;
    for (; pair + 2 <= k / 2; pair += 2, weights += 64) {
        __m512i w0 = _mm512_loadu_si512(weights), w1 = _mm512_loadu_si512(weights + 32);
        __m512 even0 = _mm512_castsi512_ps(_mm512_slli_epi32(w0, 16));
        __m512 odd0 = _mm512_castsi512_ps(_mm512_and_si512(w0, upper));
        __m512 even1 = _mm512_castsi512_ps(_mm512_slli_epi32(w1, 16));
        __m512 odd1 = _mm512_castsi512_ps(_mm512_and_si512(w1, upper));
        for (int r = 0; r < rows; r++) {
            const float *values = x + (row + r) * k + 2 * pair;
            sum[r][0] = _mm512_fmadd_ps(even0, _mm512_set1_ps(values[0]), sum[r][0]);
            sum[r][1] = _mm512_fmadd_ps(odd0, _mm512_set1_ps(values[1]), sum[r][1]);
            sum[r][2] = _mm512_fmadd_ps(even1, _mm512_set1_ps(values[2]), sum[r][2]);
            sum[r][3] = _mm512_fmadd_ps(odd1, _mm512_set1_ps(values[3]), sum[r][3]);
        }
    }
    for (; pair < pairs; pair++, weights += 32) {
        __m512i w = _mm512_loadu_si512(weights);
        for (int r = 0; r < rows; r++) {
            const float *values = x + (row + r) * k + 2 * pair;
            __m512 even = _mm512_castsi512_ps(_mm512_slli_epi32(w, 16));
            sum[r][0] = _mm512_fmadd_ps(even, _mm512_set1_ps(values[0]), sum[r][0]);
            if (2 * pair + 1 < k) {
                __m512 odd = _mm512_castsi512_ps(_mm512_and_si512(w, upper));
                sum[r][1] = _mm512_fmadd_ps(odd, _mm512_set1_ps(values[1]), sum[r][1]);
            }
        }
    }
    for (int r = 0; r < rows; r++) {
        __m512 total = _mm512_add_ps(_mm512_add_ps(sum[r][0], sum[r][1]),
                                     _mm512_add_ps(sum[r][2], sum[r][3]));
        put(layer, total, panel, y + (row + r) * y_stride, accumulate);
    }
}

/* All rows through some panels, up to four at a time while a panel is in the nearest cache. */
#define OVER_PANELS(name, type, panel_function)                                                    \
    FAST static void name(const struct linear *layer, type x, int64_t rows, float *y,              \
                          int64_t y_stride, int accumulate, int64_t first, int64_t last)           \
    {                                                                                              \
        for (int64_t panel = first; panel < last; panel++) {                                       \
            int64_t row = 0;                                                                       \
            for (; row + 4 <= rows; row += 4)                                                      \
                panel_function(layer, x, panel, row, 4, y, y_stride, accumulate);                  \
            if (rows - row >= 2) {                                                                 \
                panel_function(layer, x, panel, row, 2, y, y_stride, accumulate);                  \
                row += 2;                                                                          \
            }                                                                                      \
            if (rows - row == 1)                                                                   \
                panel_function(layer, x, panel, row, 1, y, y_stride, accumulate);                  \
        }                                                                                          \
    }
OVER_PANELS(int8_panels, const struct quantized *, int8_panel)
OVER_PANELS(int4_panels, const struct quantized *, int4_panel)
OVER_PANELS(bf16_panels, const float *, bf16_panel)

/* -- float32 as it lies -------------------------------------------------------------------- */

/* Sixteen inputs at a time are added to sums that stay in the nearest cache: weights are read in
 * sixteen streams from front to back. */
FAST static void in_major(const struct linear *layer, const float *x, int64_t rows, float *y,
                          int64_t y_stride, int accumulate, int64_t first, int64_t last)
{
    int64_t n = layer->n, k = layer->k;
    int64_t step = COLUMNS_IN_CACHE / rows < last - first ? COLUMNS_IN_CACHE / rows / 64 * 64 : last - first;
    for (int64_t begin = first; begin < last; begin += step) {
        int64_t end = begin + step < last ? begin + step : last;
        for (int64_t row = 0; row < rows; row++)
            for (int64_t j = begin; j < end; j += LANES) {
                __mmask16 some = lanes(end - j);
                __m512 start = accumulate ? _mm512_maskz_loadu_ps(some, y + row * y_stride + j)
                                          : _mm512_setzero_ps();
                if (layer->bias)
                    start = _mm512_add_ps(start, _mm512_maskz_loadu_ps(some, layer->bias + j));
                _mm512_mask_storeu_ps(y + row * y_stride + j, some, start);
            }
        int64_t i = 0;
        for (; i + 16 <= k; i += 16) {
            const float *weights = (const float *)layer->weights + i * n;
            for (int64_t j = begin; j < end; j += LANES) {
                __mmask16 some = lanes(end - j);
                __m512 w[16];
                for (int s = 0; s < 16; s++)
                    w[s] = _mm512_maskz_loadu_ps(some, weights + s * n + j);
                for (int64_t row = 0; row < rows; row++) {
                    const float *values = x + row * k + i;
                    __m512 sum = _mm512_maskz_loadu_ps(some, y + row * y_stride + j);
                    for (int s = 0; s < 16; s++)
                        sum = _mm512_fmadd_ps(w[s], _mm512_set1_ps(values[s]), sum);
                    _mm512_mask_storeu_ps(y + row * y_stride + j, some, sum);
                }
            }
        }
        for (; i < k; i++) {
            const float *weights = (const float *)layer->weights + i * n;
            for (int64_t row = 0; row < rows; row++)
                for (int64_t j = begin; j < end; j += LANES) {
                    __mmask16 some = lanes(end - j);
                    __m512 sum = _mm512_maskz_loadu_ps(some, y + row * y_stride + j);
                    sum = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(some, weights + j),
                                          _mm512_set1_ps(x[row * k + i]), sum);
                    _mm512_mask_storeu_ps(y + row * y_stride + j, some, sum);
                }
        }
        for (int64_t row = 0; row < rows; row++)
            activate(y + row * y_stride + begin, end - begin, layer->activation);
    }
}

/* Four outputs by up to four rows, each a product of two vectors. */
INLINE void out_major_tile(const struct linear *layer, const float *x, const int rows, float *y,
                           int64_t y_stride, int accumulate, int64_t output, int outputs)
{
    int64_t k = layer->k;
    const float *weights[4];
    __m512 sum[4][4];
    for (int o = 0; o < 4; o++)
        weights[o] = (const float *)layer->weights + (output + (o < outputs ? o : 0)) * k;
    for (int r = 0; r < rows; r++)
        for (int o = 0; o < 4; o++)
            sum[r][o] = _mm512_setzero_ps();
    for (int64_t i = 0; i < k; i += LANES) {
        __mmask16 some = lanes(k - i);
        __m512 w[4];
        for (int o = 0; o < 4; o++)
            w[o] = _mm512_maskz_loadu_ps(some, weights[o] + i);
        for (int r = 0; r < rows; r++) {
            __m512 value = _mm512_maskz_loadu_ps(some, x + r * k + i);
            for (int o = 0; o < 4; o++)
                sum[r][o] = _mm512_fmadd_ps(w[o], value, sum[r][o]);
        }
    }
    for (int r = 0; r < rows; r++) {
        float *to = y + r * y_stride + output;
        for (int o = 0; o < outputs; o++) {
            float total = _mm512_reduce_add_ps(sum[r][o]);
            if (layer->bias)
                total += layer->bias[output + o];
            to[o] = accumulate ? to[o] + total : total;
        }
        activate(to, outputs, layer->activation);
    }
}

FAST static void out_major(const struct linear *layer, const float *x, int64_t rows, float *y,
                           int64_t y_stride, int accumulate, int64_t first, int64_t last)
{
    for (int64_t output = first; output < last; output += 4) {
        int outputs = last - output < 4 ? (int)(last - output) : 4;
        int64_t row = 0;
        for (; row + 4 <= rows; row += 4)
            out_major_tile(layer, x + row * layer->k, 4, y + row * y_stride, y_stride, accumulate,
                           output, outputs);
        for (; row < rows; row++)
            out_major_tile(layer, x + row * layer->k, 1, y + row * y_stride, y_stride, accumulate,
                           output, outputs);
    }
}

/* -- any layer ----------------------------------------------------------------------------- */

/* What threads share out: panels, 16 columns of float32, or outputs by 4. */
static int64_t unit_of(const struct linear *layer)
{
    return layer->form == F32_OUT_MAJOR ? 4 : LANES;
}

int64_t linear_units(const struct linear *layer)
{
    return padded(layer->n, unit_of(layer)) / unit_of(layer);
}

/* y[row] = layer(x[row]), or added to y, for the outputs of units first to last.
 * x is [rows][k]; scratch holds activation_bytes(). */
void linear_rows(const struct linear *layer, const float *x, int64_t rows, void *scratch,
                 float *y, int64_t y_stride, int accumulate, int64_t first, int64_t last)
{
    if (first >= last)
        return;
    if (layer->form == F32_IN_MAJOR || layer->form == F32_OUT_MAJOR) {
        int64_t unit = unit_of(layer), end = last * unit < layer->n ? last * unit : layer->n;
        if (layer->form == F32_IN_MAJOR)
            in_major(layer, x, rows, y, y_stride, accumulate, first * unit, end);
        else
            out_major(layer, x, rows, y, y_stride, accumulate, first * unit, end);
    } else if (layer->form == BF16_PANELS) {
        bf16_panels(layer, x, rows, y, y_stride, accumulate, first, last);
    } else {
        struct quantized q = quantized_in(layer, rows, scratch);
        quantize_rows(&q, x, rows, layer->k);
        if (layer->form == INT8_PANELS)
            int8_panels(layer, &q, rows, y, y_stride, accumulate, first, last);
        else
            int4_panels(layer, &q, rows, y, y_stride, accumulate, first, last);
    }
}
