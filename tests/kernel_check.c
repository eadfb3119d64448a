/* Computes the same with every level that the processor has, and prints a number of the bits for
 * each: the levels agree, here and on other processors, if all numbers are the same. No token is
 * marked canonical, for what is computed of those is a level's own. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "native.h"

int llmcli_has_level(const char *name);
int llmcli_use_level(const char *name);
int64_t llmcli_linear_bytes(const struct linear *layer, int64_t rows, int threads);
void llmcli_linear(const struct linear *layer, const float *x, int64_t rows, float *y, float cap,
                   void *memory, int threads);
const char *llmcli_model_fault(const struct model *model);
int64_t llmcli_step_bytes(const struct model *model, const struct tokens *tokens, int threads);
void llmcli_step(const struct model *model, const struct tokens *tokens, float *hidden,
                 float *states, float *logits, void *memory, int threads);
int64_t llmcli_slot_bytes(const struct model *model, int64_t room);
void *llmcli_slot_new(int64_t nbytes);
void llmcli_slot_free(void *memory, int64_t nbytes);
void llmcli_slot_copy(const struct model *model, const void *from, int64_t from_room, void *to,
                      int64_t to_room, int64_t length);
void llmcli_slot_trim(const struct model *model, void *memory, int64_t room, int64_t length);

#if defined(_WIN32)
#include <malloc.h>
#define free _aligned_free
#endif

static uint64_t state;

static uint32_t draw(void)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33);
}

static float uniform(void)
{
    return (float)draw() / 1073741824.0f - 1.0f;
}

static uint64_t mixed(uint64_t hash, const void *data, size_t size)
{
    const unsigned char *bytes = data;
    for (size_t i = 0; i < size; i++)
        hash = (hash ^ bytes[i]) * 1099511628211u;
    return hash;
}

static void *memory_for(int64_t nbytes)
{
    size_t size = (size_t)(nbytes > 0 ? nbytes : 64);
#if defined(_WIN32)
    return _aligned_malloc(size, 64);
#else
    void *made = NULL;
    return posix_memalign(&made, 64, size) ? NULL : made;
#endif
}

static float *floats(int64_t count)
{
    float *made = memory_for(count * 4);
    for (int64_t i = 0; i < count; i++)
        made[i] = uniform();
    return made;
}

static int64_t up_to(int64_t count, int64_t to)
{
    return (count + to - 1) / to * to;
}

/* Exactly as large as native.h says, so that a sanitizer sees what reads beyond. */
static struct linear random_linear(int32_t type, int64_t n, int64_t k)
{
    struct linear layer = {.type = type, .n = n, .k = k};
    int64_t outputs = up_to(n, LANES);
    float scale = 1.0f / (float)k;
    layer.bias = floats(n);
    if (type == TYPE_F32) {
        float *made = floats(outputs * k);
        for (int64_t i = 0; i < outputs * k; i++)
            made[i] *= 16 * scale;
        layer.weights = made;
    } else if (type == TYPE_BF16) {
        int64_t count = outputs * up_to(k, BF16_GROUP);
        uint16_t *made = memory_for(count * 2);
        for (int64_t i = 0; i < count; i++) {
            float value = uniform() * 16 * scale;
            uint32_t bits;
            memcpy(&bits, &value, 4);
            made[i] = (uint16_t)(bits >> 16);
        }
        layer.weights = made;
    } else if (type == TYPE_INT8) {
        int64_t count = outputs * up_to(k, INT8_GROUP);
        int8_t *made = memory_for(count);
        for (int64_t i = 0; i < count; i++)
            made[i] = (int8_t)((int32_t)(draw() % 255) - 127);
        float *scales = floats(outputs);
        for (int64_t i = 0; i < outputs; i++)
            scales[i] *= scale / 8;
        layer.weights = made;
        layer.scales = scales;
    } else {
        int64_t width = up_to(k, INT4_GROUP), groups = width / INT4_GROUP;
        uint8_t *made = memory_for(outputs * width / 2);
        for (int64_t i = 0; i < outputs * width / 2; i++)
            made[i] = (uint8_t)draw();
        uint16_t *scales = memory_for(outputs * groups * 4);
        for (int64_t i = 0; i < outputs * groups * 2; i++)
            scales[i] = (uint16_t)(0x1000 + draw() % 0x1000 + (draw() & 0x8000));
        layer.weights = made;
        layer.scales = scales;
    }
    return layer;
}

static void drop(const struct linear *layer)
{
    free((void *)layer->weights);
    free((void *)layer->scales);
    free((void *)layer->bias);
}

static uint64_t layers_alone(void)
{
    uint64_t hash = 14695981039346656037u;
    static const int64_t rows_of[] = {1, 2, 3, 4, 6, 7, 13, 100};
    for (int32_t type = TYPE_F32; type <= TYPE_INT4; type++)
        for (int size = 0; size < 4; size++) {
            int64_t n = 1 + draw() % 90, k = 1 + draw() % 150;
            struct linear layer = random_linear(type, n, k);
            for (unsigned i = 0; i < sizeof rows_of / sizeof *rows_of; i++) {
                int64_t rows = rows_of[i];
                int threads = 1 + (int)(draw() % 3);
                float *x = floats(rows * k), *y = memory_for(rows * n * 4);
                void *memory = memory_for(llmcli_linear_bytes(&layer, rows, threads));
                llmcli_linear(&layer, x, rows, y, i % 2 ? 2.5f : 0, memory, threads);
                hash = mixed(hash, y, (size_t)(rows * n) * 4);
                free(memory);
                free(x);
                free(y);
            }
            drop(&layer);
        }
    return hash;
}

static struct norm random_norm(int32_t kind, int64_t width, int there)
{
    struct norm made = {0};
    if (there) {
        made.kind = kind;
        made.epsilon = 1e-5f;
        made.weight = floats(width);
        made.bias = draw() % 2 ? floats(width) : NULL;
    }
    return made;
}

static void drop_norm(const struct norm *norm)
{
    free((void *)norm->weight);
    free((void *)norm->bias);
}

static uint64_t whole_model(void)
{
    static const int64_t sizes[] = {8, 16, 20, 64};
    enum { LAYERS = 2, TOKENS = 75, ROOM = 128 };
    struct layer layers[LAYERS];
    struct model model = {
        .n_layer = LAYERS, .width = 20 + draw() % 60, .kv_heads = 1 + draw() % 3,
        .head_dim = sizes[draw() % 4], .inner = 1 + draw() % 90,
        .activation = ACT_GELU_TANH + (int32_t)(draw() % 7), .gated = draw() % 2,
        .parallel = draw() % 2, .shared_norm = draw() % 2, .whole_norm = draw() % 3 == 0,
        .cache_bytes = 1 << draw() % 3, .attention_cap = draw() % 2 ? 1.5f : 0,
        .logit_cap = draw() % 2 ? 2.0f : 0, .layers = layers,
    };
    model.heads = model.kv_heads * (1 + draw() % 3);
    if (draw() % 4 == 0) {
        model.kv_heads = 1;
        model.heads = 30;
    }
    int32_t type = (int32_t)(draw() % 4), kind = 1 + (int32_t)(draw() % 2);
    int64_t heads = model.heads * model.head_dim, keys = model.kv_heads * model.head_dim;
    float *alibi = floats(model.heads);
    model.alibi = draw() % 2 ? alibi : NULL;
    model.embedding_norm = random_norm(kind, model.width, draw() % 2);
    model.final_norm = random_norm(kind, model.width, draw() % 2);
    model.head = random_linear(type, 1 + draw() % 200, model.width);
    for (int i = 0; i < LAYERS; i++)
        layers[i] = (struct layer){
            .attention_norm = random_norm(kind, model.width, draw() % 2),
            .mlp_norm = random_norm(kind, model.width, draw() % 2),
            .attention_post_norm = random_norm(kind, model.width, draw() % 2),
            .mlp_post_norm = random_norm(kind, model.width, draw() % 2),
            .query_norm = random_norm(kind, heads, draw() % 2),
            .key_norm = random_norm(kind, keys, draw() % 2),
            .qkv = random_linear(type, heads + 2 * keys, model.width),
            .attention_out = random_linear(type, model.width, heads),
            .up = random_linear(type, model.gated ? 2 * up_to(model.inner, LANES) : model.inner,
                                model.width),
            .down = random_linear(type, model.width, model.inner),
            .rotary = (int64_t)(draw() % 2) - 1,
            .window = draw() % 2 ? 1 + draw() % 70 : 0,
            .scale = 0.2f,
        };
    if (llmcli_model_fault(&model)) {
        printf("%s\n", llmcli_model_fault(&model));
        exit(1);
    }
    int64_t nbytes = llmcli_slot_bytes(&model, ROOM);
    struct slot slots[2] = {{llmcli_slot_new(nbytes), ROOM}, {llmcli_slot_new(nbytes), ROOM}};
    int64_t pairs = 1 + draw() % (uint32_t)(model.head_dim / 2);
    float *hidden = floats(TOKENS * model.width);
    float *copy = memory_for(TOKENS * model.width * 4);
    float *cosines = floats(TOKENS * pairs), *sines = floats(TOKENS * pairs);
    float *logits = memory_for(TOKENS * model.head.n * 4);
    int64_t where[TOKENS], position[TOKENS], outputs[TOKENS];
    uint64_t hash = 14695981039346656037u;
    int64_t next[2] = {0, 0};
    for (int call = 0; call < 4; call++) {
        int64_t count = 0;
        for (int slot = 0; slot < 2; slot++) {
            int64_t some = call == 0 ? 1 + draw() % 30 : draw() % 4;
            for (int64_t i = 0; i < some; i++, count++) {
                where[count] = slot;
                position[count] = next[slot]++;
                outputs[count] = count;
            }
        }
        if (count == 0)
            continue;
        memcpy(copy, hidden, (size_t)(count * model.width) * 4);
        struct rotation rotation = {cosines, sines, pairs};
        struct tokens tokens = {count, where, position, slots, &rotation, count, outputs, NULL};
        int threads = 1 + (int)(draw() % 3);
        void *memory = memory_for(llmcli_step_bytes(&model, &tokens, threads));
        llmcli_step(&model, &tokens, copy, NULL, logits, memory, threads);
        free(memory);
        hash = mixed(hash, logits, (size_t)(count * model.head.n) * 4);
        if (call == 2) {
            int64_t length = next[0] < next[1] ? next[0] : next[1];
            llmcli_slot_copy(&model, slots[0].memory, ROOM, slots[1].memory, ROOM, length);
            llmcli_slot_trim(&model, slots[1].memory, ROOM, length);
            next[1] = length;
        }
    }
    for (int i = 0; i < 2; i++)
        llmcli_slot_free(slots[i].memory, nbytes);
    for (int i = 0; i < LAYERS; i++) {
        const struct norm *norms = &layers[i].attention_norm;
        for (int j = 0; j < 6; j++)
            drop_norm(norms + j);
        const struct linear *linears = &layers[i].qkv;
        for (int j = 0; j < 4; j++)
            drop(linears + j);
    }
    drop_norm(&model.embedding_norm);
    drop_norm(&model.final_norm);
    drop(&model.head);
    free(alibi);
    free(hidden);
    free(copy);
    free(cosines);
    free(sines);
    free(logits);
    return hash;
}

int main(int argc, char **argv)
{
    static const char *const levels[] = {"c", "neon", "avx2", "avxvnni", "avx512", "amx"};
    int models = argc > 1 ? atoi(argv[1]) : 30;
    for (unsigned i = 0; i < sizeof levels / sizeof *levels; i++) {
        if (!llmcli_has_level(levels[i]))
            continue;
        llmcli_use_level(levels[i]);
        state = 20;
        uint64_t hash = layers_alone();
        for (int j = 0; j < models; j++)
            hash = hash * 31 + whole_model();
        printf("%s %016llx\n", levels[i], (unsigned long long)hash);
    }
    return 0;
}
