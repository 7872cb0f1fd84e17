/* From the sums of neighbouring output channels to their codes with MVE, four at a time. */
#ifndef EDGEQ_STORE_H
#define EDGEQ_STORE_H

#include "edgeq.h"

#if defined(__ARM_FEATURE_MVE)
#include <arm_mve.h>

/* edgeq_requantize on four channels at once. */
EDGEQ_INLINE int32x4_t edgeq_requantize_4(
    int32x4_t sum, int32x4_t multiplier, int32x4_t offset, int32x4_t shift, const edgeq_output *o)
{
    sum = o->factor == 1 ? sum : vmulq_n_s32(sum, o->factor);
    sum = vmulhq_s32(sum, multiplier);
#ifdef EDGEQ_GEMMLOWP
    sum = vrshrq_n_s32(sum, 1);
    const mve_pred16_t tie = vcmpltq_n_s32(sum, 0) & vcmpneq_n_s32(shift, 0);
    sum = vaddq_m_n_s32(sum, sum, -1, tie);
#endif
    sum = vshlq_s32(vaddq_s32(sum, offset), vnegq_s32(shift));
    return vminq_s32(vmaxq_s32(sum, vdupq_n_s32(o->low)), vdupq_n_s32(o->high));
}

EDGEQ_INLINE void edgeq_store_4(const edgeq_output *o, const edgeq_channel *c, const int32_t *sum, int8_t *out)
{
    const int32x4x4_t channels = vld4q_s32((const int32_t *)c);
    vstrbq_s32(
        out, edgeq_requantize_4(vldrwq_s32(sum), channels.val[1], channels.val[2], channels.val[3], o));
}
#else
EDGEQ_INLINE void edgeq_store_4(const edgeq_output *o, const edgeq_channel *c, const int32_t *sum, int8_t *out)
{
    for (int32_t j = 0; j < 4; j++) {
        out[j] = (int8_t)edgeq_requantize(sum[j], c + j, o);
    }
}
#endif

EDGEQ_INLINE void edgeq_store_some(
    const edgeq_output *o, const edgeq_channel *c, const int32_t *sum, int32_t count, int8_t *out)
{
    for (int32_t j = 0; j < count; j++) {
        out[j] = (int8_t)edgeq_requantize(sum[j], c + j, o);
    }
}

#endif
