/* What follows a convolution, on the codes of one pixel, with MVE: a table of a function, then a residual. */
#ifndef EDGEQ_FINISH_H
#define EDGEQ_FINISH_H

#include "edgeq_bytes.h"
#include "edgeq_store.h"

/* A residual: out = requantize(own[code] + other[addend]), in 32 bits, elementwise. */
typedef struct {
    const int32_t *own, *other; /* one entry per code, from -128 on */
    edgeq_channel channel;
    edgeq_output output;
} edgeq_sum;

#if defined(__ARM_FEATURE_MVE)
EDGEQ_INLINE void edgeq_add_4(const edgeq_sum *s, const int8_t *codes, const int8_t *addend, int32_t left, int8_t *out)
{
    const mve_pred16_t some = vctp32q((uint32_t)left);
    const int32x4_t a = vaddq_n_s32(vldrbq_z_s32(codes, some), 128), b = vaddq_n_s32(vldrbq_z_s32(addend, some), 128);
    const int32x4_t total = vaddq_s32(vldrwq_gather_shifted_offset_s32(s->own, vreinterpretq_u32_s32(a)),
        vldrwq_gather_shifted_offset_s32(s->other, vreinterpretq_u32_s32(b)));
    const edgeq_scales scales = edgeq_scales_of_one(&s->channel);
    vstrbq_p_s32(out, edgeq_requantize_4(total, &scales, &s->output), some);
}
#else
EDGEQ_INLINE void edgeq_add_4(const edgeq_sum *s, const int8_t *codes, const int8_t *addend, int32_t left, int8_t *out)
{
    for (int32_t c = 0; c < 4 && c < left; c++) {
        const int32_t total = s->own[codes[c] + 128] + s->other[addend[c] + 128];
        out[c] = (int8_t)edgeq_requantize(total, &s->channel, &s->output);
    }
}
#endif

/* In `reverse` the last codes come first, so that the output may begin anywhere above the addend. */
EDGEQ_INLINE void edgeq_finish(const int8_t *table, const edgeq_sum *sum, int32_t count, int32_t reverse, int8_t *codes,
    const int8_t *addend, int8_t *out)
{
    for (int32_t c = 0; table && c < count; c++) {
        codes[c] = table[codes[c] + 128];
    }
    if (!sum) {
        edgeq_copy(out, codes, count);
        return;
    }
    const edgeq_sum s = *sum; /* a copy: stores of codes cannot change it */
    for (int32_t i = 0; i < count; i += 4) {
        const int32_t c = reverse ? ((count - 1) & ~3) - i : i;
        edgeq_add_4(&s, codes + c, addend + c, count - c, out + c);
    }
}

#endif
