/* Sums of products with weights that look up levels of more than a byte: wide minifloats (E3M2, FP8 E4M3), fitted tables.
 *
 * A weight is a code of 8 bits, or of 4 where a convolution or a matrix product has so few. The model defines EDGEQ_TABLES, the tables of levels by code, and EDGEQ_LEVEL_STEP, how many
 * products of a code and a level 32 bits hold: so many at a time are summed in 32 bits, their sums in 64. A layer's
 * `is_long` is one more than the index of its table, negative where codes have 4 bits. Takes the place of edgeq_long.h; the
 * model includes it before the kernels that read weights.
 */
#ifndef EDGEQ_LONG_H
#define EDGEQ_LONG_H
#define EDGEQ_LEVELS_H

#include "edgeq_dot.h"

EDGEQ_INLINE int32_t edgeq_wide_level(int32_t table, int8_t code)
{
    return EDGEQ_TABLES[table - 1][(uint8_t)code];
}

/* Adds the products of k codes, few enough for 32 bits, with weights that lie as [k][4] bytes. */
EDGEQ_INLINE void edgeq_sums_of_bytes(const int32_t *levels, const edgeq_code *x, const int8_t *w, int32_t k, int64_t *sum)
{
    int32_t a = 0, b = 0, c = 0, d = 0;
    for (int32_t i = 0; i < k; i++, w += 4) {
        const int32_t xk = x[i];
        a += xk * levels[(uint8_t)w[0]];
        b += xk * levels[(uint8_t)w[1]];
        c += xk * levels[(uint8_t)w[2]];
        d += xk * levels[(uint8_t)w[3]];
    }
    sum[0] += a, sum[1] += b, sum[2] += c, sum[3] += d;
}

/* The same with weights that lie as [k][2] bytes, each with the codes of two channels, the first in the low bits. */
EDGEQ_INLINE void edgeq_sums_of_pairs(const int32_t *levels, const edgeq_code *x, const int8_t *w, int32_t k, int64_t *sum)
{
    int32_t a = 0, b = 0, c = 0, d = 0;
    for (int32_t i = 0; i < k; i++, w += 2) {
        const int32_t xk = x[i];
        a += xk * levels[(uint8_t)w[0] & 15u];
        b += xk * levels[(uint8_t)w[0] >> 4];
        c += xk * levels[(uint8_t)w[1] & 15u];
        d += xk * levels[(uint8_t)w[1] >> 4];
    }
    sum[0] += a, sum[1] += b, sum[2] += c, sum[3] += d;
}

/* Sums of four output channels, without biases. */
EDGEQ_INLINE void edgeq_level_sums(int32_t table, const edgeq_code *x, const int8_t *w, int32_t k, int64_t *sum)
{
    const int32_t *const levels = EDGEQ_TABLES[(table < 0 ? -table : table) - 1];
    sum[0] = 0, sum[1] = 0, sum[2] = 0, sum[3] = 0;
    while (k > 0) {
        const int32_t count = k < EDGEQ_LEVEL_STEP ? k : EDGEQ_LEVEL_STEP;
        if (table < 0) {
            edgeq_sums_of_pairs(levels, x, w, count, sum);
            w += 2 * count;
        } else {
            edgeq_sums_of_bytes(levels, x, w, count, sum);
            w += 4 * count;
        }
        k -= count, x += count;
    }
}

/* Codes of `count` <= 4 output channels of one block. */
EDGEQ_INLINE void edgeq_long_block(int32_t table, const edgeq_output *output, const edgeq_code *x, const int8_t *w,
    int32_t k, const edgeq_record *c, int32_t count, edgeq_code *out)
{
    int64_t sum[EDGEQ_BLOCK];
    edgeq_level_sums(table, x, w, k, sum);
    for (int32_t j = 0; j < count; j++) {
        out[j] = (edgeq_code)edgeq_requantize_64(sum[j] + edgeq_bias_64(c + j), c + j, output);
    }
}

#endif
