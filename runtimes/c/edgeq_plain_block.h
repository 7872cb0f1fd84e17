/* One block of output channels in plain C, where the vectors that a model was written for are missing.
 *
 * The set of kernels says where a weight lies: EDGEQ_WEIGHT_AT(i, j, count) is the place of element i of channel j, of
 * `count` in the block.
 */
#ifndef EDGEQ_PLAIN_BLOCK_H
#define EDGEQ_PLAIN_BLOCK_H

#include "edgeq.h"

EDGEQ_INLINE void edgeq_sums_1(int32_t bits, const int8_t *x, const int8_t *w, int32_t k, const edgeq_record *c,
    int32_t total, int32_t count, int32_t *sum)
{
    (void)bits, (void)total;
    for (int32_t j = 0; j < count; j++) {
        sum[j] = edgeq_bias(c + j);
        for (int32_t i = 0; i < k; i++) {
            sum[j] += x[i] * w[EDGEQ_WEIGHT_AT(i, j, count)];
        }
    }
}

EDGEQ_INLINE void edgeq_block_1(const edgeq_output *output, int32_t bits, int32_t is_long, const int8_t *x,
    const int8_t *w, int32_t k, const edgeq_record *c, int32_t total, int32_t count, int8_t *out)
{
    int32_t sum[EDGEQ_ROW_BLOCK];
    (void)is_long;
    edgeq_sums_1(bits, x, w, k, c, total, count, sum);
    for (int32_t j = 0; j < count; j++) {
        out[j] = (int8_t)edgeq_requantize_by(sum[j], c + j, output);
    }
}

EDGEQ_INLINE void edgeq_block_2(const edgeq_output *output, int32_t bits, int32_t is_long, const int8_t *x,
    const int8_t *y, const int8_t *w, int32_t k, const edgeq_record *c, const int32_t *totals, int32_t left, int8_t *out0,
    int8_t *out1)
{
    const int32_t count = left < EDGEQ_BLOCK ? left : EDGEQ_BLOCK;
    edgeq_block_1(output, bits, is_long, x, w, k, c, totals[0], count, out0);
    edgeq_block_1(output, bits, is_long, y, w, k, c, totals[1], count, out1);
}

#endif
