/* Attention over a cache of float32 keys and values. */
#include <math.h>
#include <string.h>

#include "native.h"
#include "vector.h"

enum { TOGETHER = 8 }; /* queries that share what is loaded */

/* Make scores [count] weights that add up to 1 / what is returned, after scaling them. */
FAST float softmax(float *weights, int64_t count, float scale)
{
    __m512 highest = _mm512_set1_ps(-INFINITY), sum = _mm512_setzero_ps();
    __m512 factor = _mm512_set1_ps(scale);
    for (int64_t i = 0; i < count; i += LANES) {
        __mmask16 some = lanes(count - i);
        __m512 score = _mm512_mul_ps(_mm512_maskz_loadu_ps(some, weights + i), factor);
        _mm512_mask_storeu_ps(weights + i, some, score);
        highest = _mm512_mask_max_ps(highest, some, highest, score);
    }
    __m512 top = _mm512_set1_ps(_mm512_reduce_max_ps(highest));
    for (int64_t i = 0; i < count; i += LANES) {
        __mmask16 some = lanes(count - i);
        __m512 weight = exp512(_mm512_sub_ps(_mm512_maskz_loadu_ps(some, weights + i), top));
        _mm512_mask_storeu_ps(weights + i, some, weight);
        sum = _mm512_mask_add_ps(sum, some, sum, weight);
    }
    return 1.0f / _mm512_reduce_add_ps(sum);
}

/* One head of one token over `count` positions; keys and values are [count][head_dim]. */
FAST void attend(const float *query, const float *keys, const float *values, int64_t count,
                 int64_t head_dim, float scale, float *weights, float *out)
{
    for (int64_t position = 0; position < count; position++) {
        const float *key = keys + position * head_dim;
        __m512 sum = _mm512_setzero_ps();
        for (int64_t i = 0; i < head_dim; i += LANES) {
            __mmask16 some = lanes(head_dim - i);
            sum = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(some, key + i),
                                  _mm512_maskz_loadu_ps(some, query + i), sum);
        }
        weights[position] = _mm512_reduce_add_ps(sum);
    }
    float inverse = softmax(weights, count, scale);
    for (int64_t i = 0; i < head_dim; i += 4 * LANES) {
        __m512 total[4];
        for (int part = 0; part < 4; part++)
            total[part] = _mm512_setzero_ps();
        for (int64_t position = 0; position < count; position++) {
            const float *value = values + position * head_dim + i;
            __m512 weight = _mm512_set1_ps(weights[position]);
            for (int part = 0; part < 4; part++) {
                __mmask16 some = lanes(head_dim - i - part * LANES);
                total[part] = _mm512_fmadd_ps(
                    weight, _mm512_maskz_loadu_ps(some, value + part * LANES), total[part]);
            }
        }
        for (int part = 0; part < 4; part++)
            _mm512_mask_storeu_ps(out + i + part * LANES, lanes(head_dim - i - part * LANES),
                                  _mm512_mul_ps(total[part], _mm512_set1_ps(inverse)));
    }
}

int64_t attend_bytes(int64_t positions, int64_t head_dim)
{
    return (padded(positions, LANES) * (head_dim + TOGETHER)) * (int64_t)sizeof(float);
}

/* Keys as [positions / 16][head_dim][16], so that 16 scores come without a sum across lanes. */
FAST static void transpose(const float *keys, int64_t positions, int64_t head_dim, float *to)
{
    for (int64_t block = 0; block < positions; block += LANES)
        for (int64_t i = 0; i < head_dim; i++, to += LANES)
            for (int64_t lane = 0; lane < LANES; lane++)
                to[lane] = block + lane < positions ? keys[(block + lane) * head_dim + i] : 0.0f;
}

/* Weighted sums of values for up to 4 queries, over positions some of which weigh 0. */
INLINE void gather(const float *values, int64_t positions, int64_t head_dim, const float *weights,
                   int64_t weights_stride, int queries, const float *inverse, float *out,
                   int64_t out_stride)
{
    for (int64_t i = 0; i < head_dim; i += 4 * LANES) {
        __m512 total[4][4];
        for (int q = 0; q < 4; q++)
            for (int part = 0; part < 4; part++)
                total[q][part] = _mm512_setzero_ps();
        for (int64_t position = 0; position < positions; position++) {
            __m512 value[4];
            for (int part = 0; part < 4; part++)
                value[part] = _mm512_maskz_loadu_ps(lanes(head_dim - i - part * LANES),
                                                    values + position * head_dim + i + part * LANES);
            for (int q = 0; q < 4; q++) {
                __m512 weight = _mm512_set1_ps(weights[q * weights_stride + position]);
                for (int part = 0; part < 4; part++)
                    total[q][part] = _mm512_fmadd_ps(weight, value[part], total[q][part]);
            }
        }
        for (int q = 0; q < queries; q++)
            for (int part = 0; part < 4; part++)
                _mm512_mask_storeu_ps(out + q * out_stride + i + part * LANES,
                                      lanes(head_dim - i - part * LANES),
                                      _mm512_mul_ps(total[q][part], _mm512_set1_ps(inverse[q])));
    }
}

/* One head of `count` tokens, the first of which is at position `start` and looks at `start` + 1
 * of them; keys and values are [start + count][head_dim]. memory holds attend_bytes(). */
FAST void attend_many(const float *queries, int64_t queries_stride, int64_t count, int64_t start,
                      const float *keys, const float *values, int64_t head_dim, float scale,
                      void *memory, float *out, int64_t out_stride)
{
    int64_t room = padded(start + count, LANES);
    float *turned = memory, *weights = turned + room * head_dim;
    transpose(keys, start + count, head_dim, turned);
    for (int64_t first = 0; first < count; first += TOGETHER) {
        int here = count - first < TOGETHER ? (int)(count - first) : TOGETHER;
        int64_t seen = start + first + here;
        const float *query[TOGETHER];
        for (int q = 0; q < TOGETHER; q++)
            query[q] = queries + (first + (q < here ? q : 0)) * queries_stride;
        for (int64_t block = 0; block < seen; block += LANES) {
            __m512 score[TOGETHER];
            for (int q = 0; q < TOGETHER; q++)
                score[q] = _mm512_setzero_ps();
            for (int64_t i = 0; i < head_dim; i++) {
                __m512 key = _mm512_loadu_ps(turned + block * head_dim + i * LANES);
                for (int q = 0; q < TOGETHER; q++)
                    score[q] = _mm512_fmadd_ps(_mm512_set1_ps(query[q][i]), key, score[q]);
            }
            for (int q = 0; q < TOGETHER; q++)
                _mm512_storeu_ps(weights + q * room + block, score[q]);
        }
        float inverse[TOGETHER];
        for (int q = 0; q < TOGETHER; q++) {
            int64_t looks_at = start + first + (q < here ? q : 0) + 1;
            inverse[q] = softmax(weights + q * room, looks_at, scale);
            memset(weights + q * room + looks_at, 0, (size_t)(seen - looks_at) * sizeof(float));
        }
        for (int q = 0; q < here; q += 4)
            gather(values, seen, head_dim, weights + q * room, room, here - q < 4 ? here - q : 4,
                   inverse + q, out + (first + q) * out_stride, out_stride);
    }
}
