/* Sums of products with MVE (Cortex-M55, M85): sixteen multiplications per instruction.
 *
 * Weights come in blocks of four output channels, [k / 16, rounded up][4 channels][16], padded with zeros. The loop is
 * predicated by the number of elements left, so inputs need no padding. Three pixels and two channels at a time: twelve
 * instructions do 96 multiplications, 0.125 each. Without MVE the same sums are computed in plain C.
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
    return (k + 15) & ~15;
}

#if defined(__ARM_FEATURE_MVE)
#include <arm_mve.h>

EDGEQ_INLINE void edgeq_dot_1(
    const int8_t *x, const int8_t *w, int32_t k, const edgeq_record *channel, int32_t *sum)
{
    int32_t a = edgeq_bias(channel), b = edgeq_bias(channel + 1), c = edgeq_bias(channel + 2), d = edgeq_bias(channel + 3);
    __asm__ volatile(
        "dlstp.8 lr, %[k]\n"
        "1:\n"
        "vldrb.8 q0, [%[x]], #16\n"
        "vldrb.8 q1, [%[w]], #16\n"
        "vmladava.s8 %[a], q0, q1\n"
        "vldrb.8 q2, [%[w]], #16\n"
        "vmladava.s8 %[b], q0, q2\n"
        "vldrb.8 q3, [%[w]], #16\n"
        "vmladava.s8 %[c], q0, q3\n"
        "vldrb.8 q1, [%[w]], #16\n"
        "vmladava.s8 %[d], q0, q1\n"
        "letp lr, 1b\n"
        : [a] "+Te"(a), [b] "+Te"(b), [c] "+Te"(c), [d] "+Te"(d), [x] "+r"(x), [w] "+r"(w)
        : [k] "r"(k)
        : "lr", "q0", "q1", "q2", "q3", "memory");
    sum[0] = a, sum[1] = b, sum[2] = c, sum[3] = d;
}

/* Two channels for two pixels; the other two channels' weights are skipped. */
EDGEQ_INLINE void edgeq_dot_2x2(
    const int8_t *x, const int8_t *y, const int8_t *w, int32_t k, const edgeq_record *channel, int32_t *sum)
{
    int32_t xa = edgeq_bias(channel), xb = edgeq_bias(channel + 1), ya = xa, yb = xb;
    __asm__ volatile(
        "dlstp.8 lr, %[k]\n"
        "1:\n"
        "vldrb.8 q0, [%[x]], #16\n"
        "vldrb.8 q1, [%[y]], #16\n"
        "vldrb.8 q3, [%[w], #16]\n"
        "vldrb.8 q2, [%[w]], #64\n"
        "vmladava.s8 %[xa], q0, q2\n"
        "vmladava.s8 %[ya], q1, q2\n"
        "vmladava.s8 %[xb], q0, q3\n"
        "vmladava.s8 %[yb], q1, q3\n"
        "letp lr, 1b\n"
        : [xa] "+Te"(xa), [xb] "+Te"(xb), [ya] "+Te"(ya), [yb] "+Te"(yb), [x] "+r"(x), [y] "+r"(y), [w] "+r"(w)
        : [k] "r"(k)
        : "lr", "q0", "q1", "q2", "q3", "memory");
    sum[0] = xa, sum[1] = xb, sum[4] = ya, sum[5] = yb;
}
#else
EDGEQ_INLINE void edgeq_dot_1(
    const int8_t *x, const int8_t *w, int32_t k, const edgeq_record *channel, int32_t *sum)
{
    for (int32_t j = 0; j < 4; j++) {
        sum[j] = edgeq_bias(channel + j);
        for (int32_t i = 0; i < k; i++) {
            sum[j] += x[i] * w[(i & ~15) * 4 + 16 * j + (i & 15)];
        }
    }
}
#endif

EDGEQ_INLINE void edgeq_dot_2(
    const int8_t *x, const int8_t *y, const int8_t *w, int32_t k, const edgeq_record *channel, int32_t *sum)
{
#if defined(__ARM_FEATURE_MVE)
    edgeq_dot_2x2(x, y, w, k, channel, sum);
    edgeq_dot_2x2(x, y, w + 32, k, channel + 2, sum + 2);
#else
    edgeq_dot_1(x, w, k, channel, sum);
    edgeq_dot_1(y, w, k, channel, sum + 4);
#endif
}

/* Two channels for three pixels: those of w and of the next but one, into lanes 0 and 2, or 1 and 3. A compiler that does
 * not optimize has too few registers for it. */
#if defined(__ARM_FEATURE_MVE) && defined(__OPTIMIZE__)
#define EDGEQ_THREE_PIXELS
EDGEQ_INLINE void edgeq_dot_3x2(const int8_t *x, const int8_t *y, const int8_t *z, const int8_t *w, int32_t k,
    const edgeq_record *channel, int32x4_t *sums, int32_t is_first)
{
    int32_t xa = edgeq_bias(channel), xb = edgeq_bias(channel + 2), ya = xa, yb = xb, za = xa, zb = xb;
    __asm__ volatile(
        "dlstp.8 lr, %[k]\n"
        "1:\n"
        "vldrb.8 q0, [%[x]], #16\n"
        "vldrb.8 q1, [%[y]], #16\n"
        "vldrb.8 q2, [%[z]], #16\n"
        "vldrb.8 q4, [%[w], #32]\n"
        "vldrb.8 q3, [%[w]], #64\n"
        "vmladava.s8 %[xa], q0, q3\n"
        "vmladava.s8 %[ya], q1, q3\n"
        "vmladava.s8 %[za], q2, q3\n"
        "vmladava.s8 %[xb], q0, q4\n"
        "vmladava.s8 %[yb], q1, q4\n"
        "vmladava.s8 %[zb], q2, q4\n"
        "letp lr, 1b\n"
        : [xa] "+Te"(xa), [xb] "+Te"(xb), [ya] "+Te"(ya), [yb] "+Te"(yb), [za] "+Te"(za), [zb] "+Te"(zb), [x] "+r"(x),
        [y] "+r"(y), [z] "+r"(z), [w] "+r"(w)
        : [k] "r"(k)
        : "lr", "q0", "q1", "q2", "q3", "q4", "memory");
    if (is_first) {
        __asm__("vmov %q0[2], %q0[0], %1, %2" : "=w"(sums[0]) : "r"(xa), "r"(xb));
        __asm__("vmov %q0[2], %q0[0], %1, %2" : "=w"(sums[1]) : "r"(ya), "r"(yb));
        __asm__("vmov %q0[2], %q0[0], %1, %2" : "=w"(sums[2]) : "r"(za), "r"(zb));
    } else {
        __asm__("vmov %q0[3], %q0[1], %1, %2" : "+w"(sums[0]) : "r"(xa), "r"(xb));
        __asm__("vmov %q0[3], %q0[1], %1, %2" : "+w"(sums[1]) : "r"(ya), "r"(yb));
        __asm__("vmov %q0[3], %q0[1], %1, %2" : "+w"(sums[2]) : "r"(za), "r"(zb));
    }
}
#endif

EDGEQ_INLINE void edgeq_dot_3(const int8_t *x, const int8_t *y, const int8_t *z, const int8_t *w, int32_t k,
    const edgeq_record *channel, int32_t *sum)
{
#if defined(EDGEQ_THREE_PIXELS)
    int32x4_t sums[3];
    edgeq_dot_3x2(x, y, z, w, k, channel, sums, 1);
    edgeq_dot_3x2(x, y, z, w + 16, k, channel + 1, sums, 0);
    __builtin_memcpy(sum, sums, sizeof sums);
#else
    edgeq_dot_2(x, y, w, k, channel, sum);
    edgeq_dot_1(z, w, k, channel, sum + 8);
#endif
}

#endif
