/* One block of output channels: sums of products (edgeq_dot.h), brought to codes (edgeq_store.h).
 *
 * Weights of fewer than 8 `bits`, and sums that need more care (`is_long`: of 16-bit codes that may exceed 32 bits, or with
 * weights whose levels are looked up, edgeq_levels.h), are known only where the model includes their headers before this one; `totals` are the sums of the columns, used with packed weights.
 */
#ifndef EDGEQ_BLOCK_H
#define EDGEQ_BLOCK_H

#include "edgeq_dot.h"
#include "edgeq_store.h"

/* Whether fewer channels than a block are left. A model whose convolutions have whole blocks alone defines EDGEQ_WHOLE_BLOCKS. */
EDGEQ_INLINE int32_t edgeq_is_part(int32_t left)
{
#if defined(EDGEQ_WHOLE_BLOCKS)
    (void)left;
    return 0;
#else
    return left < EDGEQ_BLOCK;
#endif
}

/* Bytes of the weights of one group of a convolution, and the entries of its channels: both in whole blocks. */
EDGEQ_INLINE ptrdiff_t edgeq_group_channels(int32_t outputs)
{
    return (ptrdiff_t)(outputs + EDGEQ_BLOCK - 1) / EDGEQ_BLOCK * EDGEQ_BLOCK;
}

EDGEQ_INLINE ptrdiff_t edgeq_group_bytes(int32_t outputs, int32_t k, int32_t bits)
{
    return edgeq_group_channels(outputs) * edgeq_packed(k) * bits / 8;
}

EDGEQ_INLINE void edgeq_sums_2(int32_t bits, const edgeq_code *x, const edgeq_code *y, const int8_t *w, int32_t k,
    const edgeq_record *c, const int32_t *totals, int32_t *sum)
{
#if defined(EDGEQ_DOT_W4_H)
    if (bits == 4) {
        edgeq_dot_w4_2(x, y, w, k, c, totals, sum);
        return;
    }
#endif
#if defined(EDGEQ_DOT_W2_H)
    if (bits == 2) {
        edgeq_dot_w2_2(x, y, w, k, c, totals, sum);
        return;
    }
#endif
    (void)bits, (void)totals;
    edgeq_dot_2(x, y, w, k, c, sum);
}

/* Codes of one block of a convolution, `left` channels of it or all, for two columns. */
EDGEQ_INLINE void edgeq_block_2(const edgeq_output *output, int32_t bits, int32_t is_long, const edgeq_code *x,
    const edgeq_code *y, const int8_t *w, int32_t k, const edgeq_record *c, const int32_t *totals, int32_t left,
    edgeq_code *out0, edgeq_code *out1)
{
    int32_t sum[2 * EDGEQ_BLOCK];
#if defined(EDGEQ_LONG_H)
    if (is_long) {
        edgeq_long_block(is_long, output, x, w, k, c, left < EDGEQ_BLOCK ? left : EDGEQ_BLOCK, out0);
        edgeq_long_block(is_long, output, y, w, k, c, left < EDGEQ_BLOCK ? left : EDGEQ_BLOCK, out1);
        return;
    }
#endif
    (void)is_long;
    edgeq_sums_2(bits, x, y, w, k, c, totals, sum);
    if (edgeq_is_part(left)) {
        edgeq_store_some(output, c, sum, left, out0);
        edgeq_store_some(output, c, sum + EDGEQ_BLOCK, left, out1);
        return;
    }
    edgeq_store_pixels(output, c, sum, EDGEQ_BLOCK, 2, out0, out1, out1);
}

#if EDGEQ_PIXELS == 3
/* The same for three columns and weights of 8 bits. */
EDGEQ_INLINE void edgeq_block_3(const edgeq_output *output, int32_t is_long, const edgeq_code *x, const edgeq_code *y,
    const edgeq_code *z, const int8_t *w, int32_t k, const edgeq_record *c, int32_t left, edgeq_code *out0,
    edgeq_code *out1, edgeq_code *out2)
{
    int32_t sum[3 * EDGEQ_BLOCK];
#if defined(EDGEQ_LONG_H)
    if (is_long) {
        edgeq_long_block(is_long, output, x, w, k, c, left < EDGEQ_BLOCK ? left : EDGEQ_BLOCK, out0);
        edgeq_long_block(is_long, output, y, w, k, c, left < EDGEQ_BLOCK ? left : EDGEQ_BLOCK, out1);
        edgeq_long_block(is_long, output, z, w, k, c, left < EDGEQ_BLOCK ? left : EDGEQ_BLOCK, out2);
        return;
    }
#endif
    (void)is_long;
    edgeq_dot_3(x, y, z, w, k, c, sum);
    if (edgeq_is_part(left)) {
        edgeq_store_some(output, c, sum, left, out0);
        edgeq_store_some(output, c, sum + EDGEQ_BLOCK, left, out1);
        edgeq_store_some(output, c, sum + 2 * EDGEQ_BLOCK, left, out2);
        return;
    }
    edgeq_store_pixels(output, c, sum, EDGEQ_BLOCK, 3, out0, out1, out2);
}
#endif

/* Sums of one block of a matrix product, `count` outputs of it (their neighbours' may be computed too). */
EDGEQ_INLINE void edgeq_sums_1(int32_t bits, const edgeq_code *x, const int8_t *w, int32_t k, const edgeq_record *c,
    int32_t total, int32_t count, int32_t *sum)
{
#if defined(EDGEQ_DOT_W4_H)
    if (bits == 4) {
        edgeq_dot_w4_1(x, w, k, c, total, sum);
        return;
    }
#endif
#if defined(EDGEQ_DOT_W2_H)
    if (bits == 2) {
        edgeq_dot_w2_1(x, w, k, c, total, sum);
        return;
    }
#endif
    (void)bits, (void)total, (void)count;
    edgeq_dot_1(x, w, k, c, sum);
}

/* Codes of one block of a matrix product, `count` outputs of it, for one row. */
EDGEQ_INLINE void edgeq_block_1(const edgeq_output *output, int32_t bits, int32_t is_long, const edgeq_code *x,
    const int8_t *w, int32_t k, const edgeq_record *c, int32_t total, int32_t count, edgeq_code *out)
{
    int32_t sum[EDGEQ_ROW_BLOCK];
#if defined(EDGEQ_LONG_H)
    if (is_long) {
        edgeq_long_block(is_long, output, x, w, k, c, count, out);
        return;
    }
#endif
    (void)is_long;
    edgeq_sums_1(bits, x, w, k, c, total, count, sum);
    edgeq_store_row(output, c, sum, count, out);
}

#endif
