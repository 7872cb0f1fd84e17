/* From the sums of four neighbouring output channels to their codes with NEON: edgeq_requantize in every lane. */
#ifndef EDGEQ_REQUANTIZE_H
#define EDGEQ_REQUANTIZE_H

#include "edgeq.h"

#if defined(__ARM_NEON)
#include <arm_neon.h>

EDGEQ_INLINE int32x4_t edgeq_requantize_4(int32x4_t sum, const edgeq_channel *c, const edgeq_output *o)
{
    const int32x4x4_t channels = vld4q_s32((const int32_t *)c);
    const int32x4_t right = vnegq_s32(channels.val[3]);
    if (o->factor != EDGEQ_USUAL_FACTOR) {
        sum = vmulq_n_s32(sum, o->factor / EDGEQ_USUAL_FACTOR);
    }
#ifdef EDGEQ_GEMMLOWP
    sum = vqrdmulhq_s32(sum, channels.val[1]);
    sum = vaddq_s32(sum, vshrq_n_s32(vandq_s32(sum, right), 31)); /* ties away from zero, where there is a shift */
#else
    const int64x2_t low = vmull_s32(vget_low_s32(sum), vget_low_s32(channels.val[1]));
    sum = vuzp2q_s32(vreinterpretq_s32_s64(low), vreinterpretq_s32_s64(vmull_high_s32(sum, channels.val[1])));
#endif
    sum = vshlq_s32(vaddq_s32(sum, channels.val[2]), right);
    return vminq_s32(vmaxq_s32(sum, vdupq_n_s32(o->low)), vdupq_n_s32(o->high));
}

/* `count` <= 8 codes from the sums of eight channels; the entries of c are read four at a time. */
EDGEQ_INLINE void edgeq_store_8(
    const edgeq_output *o, const edgeq_channel *c, int32x4_t a, int32x4_t b, int32_t count, int8_t *out)
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
