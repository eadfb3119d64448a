/* Attention over a slot's keys and values.
 *
 * A score is one chain over a head's dimensions, a weighted sum one over the positions; softmax's
 * sum has 16 lanes, a position's lane being its rest by 16. Where queries are computed together
 * the sums of one go on over positions that only others see, with weights of 0. */

static int64_t first_seen(const struct layer *layer, int64_t position)
{
    return layer->window > 0 && position >= layer->window ? position - layer->window + 1 : 0;
}

/* A head's vector turned: (a, b) to (a cos - b sin, b cos + a sin). */
static void turn(float *x, const float *cosines, const float *sines, int64_t pairs)
{
    for (int64_t i = 0; i < pairs; i += LANES) {
        int64_t some = pairs - i;
        vec a = v_load_some(x + i, some), b = v_load_some(x + pairs + i, some);
        vec c = v_load_some(cosines + i, some), s = v_load_some(sines + i, some);
        vec first = v_sub(v_mul(a, c), v_mul(b, s));
        vec second = v_add(v_mul(b, c), v_mul(a, s));
        v_store_some(x + i, some, first);
        v_store_some(x + pairs + i, some, second);
    }
}

static void norm_heads(const struct norm *of, float *x, int64_t from, int64_t to, int64_t head_dim)
{
    for (int64_t head = from; head < to && of->kind; head++) {
        struct norm one = *of;
        one.weight += head * head_dim;
        if (one.bias)
            one.bias += head * head_dim;
        norm(&one, x + head * head_dim, 0, 1, head_dim, x + head * head_dim, 0, 0);
    }
}

/* A key or value as integers, `step` elements apart; returns what they are to be multiplied by. */
static float store_bytes(const float *from, int64_t size, int8_t *to, int64_t step)
{
    const vec bound = v_set(1e30f), least = v_set(-1e30f);
    vec largest = v_zero(), nan = v_zero();
    for (int64_t i = 0; i < size; i += LANES) {
        vec v = v_load_some(from + i, size - i);
        largest = v_max(largest, v_abs(v));
        nan = v_fma(v, v_zero(), nan); /* max() may have passed over it */
    }
    float most = v_largest(v_min(bound, largest));
    vec inverse = v_set(most > 1e-30f ? 127.0f / most : 0.0f);
    for (int64_t i = 0; i < size; i += LANES) {
        int8_t some[LANES];
        vec v = v_min(bound, v_max(least, v_load_some(from + i, size - i)));
        i_store_bytes(some, v_to_int(v_mul(v, inverse)));
        for (int64_t j = 0; j < MIN(LANES, size - i); j++)
            to[(i + j) * step] = some[j];
    }
    return most / 127.0f + v_sum(nan);
}

/* A token's key and value to its slot. */
static void store(const struct attention *a, int64_t head, int64_t token, const float *key,
                  const float *value)
{
    const struct model *model = a->model;
    const struct slot *slot = a->tokens->slots + a->tokens->slot[token];
    const struct plane parts = plane_of(model, slot->room);
    int64_t size = model->head_dim, wide = padded(size, LANES), position = a->tokens->position[token];
    char *plane = (char *)slot->memory + (a->layer_index * model->kv_heads + head) * parts.nbytes;
    int64_t key_at = position / KEYS * KEYS * size + position % KEYS, value_at = position * wide;
    if (model->cache_bytes == 1) {
        float *key_factors = (float *)(plane + parts.key_factors);
        float *value_factors = (float *)(plane + parts.value_factors);
        for (int64_t from = 0; from < size; from += KEY_GROUP, key_factors += slot->room)
            key_factors[position] = store_bytes(key + from, MIN(KEY_GROUP, size - from),
                                                (int8_t *)plane + key_at + from * KEYS, KEYS);
        value_factors[position] =
            store_bytes(value, size, (int8_t *)(plane + parts.values) + value_at, 1);
    } else if (model->cache_bytes == 2) {
        uint16_t *keys = (uint16_t *)plane, *values = (uint16_t *)(plane + parts.values);
        const vec most = v_set(65504.0f), least = v_set(-65504.0f);
        for (int64_t i = 0; i < size; i += LANES) {
            uint16_t some[LANES];
            int64_t count = MIN(LANES, size - i);
            v_store_half(some, v_min(most, v_max(least, v_load_some(key + i, count))));
            for (int64_t j = 0; j < count; j++)
                keys[key_at + (i + j) * KEYS] = some[j];
            v_store_half(values + value_at + i,
                         v_min(most, v_max(least, v_load_some(value + i, count))));
        }
    } else {
        float *keys = (float *)plane, *values = (float *)(plane + parts.values);
        for (int64_t i = 0; i < size; i++)
            keys[key_at + i * KEYS] = key[i];
        for (int64_t i = 0; i < size; i += LANES)
            v_store(values + value_at + i, v_load_some(value + i, size - i));
    }
}

/* Rows of queries through a block of KEYS keys of integers; `factors` of its first position. */
static void integer_scores(const struct model *model, const float *queries, int64_t stride,
                           const int8_t *keys, const float *factors, int64_t room, float *scores,
                           int64_t scores_stride, int64_t rows)
{
    float part[QUERIES * KEYS];
    for (int64_t from = 0; from < model->head_dim; from += KEY_GROUP, factors += room) {
        byte_rows(queries + from, stride, keys + from * KEYS, KEYS, LANES,
                  MIN(KEY_GROUP, model->head_dim - from), part, KEYS, rows, KEYS / LANES);
        for (int64_t row = 0; row < rows; row++)
            for (int64_t i = 0; i < KEYS; i += LANES) {
                float *score = scores + row * scores_stride + i;
                vec product = v_load(part + row * KEYS + i), factor = v_load(factors + i);
                v_store(score, from ? v_fma(product, factor, v_load(score)) : v_mul(product, factor));
            }
    }
}

/* Rows of floats through keys or values as they are kept. */
static void cached_rows(const struct model *model, const float *x, int64_t x_stride, const char *kept,
                        int64_t step, int64_t k, float *out, int64_t out_stride, int64_t rows,
                        int64_t panels)
{
    if (model->cache_bytes == 1)
        byte_rows(x, x_stride, (const int8_t *)kept, step, LANES, k, out, out_stride, rows, panels);
    else if (model->cache_bytes == 2)
        half_rows(x, x_stride, (const uint16_t *)kept, step, LANES, k, out, out_stride, rows, panels);
    else
        f32_rows(x, x_stride, (const float *)kept, step, LANES, k, out, out_stride, rows, panels);
}

static void append(const struct attention *a, int64_t head, int64_t last_head)
{
    const struct model *model = a->model;
    const struct layer *layer = a->layer;
    int64_t size = model->head_dim, group = model->heads / model->kv_heads;
    for (int64_t token = a->first; token < a->first + a->count; token++) {
        float *queries = a->qkv + token * a->qkv_stride;
        float *keys = queries + model->heads * size;
        if (model->whole_norm) {
            if (layer->query_norm.kind)
                norm(&layer->query_norm, queries, 0, 1, model->heads * size, queries, 0, 0);
            if (layer->key_norm.kind)
                norm(&layer->key_norm, keys, 0, 1, model->kv_heads * size, keys, 0, 0);
        } else {
            norm_heads(&layer->query_norm, queries, head * group, last_head * group, size);
            norm_heads(&layer->key_norm, keys, head, last_head, size);
        }
        if (a->rotation) {
            int64_t pairs = a->rotation->pairs;
            const float *cosines = a->rotation->cosines + token * pairs;
            const float *sines = a->rotation->sines + token * pairs;
            for (int64_t h = head * group; h < last_head * group; h++)
                turn(queries + h * size, cosines, sines, pairs);
            for (int64_t h = head; h < last_head; h++)
                turn(keys + h * size, cosines, sines, pairs);
        }
    }
    /* Neighbours write to the same lines of keys, so one head after the other. */
    for (int64_t h = head; h < last_head; h++)
        for (int64_t token = a->first; token < a->first + a->count; token++) {
            const float *key = a->qkv + token * a->qkv_stride + (model->heads + h) * size;
            store(a, h, token, key, key + model->kv_heads * size);
        }
}

/* Scores [from, to) of a row become weights that add up to what is returned; around them, as far
 * as the blocks of 16 go, weights are 0. `from` and `to` count from a block's first position. */
static float softmax(float *scores, int64_t from, int64_t to)
{
    int64_t start = from / LANES * LANES;
    for (int64_t i = start; i < from; i++)
        scores[i] = -INFINITY;
    for (int64_t i = to; i % LANES; i++)
        scores[i] = -INFINITY;
    vec largest = v_set(-INFINITY), sum = v_zero();
    for (int64_t i = start; i < to; i += LANES)
        largest = v_max(largest, v_load(scores + i));
    vec top = v_set(v_largest(largest));
    for (int64_t i = start; i < to; i += LANES) {
        vec weight = v_exp(v_sub(v_load(scores + i), top));
        v_store(scores + i, weight);
        sum = v_add(sum, weight);
    }
    return v_sum(sum);
}

static void attend(const struct attention *a)
{
    const struct model *model = a->model;
    const struct layer *layer = a->layer;
    const int64_t *position = a->tokens->position + a->first;
    int64_t size = model->head_dim, wide = padded(size, LANES);
    int64_t group = model->heads / model->kv_heads, part = a->queries, rows = a->count * part;
    const struct slot *slot = a->tokens->slots + a->tokens->slot[a->first];
    const struct plane parts = plane_of(model, slot->room);
    const char *plane =
        (const char *)slot->memory + (a->layer_index * model->kv_heads + a->kv_head) * parts.nbytes;
    int64_t base = first_seen(layer, position[0]) / KEYS * KEYS;
    int64_t span = padded(position[a->count - 1] + 1 - base, KEYS), room = span + LANES;
    int64_t stride = wide + LANES;
    float *queries = a->scratch, *sums = queries + QUERIES * stride, *scores = sums + QUERIES * wide;
    for (int64_t row = 0; row < rows; row++)
        memcpy(queries + row * stride,
               a->qkv + (a->first + row / part) * a->qkv_stride +
                   (a->kv_head * group + a->query + row % part) * size,
               (size_t)size * sizeof(float));
    for (int64_t block = 0; block < span; block += KEYS) {
        const char *keys = plane + (base + block) * size * model->cache_bytes;
        if (model->cache_bytes == 1)
            integer_scores(model, queries, stride, (const int8_t *)keys,
                           (const float *)(plane + parts.key_factors) + base + block, slot->room,
                           scores + block, room, rows);
        else
            cached_rows(model, queries, stride, keys, KEYS, size, scores + block, room, rows,
                        KEYS / LANES);
    }
    const float *value_factors =
        model->cache_bytes == 1 ? (const float *)(plane + parts.value_factors) + base : NULL;
    float inverse[QUERIES];
    static const float ramp[LANES] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    for (int64_t row = 0; row < rows; row++) {
        float *score = scores + row * room;
        int64_t own = position[row / part];
        int64_t from = first_seen(layer, own) - base, to = own + 1 - base;
        int64_t start = from / LANES * LANES;
        float slope = model->alibi ? model->alibi[a->kv_head * group + a->query + row % part] : 0;
        for (int64_t i = start; i < to; i += LANES) {
            vec s = v_mul(v_load(score + i), v_set(layer->scale));
            if (model->attention_cap > 0)
                s = v_mul(v_set(model->attention_cap),
                          v_tanh(v_div(s, v_set(model->attention_cap))));
            if (model->alibi)
                s = v_fma(v_set(slope), v_add(v_load(ramp), v_set((float)(base + i - own))), s);
            v_store(score + i, s);
        }
        inverse[row] = 1.0f / softmax(score, from, to);
        memset(score, 0, (size_t)start * sizeof(float));
        int64_t end = padded(to, LANES);
        memset(score + end, 0, (size_t)(span - end) * sizeof(float));
        for (int64_t i = start; value_factors && i < end; i += LANES)
            v_store(score + i, v_mul(v_load(score + i), v_load(value_factors + i)));
    }
    int64_t positions = position[a->count - 1] + 1 - base;
    cached_rows(model, scores, room, plane + parts.values + base * wide * model->cache_bytes, wide,
                positions, sums, wide, rows, wide / LANES);
    for (int64_t row = 0; row < rows; row++) {
        float *out = a->out + (a->first + row / part) * a->out_stride +
                     (a->kv_head * group + a->query + row % part) * size;
        for (int64_t i = 0; i < size; i += LANES)
            v_store_some(out + i, size - i,
                         v_mul(v_load(sums + row * wide + i), v_set(inverse[row])));
    }
}
