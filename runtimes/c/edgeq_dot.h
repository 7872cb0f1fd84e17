/* Sums of products: the inner loop of convolutions and matrix products, in portable C.
 *
 * Weights come in blocks of four output channels, w[k][4]: one pointer walks through them, and each input byte that is
 * loaded serves four channels. sum[4 * pixel + channel] starts with the channel's bias. Loops are unrolled by hand, since not every
 * compiler does it at -O2 and the loop's own instructions are a sixth of the work otherwise.
 */
#ifndef EDGEQ_DOT_H
#define EDGEQ_DOT_H

#include "edgeq.h"

#define EDGEQ_BLOCK 4
#define EDGEQ_PIXELS 3 /* of a convolution that are computed together */
#define EDGEQ_ROW_BLOCK 4

/* Bytes of one output channel's weights. */
EDGEQ_INLINE int32_t edgeq_packed(int32_t k)
{
    return k;
}

#define EDGEQ_DOT_STEP_1(i)            \
    do {                               \
        const int32_t xk = x[i];       \
        a += xk * w[4 * (i)];          \
        b += xk * w[4 * (i) + 1];      \
        c += xk * w[4 * (i) + 2];      \
        d += xk * w[4 * (i) + 3];      \
        EDGEQ_IN_ORDER;                \
    } while (0)

EDGEQ_INLINE void edgeq_dot_1(const edgeq_code *x, const int8_t *w, int32_t k, const edgeq_record *channel, int32_t *sum)
{
    int32_t a = edgeq_bias(channel), b = edgeq_bias(channel + 1), c = edgeq_bias(channel + 2), d = edgeq_bias(channel + 3);
    const edgeq_code *const end = x + k;
    for (const edgeq_code *const whole = x + (k & ~7); x < whole; x += 8, w += 32) {
        EDGEQ_DOT_STEP_1(0);
        EDGEQ_DOT_STEP_1(1);
        EDGEQ_DOT_STEP_1(2);
        EDGEQ_DOT_STEP_1(3);
        EDGEQ_DOT_STEP_1(4);
        EDGEQ_DOT_STEP_1(5);
        EDGEQ_DOT_STEP_1(6);
        EDGEQ_DOT_STEP_1(7);
    }
    for (; x < end; x++, w += 4) {
        EDGEQ_DOT_STEP_1(0);
    }
    sum[0] = a, sum[1] = b, sum[2] = c, sum[3] = d;
}

#define EDGEQ_DOT_STEP_2(i)                                                                     \
    do {                                                                                        \
        const int32_t xk = x[i], yk = y[i];                                                     \
        const int32_t wa = w[4 * (i)], wb = w[4 * (i) + 1], wc = w[4 * (i) + 2], wd = w[4 * (i) + 3]; \
        xa += xk * wa, ya += yk * wa;                                                           \
        xb += xk * wb, yb += yk * wb;                                                           \
        xc += xk * wc, yc += yk * wc;                                                           \
        xd += xk * wd, yd += yk * wd;                                                           \
        EDGEQ_IN_ORDER;                                                                         \
    } while (0)

EDGEQ_INLINE void edgeq_dot_2(
    const edgeq_code *x, const edgeq_code *y, const int8_t *w, int32_t k, const edgeq_record *channel, int32_t *sum)
{
    int32_t xa = edgeq_bias(channel), xb = edgeq_bias(channel + 1), xc = edgeq_bias(channel + 2), xd = edgeq_bias(channel + 3);
    int32_t ya = xa, yb = xb, yc = xc, yd = xd;
    const edgeq_code *const end = x + k;
    for (const edgeq_code *const whole = x + (k & ~7); x < whole; x += 8, y += 8, w += 32) {
        EDGEQ_DOT_STEP_2(0);
        EDGEQ_DOT_STEP_2(1);
        EDGEQ_DOT_STEP_2(2);
        EDGEQ_DOT_STEP_2(3);
        EDGEQ_DOT_STEP_2(4);
        EDGEQ_DOT_STEP_2(5);
        EDGEQ_DOT_STEP_2(6);
        EDGEQ_DOT_STEP_2(7);
    }
    for (; x < end; x++, y++, w += 4) {
        EDGEQ_DOT_STEP_2(0);
    }
    sum[0] = xa, sum[1] = xb, sum[2] = xc, sum[3] = xd;
    sum[4] = ya, sum[5] = yb, sum[6] = yc, sum[7] = yd;
}

#define EDGEQ_DOT_STEP_3(i)                                                                     \
    do {                                                                                        \
        const int32_t wa = w[4 * (i)], wb = w[4 * (i) + 1], wc = w[4 * (i) + 2], wd = w[4 * (i) + 3]; \
        const int32_t xk = x[i], yk = y[i];                                                     \
        xa += xk * wa, xb += xk * wb, xc += xk * wc, xd += xk * wd;                             \
        EDGEQ_DONE(xa, xb, xc, xd);                                                             \
        const int32_t zk = z[i];                                                                \
        ya += yk * wa, yb += yk * wb, yc += yk * wc, yd += yk * wd;                             \
        EDGEQ_DONE(ya, yb, yc, yd);                                                             \
        za += zk * wa, zb += zk * wb, zc += zk * wc, zd += zk * wd;                             \
        EDGEQ_DONE(za, zb, zc, zd);                                                             \
    } while (0)

/* As many sums as 32 registers hold: 31 instructions for 12 multiplications, loads included. */
EDGEQ_INLINE void edgeq_dot_3(const edgeq_code *x, const edgeq_code *y, const edgeq_code *z, const int8_t *w, int32_t k,
    const edgeq_record *channel, int32_t *sum)
{
    int32_t xa = edgeq_bias(channel), xb = edgeq_bias(channel + 1), xc = edgeq_bias(channel + 2), xd = edgeq_bias(channel + 3);
    int32_t ya = xa, yb = xb, yc = xc, yd = xd, za = xa, zb = xb, zc = xc, zd = xd;
    const edgeq_code *const end = x + k;
    for (const edgeq_code *const whole = x + (k & ~7); x < whole; x += 8, y += 8, z += 8, w += 32) {
        EDGEQ_DOT_STEP_3(0);
        EDGEQ_DOT_STEP_3(1);
        EDGEQ_DOT_STEP_3(2);
        EDGEQ_DOT_STEP_3(3);
        EDGEQ_DOT_STEP_3(4);
        EDGEQ_DOT_STEP_3(5);
        EDGEQ_DOT_STEP_3(6);
        EDGEQ_DOT_STEP_3(7);
    }
    for (; x < end; x++, y++, z++, w += 4) {
        EDGEQ_DOT_STEP_3(0);
    }
    sum[0] = xa, sum[1] = xb, sum[2] = xc, sum[3] = xd;
    sum[4] = ya, sum[5] = yb, sum[6] = yc, sum[7] = yd;
    sum[8] = za, sum[9] = zb, sum[10] = zc, sum[11] = zd;
}

#endif
