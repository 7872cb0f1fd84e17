/* One block of output channels with NEON's dot products: four products per lane and instruction.
 *
 * Weights come in blocks of eight output channels, [k / 4, rounded up][8 channels][4], padded with zeros. Sixteen elements
 * of two pixels take two loads of inputs, eight of weights and 16 instructions for 256 multiplications. Without the dot
 * product the same sums are computed in plain C.
 */
#ifndef EDGEQ_BLOCK_H
#define EDGEQ_BLOCK_H

#define EDGEQ_DEPTH 4 /* elements of one output channel that lie side by side */

#include "edgeq_eights.h"
#include "edgeq_requantize.h"

#if defined(__ARM_NEON) && defined(__ARM_FEATURE_DOTPROD)
/* The last n < 16 elements of k, zeros after them. Where there are 16, the last 16 are read and moved down. */
EDGEQ_INLINE int8x16_t edgeq_rest(const int8_t *x, int32_t n, int32_t k)
{
    static const uint8_t places[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    if (k >= 16) {
        return vqtbl1q_s8(vld1q_s8(x + n - 16), vaddq_u8(vld1q_u8(places), vdupq_n_u8((uint8_t)(16 - n))));
    }
    int8_t some[16] = {0};
    for (int32_t i = 0; i < n; i++) {
        some[i] = x[i];
    }
    return vld1q_s8(some);
}

/* Four elements, those of lane `lane` of x, times the weights of eight channels. */
#define EDGEQ_FOUR(lane, x, a, b, w0, w1)          \
    do {                                           \
        (a) = vdotq_laneq_s32((a), (w0), (x), lane); \
        (b) = vdotq_laneq_s32((b), (w1), (x), lane); \
    } while (0)

EDGEQ_INLINE void edgeq_row_sums(
    const int8_t *x, const int8_t *w, int32_t k, const edgeq_record *c, int32x4_t *first, int32x4_t *second)
{
    const int32_t all = k;
    int32x4_t a = edgeq_biases_of_4(c), b = edgeq_biases_of_4(c + 4);
    for (; k >= 16; k -= 16, x += 16, w += 128) {
        const int8x16_t v = vld1q_s8(x);
        EDGEQ_FOUR(0, v, a, b, vld1q_s8(w), vld1q_s8(w + 16));
        EDGEQ_FOUR(1, v, a, b, vld1q_s8(w + 32), vld1q_s8(w + 48));
        EDGEQ_FOUR(2, v, a, b, vld1q_s8(w + 64), vld1q_s8(w + 80));
        EDGEQ_FOUR(3, v, a, b, vld1q_s8(w + 96), vld1q_s8(w + 112));
    }
    if (k > 0) {
        for (int8x16_t v = edgeq_rest(x, k, all); k > 0; k -= 4, w += 32) {
            EDGEQ_FOUR(0, v, a, b, vld1q_s8(w), vld1q_s8(w + 16));
            v = vextq_s8(v, v, 4);
        }
    }
    *first = a, *second = b;
}

EDGEQ_INLINE void edgeq_sums_1(int32_t bits, const int8_t *x, const int8_t *w, int32_t k, const edgeq_record *c,
    int32_t total, int32_t count, int32_t *sum)
{
    int32x4_t a, b;
    (void)bits, (void)total, (void)count;
    edgeq_row_sums(x, w, k, c, &a, &b);
    vst1q_s32(sum, a), vst1q_s32(sum + 4, b);
}

EDGEQ_INLINE void edgeq_block_1(const edgeq_output *output, int32_t bits, int32_t is_long, const int8_t *x,
    const int8_t *w, int32_t k, const edgeq_record *c, int32_t total, int32_t count, int8_t *out)
{
    int32x4_t a, b;
    (void)bits, (void)is_long, (void)total;
    edgeq_row_sums(x, w, k, c, &a, &b);
    edgeq_store_8(output, c, a, b, count, out);
}

#define EDGEQ_FOUR_OF_TWO(lane, at)                                  \
    do {                                                             \
        const int8x16_t w0 = vld1q_s8(w + (at)), w1 = vld1q_s8(w + (at) + 16); \
        EDGEQ_FOUR(lane, u, xa, xb, w0, w1);                         \
        EDGEQ_FOUR(lane, v, ya, yb, w0, w1);                         \
    } while (0)

EDGEQ_INLINE void edgeq_block_2(const edgeq_output *output, int32_t bits, int32_t is_long, const int8_t *x,
    const int8_t *y, const int8_t *w, int32_t k, const edgeq_record *c, const int32_t *totals, int32_t left, int8_t *out0,
    int8_t *out1)
{
    const int32_t count = left < EDGEQ_BLOCK ? left : EDGEQ_BLOCK, all = k;
    int32x4_t xa = edgeq_biases_of_4(c), xb = edgeq_biases_of_4(c + 4);
    int32x4_t ya = xa, yb = xb;
    (void)bits, (void)is_long, (void)totals;
    for (; k >= 16; k -= 16, x += 16, y += 16, w += 128) {
        const int8x16_t u = vld1q_s8(x), v = vld1q_s8(y);
        EDGEQ_FOUR_OF_TWO(0, 0);
        EDGEQ_FOUR_OF_TWO(1, 32);
        EDGEQ_FOUR_OF_TWO(2, 64);
        EDGEQ_FOUR_OF_TWO(3, 96);
    }
    if (k > 0) {
        int8x16_t u = edgeq_rest(x, k, all), v = edgeq_rest(y, k, all);
        for (; k > 0; k -= 4, w += 32) {
            EDGEQ_FOUR_OF_TWO(0, 0);
            u = vextq_s8(u, u, 4), v = vextq_s8(v, v, 4);
        }
    }
    edgeq_store_8(output, c, xa, xb, count, out0);
    edgeq_store_8(output, c, ya, yb, count, out1);
}
#else
#include "edgeq_plain_block.h"
#endif

#endif
