/* Sums of one row of 16-bit codes times four columns [k][4] of 8-bit codes, in portable C. */
#ifndef EDGEQ_FOUR_WIDE_H
#define EDGEQ_FOUR_WIDE_H

#include "edgeq.h"

#define EDGEQ_WIDE_DEPTH 1 /* elements of one column that lie side by side */

#define EDGEQ_WIDE_STEP(i)        \
    do {                          \
        const int32_t xk = x[i];  \
        a += xk * w[4 * (i)];     \
        b += xk * w[4 * (i) + 1]; \
        c += xk * w[4 * (i) + 2]; \
        d += xk * w[4 * (i) + 3]; \
        EDGEQ_IN_ORDER;           \
    } while (0)

EDGEQ_INLINE void edgeq_four_wide(const int16_t *x, const int8_t *w, int32_t k, int32_t *sum)
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
