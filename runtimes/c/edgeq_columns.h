/* Columns of an activation, gathered in the order in which sums of products read weights. */
#ifndef EDGEQ_COLUMNS_H
#define EDGEQ_COLUMNS_H

#include "edgeq_four.h"
#include "edgeq_four_wide.h"
#include "edgeq_total.h"

#define EDGEQ_COLUMNS 4

/* Bytes of one column, and of one that 16-bit codes are multiplied with. */
EDGEQ_INLINE int32_t edgeq_column_bytes(int32_t k)
{
    return (k + EDGEQ_FOUR_DEPTH - 1) & ~(EDGEQ_FOUR_DEPTH - 1);
}

EDGEQ_INLINE int32_t edgeq_wide_bytes(int32_t k)
{
    return (k + EDGEQ_WIDE_DEPTH - 1) & ~(EDGEQ_WIDE_DEPTH - 1);
}

/* `k` codes, `step` apart, as column `j` of a block [k / depth, rounded up][4][depth], padded with zeros; their sum. */
EDGEQ_INLINE int32_t edgeq_gather_column(
    int8_t *block, int32_t depth, int32_t j, const int8_t *from, ptrdiff_t step, int32_t k)
{
    int32_t sum = 0;
    block += j * depth;
    for (int32_t begin = 0; begin < k; begin += depth, block += EDGEQ_COLUMNS * depth) {
        for (int32_t i = 0; i < depth; i++) {
            const int8_t code = begin + i < k ? *from : 0;
            from += begin + i + 1 < k ? step : 0;
            block[i] = code;
            sum += code;
        }
    }
    return sum;
}

/* The next `count` columns (at most four) of a matrix [k][columns]; `sums` of each, 0 for missing ones, which are zeros. */
EDGEQ_INLINE void edgeq_gather_columns(
    int8_t *block, int32_t depth, const int8_t *from, int32_t columns, int32_t count, int32_t k, int32_t *sums)
{
    for (int32_t j = 0; j < EDGEQ_COLUMNS; j++) {
        if (j < count) {
            sums[j] = edgeq_gather_column(block, depth, j, from + j, columns, k);
        } else {
            const int8_t zero = 0;
            sums[j] = edgeq_gather_column(block, depth, j, &zero, 0, k);
        }
    }
}

#endif
