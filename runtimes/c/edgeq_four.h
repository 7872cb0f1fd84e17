/* Sums of one row times four columns [k][4], for columns that are activations themselves; in portable C. */
#ifndef EDGEQ_FOUR_H
#define EDGEQ_FOUR_H

#include "edgeq.h"

#define EDGEQ_FOUR_DEPTH 1 /* elements of one column that lie side by side */

#define EDGEQ_FOUR_STEP(i)        \
    do {                          \
        const int32_t xk = x[i];  \
        a += xk * w[4 * (i)];     \
        b += xk * w[4 * (i) + 1]; \
        c += xk * w[4 * (i) + 2]; \
        d += xk * w[4 * (i) + 3]; \
        EDGEQ_IN_ORDER;           \
    } while (0)

EDGEQ_INLINE void edgeq_four(const int8_t *x, const int8_t *w, int32_t k, int32_t *sum)
{
    int32_t a = sum[0], b = sum[1], c = sum[2], d = sum[3];
    const int8_t *const end = x + k;
    for (const int8_t *const whole = x + (k & ~7); x < whole; x += 8, w += 32) {
        EDGEQ_FOUR_STEP(0);
        EDGEQ_FOUR_STEP(1);
        EDGEQ_FOUR_STEP(2);
        EDGEQ_FOUR_STEP(3);
        EDGEQ_FOUR_STEP(4);
        EDGEQ_FOUR_STEP(5);
        EDGEQ_FOUR_STEP(6);
        EDGEQ_FOUR_STEP(7);
    }
    for (; x < end; x++, w += 4) {
        EDGEQ_FOUR_STEP(0);
    }
    sum[0] = a, sum[1] = b, sum[2] = c, sum[3] = d;
}

#endif
