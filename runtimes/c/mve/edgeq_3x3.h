/* A 3x3 window over one channel with MVE: one gathering load brings the nine inputs, one instruction sums the products.
 *
 * Four outputs are brought to codes at once and scattered to their pixels.
 */
#ifndef EDGEQ_3X3_H
#define EDGEQ_3X3_H

#include "edgeq_plane.h"
#include "edgeq_store.h"

EDGEQ_INLINE void edgeq_plain_3x3(const edgeq_plane *r, const int8_t *n, const int8_t *p, int8_t *out)
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

#if defined(__ARM_FEATURE_MVE)
/* What stays in registers: weights, where the nine taps lie, and the channel's numbers in every lane. */
typedef struct {
    int8x16_t weights;
    uint8x16_t taps;
    int32x4_t multiplier, offset, shift;
} edgeq_lanes;

/* Codes of n <= 4 outputs whose windows begin at p, p + stride ... and whose codes lie at `places` from out. */
EDGEQ_INLINE void edgeq_some_3x3(const edgeq_plane *r, const edgeq_lanes *v, const int8_t *p, ptrdiff_t stride, int32_t n,
    uint32x4_t places, int8_t *out)
{
    int32_t sum[4];
    const int32_t bias = r->channel.bias;
    sum[0] = vmladavaq_s8(bias, vldrbq_gather_offset_s8(p, v->taps), v->weights);
    sum[1] = n > 1 ? vmladavaq_s8(bias, vldrbq_gather_offset_s8(p + stride, v->taps), v->weights) : 0;
    sum[2] = n > 2 ? vmladavaq_s8(bias, vldrbq_gather_offset_s8(p + 2 * stride, v->taps), v->weights) : 0;
    sum[3] = n > 3 ? vmladavaq_s8(bias, vldrbq_gather_offset_s8(p + 3 * stride, v->taps), v->weights) : 0;
    const int32x4_t codes = edgeq_requantize_4(vldrwq_s32(sum), v->multiplier, v->offset, v->shift, &r->output);
    if (r->table) {
        uint32_t at[4];
        vstrwq_s32(sum, codes);
        vstrwq_u32(at, places);
        for (int32_t i = 0; i < n; i++) {
            out[at[i]] = r->table[sum[i] + 128];
        }
    } else if (n == 4) {
        vstrbq_scatter_offset_s32(out, places, codes);
    } else {
        vstrbq_scatter_offset_p_s32(out, places, codes, vctp32q((uint32_t)n));
    }
}

/* Four neighbours at a time, then what is left of the rows, four rows at a time. */
EDGEQ_INLINE void edgeq_fast_3x3(const edgeq_plane *r, const int8_t *n, const int8_t *p, int8_t *out)
{
    static const uint8_t rows[16] = {0, 0, 0, 1, 1, 1, 2, 2, 2}, columns[16] = {0, 1, 2, 0, 1, 2, 0, 1, 2};
    const uint8x16_t taps = vmlaq_n_u8(vldrbq_u8(columns), vldrbq_u8(rows), (uint8_t)r->width);
    const edgeq_channel c = r->channel;
    const edgeq_lanes v = {vldrbq_z_s8(n, vctp8q(9)), taps, vdupq_n_s32(c.multiplier), vdupq_n_s32(c.offset),
        vdupq_n_s32(c.shift)};
    const ptrdiff_t stride = r->stride_w, step = r->step, down = (ptrdiff_t)r->stride_h * r->width;
    const ptrdiff_t line = r->columns * step;
    const uint32x4_t across = vmulq_n_u32(vidupq_n_u32(0, 1), (uint32_t)step);
    const int32_t whole = r->columns & ~3;
    if (whole) {
        const int8_t *from = p;
        int8_t *to = out;
        for (int32_t y = r->rows; y > 0; y--, from += down, to += line) {
            for (int32_t x = 0; x < whole; x += 4) {
                edgeq_some_3x3(r, &v, from + x * stride, stride, 4, across, to + x * step);
            }
        }
    }
    const uint32x4_t along = vmulq_n_u32(vidupq_n_u32(0, 1), (uint32_t)line);
    for (int32_t x = whole; x < r->columns; x++) {
        const int8_t *from = p + x * stride;
        int8_t *to = out + x * step;
        int32_t y = r->rows;
        for (; y >= 4; y -= 4, from += 4 * down, to += 4 * line) {
            edgeq_some_3x3(r, &v, from, down, 4, along, to);
        }
        if (y > 0) {
            edgeq_some_3x3(r, &v, from, down, y, along, to);
        }
    }
}
#endif

/* All outputs of one channel; p is its plane, n its weights. The gathering load reaches 255 bytes far. */
EDGEQ_INLINE void edgeq_plane_3x3(const edgeq_plane *r, const int8_t *n, const int8_t *p, int8_t *out)
{
#if defined(__ARM_FEATURE_MVE)
    if (r->width <= 126) {
        edgeq_fast_3x3(r, n, p, out);
        return;
    }
#endif
    edgeq_plain_3x3(r, n, p, out);
}

#endif
