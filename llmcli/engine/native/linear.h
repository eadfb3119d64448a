/* Rows of activations through panels of weights. See native.h for the arithmetic. */

/* A tile: up to TILE_ROWS rows through up to four panels, one sum a row and lane. `w_step` floats
 * lie between the weights of one input and of the next, `w_panel` between panels. Where `k` is
 * only a part of the inputs, sums go on from `out`. */
#define FLOAT_TILE(name, type, load)                                                               \
    INLINE void name(const float *x, int64_t x_stride, const type *w, int64_t w_step,              \
                     int64_t w_panel, int64_t k, int more, float *out,              \
                     int64_t out_stride, const int rows, const int panels)                                             \
    {                                                                                              \
        vec sum[TILE_ROWS][4];                                                                     \
        UNROLL for (int r = 0; r < rows; r++)                                                      \
            UNROLL for (int p = 0; p < panels; p++)                                                \
                sum[r][p] = more ? v_load(out + r * out_stride + p * LANES) : v_zero();            \
        for (int64_t i = 0; i < k; i++, w += w_step) {                                             \
            vec weight[4];                                                                         \
            UNROLL for (int p = 0; p < panels; p++) weight[p] = load(w + p * w_panel);             \
            UNROLL for (int r = 0; r < rows; r++) {                                                \
                vec input = v_set(x[r * x_stride + i]);                                            \
                UNROLL for (int p = 0; p < panels; p++)                                            \
                    sum[r][p] = v_fma(weight[p], input, sum[r][p]);                                \
            }                                                                                      \
        }                                                                                          \
        UNROLL for (int r = 0; r < rows; r++)                                                      \
            UNROLL for (int p = 0; p < panels; p++)                                                \
                v_store(out + r * out_stride + p * LANES, sum[r][p]);                              \
    }
FLOAT_TILE(f32_tile, float, v_load)
FLOAT_TILE(half_tile, uint16_t, v_load_half)
FLOAT_TILE(byte_tile, int8_t, v_load_bytes)

/* The same of bfloat16 in pairs of inputs; an odd last input's partner is left out. */
INLINE void bf16_tile(const float *x, int64_t x_stride, const uint16_t *w, int64_t w_step,
                      int64_t w_panel, int64_t k, int more, float *out,
                      int64_t out_stride, const int rows, const int panels)
{
    vec sum[TILE_ROWS][4];
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int p = 0; p < panels; p++)
            sum[r][p] = more ? v_load(out + r * out_stride + p * LANES) : v_zero();
    int64_t i = 0;
    for (; i + 1 < k; i += 2, w += 2 * w_step) {
        vec even[4], odd[4];
        UNROLL for (int p = 0; p < panels; p++) v_load_pairs(w + p * w_panel, even + p, odd + p);
        UNROLL for (int r = 0; r < rows; r++) {
            vec first = v_set(x[r * x_stride + i]), second = v_set(x[r * x_stride + i + 1]);
            UNROLL for (int p = 0; p < panels; p++)
                sum[r][p] = v_fma(odd[p], second, v_fma(even[p], first, sum[r][p]));
        }
    }
    if (i < k)
        UNROLL for (int p = 0; p < panels; p++) {
            vec even, odd;
            v_load_pairs(w + p * w_panel, &even, &odd);
            UNROLL for (int r = 0; r < rows; r++)
                sum[r][p] = v_fma(even, v_set(x[r * x_stride + i]), sum[r][p]);
        }
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int p = 0; p < panels; p++)
            v_store(out + r * out_stride + p * LANES, sum[r][p]);
}

INLINE void int8_tile(const struct linear *layer, const struct quantized *q, int64_t row,
                      int64_t panel, float *out, int64_t out_stride, const int rows,
                      const int panels)
{
    const int8_t *w = (const int8_t *)layer->weights + panel * q->width * LANES;
    const int8_t *x = q->values + row * q->width;
    vec sum[INT_ROWS][4];
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int p = 0; p < panels; p++) sum[r][p] = v_zero();
    for (int64_t group = 0; group < q->groups; group++, x += INT8_GROUP) {
        ivec dot[INT_ROWS][4];
        UNROLL for (int r = 0; r < rows; r++)
            UNROLL for (int p = 0; p < panels; p++)
                dot[r][p] = i_start(q->sums[(row + r) * q->groups + group]);
        for (int i = 0; i < INT8_GROUP; i += 4, w += 4 * LANES) {
            bytes weight[4];
            UNROLL for (int p = 0; p < panels; p++) weight[p] = b_load(w + p * q->width * LANES);
            UNROLL for (int r = 0; r < rows; r++) {
                int32_t input = four(x + r * q->width + i);
                UNROLL for (int p = 0; p < panels; p++)
                    dot[r][p] = i_dot(dot[r][p], weight[p], input);
            }
        }
        UNROLL for (int r = 0; r < rows; r++) {
            vec scale = v_set(q->scales[(row + r) * q->groups + group]);
            UNROLL for (int p = 0; p < panels; p++)
                sum[r][p] = v_fma(i_to_float(dot[r][p]), scale, sum[r][p]);
        }
    }
    const float *scales = (const float *)layer->scales + panel * LANES;
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int p = 0; p < panels; p++)
            v_store(out + r * out_stride + p * LANES, v_mul(sum[r][p], v_load(scales + p * LANES)));
}

INLINE void int4_tile(const struct linear *layer, const struct quantized *q, int64_t row,
                      int64_t panel, float *out, int64_t out_stride, const int rows,
                      const int panels)
{
    const int64_t w_panel = q->width * LANES / 2, s_panel = q->groups * 2 * LANES;
    const uint8_t *w = (const uint8_t *)layer->weights + panel * w_panel;
    const uint16_t *scales = (const uint16_t *)layer->scales + panel * s_panel;
    const int8_t *x = q->values + row * q->width;
    vec sum[INT_ROWS][4];
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int p = 0; p < panels; p++) sum[r][p] = v_zero();
    for (int64_t group = 0; group < q->groups; group++, x += INT4_GROUP, scales += 2 * LANES) {
        uvec dot[INT_ROWS][4];
        UNROLL for (int r = 0; r < rows; r++)
            UNROLL for (int p = 0; p < panels; p++) dot[r][p] = u_start();
        for (int i = 0; i < INT4_GROUP; i += 8, w += 4 * LANES) {
            bytes low[4], high[4];
            UNROLL for (int p = 0; p < panels; p++) n_load(w + p * w_panel, low + p, high + p);
            UNROLL for (int r = 0; r < rows; r++) {
                int32_t first = four(x + r * q->width + i), second = four(x + r * q->width + i + 4);
                UNROLL for (int p = 0; p < panels; p++)
                    dot[r][p] = u_dot(u_dot(dot[r][p], low[p], first), high[p], second);
            }
        }
        UNROLL for (int p = 0; p < panels; p++) {
            vec scale = v_load_half(scales + p * s_panel);
            vec offset = v_load_half(scales + p * s_panel + LANES);
            UNROLL for (int r = 0; r < rows; r++) {
                float x_scale = q->scales[(row + r) * q->groups + group];
                float x_sum = x_scale * (float)q->sums[(row + r) * q->groups + group];
                vec scaled = v_mul(scale, v_set(x_scale));
                sum[r][p] = v_fma(i_to_float(u_end(dot[r][p])), scaled, sum[r][p]);
                sum[r][p] = v_fma(offset, v_set(x_sum), sum[r][p]);
            }
        }
    }
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int p = 0; p < panels; p++)
            v_store(out + r * out_stride + p * LANES, sum[r][p]);
}

/* -- every size of tile --------------------------------------------------------------------- */

/* A tile's code is made for each number of rows, with as many panels as the registers hold, and
 * with two and one, where fewer are left. */
#define FLOAT_CASE(tile, R)                                                                        \
    case R:                                                                                        \
        if (R > TILE_ROWS)                                                                         \
            __builtin_unreachable();                                                               \
        if (TILE_PANELS(R) >= 4 && panels == 4)                                                    \
            tile(x, x_stride, w, w_step, w_panel, k, more, out, out_stride, MIN(R, TILE_ROWS), 4); \
        else if (TILE_PANELS(R) >= 2 && panels == 2)                                               \
            tile(x, x_stride, w, w_step, w_panel, k, more, out, out_stride, MIN(R, TILE_ROWS), 2); \
        else                                                                                       \
            tile(x, x_stride, w, w_step, w_panel, k, more, out, out_stride, MIN(R, TILE_ROWS), 1); \
        break;
#define MIN(a, b) ((a) < (b) ? (a) : (b))

/* Rows through neighbouring panels, however many; more rows than a tile's take the inputs in
 * blocks that stay in the nearest cache. */
#define FLOAT_ROWS(name, tile, type, block)                                                        \
    static void name##_any(const float *x, int64_t x_stride, const type *w, int64_t w_step,        \
                           int64_t w_panel, int64_t k, int more, float *out,        \
                           int64_t out_stride, int rows, int panels)                                                   \
    {                                                                                              \
        switch (rows) {                                                                            \
            FLOAT_CASE(tile, 1)                                                                    \
            FLOAT_CASE(tile, 2)                                                                    \
            FLOAT_CASE(tile, 3)                                                                    \
            FLOAT_CASE(tile, 4)                                                                    \
            FLOAT_CASE(tile, 5)                                                                    \
            FLOAT_CASE(tile, 6)                                                                    \
            FLOAT_CASE(tile, 7)                                                                    \
            FLOAT_CASE(tile, 8)                                                                    \
            FLOAT_CASE(tile, 9)                                                                    \
            FLOAT_CASE(tile, 10)                                                                   \
            FLOAT_CASE(tile, 11)                                                                   \
            FLOAT_CASE(tile, 12)                                                                   \
        }                                                                                          \
    }                                                                                              \
    static void name(const float *x, int64_t x_stride, const type *w, int64_t w_step,              \
                     int64_t w_panel, int64_t k, float *out, int64_t out_stride,    \
                     int64_t rows, int64_t panels)                                                               \
    {                                                                                              \
        int64_t tiles = (rows + TILE_ROWS - 1) / TILE_ROWS;                                        \
        int64_t together = TILE_PANELS((rows + tiles - 1) / tiles);                                \
        int64_t at_once = tiles > 1 ? block : k;                                                   \
        for (int64_t i = 0; i < k; i += at_once) {                                                 \
            int64_t inputs = MIN(at_once, k - i);                                                  \
            for (int64_t panel = 0; panel < panels;) {                                             \
                int64_t some = together;                                                           \
                while (some > panels - panel)                                                      \
                    some /= 2;                                                                     \
                for (int64_t tile_ = 0, row = 0; tile_ < tiles; tile_++) {                         \
                    int64_t end = rows * (tile_ + 1) / tiles;                                      \
                    name##_any(x + row * x_stride + i, x_stride, w + i * w_step + panel * w_panel, \
                               w_step, w_panel, inputs, i > 0, out + row * out_stride + panel * LANES,   \
                               out_stride, (int)(end - row), (int)some);                           \
                    row = end;                                                                     \
                }                                                                                  \
                panel += some;                                                                     \
            }                                                                                      \
        }                                                                                          \
    }
FLOAT_ROWS(f32_rows, f32_tile, float, 256)
FLOAT_ROWS(half_rows, half_tile, uint16_t, 256)
FLOAT_ROWS(byte_rows, byte_tile, int8_t, 256)
FLOAT_ROWS(bf16_rows, bf16_tile, uint16_t, 512)

#define INT_CASE(tile, R)                                                                          \
    case R:                                                                                        \
        if (R > INT_ROWS)                                                                          \
            __builtin_unreachable();                                                               \
        if (INT_PANELS(R) >= 4 && panels == 4)                                                     \
            tile(layer, q, row, panel, out, out_stride, MIN(R, INT_ROWS), 4);                      \
        else if (INT_PANELS(R) >= 2 && panels == 2)                                                \
            tile(layer, q, row, panel, out, out_stride, MIN(R, INT_ROWS), 2);                      \
        else                                                                                       \
            tile(layer, q, row, panel, out, out_stride, MIN(R, INT_ROWS), 1);                      \
        break;

#define INT_ROWS_OF(name, tile)                                                                    \
    static void name##_any(const struct linear *layer, const struct quantized *q, int64_t row,     \
                           int64_t panel, float *out, int64_t out_stride, int rows, int panels)    \
    {                                                                                              \
        switch (rows) {                                                                            \
            INT_CASE(tile, 1)                                                                      \
            INT_CASE(tile, 2)                                                                      \
            INT_CASE(tile, 3)                                                                      \
            INT_CASE(tile, 4)                                                                      \
            INT_CASE(tile, 5)                                                                      \
            INT_CASE(tile, 6)                                                                      \
        }                                                                                          \
    }                                                                                              \
    static void name(const struct linear *layer, const struct quantized *q, int64_t first,         \
                     int64_t last, int64_t from, int64_t to, float *out, int64_t out_stride)       \
    {                                                                                              \
        int64_t rows = last - first, tiles = (rows + INT_ROWS - 1) / INT_ROWS;                     \
        int64_t together = INT_PANELS((rows + tiles - 1) / tiles);                                 \
        for (int64_t panel = from; panel < to;) {                                                  \
            int64_t some = together;                                                               \
            while (some > to - panel)                                                              \
                some /= 2;                                                                         \
            for (int64_t tile_ = 0, row = 0; tile_ < tiles; tile_++) {                             \
                int64_t end = rows * (tile_ + 1) / tiles;                                          \
                name##_any(layer, q, first + row, panel,                                           \
                           out + row * out_stride + (panel - from) * LANES, out_stride,            \
                           (int)(end - row), (int)some);                                           \
                row = end;                                                                         \
            }                                                                                      \
            panel += some;                                                                         \
        }                                                                                          \
    }
INT_ROWS_OF(int8_rows, int8_tile)
INT_ROWS_OF(int4_rows, int4_tile)

static void product(const struct linear *layer, const struct input *in, int64_t first, int64_t last,
                    int64_t from, int64_t to, float *out, int64_t out_stride)
{
    const float *x = in->x + first * in->stride;
    if (layer->type == TYPE_F32) {
        int64_t panel = layer->k * LANES;
        f32_rows(x, in->stride, (const float *)layer->weights + from * panel, LANES, panel, layer->k,
                 out, out_stride, last - first, to - from);
    } else if (layer->type == TYPE_BF16) {
        int64_t panel = padded(layer->k, BF16_GROUP) * LANES;
        bf16_rows(x, in->stride, (const uint16_t *)layer->weights + from * panel, LANES, panel,
                  layer->k, out, out_stride, last - first, to - from);
    } else if (layer->type == TYPE_INT8) {
        int8_rows(layer, &in->q, first, last, from, to, out, out_stride);
    } else {
        int4_rows(layer, &in->q, first, last, from, to, out, out_stride);
    }
}

/* -- after the sums -------------------------------------------------------------------------- */

static void finish(const struct linear *layer, const struct finishing *f, const float *sums,
                   int64_t stride, int64_t first, int64_t last, int64_t from, int64_t to)
{
    int64_t step = f->kind == FINISH_GATE ? 2 : 1;
    for (int64_t row = first; row < last; row++) {
        const float *sum = sums + (row - first) * stride;
        float *y = f->y + row * f->stride;
        for (int64_t panel = from; panel < to; panel += step) {
            int64_t output = panel * LANES, at = output / step, some = f->width - at;
            if (some <= 0)
                break;
            vec v = v_load(sum + output - from * LANES);
            if (layer->bias)
                v = v_add(v, v_load_some(layer->bias + output, layer->n - output));
            if (f->kind == FINISH_ADD) {
                v = v_add(v_load_some(y + at, some), v);
            } else if (f->kind == FINISH_ACTIVATE) {
                v = v_activate(v, f->activation);
            } else if (f->kind == FINISH_GATE) {
                vec up = v_load(sum + output + LANES - from * LANES);
                if (layer->bias)
                    up = v_add(up, v_load_some(layer->bias + output + LANES, LANES));
                v = v_mul(v_activate(v, f->activation), up);
            } else if (f->cap > 0) {
                v = v_mul(v_set(f->cap), v_tanh(v_div(v, v_set(f->cap))));
            }
            v_store_some(y + at, some, v);
        }
    }
}
