/* Many rows: activations in bfloat16, weights made bfloat16 a pair of panels at a time, products
 * on matrix units (AMX) or, without them, by AVX-512's bfloat16 instruction. Sums are float32. */
#define _GNU_SOURCE
#include <cpuid.h>
#include <immintrin.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "native.h"
#include "vector.h"

#define PAIRS \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c,fma,bmi2,avx512bf16")))
#define MATRIX \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c,fma,bmi2,avx512bf16,amx-tile,amx-bf16")))
#define EXPORT __attribute__((visibility("default")))

enum { STEP = 32, ROWS = 32, INT4_GROUP = 32 };

/* -- what the processor has ---------------------------------------------------------------- */

EXPORT int llmcli_supported(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("bmi2");
}

int gemm_supported(void)
{
    static int known = -1;
    if (known < 0) {
        unsigned a, b, c, d;
        known = __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 5 & 1);
    }
    return known;
}

static int matrix_units_wanted = 1;

/* Whether tiles may be used where they are there. */
EXPORT void llmcli_want_matrix_units(int wanted)
{
    matrix_units_wanted = wanted;
}

/* Linux lets a process use the tiles once it has asked. */
EXPORT int llmcli_has_matrix_units(void)
{
    if (!matrix_units_wanted)
        return 0;
    static int known = -1;
    if (known < 0) {
        unsigned a, b, c, d;
        int there = __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> 22 & 1) && (d >> 24 & 1);
        const long request_permission = 0x1023, tile_data = 18;
        known = there && syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
    }
    return known;
}

/* -- bfloat16 ------------------------------------------------------------------------------ */

static int64_t width_of(const struct linear *layer)
{
    return padded(layer->k, 64);
}

int64_t gemm_shared_bytes(const struct linear *layer, int64_t rows)
{
    return padded(padded(rows, ROWS) * width_of(layer) * 2, 64);
}

int64_t gemm_private_bytes(const struct linear *layer)
{
    return 2 * width_of(layer) * LANES * 2 + 4 * LANES * LANES * (int64_t)sizeof(float);
}

/* This thread's rows of x as bfloat16 [rows padded][width]; padding is zero. */
PAIRS void gemm_convert(const struct linear *layer, const float *x, int64_t rows, void *shared,
                       int thread, int threads)
{
    int64_t all = padded(rows, ROWS), width = width_of(layer), k = layer->k;
    for (int64_t row = all * thread / threads; row < all * (thread + 1) / threads; row++) {
        uint16_t *to = (uint16_t *)shared + row * width;
        for (int64_t i = 0; i < width; i += LANES) {
            int64_t left = row < rows ? k - i : 0;
            __mmask16 some = lanes(left);
            __m256bh values = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(some, x + row * k + i));
            _mm256_storeu_si256((__m256i *)(to + i), (__m256i)values);
        }
    }
}

/* A panel as bfloat16 [width / 2][16][2]. Integers up to 256 are exact in bfloat16, so int8
 * becomes its values, and its scales wait for the sums. */
PAIRS static void widen(const struct linear *layer, int64_t panel, uint16_t *to)
{
    int64_t width = width_of(layer);
    if (layer->form == INT8_PANELS) {
        const uint8_t *from = (const uint8_t *)layer->weights + panel * width * LANES;
        const __m512i bias = _mm512_set1_epi32(128), bytes = _mm512_set1_epi32(255);
        for (int64_t i = 0; i < width; i += 4, from += 64, to += 64) {
            __m512i four = _mm512_loadu_si512(from);
            __m512 value[4];
            for (int j = 0; j < 4; j++) {
                __m512i byte = _mm512_and_si512(_mm512_srli_epi32(four, 8 * j), bytes);
                value[j] = _mm512_cvtepi32_ps(_mm512_sub_epi32(byte, bias));
            }
            for (int j = 0; j < 4; j += 2) {
                __m512i even = _mm512_srli_epi32(_mm512_castps_si512(value[j]), 16);
                __m512i odd = _mm512_castps_si512(value[j + 1]);
                _mm512_storeu_si512(to + 16 * j, _mm512_mask_blend_epi16(0xaaaaaaaa, even, odd));
            }
        }
        return;
    }
    int64_t groups = padded(layer->k, INT4_GROUP) / INT4_GROUP;
    const uint8_t *from = (const uint8_t *)layer->weights + panel * groups * INT4_GROUP * LANES / 2;
    const uint16_t *scales = (const uint16_t *)layer->scales + panel * groups * 2 * LANES;
    const __m512i low = _mm512_set1_epi32(15);
    for (int64_t group = 0; group < groups; group++, scales += 2 * LANES) {
        __m512 scale = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)scales));
        __m512 offset = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(scales + LANES)));
        for (int i = 0; i < INT4_GROUP; i += 8, from += 64) {
            __m512i both = _mm512_loadu_si512(from);
            for (int half = 0; half < 2; half++)
                for (int j = 0; j < 4; j += 2, to += 32) {
                    __m512 value[2];
                    for (int odd = 0; odd < 2; odd++) {
                        int shift = 8 * (j + odd) + 4 * half;
                        __m512i nibble = _mm512_and_si512(_mm512_srli_epi32(both, shift), low);
                        value[odd] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(nibble), scale, offset);
                    }
                    _mm512_storeu_si512(to, (__m512i)_mm512_cvtne2ps_pbh(value[0], value[1]));
                }
        }
    }
    memset(to, 0, (size_t)((width - groups * INT4_GROUP) * LANES * 2));
}

/* cvtne2ps_pbh gives [odd's 16][even's 16], a panel wants pairs: spread them. */
PAIRS static void interleave(uint16_t *panel, int64_t width)
{
    const __m512i order = _mm512_set_epi16(
        15, 31, 14, 30, 13, 29, 12, 28, 11, 27, 10, 26, 9, 25, 8, 24, 7, 23, 6, 22, 5, 21, 4, 20, 3,
        19, 2, 18, 1, 17, 0, 16);
    for (int64_t i = 0; i < width / 2; i++, panel += 32)
        _mm512_storeu_si512(panel, _mm512_permutexvar_epi16(order, _mm512_loadu_si512(panel)));
}

static const uint16_t *panel_of(const struct linear *layer, int64_t panel, uint16_t *memory)
{
    int64_t width = width_of(layer);
    if (layer->form == BF16_PANELS) {
        /* Copied too: read front to back, memory is twice as fast as tile by tile. */
        const uint16_t *from = (const uint16_t *)layer->weights + panel * width * LANES;
        return memcpy(memory, from, (size_t)(width * LANES * 2));
    }
    widen(layer, panel, memory);
    if (layer->form == INT4_PANELS)
        interleave(memory, width);
    return memory;
}

/* -- sums to results ----------------------------------------------------------------------- */

PAIRS static void finish(const struct linear *layer, const float *sums, int64_t sums_stride,
                        int64_t panel, int64_t row, int64_t rows, float *y, int accumulate)
{
    int64_t first = panel * LANES, count = layer->n - first < LANES ? layer->n - first : LANES;
    __mmask16 some = lanes(count);
    __m512 scale = layer->form == INT8_PANELS
                       ? _mm512_maskz_loadu_ps(some, (const float *)layer->scales + first)
                       : _mm512_set1_ps(1.0f);
    __m512 bias = layer->bias ? _mm512_maskz_loadu_ps(some, layer->bias + first)
                              : _mm512_setzero_ps();
    for (int64_t r = row; r < row + LANES && r < rows; r++, sums += sums_stride) {
        float *to = y + r * layer->n + first;
        __m512 sum = _mm512_fmadd_ps(_mm512_loadu_ps(sums), scale, bias);
        if (accumulate)
            sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(some, to));
        _mm512_mask_storeu_ps(to, some, sum);
        activate(to, count, layer->activation);
    }
}

/* -- products ------------------------------------------------------------------------------ */

struct tile_shapes {
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes_per_row[16];
    uint8_t rows[16];
} __attribute__((packed));

/* Two panels at a time by 32 rows: four sums on tiles 0-3. */
MATRIX static void by_tiles(const struct linear *layer, const uint16_t *x, int64_t rows,
                            const uint16_t *const weights[2], int64_t panel, int panels,
                            float *sums, float *y, int accumulate)
{
    int64_t width = width_of(layer);
    for (int64_t row = 0; row < rows; row += ROWS) {
        const uint16_t *upper = x + row * width, *lower = upper + 16 * width;
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        for (int64_t i = 0; i < width; i += STEP) {
            _tile_loadd(4, upper + i, width * 2);
            _tile_loadd(5, lower + i, width * 2);
            _tile_loadd(6, weights[0] + i * LANES, 64);
            _tile_loadd(7, weights[1] + i * LANES, 64);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
        _tile_stored(0, sums, 64);
        _tile_stored(1, sums + 256, 64);
        _tile_stored(2, sums + 512, 64);
        _tile_stored(3, sums + 768, 64);
        for (int p = 0; p < panels; p++) {
            finish(layer, sums + p * 256, LANES, panel + p, row, rows, y, accumulate);
            finish(layer, sums + 512 + p * 256, LANES, panel + p, row + 16, rows, y, accumulate);
        }
    }
}

/* Two panels at a time by 8 rows: sixteen sums in registers. */
PAIRS static void by_vectors(const struct linear *layer, const uint16_t *x, int64_t rows,
                            const uint16_t *const weights[2], int64_t panel, int panels,
                            float *sums, float *y, int accumulate)
{
    int64_t width = width_of(layer);
    for (int64_t row = 0; row < rows; row += 8) {
        __m512 sum[8][2];
        for (int r = 0; r < 8; r++)
            sum[r][0] = sum[r][1] = _mm512_setzero_ps();
        for (int64_t i = 0; i < width; i += 2) {
            __m512bh first = (__m512bh)_mm512_loadu_si512(weights[0] + i * LANES);
            __m512bh second = (__m512bh)_mm512_loadu_si512(weights[1] + i * LANES);
            for (int r = 0; r < 8; r++) {
                int32_t pair;
                memcpy(&pair, x + (row + r) * width + i, 4);
                __m512bh value = (__m512bh)_mm512_set1_epi32(pair);
                sum[r][0] = _mm512_dpbf16_ps(sum[r][0], value, first);
                sum[r][1] = _mm512_dpbf16_ps(sum[r][1], value, second);
            }
        }
        int64_t here = rows - row < 8 ? rows - row : 8;
        for (int p = 0; p < panels; p++) {
            for (int r = 0; r < 8; r++)
                _mm512_storeu_ps(sums + r * LANES, sum[r][p]);
            finish(layer, sums, LANES, panel + p, row, row + here, y, accumulate);
        }
    }
}

/* This thread's panels for all rows; shared holds what gemm_convert() wrote. */
MATRIX void gemm_panels(const struct linear *layer, const void *shared, int64_t rows, void *private_,
                        float *y, int accumulate, int thread, int threads)
{
    int64_t width = width_of(layer), panels = padded(layer->n, LANES) / LANES;
    int64_t pairs = (panels + 1) / 2;
    float *sums = private_;
    uint16_t *memory = (uint16_t *)(sums + 4 * LANES * LANES);
    int tiles = llmcli_has_matrix_units();
    if (tiles) {
        struct tile_shapes shapes = {.palette = 1};
        for (int tile = 0; tile < 8; tile++) {
            shapes.bytes_per_row[tile] = 64;
            shapes.rows[tile] = 16;
        }
        _tile_loadconfig(&shapes);
    }
    for (int64_t pair = pairs * thread / threads; pair < pairs * (thread + 1) / threads; pair++) {
        int64_t panel = 2 * pair;
        int here = panels - panel < 2 ? 1 : 2;
        const uint16_t *weights[2];
        weights[0] = panel_of(layer, panel, memory);
        weights[1] = here == 2 ? panel_of(layer, panel + 1, memory + width * LANES) : weights[0];
        if (tiles)
            by_tiles(layer, shared, rows, weights, panel, here, sums, y, accumulate);
        else
            by_vectors(layer, shared, rows, weights, panel, here, sums, y, accumulate);
    }
    if (tiles)
        _tile_release();
}
