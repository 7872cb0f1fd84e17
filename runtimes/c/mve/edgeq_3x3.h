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
    edgeq_scales scales;
} edgeq_lanes;

/* Outputs one after another: how many, and how far apart their windows and their codes lie. */
typedef struct {
    int32_t count;
    ptrdiff_t from, to;
} edgeq_line;

EDGEQ_INLINE int32_t edgeq_one_3x3(const edgeq_plane *r, const edgeq_lanes *v, const int8_t *p)
{
    return vmladavaq_s8(r->channel.bias, vldrbq_gather_offset_s8(p, v->taps), v->weights);
}

/* Codes of n <= 4 outputs whose windows begin at p, p + step ... and whose codes lie at `places` from out. */
EDGEQ_INLINE void edgeq_some_3x3(const edgeq_plane *r, const edgeq_lanes *v, const int8_t *p, ptrdiff_t step, int32_t n,
    uint32x4_t places, int8_t *out)
{
    const int32_t a = edgeq_one_3x3(r, v, p), b = n > 1 ? edgeq_one_3x3(r, v, p + step) : 0;
    const int32_t c = n > 2 ? edgeq_one_3x3(r, v, p + 2 * step) : 0, d = n > 3 ? edgeq_one_3x3(r, v, p + 3 * step) : 0;
    int32x4_t codes;
    __asm__("vmov %q0[2], %q0[0], %1, %3\n\tvmov %q0[3], %q0[1], %2, %4" : "=&w"(codes) : "r"(a), "r"(b), "r"(c), "r"(d));
    codes = edgeq_requantize_4(codes, &v->scales, &r->output);
    if (r->table) {
        int32_t code[4];
        uint32_t at[4];
        vstrwq_s32(code, codes);
        vstrwq_u32(at, places);
        for (int32_t i = 0; i < n; i++) {
            out[at[i]] = r->table[(int8_t)code[i] + 128];
        }
    } else if (n == 4) {
        vstrbq_scatter_offset_s32(out, places, codes);
    } else {
        vstrbq_scatter_offset_p_s32(out, places, codes, vctp32q((uint32_t)n));
    }
}

/* Four outputs of a row at a time, or of a column where that takes fewer steps. */
EDGEQ_INLINE void edgeq_fast_3x3(const edgeq_plane *r, const int8_t *n, const int8_t *p, int8_t *out)
{
    static const uint8_t rows[16] = {0, 0, 0, 1, 1, 1, 2, 2, 2}, columns[16] = {0, 1, 2, 0, 1, 2, 0, 1, 2};
    const uint8x16_t taps = vmlaq_n_u8(vldrbq_u8(columns), vldrbq_u8(rows), (uint8_t)r->width);
    const edgeq_lanes v = {vldrbq_z_s8(n, vctp8q(9)), taps, edgeq_scales_of_one(&r->channel)};
    const edgeq_line row = {r->columns, r->stride_w, r->step};
    const edgeq_line column = {r->rows, (ptrdiff_t)r->stride_h * r->width, (ptrdiff_t)r->columns * r->step};
    const int32_t by_rows = row.count * ((column.count + 3) / 4) >= column.count * ((row.count + 3) / 4);
    const edgeq_line line = by_rows ? row : column, next = by_rows ? column : row;
    const uint32x4_t places = vmulq_n_u32(vidupq_n_u32(0, 1), (uint32_t)line.to);
    for (int32_t y = next.count; y > 0; y--, p += next.from, out += next.to) {
        const int8_t *from = p;
        int8_t *to = out;
        int32_t left = line.count;
        for (; left >= 4; left -= 4, from += 4 * line.from, to += 4 * line.to) {
            edgeq_some_3x3(r, &v, from, line.from, 4, places, to);
        }
        if (left > 0) {
            edgeq_some_3x3(r, &v, from, line.from, left, places, to);
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
