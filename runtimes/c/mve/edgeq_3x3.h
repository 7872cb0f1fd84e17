/* A 3x3 window over one channel with MVE: one gathering load brings the nine inputs, one instruction sums the products.
 *
 * Four outputs are brought to codes at once and scattered to their pixels.
 */
#ifndef EDGEQ_3X3_H
#define EDGEQ_3X3_H

#include "edgeq_plane.h"
#include "edgeq_store.h"

#if defined(__ARM_FEATURE_MVE)
/* Codes of n <= 4 neighbouring outputs of a row, whose windows begin at p, p + stride ... */
EDGEQ_INLINE void edgeq_some_3x3(const edgeq_plane *r, int8x16_t w, uint8x16_t places, uint32x4_t outputs,
    int32x4_t multiplier, int32x4_t offset, int32x4_t shift, const int8_t *p, int32_t n, int8_t *out)
{
    int32_t sum[4];
    const ptrdiff_t stride = r->stride_w;
    sum[0] = vmladavaq_s8(r->channel.bias, vldrbq_gather_offset_s8(p, places), w);
    sum[1] = n > 1 ? vmladavaq_s8(r->channel.bias, vldrbq_gather_offset_s8(p + stride, places), w) : 0;
    sum[2] = n > 2 ? vmladavaq_s8(r->channel.bias, vldrbq_gather_offset_s8(p + 2 * stride, places), w) : 0;
    sum[3] = n > 3 ? vmladavaq_s8(r->channel.bias, vldrbq_gather_offset_s8(p + 3 * stride, places), w) : 0;
    const int32x4_t codes = edgeq_requantize_4(vldrwq_s32(sum), multiplier, offset, shift, &r->output);
    if (r->table) {
        vstrwq_s32(sum, codes);
        for (int32_t i = 0; i < n; i++) {
            out[i * (ptrdiff_t)r->step] = r->table[sum[i] + 128];
        }
    } else {
        vstrbq_scatter_offset_p_s32(out, outputs, codes, vctp32q((uint32_t)n));
    }
}

/* All outputs of one channel; p is its plane, n its weights. */
EDGEQ_INLINE void edgeq_plane_3x3(const edgeq_plane *r, const int8_t *n, const int8_t *p, int8_t *out)
{
    const mve_pred16_t nine = vctp8q(9);
    const int8x16_t w = vldrbq_z_s8(n, nine);
    uint8_t at[16] = {0};
    for (int32_t tap = 0; tap < 9; tap++) {
        at[tap] = (uint8_t)(tap / 3 * r->width + tap % 3);
    }
    const uint8x16_t places = vldrbq_u8(at);
    const uint32x4_t outputs = vmulq_n_u32(vidupq_n_u32(0, 1), (uint32_t)r->step);
    const int32x4_t multiplier = vdupq_n_s32(r->channel.multiplier), offset = vdupq_n_s32(r->channel.offset);
    const int32x4_t shift = vdupq_n_s32(r->channel.shift);
    const ptrdiff_t stride = r->stride_w, step = r->step, down = (ptrdiff_t)r->stride_h * r->width;
    for (int32_t y = r->rows; y > 0; y--, p += down) {
        const int8_t *from = p;
        int32_t x = r->columns;
        for (; x >= 4; x -= 4, from += 4 * stride, out += 4 * step) {
            edgeq_some_3x3(r, w, places, outputs, multiplier, offset, shift, from, 4, out);
        }
        if (x > 0) {
            edgeq_some_3x3(r, w, places, outputs, multiplier, offset, shift, from, x, out);
            out += x * step;
        }
    }
}
#else
EDGEQ_INLINE void edgeq_plane_3x3(const edgeq_plane *r, const int8_t *n, const int8_t *p, int8_t *out)
{
    for (int32_t y = 0; y < r->rows; y++) {
        for (int32_t x = 0; x < r->columns; x++, out += r->step) {
            const int8_t *const from = p + (ptrdiff_t)y * r->stride_h * r->width + (ptrdiff_t)x * r->stride_w;
            int32_t sum = r->channel.bias;
            for (int32_t tap = 0; tap < 9; tap++) {
                sum += from[tap / 3 * r->width + tap % 3] * n[tap];
            }
            edgeq_store_code(r, sum, out);
        }
    }
}
#endif

#endif
