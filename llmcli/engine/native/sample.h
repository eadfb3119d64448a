/* What drawing a token does to a whole row of logits. Sums are taken over blocks. */

/* Weights e^((x - largest) / temperature), their sums and the largest logit by blocks of
 * WEIGHED_BLOCK, the last of which may be shorter. Returns the largest logit of all. */
static float weigh(const float *logits, int64_t count, float temperature, float *weights,
                   double *sums, float *largest)
{
    float most = -INFINITY;
    for (int64_t start = 0; start < count; start += WEIGHED_BLOCK) {
        int64_t end = start + WEIGHED_BLOCK < count ? start + WEIGHED_BLOCK : count;
        int64_t i = start;
        vec v = v_set(-INFINITY);
        for (; i + LANES <= end; i += LANES)
            v = v_max(v, v_load(logits + i));
        *largest = v_largest(v);
        for (; i < end; i++)
            *largest = logits[i] > *largest ? logits[i] : *largest;
        most = *largest > most ? *largest : most;
        largest++;
    }
    vec top = v_set(most), divisor = v_set(temperature);
    for (int64_t start = 0; start < count; start += WEIGHED_BLOCK) {
        int64_t end = start + WEIGHED_BLOCK < count ? start + WEIGHED_BLOCK : count;
        vec sum = v_zero();
        for (int64_t i = start; i < end; i += LANES) {
            vec e = v_exp(v_div(v_sub(v_load_some(logits + i, end - i), top), divisor));
            v_store_some(weights + i, end - i, e);
            sum = v_add(sum, v_load_some(weights + i, end - i));
        }
        *sums++ = v_sum(sum);
    }
    return most;
}

/* The sums of the weights of at least `lowest`, by the same blocks; returns that of all. */
static double weigh_from(const float *weights, int64_t count, float lowest, double *sums)
{
    vec least = v_set(lowest);
    double total = 0;
    for (int64_t start = 0; start < count; start += WEIGHED_BLOCK) {
        int64_t end = start + WEIGHED_BLOCK < count ? start + WEIGHED_BLOCK : count;
        int64_t i = start;
        vec sum = v_zero();
        for (; i + LANES <= end; i += LANES) {
            vec w = v_load(weights + i);
            sum = v_add(sum, v_where_negative(v_sub(w, least), v_zero(), w));
        }
        float block = v_sum(sum);
        for (; i < end; i++)
            block += weights[i] >= lowest ? weights[i] : 0;
        *sums++ = block;
        total += block;
    }
    return total;
}

/* Sums of the weights of at least lowest[0], [1], [2] and [3], in one pass. */
static void weigh_from_each(const float *weights, int64_t count, const float *lowest, double *totals)
{
    for (int t = 0; t < 4; t++)
        totals[t] = 0;
    for (int64_t start = 0; start < count; start += WEIGHED_BLOCK) {
        int64_t end = start + WEIGHED_BLOCK < count ? start + WEIGHED_BLOCK : count;
        int64_t i = start;
        vec sums[4] = {v_zero(), v_zero(), v_zero(), v_zero()};
        for (; i + LANES <= end; i += LANES) {
            vec w = v_load(weights + i);
            UNROLL for (int t = 0; t < 4; t++)
                sums[t] = v_add(sums[t], v_where_negative(v_sub(w, v_set(lowest[t])), v_zero(), w));
        }
        UNROLL for (int t = 0; t < 4; t++) {
            float block = v_sum(sums[t]);
            for (int64_t j = i; j < end; j++)
                block += weights[j] >= lowest[t] ? weights[j] : 0;
            totals[t] += block;
        }
    }
}

/* Which weights are within two bounds, both included; returns how many. `found` has room for
 * all. */
static int64_t find_between(const float *weights, int64_t count, float from, float to,
                            int32_t *found)
{
    int64_t hits = 0;
    vec least = v_set(from), most = v_set(to), one = v_set(1.0f);
    for (int64_t start = 0; start < count; start += LANES) {
        int64_t end = start + LANES < count ? start + LANES : count;
        if (start + LANES <= count) {
            vec w = v_load(weights + start);
            vec in = v_where_negative(v_sub(most, w), v_zero(), one);
            if (v_largest(v_where_negative(v_sub(w, least), v_zero(), in)) == 0)
                continue;
        }
        for (int64_t i = start; i < end; i++) { /* without a branch, which would be missed */
            found[hits] = (int32_t)i;
            hits += (weights[i] >= from) & (weights[i] <= to);
        }
    }
    return hits;
}
