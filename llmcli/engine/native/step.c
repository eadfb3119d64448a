/* A model's tokens through its layers, by the kernels of one level; and what else is exported. */
#include <math.h>
#include <string.h>

#include "kernels.h"

enum {
    FEW = 4,          /* rows that every thread normalises for itself, rather than wait for it */
    ROW_BLOCK = 96,   /* rows of a unit of work: a multiple of what any tile has */
    MOST_PANELS = 16, /* and panels */
    ROWS_A_UNIT = 8,  /* where rows are worked on by themselves */
    APPENDED = 16,    /* tokens whose keys and values are appended together */
    LINE = 64,
    SLICE = 4096,     /* logits that are summed together */
    SCORE_ROWS = 64,
};

/* -- levels ---------------------------------------------------------------------------------- */

extern const struct kernels kernels_c;
#if defined(__x86_64__)
extern const struct kernels kernels_avx2, kernels_avxvnni, kernels_avx512, kernels_amx;
#elif defined(__aarch64__)
extern const struct kernels kernels_neon;
#endif

static const struct kernels *use = &kernels_c;

static const struct kernels *level_named(const char *name)
{
    if (!strcmp(name, "c"))
        return &kernels_c;
#if defined(__x86_64__)
    if (!strcmp(name, "avx2"))
        return has_avx2() ? &kernels_avx2 : NULL;
    if (!strcmp(name, "avxvnni"))
        return has_avxvnni() ? &kernels_avxvnni : NULL;
    if (!strcmp(name, "avx512"))
        return has_avx512() ? &kernels_avx512 : NULL;
    if (!strcmp(name, "amx"))
        return has_amx() ? &kernels_amx : NULL;
#elif defined(__aarch64__)
    if (!strcmp(name, "neon"))
        return has_dot_product() ? &kernels_neon : NULL;
#endif
    return NULL;
}

/* Whether the processor has a level: amx, avx512, avxvnni, avx2, neon or c. */
EXPORT int llmcli_has_level(const char *name)
{
    return level_named(name) != NULL;
}

/* Compute with a level from now on; returns whether the processor has it. */
EXPORT int llmcli_use_level(const char *name)
{
    const struct kernels *found = level_named(name);
    if (found)
        use = found;
    return found != NULL;
}

const struct kernels *current_kernels(void)
{
    return use;
}

EXPORT const char *llmcli_level(void)
{
    return use->name;
}

/* -- memory ---------------------------------------------------------------------------------- */

/* Hands out parts of a block, or only counts them. Each begins at a line of the caches. */
struct room {
    char *at;
    int64_t used;
};

static void *take(struct room *room, int64_t nbytes)
{
    void *here = room->at ? room->at + room->used : NULL;
    room->used += padded(nbytes, LINE);
    return here;
}

/* Floats between rows that are read together: never a multiple of what one set of the nearest
 * cache serves. */
static int64_t stride_of(int64_t width)
{
    return padded(width, LANES) + LANES;
}

static int64_t group_of(const struct linear *layer)
{
    return layer->type == TYPE_INT8 ? INT8_GROUP : INT4_GROUP;
}

static struct quantized quantized_in(const struct linear *layer, int64_t rows, struct room *room)
{
    struct quantized q = {.group = group_of(layer)};
    if (layer->type != TYPE_INT8 && layer->type != TYPE_INT4)
        return q;
    q.width = padded(layer->k, q.group);
    q.groups = q.width / q.group;
    q.scales = take(room, rows * q.groups * 4);
    q.sums = take(room, rows * q.groups * 4);
    q.values = take(room, rows * q.width);
    return q;
}

/* What a layer's input needs: for each thread of few rows, or for all together. */
struct places {
    float *normed;
    struct room integers; /* as yet unused */
    uint16_t *rounded;
};

static int64_t integer_bytes(const struct linear *layer, int64_t rows)
{
    struct room counted = {0};
    quantized_in(layer, rows, &counted);
    return counted.used;
}

static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* Panels of a unit of work: so many that claiming one costs little, and that threads get about
 * the same. Even, for gate and up lie side by side. */
static int64_t panels_of_unit(const struct linear *layer, int64_t rows, int threads)
{
    int64_t panels = padded(layer->n, LANES) / LANES;
    int64_t some = rows > FEW ? 8 : 4;
    int64_t bytes = padded(layer->k, 64) * LANES * (layer->type == TYPE_F32 ? 4 : layer->type == TYPE_BF16 ? 2 : 1);
    while (some < MOST_PANELS && some * bytes * rows < 128 << 10 && panels / some > 4 * threads)
        some *= 2;
    return some;
}

static int64_t sums_bytes(int64_t rows)
{
    return smaller(rows, ROW_BLOCK) * (MOST_PANELS * LANES + LANES) * 4;
}

/* -- linear layers --------------------------------------------------------------------------- */

struct passing {
    const struct linear *layer;
    const struct norm *norm; /* of the input, or NULL */
    const float *x;
    int64_t stride, rows;
    const uint8_t *canonical;
    struct finishing finishing;
};

/* What all threads share, and what this one has. */
struct desk {
    struct places shared, own;
    float *sums, *scores;
};

static struct input prepared(const struct passing *pass, struct places places, int64_t first,
                             int64_t last)
{
    const struct linear *layer = pass->layer;
    struct input in = {.x = pass->x, .stride = pass->stride, .canonical = pass->canonical};
    in.q = quantized_in(layer, pass->rows, &places.integers);
    if (pass->norm && pass->norm->kind) {
        int64_t stride = stride_of(layer->k);
        if (last > first)
            use->norm(pass->norm, pass->x + first * pass->stride, pass->stride, last - first,
                      layer->k, places.normed + first * stride, stride, 0);
        in.x = places.normed;
        in.stride = stride;
    }
    if (in.q.values && last > first)
        use->quantize(in.x + first * in.stride, in.stride, last - first, layer->k, &in.q, first);
    if (use->round && layer->type == TYPE_BF16 && pass->canonical) {
        in.rounded = places.rounded;
        if (last > first)
            use->round(in.x + first * in.stride, in.stride, last - first, layer->k,
                       places.rounded + first * padded(layer->k, BF16_GROUP));
    }
    return in;
}

/* Rows through a layer: a stage, or two. */
static void pass_rows(const struct passing *pass, struct desk *desk, struct team *team)
{
    const struct linear *layer = pass->layer;
    int64_t rows = pass->rows, panels = padded(layer->n, LANES) / LANES;
    int64_t some = panels_of_unit(layer, rows, team_size(team));
    int64_t across = (panels + some - 1) / some, blocks = (rows + ROW_BLOCK - 1) / ROW_BLOCK;
    int64_t stride = some * LANES + LANES, unit;
    struct input in;
    int ready = rows > FEW;
    if (rows > FEW) {
        in = prepared(pass, desk->shared, 0, 0);
        if (in.x != pass->x || in.q.values || in.rounded) {
            int64_t units = (rows + ROWS_A_UNIT - 1) / ROWS_A_UNIT;
            while ((unit = claim(team, units)) >= 0)
                prepared(pass, desk->shared, unit * ROWS_A_UNIT,
                         smaller(rows, (unit + 1) * ROWS_A_UNIT));
        }
    }
    while ((unit = claim(team, across * blocks)) >= 0) {
        if (!ready) {
            in = prepared(pass, desk->own, 0, rows);
            ready = 1;
        }
        int64_t block = unit % blocks, from = unit / blocks * some, to = smaller(panels, from + some);
        int64_t first = block * ROW_BLOCK, last = smaller(rows, first + ROW_BLOCK);
        use->product(layer, &in, first, last, from, to, desk->sums, stride);
        use->finish(layer, &pass->finishing, desk->sums, stride, first, last, from, to);
    }
}

/* -- a step ---------------------------------------------------------------------------------- */

/* Tokens of one slot that follow each other, as many as attention takes at once. */
struct chunk {
    int64_t first, count;
};

struct step {
    const struct model *model;
    const struct tokens *tokens;
    float *hidden, *states, *logits;
    char *memory;
    int threads;
    int append_apart; /* keys and values are appended before any token attends */
    int64_t chunks, parts, queries;
};

struct memory {
    struct chunk *chunks;
    float *qkv, *attended, *inner, *added, *states;
    struct desk desk;
};

static void allow_for(const struct linear *layer, int64_t rows, int64_t *integers, int64_t *width)
{
    *integers = larger(*integers, integer_bytes(layer, rows));
    *width = larger(*width, layer->k);
}

static struct places places_in(int64_t rows, int64_t width, int64_t integers, struct room *room)
{
    struct places made = {.normed = take(room, rows * stride_of(width) * 4)};
    made.rounded = take(room, rows * padded(width, BF16_GROUP) * 2);
    made.integers.at = take(room, integers);
    return made;
}

static int64_t lay_out(const struct model *model, const struct tokens *tokens, int thread,
                       int threads, char *at, struct memory *memory)
{
    int64_t count = tokens->count, wanted = tokens->n_outputs;
    int64_t heads = model->heads * model->head_dim, keys = model->kv_heads * model->head_dim;
    struct room room = {.at = at};
    memory->chunks = take(&room, count * (int64_t)sizeof(struct chunk));
    memory->qkv = take(&room, count * stride_of(heads + 2 * keys) * 4);
    memory->attended = take(&room, count * stride_of(heads) * 4);
    memory->inner = take(&room, count * stride_of(model->inner) * 4);
    memory->added = take(&room, count * stride_of(model->width) * 4);
    memory->states = take(&room, wanted * stride_of(model->width) * 4);
    int64_t integers = 0, width = 0, most = 0;
    for (int64_t i = 0; i < model->n_layer; i++) {
        const struct layer *layer = model->layers + i;
        allow_for(&layer->qkv, count, &integers, &width);
        allow_for(&layer->attention_out, count, &integers, &width);
        allow_for(&layer->up, count, &integers, &width);
        allow_for(&layer->down, count, &integers, &width);
    }
    if (wanted)
        allow_for(&model->head, wanted, &integers, &width);
    for (int64_t i = 0; i < count; i++)
        most = larger(most, tokens->position[i] + 1);
    int64_t rows = larger(count, wanted), few = smaller(rows, FEW);
    memory->desk.shared = places_in(rows > FEW ? rows : 0, width, integers, &room);
    int64_t apart = room.used, own = 0;
    for (int i = 0; i < threads; i++) {
        room.used = apart + i * own;
        struct places places = places_in(few, width, integers, &room);
        float *for_sums = take(&room, sums_bytes(rows));
        float *for_scores = take(&room, attend_bytes(model, most));
        own = room.used - apart - i * own;
        if (i == thread) {
            memory->desk.own = places;
            memory->desk.sums = for_sums;
            memory->desk.scores = for_scores;
        }
    }
    return room.used;
}

static void norm_stage(const struct norm *norm, const float *x, int64_t x_stride, int64_t rows,
                       int64_t width, float *y, int64_t y_stride, int add, struct team *team)
{
    int64_t unit;
    while ((unit = claim(team, (rows + ROWS_A_UNIT - 1) / ROWS_A_UNIT)) >= 0) {
        int64_t first = unit * ROWS_A_UNIT, some = smaller(rows - first, ROWS_A_UNIT);
        use->norm(norm, x + first * x_stride, x_stride, some, width, y + first * y_stride, y_stride,
                  add);
    }
}

static void attention_stage(const struct step *step, int64_t index, const struct memory *memory,
                            struct team *team)
{
    const struct model *model = step->model;
    const struct layer *layer = model->layers + index;
    int64_t heads = model->heads * model->head_dim, keys = model->kv_heads * model->head_dim, unit;
    int64_t group = model->heads / model->kv_heads;
    struct attention a = {
        .model = model,
        .layer = layer,
        .tokens = step->tokens,
        .rotation = layer->rotary >= 0 ? step->tokens->rotations + layer->rotary : NULL,
        .layer_index = index,
        .qkv = memory->qkv,
        .qkv_stride = stride_of(heads + 2 * keys),
        .out = memory->attended,
        .out_stride = stride_of(heads),
        .scratch = memory->desk.scores,
    };
    if (step->append_apart) {
        int64_t units = (step->tokens->count + APPENDED - 1) / APPENDED;
        while ((unit = claim(team, units)) >= 0) {
            a.first = unit * APPENDED;
            a.count = smaller(step->tokens->count - a.first, APPENDED);
            use->append(&a, 0, model->kv_heads);
        }
    }
    int64_t units = step->chunks * model->kv_heads * step->parts;
    while ((unit = claim(team, units)) >= 0) {
        /* Heads one after the other, and a prompt's end, which sees most, first. */
        const struct chunk *chunk = memory->chunks + step->chunks - 1 - unit % step->chunks;
        int64_t part = unit / step->chunks % step->parts;
        a.kv_head = unit / step->chunks / step->parts;
        a.first = chunk->first;
        a.count = chunk->count;
        a.query = group * part / step->parts;
        a.queries = group * (part + 1) / step->parts - a.query;
        if (!step->append_apart)
            use->append(&a, a.kv_head, a.kv_head + 1);
        use->attend(&a);
    }
}

/* One sub-layer's output, added to the residual stream through its norm if it has one. */
static void add(const struct linear *layer, const struct norm *post, const float *x, int64_t stride,
                const struct step *step, struct memory *memory, struct team *team)
{
    int64_t width = step->model->width, count = step->tokens->count;
    struct passing pass = {
        .layer = layer,
        .x = x,
        .stride = stride,
        .rows = count,
        .canonical = step->tokens->canonical,
        .finishing = {.kind = FINISH_ADD, .y = step->hidden, .stride = width, .width = width},
    };
    if (post->kind) {
        pass.finishing.kind = FINISH_STORE;
        pass.finishing.y = memory->added;
        pass.finishing.stride = stride_of(width);
    }
    pass_rows(&pass, &memory->desk, team);
    if (post->kind)
        norm_stage(post, memory->added, stride_of(width), count, width, step->hidden, width, 1, team);
}

static void feed_forward_up(const struct step *step, const struct layer *layer,
                            struct memory *memory, struct team *team)
{
    const struct model *model = step->model;
    struct passing pass = {
        .layer = &layer->up,
        .norm = model->parallel && model->shared_norm ? &layer->attention_norm : &layer->mlp_norm,
        .x = step->hidden,
        .stride = model->width,
        .rows = step->tokens->count,
        .canonical = step->tokens->canonical,
        .finishing = {
            .kind = model->gated ? FINISH_GATE : FINISH_ACTIVATE,
            .activation = model->activation,
            .y = memory->inner,
            .stride = stride_of(model->inner),
            .width = model->inner,
        },
    };
    pass_rows(&pass, &memory->desk, team);
}

static void run_step(void *argument, struct team *team)
{
    const struct step *step = argument;
    const struct model *model = step->model;
    const struct tokens *tokens = step->tokens;
    int64_t width = model->width, count = tokens->count, wanted = tokens->n_outputs;
    int64_t heads = model->heads * model->head_dim, keys = model->kv_heads * model->head_dim;
    struct memory memory;
    lay_out(model, tokens, team_number(team), step->threads, step->memory, &memory);
    if (model->embedding_norm.kind)
        norm_stage(&model->embedding_norm, step->hidden, width, count, width, step->hidden, width, 0,
                   team);
    for (int64_t i = 0; i < model->n_layer; i++) {
        const struct layer *layer = model->layers + i;
        struct passing qkv = {
            .layer = &layer->qkv,
            .norm = &layer->attention_norm,
            .x = step->hidden,
            .stride = width,
            .rows = count,
            .canonical = tokens->canonical,
            .finishing = {.y = memory.qkv,
                          .stride = stride_of(heads + 2 * keys),
                          .width = heads + 2 * keys},
        };
        pass_rows(&qkv, &memory.desk, team);
        attention_stage(step, i, &memory, team);
        if (model->parallel) /* it reads what attention has not been added to */
            feed_forward_up(step, layer, &memory, team);
        add(&layer->attention_out, &layer->attention_post_norm, memory.attended, stride_of(heads),
            step, &memory, team);
        if (!model->parallel)
            feed_forward_up(step, layer, &memory, team);
        add(&layer->down, &layer->mlp_post_norm, memory.inner, stride_of(model->inner), step,
            &memory, team);
    }
    if (wanted == 0)
        return;
    float *states = step->states ? step->states : memory.states;
    int64_t stride = step->states ? width : stride_of(width), unit;
    while ((unit = claim(team, (wanted + ROWS_A_UNIT - 1) / ROWS_A_UNIT)) >= 0)
        for (int64_t row = unit * ROWS_A_UNIT; row < smaller(wanted, (unit + 1) * ROWS_A_UNIT); row++) {
            const float *from = step->hidden + tokens->outputs[row] * width;
            if (model->final_norm.kind)
                use->norm(&model->final_norm, from, width, 1, width, states + row * stride, stride, 0);
            else
                memcpy(states + row * stride, from, (size_t)width * sizeof(float));
        }
    if (step->logits == NULL)
        return;
    struct passing head = {
        .layer = &model->head,
        .x = states,
        .stride = stride,
        .rows = wanted,
        .finishing = {.cap = model->logit_cap,
                      .y = step->logits,
                      .stride = model->head.n,
                      .width = model->head.n},
    };
    pass_rows(&head, &memory.desk, team);
}

/* Bytes of memory that a step works in. */
EXPORT int64_t llmcli_step_bytes(const struct model *model, const struct tokens *tokens, int threads)
{
    struct memory memory;
    return lay_out(model, tokens, 0, threads, NULL, &memory);
}

/* Append tokens to their slots. hidden: [count][width] embeddings, overwritten. Of the tokens
 * asked for, states (after the final norm) go to `states` [n_outputs][width] and logits to
 * `logits` [n_outputs][vocab], where these are not NULL. memory holds llmcli_step_bytes(), aligned
 * to 64. */
EXPORT void llmcli_step(const struct model *model, const struct tokens *tokens, float *hidden,
                        float *states, float *logits, void *memory, int threads)
{
    if (tokens->count == 0)
        return;
    struct memory laid;
    lay_out(model, tokens, 0, threads, memory, &laid);
    int64_t group = model->heads / model->kv_heads;
    struct step step = {
        .model = model, .tokens = tokens, .hidden = hidden, .states = states, .logits = logits,
        .memory = memory, .threads = threads, .parts = (group + QUERIES - 1) / QUERIES,
        .append_apart = model->whole_norm,
    };
    int64_t together = step.parts > 1 ? 1 : QUERIES / group;
    for (int64_t i = 0; i < tokens->count; i++) {
        struct chunk *last = laid.chunks + step.chunks - 1;
        int follows = i > 0 && tokens->slot[i] == tokens->slot[i - 1] &&
                      tokens->position[i] == tokens->position[i - 1] + 1;
        if (follows && last->count < together)
            last->count++;
        else
            laid.chunks[step.chunks++] = (struct chunk){i, 1};
        /* Whoever attends may see what another chunk appends. */
        if ((i > 0 && tokens->slot[i] == tokens->slot[i - 1] &&
             laid.chunks[step.chunks - 1].first == i) || step.parts > 1)
            step.append_apart = 1;
    }
    run_team(threads, run_step, &step);
}

static const char *linear_fault(const struct linear *layer, int64_t n, int64_t k)
{
    if (layer->type < TYPE_F32 || layer->type > TYPE_INT4 || layer->weights == NULL ||
        (layer->type >= TYPE_INT8 && layer->scales == NULL))
        return "a linear layer lacks something";
    return layer->n == n && layer->k == k ? NULL : "a linear layer has another shape";
}

/* What is wrong with a model's sizes, or NULL. */
EXPORT const char *llmcli_model_fault(const struct model *model)
{
    int64_t heads = model->heads * model->head_dim, keys = model->kv_heads * model->head_dim;
    if (model->n_layer < 0 || model->width < 1 || model->heads < 1 || model->kv_heads < 1 ||
        model->head_dim < 1 || model->inner < 1 || model->heads % model->kv_heads)
        return "sizes that make no transformer";
    const char *fault = linear_fault(&model->head, model->head.n, model->width);
    for (int64_t i = 0; i < model->n_layer && fault == NULL; i++) {
        const struct layer *layer = model->layers + i;
        int64_t up = model->gated ? 2 * padded(model->inner, LANES) : model->inner;
        if ((fault = linear_fault(&layer->qkv, heads + 2 * keys, model->width)) == NULL &&
            (fault = linear_fault(&layer->attention_out, model->width, heads)) == NULL &&
            (fault = linear_fault(&layer->up, up, model->width)) == NULL)
            fault = linear_fault(&layer->down, model->width, model->inner);
    }
    return fault;
}

/* -- slots ----------------------------------------------------------------------------------- */

EXPORT int64_t llmcli_slot_bytes(const struct model *model, int64_t room)
{
    return model->n_layer * model->kv_heads * plane_of(model, room).nbytes;
}

/* Memory that is committed as it is touched; NULL if there is none to be had. */
EXPORT void *llmcli_slot_new(int64_t nbytes)
{
    return pages_new((size_t)larger(nbytes, 1));
}

EXPORT void llmcli_slot_free(void *memory, int64_t nbytes)
{
    pages_free(memory, (size_t)larger(nbytes, 1));
}

/* Positions [first, last) of one slot to another, where the first of them becomes `to_first`. Keys
 * lie in blocks of KEYS, so `first` and `to_first` begin one, and the last is copied whole. */
static void copy_positions(const struct model *model, const void *from, int64_t from_room,
                           int64_t first, int64_t last, void *to, int64_t to_room, int64_t to_first)
{
    const struct plane from_plane = plane_of(model, from_room), to_plane = plane_of(model, to_room);
    int64_t key = model->head_dim * model->cache_bytes, count = last - first;
    int64_t value = padded(model->head_dim, LANES) * model->cache_bytes, factor = sizeof(float);
    for (int64_t plane = 0; plane < model->n_layer * model->kv_heads; plane++) {
        const char *source = (const char *)from + plane * from_plane.nbytes;
        char *target = (char *)to + plane * to_plane.nbytes;
        memcpy(target + to_first * key, source + first * key, (size_t)(padded(count, KEYS) * key));
        memcpy(target + to_plane.values + to_first * value, source + from_plane.values + first * value,
               (size_t)(count * value));
        if (model->cache_bytes != 1)
            continue;
        for (int64_t group = 0; group < key_groups(model); group++)
            memcpy(target + to_plane.key_factors + (group * to_room + to_first) * factor,
                   source + from_plane.key_factors + (group * from_room + first) * factor,
                   (size_t)(count * factor));
        memcpy(target + to_plane.value_factors + to_first * factor,
               source + from_plane.value_factors + first * factor, (size_t)(count * factor));
    }
}

/* The first `length` positions of one slot into another. */
EXPORT void llmcli_slot_copy(const struct model *model, const void *from, int64_t from_room, void *to,
                             int64_t to_room, int64_t length)
{
    copy_positions(model, from, from_room, 0, length, to, to_room, 0);
}

/* A block of KEYS positions of one slot into another. */
EXPORT void llmcli_block_copy(const struct model *model, const void *from, int64_t from_room,
                              int64_t from_block, void *to, int64_t to_room, int64_t to_block)
{
    copy_positions(model, from, from_room, from_block * KEYS, (from_block + 1) * KEYS, to, to_room,
                   to_block * KEYS);
}

/* Give back the pages that only positions from `length` on use. */
EXPORT void llmcli_slot_trim(const struct model *model, void *memory, int64_t room, int64_t length)
{
    const struct plane parts = plane_of(model, room);
    int64_t key = model->head_dim * model->cache_bytes;
    int64_t value = padded(model->head_dim, LANES) * model->cache_bytes, factor = sizeof(float);
    if (length == 0) { /* pages that planes share, too */
        pages_give_back(memory, (char *)memory + llmcli_slot_bytes(model, room));
        return;
    }
    for (int64_t plane = 0; plane < model->n_layer * model->kv_heads; plane++) {
        char *start = (char *)memory + plane * parts.nbytes;
        pages_give_back(start + padded(length, KEYS) * key, start + parts.values);
        pages_give_back(start + parts.values + length * value, start + parts.key_factors);
        for (int64_t at = parts.key_factors; at < parts.nbytes; at += room * factor)
            pages_give_back(start + at + length * factor, start + at + room * factor);
    }
}

/* -- one layer ------------------------------------------------------------------------------- */

struct product {
    struct passing pass;
    char *memory;
    int threads;
};

static int64_t product_memory(const struct linear *layer, int64_t rows, int thread, int threads,
                              char *at, struct desk *desk)
{
    struct room room = {.at = at};
    int64_t integers = integer_bytes(layer, rows);
    desk->shared = places_in(rows, layer->k, integers, &room);
    int64_t apart = room.used, own = 0;
    for (int i = 0; i < threads; i++) {
        room.used = apart + i * own;
        struct places places = places_in(smaller(rows, FEW), layer->k, integers, &room);
        float *sums = take(&room, sums_bytes(rows));
        own = room.used - apart - i * own;
        if (i == thread) {
            desk->own = places;
            desk->sums = sums;
        }
    }
    return room.used;
}

static void run_product(void *argument, struct team *team)
{
    const struct product *product = argument;
    struct passing pass = product->pass;
    struct desk desk = {0};
    product_memory(pass.layer, pass.rows, team_number(team), product->threads, product->memory, &desk);
    if (pass.rows > FEW) { /* rows that lie as the caller has them may meet in the cache */
        int64_t stride = stride_of(pass.layer->k), unit;
        while ((unit = claim(team, (pass.rows + ROWS_A_UNIT - 1) / ROWS_A_UNIT)) >= 0)
            for (int64_t row = unit * ROWS_A_UNIT;
                 row < smaller(pass.rows, (unit + 1) * ROWS_A_UNIT); row++)
                memcpy(desk.shared.normed + row * stride, pass.x + row * pass.stride,
                       (size_t)pass.layer->k * sizeof(float));
        pass.x = desk.shared.normed;
        pass.stride = stride;
    }
    pass_rows(&pass, &desk, team);
}

/* Bytes of memory that a layer alone works in. */
EXPORT int64_t llmcli_linear_bytes(const struct linear *layer, int64_t rows, int threads)
{
    struct desk desk;
    return product_memory(layer, rows, 0, threads, NULL, &desk);
}

static void one_layer(const struct linear *layer, const float *x, int64_t rows, float *y, float cap,
                      void *memory, int threads)
{
    struct product product = {
        .pass = {.layer = layer,
                 .x = x,
                 .stride = layer->k,
                 .rows = rows,
                 .finishing = {.cap = cap, .y = y, .stride = layer->n, .width = layer->n}},
        .memory = memory,
        .threads = threads,
    };
    run_team(threads, run_product, &product);
}

/* y = layer(x), [rows][k] to [rows][n], and cap * tanh(y / cap) of it if `cap` is above 0.
 * memory holds llmcli_linear_bytes(), aligned to 64. */
EXPORT void llmcli_linear(const struct linear *layer, const float *x, int64_t rows, float *y,
                          float cap, void *memory, int threads)
{
    one_layer(layer, x, rows, y, cap, memory, threads);
}

/* -- scoring --------------------------------------------------------------------------------- */

/* A row's logits are summed in slices of SLICE, and these are joined in ascending order: in
 * whatever portions the logits were made. */
static void begin_stats(struct row_stats *stats, double *product, float target)
{
    *stats = (struct row_stats){.target = target, .largest = -INFINITY, .argmax = 0};
    *product = 0; /* stats->log_sum_exp holds the sum until end_stats */
}

static void join_stats(struct row_stats *stats, double *product, const struct slice *slice,
                       int64_t start)
{
    double before = stats->largest, now = slice->largest > before ? slice->largest : before;
    if (slice->largest > stats->largest || start == 0) {
        stats->argmax = start + (slice->argmax > 0 ? slice->argmax : 0);
        stats->largest = slice->largest;
    }
    stats->greater += slice->greater;
    stats->equal_before += slice->equal_before;
    double old = before > -INFINITY ? exp(before - now) : 0;
    double new = slice->largest > -INFINITY ? exp(slice->largest - now) : 0;
    /* The sums of (x - largest) e^(x - largest) move to the common largest. */
    *product = (old > 0 ? old * (*product + (before - now) * stats->log_sum_exp) : 0) +
               (new > 0 ? new * (slice->product + (slice->largest - now) * slice->sum) : 0);
    stats->log_sum_exp = old * stats->log_sum_exp + new * slice->sum;
}

static void end_stats(struct row_stats *stats, double product)
{
    double sum = stats->log_sum_exp;
    stats->log_sum_exp = stats->largest + log(sum);
    stats->entropy = log(sum) - product / sum;
}

static void stats_of(const float *logits, int64_t vocab, int64_t target, struct row_stats *stats)
{
    double product;
    float wanted = target >= 0 ? logits[target] : NAN;
    begin_stats(stats, &product, wanted);
    for (int64_t start = 0; start < vocab; start += SLICE) {
        struct slice slice;
        use->slice(logits + start, smaller(SLICE, vocab - start), wanted, target - start, &slice);
        join_stats(stats, &product, &slice, start);
    }
    end_stats(stats, product);
}

struct rows {
    const float *logits;
    int64_t rows, vocab;
    const int64_t *targets;
    struct row_stats *stats;
};

static void run_rows(void *argument, struct team *team)
{
    const struct rows *r = argument;
    int64_t row;
    while ((row = claim(team, r->rows)) >= 0)
        stats_of(r->logits + row * r->vocab, r->vocab, r->targets[row], r->stats + row);
}

/* What scoring wants of rows of logits [rows][vocab]; a target below 0 is none. */
EXPORT void llmcli_row_stats(const float *logits, int64_t rows, int64_t vocab, const int64_t *targets,
                             struct row_stats *stats, int threads)
{
    struct rows r = {logits, rows, vocab, targets, stats};
    run_team(threads, run_rows, &r);
}

struct tempering {
    const float *logits;
    int64_t rows, vocab;
    const float *top;
    double (*sums)[TEMPERATURES][3];
};

static void temper_rows(void *argument, struct team *team)
{
    const struct tempering *t = argument;
    int64_t row;
    while ((row = claim(team, t->rows)) >= 0) {
        const float *logits = t->logits + row * t->vocab;
        memset(t->sums[row], 0, sizeof *t->sums);
        for (int64_t start = 0; start < t->vocab; start += SLICE)
            use->tempered(logits + start, smaller(SLICE, t->vocab - start), t->top[row],
                          t->sums[row]);
    }
}

/* What calibration wants of rows of logits [rows][vocab], given the largest of each: see rows.h. */
EXPORT void llmcli_tempered(const float *logits, int64_t rows, int64_t vocab, const float *top,
                            double *sums, int threads)
{
    struct tempering t = {logits, rows, vocab, top, (double (*)[TEMPERATURES][3])sums};
    run_team(threads, temper_rows, &t);
}

struct scoring {
    const struct linear *head;
    float cap;
    const float *x;
    int64_t rows;
    const int64_t *targets;
    struct row_stats *stats;
    char *memory;
    int threads;
};

struct score_memory {
    float *logits; /* [SCORE_ROWS][SLICE] */
    double *products;
    struct desk desk;
};

static int64_t lay_out_scoring(const struct scoring *s, int thread, char *at,
                               struct score_memory *memory)
{
    struct room room = {.at = at};
    struct linear head = *s->head;
    int64_t rows = smaller(s->rows, SCORE_ROWS);
    memory->logits = take(&room, rows * SLICE * 4);
    memory->products = take(&room, rows * 8);
    room.used += product_memory(&head, rows, thread, s->threads,
                                room.at ? room.at + room.used : NULL, &memory->desk);
    return padded(room.used, LINE);
}

/* Some panels of a layer as a layer of their own. */
static struct linear part_of(const struct linear *layer, int64_t from, int64_t to)
{
    int64_t k = padded(layer->k, layer->type == TYPE_F32    ? 1
                                 : layer->type == TYPE_BF16 ? BF16_GROUP
                                                            : group_of(layer));
    int64_t bits = layer->type == TYPE_F32 ? 32 : layer->type == TYPE_BF16 ? 16 : layer->type == TYPE_INT8 ? 8 : 4;
    struct linear part = *layer;
    int64_t first = from * LANES;
    part.n = smaller(layer->n, to * LANES) - first;
    part.weights = (const char *)layer->weights + first * k * bits / 8;
    if (layer->type == TYPE_INT8)
        part.scales = (const float *)layer->scales + first;
    if (layer->type == TYPE_INT4)
        part.scales = (const uint16_t *)layer->scales + first * (k / INT4_GROUP) * 2;
    if (layer->bias)
        part.bias = layer->bias + first;
    return part;
}

static void run_scoring(void *argument, struct team *team)
{
    const struct scoring *s = argument;
    int64_t k = s->head->k, vocab = s->head->n, unit;
    struct score_memory memory;
    lay_out_scoring(s, team_number(team), s->memory, &memory);
    for (int64_t first = 0; first < s->rows; first += SCORE_ROWS) {
        int64_t rows = smaller(SCORE_ROWS, s->rows - first);
        struct row_stats *stats = s->stats + first;
        /* The targets' logits, which ranks are counted against. */
        while ((unit = claim(team, rows)) >= 0) {
            int64_t target = s->targets[first + unit];
            float sums[2 * LANES];
            if (target >= 0) {
                struct linear panel = part_of(s->head, target / LANES, target / LANES + 1);
                struct passing one = {.layer = &panel, .x = s->x + (first + unit) * k, .stride = k,
                                      .rows = 1};
                struct input in = prepared(&one, memory.desk.own, 0, 1);
                struct finishing store = {.cap = s->cap, .y = sums, .stride = LANES,
                                          .width = panel.n};
                use->product(&panel, &in, 0, 1, 0, 1, memory.desk.sums, LANES);
                use->finish(&panel, &store, memory.desk.sums, LANES, 0, 1, 0, 1);
            }
            begin_stats(stats + unit, memory.products + unit,
                        target >= 0 ? sums[target % LANES] : NAN);
        }
        for (int64_t start = 0; start < vocab; start += SLICE) {
            int64_t end = smaller(vocab, start + SLICE);
            struct linear part = part_of(s->head, start / LANES, padded(end, LANES) / LANES);
            struct passing pass = {
                .layer = &part, .x = s->x + first * k, .stride = k, .rows = rows,
                .finishing = {.cap = s->cap, .y = memory.logits, .stride = SLICE, .width = part.n},
            };
            pass_rows(&pass, &memory.desk, team);
            while ((unit = claim(team, rows)) >= 0) {
                struct slice slice;
                use->slice(memory.logits + unit * SLICE, part.n, stats[unit].target,
                           s->targets[first + unit] - start, &slice);
                join_stats(stats + unit, memory.products + unit, &slice, start);
            }
        }
        while ((unit = claim(team, rows)) >= 0)
            end_stats(stats + unit, memory.products[unit]);
    }
}

/* Bytes of memory that llmcli_score() works in. */
EXPORT int64_t llmcli_score_bytes(const struct linear *head, int64_t rows, int threads)
{
    struct scoring s = {.head = head, .rows = rows, .threads = threads};
    struct score_memory memory;
    return lay_out_scoring(&s, 0, NULL, &memory);
}

/* What scoring wants of the logits that the head makes of x [rows][k], without keeping them. */
EXPORT void llmcli_score(const struct linear *head, float cap, const float *x, int64_t rows,
                         const int64_t *targets, struct row_stats *stats, void *memory, int threads)
{
    if (rows == 0)
        return;
    struct scoring s = {head, cap, x, rows, targets, stats, memory, threads};
    run_team(threads, run_scoring, &s);
}
