/* Products of two activations: out = requantize(sum_k (a - zero of a)(b - zero of b)), matrix by matrix.
 *
 * Four columns of b at a time are gathered into scratch memory as if they were weights: 4 [depth, rounded up to 16] bytes,
 * and before them a 32-bit sum of each row of a.
 */
#ifndef EDGEQ_MATMUL_H
#define EDGEQ_MATMUL_H

#include "edgeq_columns.h"

typedef struct {
    edgeq_channel channel;
    edgeq_output output;
    const int8_t *table;                       /* one entry per code, from -128 on; or null */
    int32_t batch[2], a_stride[2], b_stride[2]; /* codes between matrices */
    int32_t rows, depth, columns;
    int32_t a_zero, b_zero;
} edgeq_matmul_layer;

EDGEQ_INLINE void edgeq_matmul_begin(const edgeq_matmul_layer *l, const int32_t *totals, int32_t *sum)
{
    for (int32_t j = 0; j < EDGEQ_COLUMNS; j++) {
        sum[j] = l->a_zero * (l->depth * l->b_zero - totals[j]);
    }
}

EDGEQ_INLINE void edgeq_matmul_store(
    const edgeq_matmul_layer *l, const int32_t *sum, int32_t correction, int32_t count, int8_t *out)
{
    for (int32_t j = 0; j < count; j++) {
        const int32_t code = edgeq_requantize(sum[j] - correction, &l->channel, &l->output);
        out[j] = (int8_t)(l->table ? l->table[code + 128] : code);
    }
}

EDGEQ_INLINE void edgeq_matmul_one(
    const edgeq_matmul_layer *l, const int8_t *a, const int8_t *b, int8_t *out, int32_t *sums, int8_t *block)
{
    for (int32_t i = 0; i < l->rows; i++) {
        sums[i] = l->b_zero ? l->b_zero * edgeq_total(a + (ptrdiff_t)i * l->depth, l->depth) : 0;
    }
    for (int32_t n = 0; n < l->columns; n += EDGEQ_COLUMNS) {
        const int32_t count = l->columns - n < EDGEQ_COLUMNS ? l->columns - n : EDGEQ_COLUMNS;
        int32_t totals[EDGEQ_COLUMNS];
        edgeq_gather_columns(block, EDGEQ_FOUR_DEPTH, b + n, l->columns, count, l->depth, totals);
        const int8_t *x = a;
        int8_t *to = out + n;
        for (int32_t i = 0; i < l->rows; i++, x += l->depth, to += l->columns) {
            int32_t sum[EDGEQ_COLUMNS];
            edgeq_matmul_begin(l, totals, sum);
            edgeq_four(x, block, l->depth, sum);
            edgeq_matmul_store(l, sum, sums[i], count, to);
        }
    }
}

/* a of 16-bit codes. */
EDGEQ_INLINE void edgeq_matmul_wide_one(
    const edgeq_matmul_layer *l, const int16_t *a, const int8_t *b, int8_t *out, int32_t *sums, int8_t *block)
{
    for (int32_t i = 0; i < l->rows; i++) {
        sums[i] = 0;
        for (int32_t k = 0; k < l->depth; k++) {
            sums[i] += l->b_zero * a[(ptrdiff_t)i * l->depth + k];
        }
    }
    for (int32_t n = 0; n < l->columns; n += EDGEQ_COLUMNS) {
        const int32_t count = l->columns - n < EDGEQ_COLUMNS ? l->columns - n : EDGEQ_COLUMNS;
        int32_t totals[EDGEQ_COLUMNS];
        edgeq_gather_columns(block, EDGEQ_WIDE_DEPTH, b + n, l->columns, count, l->depth, totals);
        const int16_t *x = a;
        int8_t *to = out + n;
        for (int32_t i = 0; i < l->rows; i++, x += l->depth, to += l->columns) {
            int32_t sum[EDGEQ_COLUMNS];
            edgeq_matmul_begin(l, totals, sum);
            edgeq_four_wide(x, block, l->depth, sum);
            edgeq_matmul_store(l, sum, sums[i], count, to);
        }
    }
}

EDGEQ_KERNEL void edgeq_matmul(
    const edgeq_matmul_layer *l, const int8_t *a, const int8_t *b, int8_t *out, int8_t *scratch)
{
    int32_t *const sums = (int32_t *)(void *)scratch;
    for (int32_t i = 0; i < l->batch[0]; i++) {
        for (int32_t j = 0; j < l->batch[1]; j++, out += (ptrdiff_t)l->rows * l->columns) {
            const ptrdiff_t at_a = (ptrdiff_t)i * l->a_stride[0] + (ptrdiff_t)j * l->a_stride[1];
            const ptrdiff_t at_b = (ptrdiff_t)i * l->b_stride[0] + (ptrdiff_t)j * l->b_stride[1];
            edgeq_matmul_one(l, a + at_a, b + at_b, out, sums, scratch + 4 * (ptrdiff_t)l->rows);
        }
    }
}

EDGEQ_KERNEL void edgeq_matmul_wide(
    const edgeq_matmul_layer *l, const int16_t *a, const int8_t *b, int8_t *out, int8_t *scratch)
{
    int32_t *const sums = (int32_t *)(void *)scratch;
    for (int32_t i = 0; i < l->batch[0]; i++) {
        for (int32_t j = 0; j < l->batch[1]; j++, out += (ptrdiff_t)l->rows * l->columns) {
            const ptrdiff_t at_a = (ptrdiff_t)i * l->a_stride[0] + (ptrdiff_t)j * l->a_stride[1];
            const ptrdiff_t at_b = (ptrdiff_t)i * l->b_stride[0] + (ptrdiff_t)j * l->b_stride[1];
            edgeq_matmul_wide_one(l, a + at_a, b + at_b, out, sums, scratch + 4 * (ptrdiff_t)l->rows);
        }
    }
}

#endif
