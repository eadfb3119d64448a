/* One-token steps and linear layers of GPT-2, for processors with AVX-512.
 *
 * A step streams every weight once, so memory's bandwidth is its limit. What keeps one near it:
 * weights lie in the order in which they are read, and threads meet at a barrier of their own a
 * few times a layer instead of being started and joined for each operator.
 *
 * Every output is computed by one thread in a fixed order, and every row by the same
 * instructions whatever its neighbours are: results depend neither on the number of threads nor
 * on the batch.
 */
#ifndef LLMCLI_NATIVE_H
#define LLMCLI_NATIVE_H

#include <stdint.h>

/* How weights lie in memory. A panel holds 16 outputs; the inputs of a panel are grouped so that
 * one 64-byte load serves all 16. Inputs and outputs are padded with zeros. */
enum form {
    F32_IN_MAJOR = 0,  /* float [k][n], as transformers' Conv1D keeps them */
    F32_OUT_MAJOR = 1, /* float [n][k], as torch's Linear and Embedding keep them */
    BF16_PANELS = 2,   /* bfloat16 [n/16][k/2][16][2] */
    INT8_PANELS = 3,   /* value + 128, uint8 [n/16][k/4][16][4]; scales float [n] */
    INT4_PANELS = 4,   /* two inputs a byte, uint8 [n/16][k/8][16][4] (low half: inputs 0-3 of
                          8, high half: 4-7); scales float16 [n/16][k/32][2][16]: scale, offset */
};

enum activation { ACT_NONE = 0, ACT_GELU_TANH = 1, ACT_GELU = 2, ACT_RELU = 3, ACT_SILU = 4, ACT_TANH = 5 };

/* activation(x @ weights + bias) */
struct linear {
    int32_t form;
    int32_t activation;
    int64_t n; /* outputs */
    int64_t k; /* inputs */
    const void *weights;
    const void *scales;
    const float *bias; /* [n], or NULL */
};

struct norm {
    const float *weight, *bias;
};

struct block {
    struct norm ln_1, ln_2;
    struct linear c_attn, attn_c_proj, c_fc, mlp_c_proj;
    float attention_scale;
};

struct model {
    int64_t n_layer, n_head, n_embd, n_inner;
    float epsilon;
    const struct block *blocks;
    struct norm ln_f;
    struct linear lm_head;
};

/* The cache of keys and values: float [layer][2][row][head][room][head_dim]. */
struct cache {
    float *data;
    int64_t rows, room;
};

/* What a step appends: `count` tokens, neighbours of a row one after the other. */
struct tokens {
    int64_t count;
    const int64_t *row;      /* [count] row of the cache */
    const int64_t *position; /* [count] cache position, ascending within a row */
    const int64_t *first;    /* [cache rows] first position that the row uses */
};

/* Activations turned into what a kernel multiplies with: 8-bit integers in groups. */
struct quantized {
    int8_t *values;   /* [rows][k padded] */
    float *scales;    /* [rows][groups] */
    int32_t *sums;    /* [rows][groups] sum of the group's values */
    int64_t width, groups, group;
};

/* kernels.c: rows of activations through some panels (or columns) of a layer. */
int64_t padded(int64_t count, int64_t to);
int64_t linear_units(const struct linear *layer);
int64_t activation_bytes(const struct linear *layer, int64_t rows);
void linear_rows(const struct linear *layer, const float *x, int64_t rows, void *scratch,
                 float *y, int64_t y_stride, int accumulate, int64_t first, int64_t last);
void activate(float *values, int64_t count, int32_t activation);
void layer_norm(const float *x, float *y, int64_t width, const struct norm *norm, float epsilon);
float softmax(float *weights, int64_t count, float scale);
void attend(const float *query, const float *keys, const float *values, int64_t count,
            int64_t head_dim, float scale, float *weights, float *out);

/* gemm.c: many rows, in bfloat16. */
int gemm_supported(void);
int64_t gemm_shared_bytes(const struct linear *layer, int64_t rows);
int64_t gemm_private_bytes(const struct linear *layer);
void gemm_convert(const struct linear *layer, const float *x, int64_t rows, void *shared,
                  int thread, int threads);
void gemm_panels(const struct linear *layer, const void *shared, int64_t rows, void *private_,
                 float *y, int accumulate, int thread, int threads);

/* attention.c: one head of consecutive tokens. */
int64_t attend_bytes(int64_t positions, int64_t head_dim);
void attend_many(const float *queries, int64_t queries_stride, int64_t count, int64_t start,
                 const float *keys, const float *values, int64_t head_dim, float scale,
                 void *memory, float *out, int64_t out_stride);

/* threads.c */
typedef void work(void *argument, int thread, int threads);
void run_threads(int threads, work *function, void *argument);
void meet(int threads);

#endif
