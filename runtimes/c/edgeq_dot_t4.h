/* Sums of products with weights that look their levels up in one table of at most 16: minifloats, powers, any codebook.
 *
 * A byte holds the codes of two output channels, the first in the low bits. It takes the place of edgeq_dot_w4.h, whose
 * interface it has; the sums of inputs that those need are not used. Weights come in blocks of four output channels,
 * [k][2 bytes]. The model defines EDGEQ_LEVELS, an array of int8_t, and includes this before edgeq_conv.h.
 */
#ifndef EDGEQ_DOT_W4_H
#define EDGEQ_DOT_W4_H

#include "edgeq_dot.h"
#include "edgeq_total.h"

EDGEQ_INLINE int32_t edgeq_low_level(int8_t byte)
{
    return EDGEQ_LEVELS[(uint8_t)byte & 15u];
}

EDGEQ_INLINE int32_t edgeq_high_level(int8_t byte)
{
    return EDGEQ_LEVELS[(uint8_t)byte >> 4];
}

/* One row of inputs. */
EDGEQ_INLINE void edgeq_dot_w4_1(
    const edgeq_code *x, const int8_t *w, int32_t k, const edgeq_record *channel, int32_t total, int32_t *sum)
{
    int32_t a = edgeq_bias(channel), b = edgeq_bias(channel + 1), c = edgeq_bias(channel + 2), d = edgeq_bias(channel + 3);
    (void)total;
    for (int32_t i = 0; i < k; i++, w += 2) {
        const int32_t xk = x[i];
        a += xk * edgeq_low_level(w[0]);
        b += xk * edgeq_high_level(w[0]);
        c += xk * edgeq_low_level(w[1]);
        d += xk * edgeq_high_level(w[1]);
    }
    sum[0] = a, sum[1] = b, sum[2] = c, sum[3] = d;
}

/* Two columns of inputs. */
EDGEQ_INLINE void edgeq_dot_w4_2(const edgeq_code *x, const edgeq_code *y, const int8_t *w, int32_t k,
    const edgeq_record *channel, const int32_t *totals, int32_t *sum)
{
    int32_t xa = edgeq_bias(channel), xb = edgeq_bias(channel + 1), xc = edgeq_bias(channel + 2), xd = edgeq_bias(channel + 3);
    int32_t ya = xa, yb = xb, yc = xc, yd = xd;
    (void)totals;
    for (int32_t i = 0; i < k; i++, w += 2) {
        const int32_t xk = x[i], yk = y[i];
        const int32_t wa = edgeq_low_level(w[0]), wb = edgeq_high_level(w[0]);
        const int32_t wc = edgeq_low_level(w[1]), wd = edgeq_high_level(w[1]);
        xa += xk * wa, ya += yk * wa;
        xb += xk * wb, yb += yk * wb;
        xc += xk * wc, yc += yk * wc;
        xd += xk * wd, yd += yk * wd;
    }
    sum[0] = xa, sum[1] = xb, sum[2] = xc, sum[3] = xd;
    sum[4] = ya, sum[5] = yb, sum[6] = yc, sum[7] = yd;
}

#endif
