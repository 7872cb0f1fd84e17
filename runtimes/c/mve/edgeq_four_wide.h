/* Sums of one row of 16-bit codes times four columns of 8-bit codes with MVE: eight multiplications per instruction.
 *
 * Columns lie as [k / 8, rounded up][4 columns][8], padded with zeros. The loop is predicated by the number of elements
 * left; widening loads want a low register. Without MVE the same sums are computed in plain C.
 */
#ifndef EDGEQ_FOUR_WIDE_H
#define EDGEQ_FOUR_WIDE_H

#include "edgeq.h"

#define EDGEQ_WIDE_DEPTH 8 /* elements of one column that lie side by side */

#if defined(__ARM_FEATURE_MVE)
EDGEQ_INLINE void edgeq_four_wide(const int16_t *x, const int8_t *w, int32_t k, int32_t *sum)
{
    int32_t a = sum[0], b = sum[1], c = sum[2], d = sum[3];
    __asm__ volatile(
        "dlstp.16 lr, %[k]\n"
        "1:\n"
        "vldrh.16 q0, [%[x]], #16\n"
        "vldrb.s16 q1, [%[w]], #8\n"
        "vmladava.s16 %[a], q0, q1\n"
        "vldrb.s16 q2, [%[w]], #8\n"
        "vmladava.s16 %[b], q0, q2\n"
        "vldrb.s16 q3, [%[w]], #8\n"
        "vmladava.s16 %[c], q0, q3\n"
        "vldrb.s16 q1, [%[w]], #8\n"
        "vmladava.s16 %[d], q0, q1\n"
        "letp lr, 1b\n"
        : [a] "+Te"(a), [b] "+Te"(b), [c] "+Te"(c), [d] "+Te"(d), [x] "+r"(x), [w] "+l"(w)
        : [k] "r"(k)
        : "lr", "q0", "q1", "q2", "q3", "memory");
    sum[0] = a, sum[1] = b, sum[2] = c, sum[3] = d;
}
#else
EDGEQ_INLINE void edgeq_four_wide(const int16_t *x, const int8_t *w, int32_t k, int32_t *sum)
{
    for (int32_t j = 0; j < 4; j++) {
        for (int32_t i = 0; i < k; i++) {
            sum[j] += x[i] * w[(i & ~7) * 4 + 8 * j + (i & 7)];
        }
    }
}
#endif

#endif
