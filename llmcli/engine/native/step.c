/* GPT-2's blocks over a few tokens: the whole way from embeddings to logits in one call. */
#include <string.h>

#include "native.h"

#define EXPORT __attribute__((visibility("default")))

struct step {
    const struct model *model;
    const struct cache *cache;
    const struct tokens *tokens;
    float *hidden;        /* [count][n_embd]: embeddings in, the residual stream after it */
    float *logits;        /* [count - first_logits][vocab] */
    int64_t first_logits; /* tokens before this one get no logits */
    int64_t few;          /* more tokens than this are multiplied in bfloat16 */
    char *memory;
};

/* What threads share, and what each has of its own. */
struct memory {
    float *qkv, *attended, *inner, *normed; /* normed: each thread's own unless tokens are many */
    void *converted;
    float *weights;
    void *scratch;
};

static int64_t largest(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static int64_t largest_of(const struct model *model, int64_t (*bytes)(const struct linear *, int64_t),
                          int64_t rows, int64_t head_rows)
{
    int64_t most = bytes(&model->lm_head, head_rows);
    if (model->n_layer) {
        const struct block *block = model->blocks;
        most = largest(most, bytes(&block->c_attn, rows));
        most = largest(most, bytes(&block->attn_c_proj, rows));
        most = largest(most, bytes(&block->c_fc, rows));
        most = largest(most, bytes(&block->mlp_c_proj, rows));
    }
    return padded(most, 64);
}

static int64_t gemm_private(const struct linear *layer, int64_t rows)
{
    (void)rows;
    return gemm_private_bytes(layer);
}

static int64_t floats(int64_t count)
{
    return padded(count * (int64_t)sizeof(float), 64);
}

/* Lay out a step's memory for one thread; returns how many bytes all threads need. */
static int64_t lay_out(const struct model *model, int64_t count, int64_t logits, int64_t room,
                       int64_t few, int thread, int threads, char *start, struct memory *memory)
{
    int many = count > few;
    int64_t width = model->n_embd, at = 0;
    memory->qkv = (float *)(start + at);
    at += floats(count * 3 * width);
    memory->attended = (float *)(start + at);
    at += floats(count * width);
    memory->inner = (float *)(start + at);
    at += floats(count * model->n_inner);
    memory->normed = (float *)(start + at);
    if (many)
        at += floats(count * width);
    memory->converted = start + at;
    if (many)
        at += largest_of(model, gemm_shared_bytes, count, logits);
    int64_t head_dim = width / model->n_head, few_rows = many ? (logits < few ? logits : few) : count;
    int64_t scratch = largest_of(model, activation_bytes, few_rows, few_rows);
    if (many)
        scratch = largest(scratch, largest_of(model, gemm_private, count, logits));
    int64_t weights = many ? padded(attend_bytes(room, head_dim), 64) : floats(room);
    int64_t own = scratch + weights + (many ? 0 : floats(count * width));
    char *mine = start + at + thread * own;
    memory->scratch = mine;
    memory->weights = (float *)(mine + scratch);
    if (!many)
        memory->normed = (float *)(mine + scratch + weights);
    return at + threads * own;
}

/* This thread's part of a layer. */
static void share(const struct linear *layer, const float *x, int64_t rows, void *scratch, float *y,
                  int accumulate, int thread, int threads)
{
    int64_t units = linear_units(layer);
    linear_rows(layer, x, rows, scratch, y, layer->n, accumulate, units * thread / threads,
                units * (thread + 1) / threads);
}

/* This thread's heads: keys and values go to the cache, then every token looks back. */
static void attention(const struct step *step, int64_t layer, const float *qkv, float *scratch,
                      float *out, int thread, int threads)
{
    const struct model *model = step->model;
    const struct cache *cache = step->cache;
    const struct tokens *tokens = step->tokens;
    int64_t width = model->n_embd, head_dim = width / model->n_head;
    int64_t plane = cache->room * head_dim;
    float *keys = cache->data + layer * 2 * cache->rows * model->n_head * plane;
    float *values = keys + cache->rows * model->n_head * plane;
    int64_t units = cache->rows * model->n_head;
    int64_t first = units * thread / threads, last = units * (thread + 1) / threads;
    for (int64_t token = 0; token < tokens->count; token++) {
        int64_t row = tokens->row[token], position = tokens->position[token];
        for (int64_t head = 0; head < model->n_head; head++) {
            int64_t unit = row * model->n_head + head;
            if (unit < first || unit >= last)
                continue;
            const float *query = qkv + token * 3 * width + head * head_dim;
            float *key = keys + unit * plane, *value = values + unit * plane;
            size_t size = (size_t)head_dim * sizeof(float);
            memcpy(key + position * head_dim, query + width, size);
            memcpy(value + position * head_dim, query + 2 * width, size);
            int64_t start = tokens->first[row];
            attend(query, key + start * head_dim, value + start * head_dim, position + 1 - start,
                   head_dim, model->blocks[layer].attention_scale, scratch,
                   out + token * width + head * head_dim);
        }
    }
}

/* The same for many consecutive tokens of one row. */
static void attention_of_many(const struct step *step, int64_t layer, const struct memory *memory,
                              int thread, int threads)
{
    const struct model *model = step->model;
    const struct cache *cache = step->cache;
    const struct tokens *tokens = step->tokens;
    int64_t width = model->n_embd, head_dim = width / model->n_head, count = tokens->count;
    int64_t plane = cache->room * head_dim, row = tokens->row[0], first = tokens->first[row];
    float *keys = cache->data + layer * 2 * cache->rows * model->n_head * plane;
    float *values = keys + cache->rows * model->n_head * plane;
    size_t size = (size_t)head_dim * sizeof(float);
    for (int64_t head = model->n_head * thread / threads;
         head < model->n_head * (thread + 1) / threads; head++) {
        float *key = keys + (row * model->n_head + head) * plane;
        float *value = values + (row * model->n_head + head) * plane;
        const float *query = memory->qkv + head * head_dim;
        for (int64_t token = 0; token < count; token++) {
            const float *from = query + token * 3 * width;
            memcpy(key + tokens->position[token] * head_dim, from + width, size);
            memcpy(value + tokens->position[token] * head_dim, from + 2 * width, size);
        }
        attend_many(query, 3 * width, count, tokens->position[0] - first, key + first * head_dim,
                    value + first * head_dim, head_dim, model->blocks[layer].attention_scale,
                    memory->weights, memory->attended + head * head_dim, width);
    }
}

static void norms(const struct model *model, const struct norm *norm, const float *x, float *y,
                  int64_t first, int64_t last)
{
    for (int64_t row = first; row < last; row++)
        layer_norm(x + row * model->n_embd, y + row * model->n_embd, model->n_embd, norm,
                   model->epsilon);
}

/* Many rows through a layer, all threads together. */
static void multiply(const struct linear *layer, const float *x, int64_t rows,
                     const struct memory *memory, float *y, int accumulate, int thread, int threads)
{
    gemm_convert(layer, x, rows, memory->converted, thread, threads);
    meet(threads);
    gemm_panels(layer, memory->converted, rows, memory->scratch, y, accumulate, thread, threads);
    meet(threads);
}

static void run_many(const struct step *step, const struct memory *memory, int thread, int threads)
{
    const struct model *model = step->model;
    int64_t count = step->tokens->count;
    int64_t from = count * thread / threads, to = count * (thread + 1) / threads;
    for (int64_t layer = 0; layer < model->n_layer; layer++) {
        const struct block *block = model->blocks + layer;
        norms(model, &block->ln_1, step->hidden, memory->normed, from, to);
        meet(threads);
        multiply(&block->c_attn, memory->normed, count, memory, memory->qkv, 0, thread, threads);
        attention_of_many(step, layer, memory, thread, threads);
        meet(threads);
        multiply(&block->attn_c_proj, memory->attended, count, memory, step->hidden, 1, thread,
                 threads);
        norms(model, &block->ln_2, step->hidden, memory->normed, from, to);
        meet(threads);
        multiply(&block->c_fc, memory->normed, count, memory, memory->inner, 0, thread, threads);
        multiply(&block->mlp_c_proj, memory->inner, count, memory, step->hidden, 1, thread, threads);
    }
}

static void run_few(const struct step *step, const struct memory *memory, int thread, int threads)
{
    const struct model *model = step->model;
    int64_t count = step->tokens->count;
    for (int64_t layer = 0; layer < model->n_layer; layer++) {
        const struct block *block = model->blocks + layer;
        norms(model, &block->ln_1, step->hidden, memory->normed, 0, count);
        share(&block->c_attn, memory->normed, count, memory->scratch, memory->qkv, 0, thread, threads);
        meet(threads);
        attention(step, layer, memory->qkv, memory->weights, memory->attended, thread, threads);
        meet(threads);
        share(&block->attn_c_proj, memory->attended, count, memory->scratch, step->hidden, 1, thread,
              threads);
        meet(threads);
        norms(model, &block->ln_2, step->hidden, memory->normed, 0, count);
        share(&block->c_fc, memory->normed, count, memory->scratch, memory->inner, 0, thread, threads);
        meet(threads);
        share(&block->mlp_c_proj, memory->inner, count, memory->scratch, step->hidden, 1, thread,
              threads);
        meet(threads);
    }
}

static void run_step(void *argument, int thread, int threads)
{
    const struct step *step = argument;
    const struct model *model = step->model;
    int64_t count = step->tokens->count, rows = count - step->first_logits;
    int many = count > step->few;
    struct memory memory;
    lay_out(model, count, rows, step->cache->room, step->few, thread, threads, step->memory, &memory);
    if (many)
        run_many(step, &memory, thread, threads);
    else
        run_few(step, &memory, thread, threads);
    if (rows == 0)
        return;
    const float *last = step->hidden + step->first_logits * model->n_embd;
    int64_t from = many ? rows * thread / threads : 0;
    norms(model, &model->ln_f, last, memory.normed, from, many ? rows * (thread + 1) / threads : rows);
    if (many)
        meet(threads);
    if (rows > step->few)
        multiply(&model->lm_head, memory.normed, rows, &memory, step->logits, 0, thread, threads);
    else
        share(&model->lm_head, memory.normed, rows, memory.scratch, step->logits, 0, thread, threads);
}

/* Whether more than a few tokens can be taken in one step. */
EXPORT int llmcli_takes_many(const struct model *model)
{
    return model->lm_head.form >= BF16_PANELS && gemm_supported();
}

/* Bytes of memory that a step of `count` tokens works in. */
EXPORT int64_t llmcli_step_bytes(const struct model *model, int64_t count, int64_t logits,
                                 int64_t room, int64_t few, int threads)
{
    struct memory memory;
    return lay_out(model, count, logits, room, few, 0, threads, NULL, &memory) + 64;
}

/* Append tokens to the cache; more than `few` must be consecutive ones of one row.
 * memory holds llmcli_step_bytes(), aligned to 64. */
EXPORT void llmcli_step(const struct model *model, const struct cache *cache,
                        const struct tokens *tokens, float *hidden, float *logits,
                        int64_t first_logits, int64_t few, void *memory, int threads)
{
    struct step step = {model, cache, tokens, hidden, logits, first_logits, few, memory};
    run_threads(threads, run_step, &step);
}

/* -- one layer ----------------------------------------------------------------------------- */

struct product {
    const struct linear *layer;
    const float *x;
    int64_t rows;
    float *y;
    char *memory;
    int gemm;
};

static void run_product(void *argument, int thread, int threads)
{
    const struct product *product = argument;
    const struct linear *layer = product->layer;
    if (!product->gemm) {
        char *own = product->memory +
                    thread * padded(activation_bytes(layer, product->rows), 64);
        share(layer, product->x, product->rows, own, product->y, 0, thread, threads);
        return;
    }
    char *own = product->memory + gemm_shared_bytes(layer, product->rows) +
                thread * gemm_private_bytes(layer);
    gemm_convert(layer, product->x, product->rows, product->memory, thread, threads);
    meet(threads);
    gemm_panels(layer, product->memory, product->rows, own, product->y, 0, thread, threads);
}

static int by_gemm(const struct linear *layer, int64_t rows, int64_t few)
{
    return rows > few && layer->form >= BF16_PANELS && gemm_supported();
}

/* Bytes of memory that a layer works in; up to `few` rows are computed as a step computes them. */
EXPORT int64_t llmcli_linear_bytes(const struct linear *layer, int64_t rows, int64_t few, int threads)
{
    if (by_gemm(layer, rows, few))
        return gemm_shared_bytes(layer, rows) + threads * gemm_private_bytes(layer) + 64;
    return threads * padded(activation_bytes(layer, rows), 64) + 64;
}

/* y = layer(x), [rows][k] to [rows][n]. memory holds llmcli_linear_bytes(), aligned to 64. */
EXPORT void llmcli_linear(const struct linear *layer, const float *x, int64_t rows, float *y,
                          int64_t few, void *memory, int threads)
{
    struct product product = {layer, x, rows, y, memory, by_gemm(layer, rows, few)};
    run_threads(threads, run_product, &product);
}
