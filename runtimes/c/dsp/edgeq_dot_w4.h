/* Sums of products with weights of 4 bits and the DSP extension; at no more cost than with 8.
 *
 * A byte holds the weights of two output channels, b = 16 h + u with u = l + 8 in 0 ... 15, so that one mask is all that
 * decodes them: with U = sum x u, H = sum x b and S = sum x, the channels are
 *     sum x l = U - 8 S        sum x h = (H - U) / 16, exactly.
 * Weights come in blocks of two output channels (four of a matrix product), [k / 4, rounded up][channels / 2][4 bytes].
 * The model includes this before edgeq_conv.h.
 */
#ifndef EDGEQ_DOT_W4_H
#define EDGEQ_DOT_W4_H

#include "edgeq_dot.h"
#include "edgeq_total.h"

#define EDGEQ_LOWER_HALVES 0x0F0F0F0Fu

EDGEQ_INLINE void edgeq_four_w4_1x2(uint32_t even, uint32_t odd, const int8_t *w, int32_t *a, int32_t *b)
{
    const uint32_t both = edgeq_word(w), lower = both & EDGEQ_LOWER_HALVES;
    *a = edgeq_two(odd, edgeq_odd(lower), edgeq_two(even, edgeq_even(lower), *a));
    *b = edgeq_two(odd, edgeq_odd(both), edgeq_two(even, edgeq_even(both), *b));
}

/* One row of inputs whose sum is `total`. */
EDGEQ_INLINE void edgeq_dot_w4_1(
    const int8_t *x, const int8_t *w, int32_t k, const edgeq_record *channel, int32_t total, int32_t *sum)
{
    int32_t a = 0, b = 0, c = 0, d = 0;
    for (; k > 0; k -= 4, x += 4, w += 8) {
        const uint32_t word = k >= 4 ? edgeq_word(x) : edgeq_rest(x, k), even = edgeq_even(word), odd = edgeq_odd(word);
        edgeq_four_w4_1x2(even, odd, w, &a, &b);
        edgeq_four_w4_1x2(even, odd, w + 4, &c, &d);
    }
    sum[0] = edgeq_bias(channel) + a - 8 * total, sum[1] = edgeq_bias(channel + 1) + ((b - a) >> 4);
    sum[2] = edgeq_bias(channel + 2) + c - 8 * total, sum[3] = edgeq_bias(channel + 3) + ((d - c) >> 4);
}

#define EDGEQ_DOT_W4_STEP                                                                    \
    do {                                                                                     \
        const uint32_t both = edgeq_word(w);                                                 \
        w += 4;                                                                              \
        edgeq_four_2x2(&x, &y, both & EDGEQ_LOWER_HALVES, both, &xa, &xb, &ya, &yb);         \
    } while (0)

/* Two columns of inputs whose sums are totals[0] and totals[1]. */
EDGEQ_INLINE void edgeq_dot_w4_2(const int8_t *x, const int8_t *y, const int8_t *w, int32_t k,
    const edgeq_record *channel, const int32_t *totals, int32_t *sum)
{
    int32_t xa = 0, xb = 0, ya = 0, yb = 0;
    for (const int8_t *const end = x + 2 * (k & ~15); x < end;) {
        EDGEQ_DOT_W4_STEP;
        EDGEQ_DOT_W4_STEP;
        EDGEQ_DOT_W4_STEP;
        EDGEQ_DOT_W4_STEP;
    }
    for (k &= 15; k > 0; k -= 4) {
        EDGEQ_DOT_W4_STEP;
    }
    sum[0] = edgeq_bias(channel) + xa - 8 * totals[0], sum[1] = edgeq_bias(channel + 1) + ((xb - xa) >> 4);
    sum[2] = edgeq_bias(channel) + ya - 8 * totals[1], sum[3] = edgeq_bias(channel + 1) + ((yb - ya) >> 4);
}

#endif
