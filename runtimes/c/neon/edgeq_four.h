/* Sums of products of one row and four columns with NEON's dot products, for products of two activations.
 *
 * Columns lie as [k / 4, rounded up][4 columns][4], padded with zeros.
 */
#ifndef EDGEQ_FOUR_H
#define EDGEQ_FOUR_H

#include "edgeq.h"

#define EDGEQ_FOUR_DEPTH 4 /* elements of one column that lie side by side */

#if defined(__ARM_NEON) && defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>

EDGEQ_INLINE void edgeq_four(const int8_t *x, const int8_t *w, int32_t k, int32_t *sum)
{
    int32x4_t sums = vld1q_s32(sum);
    for (; k >= 16; k -= 16, x += 16, w += 64) {
        const int8x16_t v = vld1q_s8(x);
        sums = vdotq_laneq_s32(sums, vld1q_s8(w), v, 0);
        sums = vdotq_laneq_s32(sums, vld1q_s8(w + 16), v, 1);
        sums = vdotq_laneq_s32(sums, vld1q_s8(w + 32), v, 2);
        sums = vdotq_laneq_s32(sums, vld1q_s8(w + 48), v, 3);
    }
    for (; k > 0; k -= 4, x += 4, w += 16) {
        int8_t some[16] = {0};
        for (int32_t i = 0; i < 4 && i < k; i++) {
            some[i] = x[i];
        }
        sums = vdotq_laneq_s32(sums, vld1q_s8(w), vld1q_s8(some), 0);
    }
    vst1q_s32(sum, sums);
}
#else
EDGEQ_INLINE void edgeq_four(const int8_t *x, const int8_t *w, int32_t k, int32_t *sum)
{
    for (int32_t j = 0; j < 4; j++) {
        for (int32_t i = 0; i < k; i++) {
            sum[j] += x[i] * w[(i & ~3) * 4 + EDGEQ_FOUR_DEPTH * j + (i & 3)];
        }
    }
}
#endif

#endif
