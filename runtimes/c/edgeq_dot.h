/* Sums of products: the inner loop of convolutions and matrix products, in portable C.
 *
 * Weights come in blocks of four output channels, w[k][4]: one pointer walks through them, and each input byte that is
 * loaded serves four channels. sum[4 * pixel + channel] is added to.
 */
#ifndef EDGEQ_DOT_H
#define EDGEQ_DOT_H

#include "edgeq.h"

#define EDGEQ_BLOCK 4

EDGEQ_INLINE void edgeq_dot_1x4(const int8_t *x, const int8_t *w, int32_t k, int32_t *sum)
{
    int32_t a = sum[0], b = sum[1], c = sum[2], d = sum[3];
    const int8_t *const end = x + k;
    for (; x < end; x++, w += 4) {
        const int32_t xk = x[0];
        a += xk * w[0];
        b += xk * w[1];
        c += xk * w[2];
        d += xk * w[3];
    }
    sum[0] = a, sum[1] = b, sum[2] = c, sum[3] = d;
}

EDGEQ_INLINE void edgeq_dot_2x4(const int8_t *x, const int8_t *y, const int8_t *w, int32_t k, int32_t *sum)
{
    int32_t xa = sum[0], xb = sum[1], xc = sum[2], xd = sum[3];
    int32_t ya = sum[4], yb = sum[5], yc = sum[6], yd = sum[7];
    const int8_t *const end = x + k;
    for (; x < end; x++, y++, w += 4) {
        const int32_t xk = x[0], yk = y[0];
        const int32_t wa = w[0], wb = w[1], wc = w[2], wd = w[3];
        xa += xk * wa, ya += yk * wa;
        xb += xk * wb, yb += yk * wb;
        xc += xk * wc, yc += yk * wc;
        xd += xk * wd, yd += yk * wd;
    }
    sum[0] = xa, sum[1] = xb, sum[2] = xc, sum[3] = xd;
    sum[4] = ya, sum[5] = yb, sum[6] = yc, sum[7] = yd;
}

#endif
