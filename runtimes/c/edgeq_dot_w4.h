/* Sums of products with weights of 4 bits, in portable C; at no more cost than with 8.
 *
 * A byte holds the weights of two output channels, b = 16 h + u with u = l + 8 in 0 ... 15, so that one mask is all that
 * decodes them: with U = sum x u, H = sum x b and S = sum x, the channels are
 *     sum x l = U - 8 S        sum x h = (H - U) / 16, exactly.
 * Weights come in blocks of four output channels, [k][2 bytes]. The model includes this before edgeq_conv.h.
 */
#ifndef EDGEQ_DOT_W4_H
#define EDGEQ_DOT_W4_H

#include "edgeq_dot.h"
#include "edgeq_total.h"

#define EDGEQ_DOT_W4_1(i)                                                     \
    do {                                                                      \
        const int32_t xk = x[i], first = w[2 * (i)], second = w[2 * (i) + 1]; \
        a += xk * (first & 15), b += xk * first;                              \
        c += xk * (second & 15), d += xk * second;                            \
        EDGEQ_IN_ORDER;                                                       \
    } while (0)

/* One row of inputs whose sum is `total`. */
EDGEQ_INLINE void edgeq_dot_w4_1(
    const edgeq_code *x, const int8_t *w, int32_t k, const edgeq_record *channel, int32_t total, int32_t *sum)
{
    int32_t a = 0, b = 0, c = 0, d = 0;
    const edgeq_code *const end = x + k;
    for (const edgeq_code *const whole = x + (k & ~7); x < whole; x += 8, w += 16) {
        EDGEQ_DOT_W4_1(0);
        EDGEQ_DOT_W4_1(1);
        EDGEQ_DOT_W4_1(2);
        EDGEQ_DOT_W4_1(3);
        EDGEQ_DOT_W4_1(4);
        EDGEQ_DOT_W4_1(5);
        EDGEQ_DOT_W4_1(6);
        EDGEQ_DOT_W4_1(7);
    }
    for (; x < end; x++, w += 2) {
        EDGEQ_DOT_W4_1(0);
    }
    sum[0] = edgeq_bias(channel) + a - 8 * total, sum[1] = edgeq_bias(channel + 1) + ((b - a) >> 4);
    sum[2] = edgeq_bias(channel + 2) + c - 8 * total, sum[3] = edgeq_bias(channel + 3) + ((d - c) >> 4);
}

#define EDGEQ_DOT_W4_2(i)                                                                             \
    do {                                                                                              \
        const int32_t xk = x[i], yk = y[i], wb = w[2 * (i)], wd = w[2 * (i) + 1], wa = wb & 15, wc = wd & 15; \
        xa += xk * wa, ya += yk * wa;                                                                 \
        xb += xk * wb, yb += yk * wb;                                                                 \
        xc += xk * wc, yc += yk * wc;                                                                 \
        xd += xk * wd, yd += yk * wd;                                                                 \
        EDGEQ_IN_ORDER;                                                                               \
    } while (0)

/* Two columns of inputs whose sums are totals[0] and totals[1]. */
EDGEQ_INLINE void edgeq_dot_w4_2(const edgeq_code *x, const edgeq_code *y, const int8_t *w, int32_t k,
    const edgeq_record *channel, const int32_t *totals, int32_t *sum)
{
    int32_t xa = 0, xb = 0, xc = 0, xd = 0, ya = 0, yb = 0, yc = 0, yd = 0;
    const edgeq_code *const end = x + k;
    for (const edgeq_code *const whole = x + (k & ~7); x < whole; x += 8, y += 8, w += 16) {
        EDGEQ_DOT_W4_2(0);
        EDGEQ_DOT_W4_2(1);
        EDGEQ_DOT_W4_2(2);
        EDGEQ_DOT_W4_2(3);
        EDGEQ_DOT_W4_2(4);
        EDGEQ_DOT_W4_2(5);
        EDGEQ_DOT_W4_2(6);
        EDGEQ_DOT_W4_2(7);
    }
    for (; x < end; x++, y++, w += 2) {
        EDGEQ_DOT_W4_2(0);
    }
    sum[0] = edgeq_bias(channel) + xa - 8 * totals[0], sum[1] = edgeq_bias(channel + 1) + ((xb - xa) >> 4);
    sum[2] = edgeq_bias(channel + 2) + xc - 8 * totals[0], sum[3] = edgeq_bias(channel + 3) + ((xd - xc) >> 4);
    sum[4] = edgeq_bias(channel) + ya - 8 * totals[1], sum[5] = edgeq_bias(channel + 1) + ((yb - ya) >> 4);
    sum[6] = edgeq_bias(channel + 2) + yc - 8 * totals[1], sum[7] = edgeq_bias(channel + 3) + ((yd - yc) >> 4);
}

#endif
