/* Sums of products with weights of 4 bits and MVE; at no more cost than with 8.
 *
 * A byte holds the weights of two output channels, b = 16 h + u with u = l + 8 in 0 ... 15, so that one mask is all that
 * decodes them: with U = sum x u, H = sum x b and S = sum x, the channels are
 *     sum x l = U - 8 S        sum x h = (H - U) / 16, exactly.
 * Weights come in blocks of four output channels, [k / 16, rounded up][2 pairs][16 bytes]. The model includes this before
 * edgeq_conv.h.
 */
#ifndef EDGEQ_DOT_W4_H
#define EDGEQ_DOT_W4_H

#include "edgeq_dot.h"
#include "edgeq_total.h"

#if defined(__ARM_FEATURE_MVE)
#include <arm_mve.h>

EDGEQ_INLINE void edgeq_nested_w4_1(const int8_t *x, const int8_t *w, int32_t k, int32_t *sum)
{
    int32_t a = 0, b = 0, c = 0, d = 0;
    __asm__ volatile(
        "vmov.i8 q3, #15\n"
        "dlstp.8 lr, %[k]\n"
        "1:\n"
        "vldrb.8 q0, [%[x]], #16\n"
        "vldrb.8 q1, [%[w]], #16\n"
        "vand q2, q1, q3\n"
        "vmladava.s8 %[b], q0, q1\n"
        "vmladava.s8 %[a], q0, q2\n"
        "vldrb.8 q1, [%[w]], #16\n"
        "vand q2, q1, q3\n"
        "vmladava.s8 %[d], q0, q1\n"
        "vmladava.s8 %[c], q0, q2\n"
        "letp lr, 1b\n"
        : [a] "+Te"(a), [b] "+Te"(b), [c] "+Te"(c), [d] "+Te"(d), [x] "+r"(x), [w] "+r"(w)
        : [k] "r"(k)
        : "lr", "q0", "q1", "q2", "q3", "memory");
    sum[0] = a, sum[1] = b, sum[2] = c, sum[3] = d;
}

/* Two channels for two pixels; the other two channels' weights are skipped. */
EDGEQ_INLINE void edgeq_nested_w4_2x2(const int8_t *x, const int8_t *y, const int8_t *w, int32_t k, int32_t *sum)
{
    int32_t xa = 0, xb = 0, ya = 0, yb = 0;
    __asm__ volatile(
        "vmov.i8 q4, #15\n"
        "dlstp.8 lr, %[k]\n"
        "1:\n"
        "vldrb.8 q2, [%[w]], #32\n"
        "vldrb.8 q0, [%[x]], #16\n"
        "vldrb.8 q1, [%[y]], #16\n"
        "vand q3, q2, q4\n"
        "vmladava.s8 %[xb], q0, q2\n"
        "vmladava.s8 %[yb], q1, q2\n"
        "vmladava.s8 %[xa], q0, q3\n"
        "vmladava.s8 %[ya], q1, q3\n"
        "letp lr, 1b\n"
        : [xa] "+Te"(xa), [xb] "+Te"(xb), [ya] "+Te"(ya), [yb] "+Te"(yb), [x] "+r"(x), [y] "+r"(y), [w] "+r"(w)
        : [k] "r"(k)
        : "lr", "q0", "q1", "q2", "q3", "q4", "memory");
    sum[0] = xa, sum[1] = xb, sum[4] = ya, sum[5] = yb;
}

EDGEQ_INLINE void edgeq_nested_w4_2(const int8_t *x, const int8_t *y, const int8_t *w, int32_t k, int32_t *sum)
{
    edgeq_nested_w4_2x2(x, y, w, k, sum);
    edgeq_nested_w4_2x2(x, y, w + 16, k, sum + 2);
}
#else
EDGEQ_INLINE void edgeq_nested_w4_1(const int8_t *x, const int8_t *w, int32_t k, int32_t *sum)
{
    for (int32_t j = 0; j < 4; j++) {
        sum[j] = 0;
        for (int32_t i = 0; i < k; i++) {
            const int32_t both = w[(i & ~15) * 2 + (j & 2) * 8 + (i & 15)];
            sum[j] += x[i] * (j & 1 ? both : both & 15);
        }
    }
}

EDGEQ_INLINE void edgeq_nested_w4_2(const int8_t *x, const int8_t *y, const int8_t *w, int32_t k, int32_t *sum)
{
    edgeq_nested_w4_1(x, w, k, sum);
    edgeq_nested_w4_1(y, w, k, sum + 4);
}
#endif

EDGEQ_INLINE void edgeq_part_w4(const edgeq_record *channel, int32_t total, int32_t *sum)
{
    for (int32_t j = 0; j < 4; j += 2) {
        sum[j + 1] = edgeq_bias(channel + j + 1) + ((sum[j + 1] - sum[j]) >> 4);
        sum[j] += edgeq_bias(channel + j) - 8 * total;
    }
}

/* One row of inputs whose sum is `total`. */
EDGEQ_INLINE void edgeq_dot_w4_1(
    const int8_t *x, const int8_t *w, int32_t k, const edgeq_record *channel, int32_t total, int32_t *sum)
{
    edgeq_nested_w4_1(x, w, k, sum);
    edgeq_part_w4(channel, total, sum);
}

/* Two columns of inputs whose sums are totals[0] and totals[1]. */
EDGEQ_INLINE void edgeq_dot_w4_2(const int8_t *x, const int8_t *y, const int8_t *w, int32_t k,
    const edgeq_record *channel, const int32_t *totals, int32_t *sum)
{
    edgeq_nested_w4_2(x, y, w, k, sum);
    edgeq_part_w4(channel, totals[0], sum);
    edgeq_part_w4(channel, totals[1], sum + 4);
}

#endif
