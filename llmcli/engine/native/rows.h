/* What is done to a row by itself: norms, integers of it, what scoring wants of logits. */

static void norm(const struct norm *norm, const float *x, int64_t x_stride, int64_t rows,
                 int64_t width, float *y, int64_t y_stride, int add)
{
    float count = (float)width;
    for (int64_t row = 0; row < rows; row++, x += x_stride, y += y_stride) {
        vec mean = v_zero(), squares = v_zero();
        if (norm->kind == NORM_LAYER) {
            vec total = v_zero();
            for (int64_t i = 0; i < width; i += LANES)
                total = v_add(total, v_load_some(x + i, width - i));
            mean = v_set(v_sum(total) / count);
        }
        int64_t i = 0;
        for (; i + LANES <= width; i += LANES) {
            vec away = v_sub(v_load(x + i), mean);
            squares = v_fma(away, away, squares);
        }
        if (i < width) { /* beyond the end nothing is away from the mean */
            float rest[LANES] = {0}, means[LANES] = {0};
            v_store_some(rest, width - i, v_load_some(x + i, width - i));
            v_store_some(means, width - i, mean);
            vec away = v_sub(v_load(rest), v_load(means));
            squares = v_fma(away, away, squares);
        }
        vec scale = v_set(1.0f / __builtin_sqrtf(v_sum(squares) / count + norm->epsilon));
        for (i = 0; i < width; i += LANES) {
            int64_t some = width - i;
            vec v = v_mul(v_sub(v_load_some(x + i, some), mean), scale);
            v = v_mul(v, v_load_some(norm->weight + i, some));
            if (norm->bias)
                v = v_add(v, v_load_some(norm->bias + i, some));
            if (add)
                v = v_add(v_load_some(y + i, some), v);
            v_store_some(y + i, some, v);
        }
    }
}

/* Each group of a row by its own largest value: an outlier coarsens its neighbours only. */
static void quantize(const float *x, int64_t stride, int64_t rows, int64_t k,
                     const struct quantized *q, int64_t first)
{
    for (int64_t row = first; row < first + rows; row++, x += stride) {
        for (int64_t group = 0; group < q->groups; group++) {
            int64_t start = group * q->group, end = start + q->group;
            vec largest = v_zero(), nan = v_zero();
            for (int64_t i = start; i < end && i < k; i += LANES) {
                vec v = v_load_some(x + i, k - i);
                largest = v_max(largest, v_abs(v));
                nan = v_fma(v, v_zero(), nan); /* max() may have passed over it */
            }
            float most = v_largest(largest);
            /* Below this 127 / most is more than floats hold, and as good as none. */
            vec inverse = v_set(most > 1e-30f ? 127.0f / most : 0.0f);
            ivec sum = i_zero();
            int8_t *values = q->values + row * q->width;
            for (int64_t i = start; i < end; i += LANES) {
                ivec whole = i < k ? v_to_int(v_mul(v_load_some(x + i, k - i), inverse)) : i_zero();
                sum = i_add(sum, whole);
                i_store_bytes(values + i, whole);
            }
            q->scales[row * q->groups + group] = most / 127.0f + v_sum(nan);
            q->sums[row * q->groups + group] = i_sum(sum);
        }
    }
}

static void cap(float *values, int64_t count, float most)
{
    for (int64_t i = 0; i < count; i += LANES) {
        vec v = v_div(v_load_some(values + i, count - i), v_set(most));
        v_store_some(values + i, count - i, v_mul(v_set(most), v_tanh(v)));
    }
}

/* Adds a slice's sums of e^bz, z e^bz and z^2 e^bz, z = logit - top, for each b of
 * scoring/temperature.py. These are eighths, so that one exponential serves them all. */
static void tempered(const float *logits, int64_t count, float top, double (*sums)[3])
{
    vec total[TEMPERATURES], first[TEMPERATURES], second[TEMPERATURES];
    for (int k = 0; k < TEMPERATURES; k++)
        total[k] = first[k] = second[k] = v_zero();
    for (int64_t i = 0; i < count; i += LANES) {
        float rest[LANES];
        const float *from = logits + i;
        if (i + LANES > count) {
            for (int j = 0; j < LANES; j++)
                rest[j] = i + j < count ? logits[i + j] : -INFINITY;
            from = rest;
        }
        /* What is infinitely low weighs nothing; a number that is far enough serves for it. */
        vec z = v_max(v_set(-1e5f), v_sub(v_load(from), v_set(top)));
        vec square = v_mul(z, z), p1 = v_exp(v_mul(z, v_set(0.125f))), p2 = v_mul(p1, p1);
        vec p3 = v_mul(p1, p2), p4 = v_mul(p2, p2), p5 = v_mul(p2, p3), p6 = v_mul(p3, p3);
        vec p8 = v_mul(p4, p4), p12 = v_mul(p6, p6);
        const vec powers[TEMPERATURES] = {p2, p3, p4, p5, p6, p8, v_mul(p5, p5), p12,
                                          v_mul(p8, p8), v_mul(p12, p12)};
        for (int k = 0; k < TEMPERATURES; k++) {
            total[k] = v_add(total[k], powers[k]);
            first[k] = v_fma(powers[k], z, first[k]);
            second[k] = v_fma(powers[k], square, second[k]);
        }
    }
    for (int k = 0; k < TEMPERATURES; k++) {
        const vec *found[3] = {total + k, first + k, second + k};
        for (int moment = 0; moment < 3; moment++) {
            float lanes[LANES];
            v_store(lanes, *found[moment]);
            for (int j = 0; j < LANES; j++)
                sums[k][moment] += lanes[j];
        }
    }
}

/* Sums over a slice are 16 lanes of floats, added as doubles. */
static void slice_of(const float *logits, int64_t count, float target, int64_t target_at,
                     struct slice *slice)
{
    vec largest = v_set(-INFINITY);
    int64_t whole = count / LANES * LANES;
    for (int64_t i = 0; i < whole; i += LANES)
        largest = v_max(largest, v_load(logits + i));
    float most = v_largest(largest);
    for (int64_t i = whole; i < count; i++)
        most = logits[i] > most ? logits[i] : most;
    *slice = (struct slice){.largest = most, .argmax = -1};
    /* Where all are infinitely low, none weighs anything. */
    vec top = v_set(most > -INFINITY ? most : 0), sum = v_zero(), product = v_zero();
    for (int64_t i = 0; i < count; i += LANES) {
        vec away, e;
        if (i < whole) {
            away = v_sub(v_load(logits + i), top);
            e = v_exp(away);
        } else {
            float rest[LANES], powers[LANES] = {0};
            v_store(rest, v_sub(v_load_some(logits + i, count - i), top));
            v_store_some(powers, count - i, v_exp(v_load(rest)));
            away = v_load(rest);
            e = v_load(powers);
        }
        sum = v_add(sum, e);
        /* What is far below weighs nothing, be it infinitely far. */
        product = v_fma(v_max(v_set(-1000.0f), away), e, product);
    }
    float lane[LANES], weighted[LANES];
    v_store(lane, sum);
    v_store(weighted, product);
    for (int i = 0; i < LANES; i++) {
        slice->sum += lane[i];
        slice->product += weighted[i];
    }
    for (int64_t i = 0; i < count && slice->argmax < 0; i++)
        if (logits[i] == most)
            slice->argmax = i;
    int64_t greater = 0, equal = 0;
    for (int64_t i = 0; i < count; i++)
        greater += logits[i] > target;
    for (int64_t i = 0; i < count && i < target_at; i++)
        equal += logits[i] == target;
    slice->greater = greater;
    slice->equal_before = equal;
}
