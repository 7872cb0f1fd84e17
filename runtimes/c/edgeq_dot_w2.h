/* Sums of products with weights of 2 bits, in portable C; at no more cost than with 8.
 *
 * A byte holds the weights of four output channels, b = 64 h + 16 u2 + 4 u1 + u0 with u = l + 2 in 0 ... 3. Masks take
 * the upper ones off: sums over b, b & 63, b & 15 and b & 3 differ by one channel each, scaled by a power of two. With
 * S = sum x, sum x l = sum x u - 2 S. Weights come in blocks of four output channels, one byte for each of k. The model
 * includes this before edgeq_conv.h.
 */
#ifndef EDGEQ_DOT_W2_H
#define EDGEQ_DOT_W2_H

#include "edgeq_dot.h"
#include "edgeq_total.h"

/* From the four nested sums to those of the channels. */
EDGEQ_INLINE void edgeq_part_w2(
    int32_t a, int32_t b, int32_t c, int32_t d, const edgeq_record *channel, int32_t total, int32_t *sum)
{
    sum[0] = edgeq_bias(channel) + a - 2 * total;
    sum[1] = edgeq_bias(channel + 1) + ((b - a) >> 2) - 2 * total;
    sum[2] = edgeq_bias(channel + 2) + ((c - b) >> 4) - 2 * total;
    sum[3] = edgeq_bias(channel + 3) + ((d - c) >> 6);
}

#define EDGEQ_DOT_W2_1(i)                                                   \
    do {                                                                    \
        const int32_t xk = x[i], wd = w[i];                                 \
        a += xk * (wd & 3), b += xk * (wd & 15), c += xk * (wd & 63), d += xk * wd; \
        EDGEQ_IN_ORDER;                                                     \
    } while (0)

/* One row of inputs whose sum is `total`. */
EDGEQ_INLINE void edgeq_dot_w2_1(
    const edgeq_code *x, const int8_t *w, int32_t k, const edgeq_record *channel, int32_t total, int32_t *sum)
{
    int32_t a = 0, b = 0, c = 0, d = 0;
    const edgeq_code *const end = x + k;
    for (const edgeq_code *const whole = x + (k & ~3); x < whole; x += 4, w += 4) {
        EDGEQ_DOT_W2_1(0);
        EDGEQ_DOT_W2_1(1);
        EDGEQ_DOT_W2_1(2);
        EDGEQ_DOT_W2_1(3);
    }
    for (; x < end; x++, w++) {
        EDGEQ_DOT_W2_1(0);
    }
    edgeq_part_w2(a, b, c, d, channel, total, sum);
}

#define EDGEQ_DOT_W2_2(i)                                                                          \
    do {                                                                                           \
        const int32_t xk = x[i], yk = y[i], wd = w[i], wa = wd & 3, wb = wd & 15, wc = wd & 63;    \
        xa += xk * wa, ya += yk * wa;                                                              \
        xb += xk * wb, yb += yk * wb;                                                              \
        xc += xk * wc, yc += yk * wc;                                                              \
        xd += xk * wd, yd += yk * wd;                                                              \
        EDGEQ_IN_ORDER;                                                                            \
    } while (0)

/* Two columns of inputs whose sums are totals[0] and totals[1]. */
EDGEQ_INLINE void edgeq_dot_w2_2(const edgeq_code *x, const edgeq_code *y, const int8_t *w, int32_t k,
    const edgeq_record *channel, const int32_t *totals, int32_t *sum)
{
    int32_t xa = 0, xb = 0, xc = 0, xd = 0, ya = 0, yb = 0, yc = 0, yd = 0;
    const edgeq_code *const end = x + k;
    for (const edgeq_code *const whole = x + (k & ~3); x < whole; x += 4, y += 4, w += 4) {
        EDGEQ_DOT_W2_2(0);
        EDGEQ_DOT_W2_2(1);
        EDGEQ_DOT_W2_2(2);
        EDGEQ_DOT_W2_2(3);
    }
    for (; x < end; x++, y++, w++) {
        EDGEQ_DOT_W2_2(0);
    }
    edgeq_part_w2(xa, xb, xc, xd, channel, totals[0], sum);
    edgeq_part_w2(ya, yb, yc, yd, channel, totals[1], sum + 4);
}

#endif
