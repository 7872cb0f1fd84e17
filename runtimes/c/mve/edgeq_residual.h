/* The sum of a layer's codes and a residual's with MVE, four at a time; without it in plain C. */
#ifndef EDGEQ_RESIDUAL_H
#define EDGEQ_RESIDUAL_H

#include "edgeq_store.h"
#include "edgeq_terms.h"

#if defined(__ARM_FEATURE_MVE)
#if defined(EDGEQ_LINES)
EDGEQ_INLINE int32x4_t edgeq_residual_of_4(const edgeq_sum *s, const edgeq_output *o, int32x4_t codes, int32x4_t addend)
{
    const int32x4_t line = vmlaq_n_s32(vmlaq_n_s32(vdupq_n_s32(s->start), codes, s->own), addend, s->other);
    return edgeq_saturated_4(vshlq_r_s32(line, -s->shift), o);
}
#else
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

EDGEQ_INLINE int32x4_t edgeq_residual_of_4(const edgeq_sum *s, const edgeq_output *o, int32x4_t codes, int32x4_t addend)
{
    const int32x4_t own = edgeq_add_terms(vdupq_n_s32(s->channel.bias), &s->own, codes);
    const edgeq_scales scales = edgeq_scales_of_one(&s->channel);
    return edgeq_requantize_4(edgeq_add_terms(own, &s->other, addend), &scales, o);
}
#endif

EDGEQ_INLINE void edgeq_add_4(
    const edgeq_sum *s, const edgeq_output *o, const int8_t *codes, const int8_t *addend, int8_t *out)
{
    vstrbq_s32(out, edgeq_residual_of_4(s, o, vldrbq_s32(codes), vldrbq_s32(addend)));
}
#else
EDGEQ_INLINE void edgeq_add_4(
    const edgeq_sum *s, const edgeq_output *o, const int8_t *codes, const int8_t *addend, int8_t *out)
{
    int8_t found[4];
    for (int32_t c = 0; c < 4; c++) {
        found[c] = (int8_t)edgeq_residual_of(s, o, codes[c], addend[c]);
    }
    for (int32_t c = 0; c < 4; c++) {
        out[c] = found[c];
    }
}
#endif

/* The last codes, which are no four. */
EDGEQ_INLINE void edgeq_add_rest(const edgeq_sum *s, const edgeq_output *o, int32_t count, int32_t reverse,
    const int8_t *codes, const int8_t *addend, int8_t *out)
{
#if !defined(EDGEQ_WHOLE_BLOCKS)
    for (int32_t i = count & ~3; i < count; i++) {
        const int32_t c = reverse ? (count & ~3) + count - 1 - i : i;
        out[c] = (int8_t)edgeq_residual_of(s, o, codes[c], addend[c]);
    }
#else
    (void)s, (void)o, (void)count, (void)reverse, (void)codes, (void)addend, (void)out;
#endif
}

/* The output is given apart so that the usual one can be a constant. In `reverse` the last codes come first, so that the
 * output may begin anywhere above the addend. */
EDGEQ_INLINE void edgeq_add_codes(const edgeq_sum *sum, edgeq_output output, int32_t count, int32_t reverse,
    const int8_t *codes, const int8_t *addend, int8_t *out)
{
    const edgeq_sum s = *sum; /* a copy: stores of codes cannot change it */
    const int32_t step = reverse ? -4 : 4, first = reverse ? (count & ~3) - 4 : 0;
    if (reverse) {
        edgeq_add_rest(&s, &output, count, 1, codes, addend, out);
    }
    const int8_t *c = codes + first, *a = addend + first;
    int8_t *to = out + first;
    for (int32_t left = count; left >= 4; left -= 4, c += step, a += step, to += step) {
        edgeq_add_4(&s, &output, c, a, to);
    }
    if (!reverse) {
        edgeq_add_rest(&s, &output, count, 0, codes, addend, out);
    }
}

#endif
