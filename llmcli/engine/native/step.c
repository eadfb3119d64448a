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
    char *memory;
};

static int64_t largest(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static int64_t shared_bytes(const struct model *model, int64_t count)
{
    return padded(count * (4 * model->n_embd + model->n_inner) * (int64_t)sizeof(float), 64);
}

static int64_t private_bytes(const struct model *model, int64_t count, int64_t room)
{
    int64_t activations = activation_bytes(&model->lm_head, count);
    if (model->n_layer) {
        const struct block *block = model->blocks;
        activations = largest(activations, activation_bytes(&block->c_attn, count));
        activations = largest(activations, activation_bytes(&block->attn_c_proj, count));
        activations = largest(activations, activation_bytes(&block->c_fc, count));
        activations = largest(activations, activation_bytes(&block->mlp_c_proj, count));
    }
    int64_t floats = count * model->n_embd + room;
    return padded(activations, 64) + padded(floats * (int64_t)sizeof(float), 64);
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

static void norms(const struct model *model, const struct norm *norm, const float *x, float *y,
                  int64_t rows)
{
    for (int64_t row = 0; row < rows; row++)
        layer_norm(x + row * model->n_embd, y + row * model->n_embd, model->n_embd, norm,
                   model->epsilon);
}

static void run_step(void *argument, int thread, int threads)
{
    const struct step *step = argument;
    const struct model *model = step->model;
    int64_t count = step->tokens->count, width = model->n_embd;
    float *qkv = (float *)step->memory, *attended = qkv + count * 3 * width;
    float *inner = attended + count * width;
    char *own = step->memory + shared_bytes(model, count) +
                thread * private_bytes(model, count, step->cache->room);
    float *normed = (float *)own, *weights = normed + count * width;
    void *scratch = own + padded((count * width + step->cache->room) * (int64_t)sizeof(float), 64);
    for (int64_t layer = 0; layer < model->n_layer; layer++) {
        const struct block *block = model->blocks + layer;
        norms(model, &block->ln_1, step->hidden, normed, count);
        share(&block->c_attn, normed, count, scratch, qkv, 0, thread, threads);
        meet(threads);
        attention(step, layer, qkv, weights, attended, thread, threads);
        meet(threads);
        share(&block->attn_c_proj, attended, count, scratch, step->hidden, 1, thread, threads);
        meet(threads);
        norms(model, &block->ln_2, step->hidden, normed, count);
        share(&block->c_fc, normed, count, scratch, inner, 0, thread, threads);
        meet(threads);
        share(&block->mlp_c_proj, inner, count, scratch, step->hidden, 1, thread, threads);
        meet(threads);
    }
    const float *last = step->hidden + step->first_logits * width;
    int64_t rows = count - step->first_logits;
    norms(model, &model->ln_f, last, normed, rows);
    share(&model->lm_head, normed, rows, scratch, step->logits, 0, thread, threads);
}

/* Bytes of memory that a step of `count` tokens works in. */
EXPORT int64_t llmcli_step_bytes(const struct model *model, int64_t count, int64_t room, int threads)
{
    return shared_bytes(model, count) + threads * private_bytes(model, count, room) + 64;
}

/* Append tokens to the cache. memory holds llmcli_step_bytes(), aligned to 64. */
EXPORT void llmcli_step(const struct model *model, const struct cache *cache,
                        const struct tokens *tokens, float *hidden, float *logits,
                        int64_t first_logits, void *memory, int threads)
{
    struct step step = {model, cache, tokens, hidden, logits, first_logits, memory};
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
    gemm_panels(layer, product->memory, product->rows, own, product->y, thread, threads);
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
