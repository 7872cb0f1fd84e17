/* From the sums of neighbouring output channels to their codes with MVE, four at a time. */
#ifndef EDGEQ_STORE_H
#define EDGEQ_STORE_H

#include "edgeq.h"

#if defined(__ARM_FEATURE_MVE)
#include <arm_mve.h>

/* What brings four sums to codes; `right` are the shifts, negative, in the lowest byte of each lane, which is all that a
 * shift looks at; `zero` is the output zero point. */
typedef struct {
    int32x4_t multiplier, right;
    int32_t zero;
} edgeq_scales;

EDGEQ_INLINE edgeq_scales edgeq_scales_of(const edgeq_record *c, const edgeq_output *o)
{
#if defined(EDGEQ_WIDE_RECORDS)
    const int32x4x4_t channels = vld4q_s32((const int32_t *)c);
    const edgeq_scales scales = {channels.val[1], vnegq_s32(channels.val[3]), o->middle >> 1};
#else
    const int32x4x2_t channels = vld2q_s32((const int32_t *)c);
    const edgeq_scales scales = {channels.val[1], vnegq_s32(channels.val[0]), o->middle >> 1};
#endif
    return scales;
}

/* The same channel four times. */
EDGEQ_INLINE edgeq_scales edgeq_scales_of_one(const edgeq_channel *c)
{
    const edgeq_scales scales = {vdupq_n_s32(c->multiplier), vdupq_n_s32(-c->shift), c->offset >> c->shift};
    return scales;
}

/* Four sums within the range of codes: each code in the lowest byte of its lane. */
EDGEQ_INLINE int32x4_t edgeq_saturated_4(int32x4_t sum, const edgeq_output *o)
{
    if (edgeq_is_known(o->factor) && edgeq_clamps_nothing(o)) { /* by narrowing; the intrinsics would copy what is overwritten */
        __asm__("vqmovnb.s32 %q0, %q0\n\tvqmovnb.s16 %q0, %q0" : "+w"(sum));
        return sum;
    }
    return vminq_s32(vmaxq_s32(sum, vdupq_n_s32(o->low)), vdupq_n_s32(o->high));
}

/* edgeq_requantize on four sums at once. */
EDGEQ_INLINE int32x4_t edgeq_requantize_4(int32x4_t sum, const edgeq_scales *s, const edgeq_output *o)
{
    sum = o->factor == EDGEQ_USUAL_FACTOR ? sum : vmulq_n_s32(sum, o->factor / EDGEQ_USUAL_FACTOR);
#ifdef EDGEQ_GEMMLOWP
    const int32_t usual = edgeq_is_known(o->factor) && edgeq_clamps_nothing(o);
    sum = vqrdmulhq_s32(sum, s->multiplier);
    /* Ties away from zero, if shifted: the sign of what is shifted to the left is that of its lowest byte. */
    sum = vaddq_s32(sum, vshrq_n_s32(usual ? sum : vandq_s32(sum, vshlq_n_s32(s->right, 24)), 31));
#else
    sum = vmulhq_s32(sum, s->multiplier);
#endif
    return edgeq_saturated_4(vaddq_n_s32(vrshlq_s32(sum, s->right), s->zero), o);
}

EDGEQ_INLINE void edgeq_store_sums(const edgeq_output *o, const edgeq_scales *s, const int32_t *sum, int8_t *out)
{
    int32x4_t sums;
    __builtin_memcpy(&sums, sum, sizeof sums);
    vstrbq_s32(out, edgeq_requantize_4(sums, s, o));
}

/* Four channels of two or three pixels, whose sums lie `block` = 4 apart: their numbers are read once. */
EDGEQ_INLINE void edgeq_store_pixels(const edgeq_output *o, const edgeq_record *c, const int32_t *sum, int32_t block,
    int32_t pixels, int8_t *out0, int8_t *out1, int8_t *out2)
{
    const edgeq_scales scales = edgeq_scales_of(c, o);
    edgeq_store_sums(o, &scales, sum, out0);
    edgeq_store_sums(o, &scales, sum + block, out1);
    if (pixels == 3) {
        edgeq_store_sums(o, &scales, sum + 2 * block, out2);
    }
}
#else
EDGEQ_INLINE void edgeq_store_4(const edgeq_output *o, const edgeq_record *c, const int32_t *sum, int8_t *out)
{
    for (int32_t j = 0; j < 4; j++) {
        out[j] = (int8_t)edgeq_requantize_by(sum[j], c + j, o);
    }
}

EDGEQ_INLINE void edgeq_store_pixels(const edgeq_output *o, const edgeq_record *c, const int32_t *sum, int32_t block,
    int32_t pixels, int8_t *out0, int8_t *out1, int8_t *out2)
{
    edgeq_store_4(o, c, sum, out0);
    edgeq_store_4(o, c, sum + block, out1);
    if (pixels == 3) {
        edgeq_store_4(o, c, sum + 2 * block, out2);
    }
}
#endif

/* The first `count` of four channels; four sums and four records are read. */
EDGEQ_INLINE void edgeq_store_some(
    const edgeq_output *o, const edgeq_record *c, const int32_t *sum, int32_t count, int8_t *out)
{
#if defined(__ARM_FEATURE_MVE)
    const edgeq_scales scales = edgeq_scales_of(c, o);
    const int32x4_t codes = edgeq_requantize_4(vldrwq_s32(sum), &scales, o);
    vstrbq_p_s32(out, codes, vctp32q((uint32_t)count));
#else
    for (int32_t j = 0; j < count; j++) {
        out[j] = (int8_t)edgeq_requantize_by(sum[j], c + j, o);
    }
#endif
}

#define edgeq_store_row edgeq_store_some

#endif
