/* A token of each of many rows of logits: temperature, top-k, top-p, min-p and the draw.
 *
 * The filters are those of engine/sampling.py, which is the reference. Whatever they leave is what
 * weighs at least so much, so that passes over a row are comparisons and sums of vectors. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels.h"

/* So many weights are sorted as they are; of more, those of one of so many parts of their range. */
#define SORTED 32
#define BINS 64

/* A row, and what came of it. */
struct sampled {
    const float *logits;
    double top_p;       /* 1: off */
    double number;      /* in [0, 1) */
    int64_t top_k;      /* 0: off */
    float temperature;  /* above 0 */
    float min_p;        /* 0: off */
    int64_t token;      /* -1: the logits are no numbers */
    double logprob;     /* of the token among what stayed */
};

struct scratch {
    double *sums;      /* [blocks] */
    float *weights;    /* [vocab] */
    float *largest;    /* [blocks] */
    int32_t *some;     /* [vocab] */
};

/* What stays: weights above the lowest; of those equal to it, which several logits may have, the
 * logits above the lowest; and of those equal to that one, from a token on. */
struct stay {
    float lowest, logit;
    int32_t first;
};

static int64_t blocks_of(int64_t vocab)
{
    return (vocab + WEIGHED_BLOCK - 1) / WEIGHED_BLOCK;
}

static int64_t scratch_bytes(int64_t vocab)
{
    return padded(vocab * 8 + blocks_of(vocab) * 12, 64);
}

static struct scratch scratch_at(char *memory, int64_t vocab)
{
    struct scratch s;
    s.sums = (double *)memory;
    s.weights = (float *)(s.sums + blocks_of(vocab));
    s.largest = s.weights + vocab;
    s.some = (int32_t *)(s.largest + blocks_of(vocab));
    return s;
}

static uint32_t bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static float of_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static int stays(const struct stay *stay, float weight, float logit, int64_t token)
{
    if (weight != stay->lowest)
        return weight > stay->lowest;
    return logit > stay->logit || (logit == stay->logit && token >= stay->first);
}

static int falling(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

/* Larger logits never weigh less: their order is that of the weights, and finer. */
static _Thread_local const float *compared;

static int rising_logit(const void *a, const void *b)
{
    int32_t i = *(const int32_t *)a, j = *(const int32_t *)b;
    float x = compared[i], y = compared[j];
    return x != y ? (x > y) - (x < y) : (i > j) - (i < j);
}

/* Give all but the k largest logits, and what ties with the last of them, no weight. */
static void keep_top_k(const struct sampled *row, int64_t vocab, struct scratch *s)
{
    int64_t blocks = blocks_of(vocab), k = row->top_k, count = 0;
    float *values = (float *)s->some, border = -INFINITY;
    if (k <= blocks) { /* so many blocks have one that is as large */
        qsort(s->largest, (size_t)blocks, sizeof *s->largest, falling);
        border = s->largest[k - 1];
    }
    for (int64_t i = 0; i < vocab; i++) {
        values[count] = row->logits[i];
        count += row->logits[i] >= border;
    }
    qsort(values, (size_t)count, sizeof *values, falling);
    border = values[k - 1];
    for (int64_t i = 0; i < vocab; i++)
        s->weights[i] = row->logits[i] >= border ? s->weights[i] : 0;
}

/* Of the weights in `some`, whose bits are within low and high, leave those of the one of BINS
 * equal parts of that range in which the sum of all that is no smaller passes `needed`. `above`,
 * the sum from low on, becomes the sum from that part on. Returns how many are left. */
static int64_t narrow(struct scratch *s, int64_t count, uint32_t low, uint32_t high,
                      double needed, double *above)
{
    double sums[BINS] = {0};
    uint32_t width = (high - low) / BINS + 1;
    int64_t left = 0, bin = 0;
    for (int64_t i = 0; i < count; i++) {
        float weight = s->weights[s->some[i]];
        sums[(bits_of(weight) - low) / width] += weight;
    }
    while (bin < BINS - 1 && *above - sums[bin] >= needed)
        *above -= sums[bin++];
    for (int64_t i = 0; i < count; i++)
        if ((bits_of(s->weights[s->some[i]]) - low) / width == (uint32_t)bin)
            s->some[left++] = s->some[i];
    return left;
}

/* The fewest tokens whose weights are top_p of all. `sums` and the return value become those of
 * what stays. */
static double keep_top_p(const struct sampled *row, int64_t vocab, struct scratch *s, double total,
                         struct stay *stay)
{
    const struct kernels *kernels = current_kernels();
    double removable = (1 - row->top_p) * total, above = total;
    /* Floats that are not negative have the order of their bits. All below `low` can go, what is
     * from `high` on cannot; `above` is the sum of what is from `low` on. What is below an even
     * share of what may go, can: it is no more than that together. */
    uint32_t low = bits_of((float)(removable / (double)vocab)), high = bits_of(1.0f);
    low = low < high ? low : high;
    above = kernels->weigh_from(s->weights, vocab, of_bits(low), s->sums);
    for (int passes = 0; passes < 3 && high - low > 4; passes++) {
        float lowest[4];
        double sums[4];
        uint32_t part = (high - low) / 5, begin = low;
        for (int t = 0; t < 4; t++)
            lowest[t] = of_bits(begin + part * (uint32_t)(t + 1));
        kernels->weigh_from_each(s->weights, vocab, lowest, sums);
        for (int t = 0; t < 4; t++) {
            if (total - sums[t] > removable) {
                high = begin + part * (uint32_t)(t + 1);
                break;
            }
            low = begin + part * (uint32_t)(t + 1);
            above = sums[t];
        }
    }
    int64_t cut = 0, border =
        kernels->find_between(s->weights, vocab, of_bits(low), of_bits(high), s->some);
    if (border > SORTED)
        border = narrow(s, border, low, high, total - removable, &above);
    compared = row->logits;
    qsort(s->some, (size_t)border, sizeof *s->some, rising_logit);
    double below = total - above;
    while (cut < border - 1 && below + s->weights[s->some[cut]] <= removable)
        below += s->weights[s->some[cut++]];
    if (border == 0) { /* sums in another order differ in their last digits */
        *stay = (struct stay){of_bits(low), -INFINITY, 0};
        return kernels->weigh_from(s->weights, vocab, stay->lowest, s->sums);
    }
    *stay = (struct stay){s->weights[s->some[cut]], row->logits[s->some[cut]], s->some[cut]};
    total = kernels->weigh_from(s->weights, vocab, stay->lowest, s->sums);
    while (cut-- > 0 && s->weights[s->some[cut]] == stay->lowest) {
        s->sums[s->some[cut] / WEIGHED_BLOCK] -= stay->lowest;
        total -= stay->lowest;
    }
    return total;
}

static void draw(struct sampled *row, int64_t vocab, const struct scratch *s,
                 const struct stay *stay, double total)
{
    double target = row->number * total, sum = 0;
    int64_t block = 0, last = -1;
    while (block < blocks_of(vocab) - 1 && sum + s->sums[block] <= target)
        sum += s->sums[block++];
    int64_t start = block * WEIGHED_BLOCK;
    for (int64_t i = start; i < vocab; i++) {
        if (i >= start + WEIGHED_BLOCK && last >= 0)
            break;
        if (s->weights[i] > 0 && stays(stay, s->weights[i], row->logits[i], i)) {
            last = i;
            sum += s->weights[i];
            if (sum > target)
                break;
        }
    }
    for (int64_t i = start - 1; last < 0; i--) /* there is one, for the largest weighs 1 */
        if (stays(stay, s->weights[i], row->logits[i], i))
            last = i;
    row->token = last;
    row->logprob = log(s->weights[last] / total);
}

static void sample_row(struct sampled *row, int64_t vocab, struct scratch *s)
{
    const struct kernels *kernels = current_kernels();
    float largest =
        kernels->weigh(row->logits, vocab, row->temperature, s->weights, s->sums, s->largest);
    double total = 0;
    for (int64_t i = 0; i < blocks_of(vocab); i++)
        total += s->sums[i];
    row->token = -1;
    if (!isfinite(largest) || !(total >= 0.5 && total < INFINITY))
        return;
    struct stay stay = {of_bits(1), -INFINITY, 0}; /* the least that is more than nothing */
    if (row->top_k > 0 && row->top_k < vocab) {
        keep_top_k(row, vocab, s);
        total = kernels->weigh_from(s->weights, vocab, stay.lowest, s->sums);
    }
    if (row->top_p < 1)
        total = keep_top_p(row, vocab, s, total, &stay);
    if (row->min_p > stay.lowest) {
        stay = (struct stay){row->min_p, -INFINITY, 0};
        total = kernels->weigh_from(s->weights, vocab, stay.lowest, s->sums);
    }
    draw(row, vocab, s, &stay, total);
}

struct sampling {
    struct sampled *rows;
    int64_t count, vocab;
    char *memory;
};

static void run_sampling(void *argument, struct team *team)
{
    struct sampling *all = argument;
    struct scratch s =
        scratch_at(all->memory + team_number(team) * scratch_bytes(all->vocab), all->vocab);
    for (int64_t row; (row = claim(team, all->count)) >= 0;)
        sample_row(all->rows + row, all->vocab, &s);
}

EXPORT int64_t llmcli_sample_bytes(int64_t vocab, int threads)
{
    return scratch_bytes(vocab) * threads;
}

/* Draw a token of each row. memory holds llmcli_sample_bytes(), aligned to 64. */
EXPORT void llmcli_sample(struct sampled *rows, int64_t count, int64_t vocab, void *memory,
                          int threads)
{
    struct sampling all = {rows, count, vocab, memory};
    run_team(threads, run_sampling, &all);
}
