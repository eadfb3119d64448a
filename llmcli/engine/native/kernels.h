/* What a level offers: everything that computes with vectors. Each level_*.c fills one table. */
#ifndef LLMCLI_KERNELS_H
#define LLMCLI_KERNELS_H

#include <stddef.h>

#include "native.h"

/* Activations as 8-bit integers in groups. */
struct quantized {
    int8_t *values; /* [rows][width] */
    float *scales;  /* [rows][groups] */
    int32_t *sums;  /* [rows][groups] sum of the group's values */
    int64_t width, groups, group;
};

/* Rows that a linear layer reads: floats, or integers where its weights are integers. */
struct input {
    const float *x;
    int64_t stride;
    struct quantized q;
    const uint8_t *canonical; /* [rows] or NULL */
    const uint16_t *rounded;  /* [rows][k padded to 32] bfloat16 of canonical rows, or NULL */
};

/* What becomes of a layer's sums. */
enum finish { FINISH_STORE, FINISH_ADD, FINISH_ACTIVATE, FINISH_GATE };
struct finishing {
    enum finish kind;
    int32_t activation;
    float cap;      /* of FINISH_STORE */
    float *y;
    int64_t stride;
    int64_t width;  /* outputs of y: half as many as the layer's where it is gated */
};

/* Queries of neighbouring tokens of one slot, for one key/value head. */
struct attention {
    const struct model *model;
    const struct layer *layer;
    const struct tokens *tokens;
    const struct rotation *rotation; /* or NULL */
    int64_t layer_index;
    int64_t first, count;             /* tokens */
    int64_t kv_head, query, queries;  /* and some of the query heads that share it */
    float *qkv;
    int64_t qkv_stride;
    float *out;
    int64_t out_stride;
    void *scratch;
};

struct slice;

struct kernels {
    const char *name;
    /* Rows of x, normalised, to y; y may be x; added to y if `add`. */
    void (*norm)(const struct norm *norm, const float *x, int64_t x_stride, int64_t rows,
                 int64_t width, float *y, int64_t y_stride, int add);
    void (*quantize)(const float *x, int64_t stride, int64_t rows, int64_t k,
                     const struct quantized *q, int64_t first);
    /* bfloat16 of rows, for matrix units; NULL where there are none. */
    void (*round)(const float *x, int64_t stride, int64_t rows, int64_t k, uint16_t *to);
    /* Sums, before the bias, of rows [first, last) through panels [from, to):
     * out[row - first][(panel - from) * 16 ...]. */
    void (*product)(const struct linear *layer, const struct input *in, int64_t first, int64_t last,
                    int64_t from, int64_t to, float *out, int64_t out_stride);
    void (*finish)(const struct linear *layer, const struct finishing *finishing, const float *sums,
                   int64_t stride, int64_t first, int64_t last, int64_t from, int64_t to);
    /* Turn and normalise queries and keys of tokens, and append keys and values to their slots,
     * for key/value heads [head, last_head). */
    void (*append)(const struct attention *a, int64_t head, int64_t last_head);
    void (*attend)(const struct attention *a);
    void (*cap)(float *values, int64_t count, float cap);
    /* One slice of a row of logits: see rows.h. */
    void (*slice)(const float *logits, int64_t count, float target, int64_t target_at,
                  struct slice *slice);
    /* For calibration: see rows.h. */
    void (*tempered)(const float *logits, int64_t count, float top, double (*sums)[3]);
    /* For drawing a token: see sample.h. */
    float (*weigh)(const float *logits, int64_t count, float temperature, float *weights,
                   double *sums, float *largest);
    double (*weigh_from)(const float *weights, int64_t count, float lowest, double *sums);
    void (*weigh_from_each)(const float *weights, int64_t count, const float *lowest,
                            double *totals);
    int64_t (*find_between)(const float *weights, int64_t count, float from, float to,
                            int32_t *found);
};

/* Those of the level in use. */
const struct kernels *current_kernels(void);

/* The inverse temperatures of scoring/temperature.py. */
enum { TEMPERATURES = 10 };

/* Weights that are summed together. */
enum { WEIGHED_BLOCK = 256 };

/* A part of a row of logits. */
struct slice {
    float largest;
    int64_t argmax; /* within the slice */
    double sum;     /* of e^(x - largest) */
    double product; /* of x - largest times that */
    int64_t greater, equal_before;
};

/* Queries that attend() takes at once, at most; and the bytes that it works in. */
enum { QUERIES = 24 };

static inline int64_t padded(int64_t count, int64_t to)
{
    return (count + to - 1) / to * to;
}

/* Where the parts of a key/value head's plane are in a slot, in bytes; keys come first. */
struct plane {
    int64_t values, key_factors, value_factors, nbytes;
};

static inline int64_t key_groups(const struct model *model)
{
    return (model->head_dim + KEY_GROUP - 1) / KEY_GROUP;
}

static inline struct plane plane_of(const struct model *model, int64_t room)
{
    struct plane made = {.values = room * model->head_dim * model->cache_bytes};
    made.key_factors = made.values + room * padded(model->head_dim, LANES) * model->cache_bytes;
    int64_t factors = model->cache_bytes == 1 ? room * (int64_t)sizeof(float) : 0;
    made.value_factors = made.key_factors + key_groups(model) * factors;
    made.nbytes = made.value_factors + factors;
    return made;
}

static inline int64_t attend_bytes(const struct model *model, int64_t positions)
{
    return (QUERIES * (padded(positions, KEYS) + 4 * LANES) +
            QUERIES * 2 * padded(model->head_dim, LANES) + 4 * LANES) * (int64_t)sizeof(float);
}

#endif
