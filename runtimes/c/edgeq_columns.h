/* Columns of an activation, gathered in the order in which sums of products read weights. */
#ifndef EDGEQ_COLUMNS_H
#define EDGEQ_COLUMNS_H

#include "edgeq_four.h"
#include "edgeq_total.h"

#define EDGEQ_COLUMNS 4

/* Bytes of one column. */
EDGEQ_INLINE int32_t edgeq_column_bytes(int32_t k)
{
    return (k + EDGEQ_FOUR_DEPTH - 1) & ~(EDGEQ_FOUR_DEPTH - 1);
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

#define EDGEQ_WIDE_STEP(i)        \
    do {                          \
        const int32_t xk = x[i];  \
        a += xk * w[4 * (i)];     \
        b += xk * w[4 * (i) + 1]; \
        c += xk * w[4 * (i) + 2]; \
        d += xk * w[4 * (i) + 3]; \
        EDGEQ_IN_ORDER;           \
    } while (0)

/* Sums of 16-bit codes times a block [k][4]. */
EDGEQ_INLINE void edgeq_dot_wide(const int16_t *x, const int8_t *w, int32_t k, int32_t *sum)
{
    int32_t a = sum[0], b = sum[1], c = sum[2], d = sum[3];
    const int16_t *const end = x + k;
    for (const int16_t *const whole = x + (k & ~3); x < whole; x += 4, w += 16) {
        EDGEQ_WIDE_STEP(0);
        EDGEQ_WIDE_STEP(1);
        EDGEQ_WIDE_STEP(2);
        EDGEQ_WIDE_STEP(3);
    }
    for (; x < end; x++, w += 4) {
        EDGEQ_WIDE_STEP(0);
    }
    sum[0] = a, sum[1] = b, sum[2] = c, sum[3] = d;
}

#endif
