/* From the sums of four neighbouring output channels to their codes with NEON: edgeq_requantize in every lane. */
#ifndef EDGEQ_REQUANTIZE_H
#define EDGEQ_REQUANTIZE_H

#include "edgeq.h"

#if defined(__ARM_NEON)
#include <arm_neon.h>

/* The biases of four channels. */
EDGEQ_INLINE int32x4_t edgeq_biases_of_4(const edgeq_record *c)
{
#if defined(EDGEQ_WIDE_RECORDS)
    return vld4q_s32((const int32_t *)c).val[0];
#else
    return vshrq_n_s32(vld2q_s32((const int32_t *)c).val[0], 8);
#endif
}

EDGEQ_INLINE int32x4_t edgeq_requantize_4(int32x4_t sum, const edgeq_record *c, const edgeq_output *o)
{
#if defined(EDGEQ_WIDE_RECORDS)
    const int32x4x4_t channels = vld4q_s32((const int32_t *)c);
    const int32x4_t multiplier = channels.val[1], right = vnegq_s32(channels.val[3]);
#else
    const int32x4x2_t channels = vld2q_s32((const int32_t *)c);
    const int32x4_t multiplier = channels.val[1], right = vnegq_s32(vandq_s32(channels.val[0], vdupq_n_s32(31)));
#endif
    if (o->factor != EDGEQ_USUAL_FACTOR) {
        sum = vmulq_n_s32(sum, o->factor / EDGEQ_USUAL_FACTOR);
    }
#ifdef EDGEQ_GEMMLOWP
    sum = vqrdmulhq_s32(sum, multiplier);
    sum = vaddq_s32(sum, vshrq_n_s32(vandq_s32(sum, right), 31)); /* ties away from zero, where there is a shift */
#else
    const int64x2_t low = vmull_s32(vget_low_s32(sum), vget_low_s32(multiplier));
    sum = vuzp2q_s32(vreinterpretq_s32_s64(low), vreinterpretq_s32_s64(vmull_high_s32(sum, multiplier)));
#endif
    sum = vaddq_s32(vrshlq_s32(sum, right), vdupq_n_s32(o->middle >> 1));
    return vminq_s32(vmaxq_s32(sum, vdupq_n_s32(o->low)), vdupq_n_s32(o->high));
}

/* `count` <= 8 codes from the sums of eight channels; the entries of c are read four at a time. */
EDGEQ_INLINE void edgeq_store_8(
    const edgeq_output *o, const edgeq_record *c, int32x4_t a, int32x4_t b, int32_t count, int8_t *out)
{
    const int16x4_t first = vmovn_s32(edgeq_requantize_4(a, c, o));
    const int16x4_t second = vmovn_s32(edgeq_requantize_4(b, c + 4, o));
    const int8x8_t codes = vmovn_s16(vcombine_s16(first, second));
    if (count == 8) {
        vst1_s8(out, codes);
        return;
    }
    int8_t some[8];
    vst1_s8(some, codes);
    for (int32_t i = 0; i < count; i++) {
        out[i] = some[i];
    }
}
#endif

#endif
