/* A decoder-only transformer on the processor: every family, every level, one arithmetic.
 *
 * A token's logits depend on the model, the level of instructions and the tokens before it, and
 * on nothing else: not on how many tokens a call takes, which slots they are of, how many threads
 * work, or how a prompt was cut into calls. That holds because
 *   - each output of a linear layer is one chain of fused multiply-adds over the inputs in
 *     ascending order, and the lanes of a vector run over outputs. One row works on several
 *     panels of outputs at once, many rows by tiles of rows and panels; the chain is the same.
 *   - integer products are summed exactly within a group, and groups are added in ascending
 *     order, so any instruction that multiplies integers gives the same sums.
 *   - attention is computed for each query by itself: dimensions ascending in a score, positions
 *     ascending in a weighted sum.
 *   - sums across lanes (norms, softmax) have 16 lanes and one tree at every level.
 *   - work is shared out by outputs, rows and heads, never inside a sum.
 * So all levels agree to the bit as well.
 *
 * Nothing here checks its pointers: library.py and panels.py check the sizes of what they pass.
 */
#ifndef LLMCLI_NATIVE_H
#define LLMCLI_NATIVE_H

#include <stddef.h>
#include <stdint.h>

enum { LANES = 16, KEYS = 64, KEY_GROUP = 32 };

/* Weights lie in panels of 16 outputs, in the order in which they are read. Outputs are padded
 * with zeros to 16, inputs to what is said here.
 *   f32   float    [n/16][k][16]
 *   bf16  bfloat16 [n/16][k/2][16][2]     inputs padded to 32
 *   int8  int8     [n/16][k/4][16][4]     inputs padded to 64; scales float [n padded to 16]
 *   int4  uint8    [n/16][k/8][16][4]     inputs padded to 32; two inputs a byte (low half:
 *         inputs 0-3 of 8, high half: 4-7); scales float16 [n/16][k/32][2][16]: scale, offset */
enum type { TYPE_F32 = 0, TYPE_BF16 = 1, TYPE_INT8 = 2, TYPE_INT4 = 3 };

enum { INT8_GROUP = 64, INT4_GROUP = 32, BF16_GROUP = 32 };

enum activation {
    ACT_NONE = 0,
    ACT_GELU_TANH = 1,
    ACT_GELU = 2,
    ACT_GELU_QUICK = 3,
    ACT_RELU = 4,
    ACT_RELU_SQUARED = 5,
    ACT_SILU = 6,
    ACT_TANH = 7,
};

enum norm_kind { NORM_NONE = 0, NORM_LAYER = 1, NORM_RMS = 2 };

/* x @ weights + bias */
struct linear {
    int32_t type;
    int32_t unused;
    int64_t n; /* outputs */
    int64_t k; /* inputs */
    const void *weights;
    const void *scales; /* of integers */
    const float *bias;  /* [n], or NULL */
};

struct norm {
    int32_t kind;
    float epsilon;
    const float *weight; /* an offset of 1 already added */
    const float *bias;   /* or NULL */
};

/* x += post(out(attend(qkv(norm(x))))); x += post(down(activation(up(norm(x))))), or what the
 * flags of the model say instead. */
struct layer {
    struct norm attention_norm, mlp_norm;           /* before a sub-layer */
    struct norm attention_post_norm, mlp_post_norm; /* after it */
    struct norm query_norm, key_norm; /* weights [heads][head_dim], [kv_heads][head_dim] */
    struct linear qkv;                /* outputs: heads * head_dim, 2 x kv_heads * head_dim */
    struct linear attention_out;
    struct linear up;   /* gated: [inner padded / 16][gate, up][16] outputs, see panels.py */
    struct linear down; /* inputs: inner */
    int64_t rotary;     /* which of the call's rotations turns queries and keys; -1: none */
    int64_t window;     /* positions that a token sees, itself included; 0: all */
    float scale;        /* of scores */
    float unused;
};

struct model {
    int64_t n_layer, width, heads, kv_heads, head_dim, inner;
    int32_t activation;
    int32_t gated;           /* down(activation(gate(x)) * up(x)) */
    int32_t parallel;        /* both sub-layers read the layer's input */
    int32_t shared_norm;     /* and through one norm, attention_norm */
    int32_t whole_norm;      /* query and key norms are over all heads together */
    int32_t cache_bytes;     /* of an element of keys and values: see struct slot */
    float attention_cap;     /* cap * tanh(score / cap); 0: none */
    float logit_cap;         /* the same */
    const float *alibi;      /* [heads] slope of the distance, or NULL */
    const struct layer *layers;
    struct norm embedding_norm, final_norm;
    struct linear head;
};

/* One way of turning (RoFormer), for the tokens of a call: dimension i of a head turns with
 * i + pairs, for i < pairs; dimensions from 2 * pairs on stay. */
struct rotation {
    const float *cosines, *sines; /* [tokens][pairs], any factor included */
    int64_t pairs;
};

/* Keys and values of one sequence: for each layer and key/value head keys [room / 64][head_dim][64]
 * (so that scores come without a sum across lanes) and values [room][head_dim padded to 16], of
 * float32 (4 bytes), float16 (2) or int8 (1). Of the last, float32 factors follow, of each 32
 * dimensions of a key, for some models have keys with outliers, and of each value:
 * [head_dim / 32, rounded up][room] and [room]. Positions follow each other in all of them, so a
 * shorter length is a roll-back. */
struct slot {
    void *memory;
    int64_t room; /* positions, a multiple of KEYS */
};

/* What a call appends. Tokens of a slot stand in ascending order of position; a token sees all
 * positions of its slot from 0 (or its window's first) to its own. */
struct tokens {
    int64_t count;
    const int64_t *slot;     /* [count] index into slots */
    const int64_t *position; /* [count], below the slot's room */
    const struct slot *slots;
    const struct rotation *rotations;
    int64_t n_outputs;
    const int64_t *outputs; /* [n_outputs] tokens whose final states or logits are wanted */
    const uint8_t *canonical; /* [count], or NULL for none: whether a token's block of 64 positions
                                 (0-63, 64-127, ...) lies wholly in the prompt */
};

/* What scoring wants of a row of logits, without the row. */
struct row_stats {
    double log_sum_exp;
    double entropy;   /* nats */
    float target;     /* the target's logit; NaN if the target is negative */
    float largest;
    int64_t argmax;   /* the first of the largest */
    int64_t greater;  /* logits greater than the target's */
    int64_t equal_before; /* logits equal to the target's at lower indices */
};

/* -- threads.c: stages of work, claimed in units ------------------------------------------- */

struct team; /* what one thread knows of the others */
typedef void work(void *argument, struct team *team);
void run_team(int threads, work *function, void *argument);
/* The next unit of the stage for this thread, or -1 once the whole stage is finished. All threads
 * must come through the same stages with the same counts. */
int64_t claim(struct team *team, int64_t units);
int team_number(const struct team *team);
int team_size(const struct team *team);

/* -- system.c: what the processor and the system have --------------------------------------- */

int has_avx2(void);
int has_avxvnni(void);
int has_avx512(void);
int has_amx(void);
int has_dot_product(void);
/* Memory that is committed as it is touched; NULL if there is none to be had. */
void *pages_new(size_t nbytes);
void pages_free(void *memory, size_t nbytes);
/* Whole pages between two addresses are not needed any more, nor what is in them. */
void pages_give_back(char *from, char *to);

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

#endif
