/* The sum of a layer's codes and a residual's with MVE, four at a time; without it in plain C. */
#ifndef EDGEQ_RESIDUAL_H
#define EDGEQ_RESIDUAL_H

#include "edgeq_store.h"
#include "edgeq_terms.h"

#if defined(__ARM_FEATURE_MVE)
/* `sum` and the terms of four codes. */
EDGEQ_INLINE int32x4_t edgeq_add_terms(int32x4_t sum, const edgeq_terms *t, int32x4_t codes)
{
    const uint32x4_t places = vreinterpretq_u32_s32(vaddq_n_s32(codes, 128));
#if defined(EDGEQ_WIDE_TERMS)
    const int32x4_t fine = vldrwq_gather_shifted_offset_s32(t->fine, places);
#else
    const int32x4_t fine = vreinterpretq_s32_u32(vldrbq_gather_offset_u32(t->fine, places));
#endif
    return vmlaq_n_s32(vaddq_s32(sum, fine), codes, t->step);
}

EDGEQ_INLINE void edgeq_add_4(
    const edgeq_sum *s, edgeq_output output, const int8_t *codes, const int8_t *addend, int32_t left, int8_t *out)
{
    const mve_pred16_t some = vctp32q((uint32_t)left);
    const int32x4_t own = edgeq_add_terms(vdupq_n_s32(s->channel.bias), &s->own, vldrbq_z_s32(codes, some));
    const int32x4_t total = edgeq_add_terms(own, &s->other, vldrbq_z_s32(addend, some));
    const edgeq_scales scales = edgeq_scales_of_one(&s->channel);
    vstrbq_p_s32(out, edgeq_requantize_4(total, &scales, &output), some);
}
#else
EDGEQ_INLINE void edgeq_add_4(
    const edgeq_sum *s, edgeq_output output, const int8_t *codes, const int8_t *addend, int32_t left, int8_t *out)
{
    for (int32_t c = 0; c < 4 && c < left; c++) {
        const int32_t total = s->channel.bias + edgeq_term_of(&s->own, codes[c]) + edgeq_term_of(&s->other, addend[c]);
        out[c] = (int8_t)edgeq_requantize(total, &s->channel, &output);
    }
}
#endif

/* The output is given apart so that the usual one can be a constant. In `reverse` the last codes come first, so that the
 * output may begin anywhere above the addend. */
EDGEQ_INLINE void edgeq_add_codes(const edgeq_sum *sum, edgeq_output output, int32_t count, int32_t reverse,
    const int8_t *codes, const int8_t *addend, int8_t *out)
{
    const edgeq_sum s = *sum; /* a copy: stores of codes cannot change it */
    for (int32_t i = 0; i < count; i += 4) {
        const int32_t c = reverse ? ((count - 1) & ~3) - i : i;
        edgeq_add_4(&s, output, codes + c, addend + c, count - c, out + c);
    }
}

#endif
