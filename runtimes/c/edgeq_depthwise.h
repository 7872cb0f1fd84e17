/* Depthwise convolution: out[p][c] = requantize(bias[c] + sum_k weight[c][k] x[patch of p][c]).
 *
 * One channel at a time is gathered into a plane with its padding, so that its weights stay in registers and the output
 * may lie exactly over the input. With `multiplier` m, output channel c reads input channel c / m.
 */
#ifndef EDGEQ_DEPTHWISE_H
#define EDGEQ_DEPTHWISE_H

#include "edgeq_3x3.h"
#include "edgeq_bytes.h"

typedef struct {
    const int8_t *weights; /* [out_c][kernel_h][kernel_w] */
    const edgeq_record *channels;
    edgeq_output output;
    const int8_t *table; /* one entry per code, from -128 on; or null */
    edgeq_size in_h, in_w, in_c;
    edgeq_size out_h, out_w, out_c, multiplier;
    edgeq_size kernel_h, kernel_w, stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w;
    edgeq_size plane_h, plane_w; /* what the windows cover, padding included */
    int16_t zero;                /* input code of a padded element */
    int16_t is_long;             /* weights look their levels up, see edgeq_levels.h */
    uint8_t bits;                /* of a weight: 8; or 4 or 2, packed, where the model includes edgeq_unpack.h */
} edgeq_depthwise_layer;

/* The part of channel x that the windows cover, into the plane whose padding is already there. */
EDGEQ_INLINE void edgeq_gather_plane(const edgeq_depthwise_layer *l, const edgeq_code *x, edgeq_code *plane)
{
    const int32_t bottom = l->plane_h - l->pad_top, right = l->plane_w - l->pad_left;
    const int32_t rows = bottom < l->in_h ? bottom : l->in_h, columns = right < l->in_w ? right : l->in_w;
    const ptrdiff_t step = l->in_c, skip = (ptrdiff_t)l->in_w * step, width = l->plane_w;
    plane += l->pad_top * width + l->pad_left;
    for (int32_t y = 0; y < rows; y++, x += skip, plane += width) {
        edgeq_collect(plane, x, step, columns);
    }
}

EDGEQ_INLINE void edgeq_plane_any(
    const edgeq_plane *r, const edgeq_depthwise_layer *l, const int8_t *w, const edgeq_code *p, edgeq_code *out)
{
    for (int32_t y = 0; y < l->out_h; y++) {
        for (int32_t x = 0; x < l->out_w; x++, out += l->out_c) {
            const edgeq_code *row = p + (ptrdiff_t)y * l->stride_h * l->plane_w + (ptrdiff_t)x * l->stride_w;
            const int8_t *tap = w;
            int32_t sum = r->channel.bias;
            for (int32_t ky = 0; ky < l->kernel_h; ky++, row += (ptrdiff_t)l->dilation_h * l->plane_w) {
                for (int32_t kx = 0; kx < l->kernel_w; kx++) {
                    sum += row[kx * l->dilation_w] * *tap++;
                }
            }
            edgeq_store_code(r, sum, out);
        }
    }
}

#if defined(EDGEQ_LEVELS_H)
EDGEQ_INLINE void edgeq_plane_levels(
    const edgeq_plane *r, const edgeq_depthwise_layer *l, const int8_t *w, const edgeq_code *p, edgeq_code *out)
{
    for (int32_t y = 0; y < l->out_h; y++) {
        for (int32_t x = 0; x < l->out_w; x++, out += l->out_c) {
            const edgeq_code *row = p + (ptrdiff_t)y * l->stride_h * l->plane_w + (ptrdiff_t)x * l->stride_w;
            const int8_t *tap = w;
            int64_t sum = edgeq_bias_64(&r->channel);
            for (int32_t ky = 0; ky < l->kernel_h; ky++, row += (ptrdiff_t)l->dilation_h * l->plane_w) {
                for (int32_t kx = 0; kx < l->kernel_w; kx++) {
                    sum += row[kx * l->dilation_w] * edgeq_wide_level(l->is_long, *tap++);
                }
            }
            const int32_t code = edgeq_requantize_64(sum, &r->channel, &r->output);
            *out = (edgeq_code)(r->table ? r->table[code + 128] : code);
        }
    }
}
#endif

/* The weights of one channel, one byte each: in place, or unpacked into `to`. */
EDGEQ_INLINE const int8_t *edgeq_channel_weights(const edgeq_depthwise_layer *l, int32_t c, int32_t taps, int8_t *to)
{
#if defined(EDGEQ_UNPACK_H)
    if (l->bits < 8) {
        edgeq_unpack(l->weights, (ptrdiff_t)c * taps, taps, l->bits, to);
        return to;
    }
#endif
    (void)to;
    return l->weights + (ptrdiff_t)c * taps;
}

/* All outputs of a 3x3 window. `output` and `table` are given apart so that the usual ones can be constants. */
EDGEQ_INLINE void edgeq_plane_as(
    edgeq_plane plane, edgeq_output output, const int8_t *table, const int8_t *w, const edgeq_code *p, edgeq_code *out)
{
    plane.output = output;
    plane.table = table;
    edgeq_plane_3x3(&plane, w, p, out);
}

EDGEQ_APART EDGEQ_KERNEL void edgeq_plane_usual(const edgeq_plane *r, const int8_t *w, const edgeq_code *p, edgeq_code *out)
{
    edgeq_plane_as(*r, edgeq_usual(&r->output), NULL, w, p, out);
}

EDGEQ_APART EDGEQ_KERNEL void edgeq_plane_unusual(const edgeq_plane *r, const int8_t *w, const edgeq_code *p, edgeq_code *out)
{
    edgeq_plane_as(*r, r->output, r->table, w, p, out);
}

/* scratch: plane_h plane_w codes and three more; then the weights of one channel if they are packed. */
EDGEQ_KERNEL void edgeq_depthwise(const edgeq_depthwise_layer *l, const edgeq_code *x, edgeq_code *out, edgeq_code *scratch)
{
    const int32_t taps = l->kernel_h * l->kernel_w;
    const int32_t is_3x3 = l->kernel_h == 3 && l->kernel_w == 3 && l->dilation_h == 1 && l->dilation_w == 1;
#if defined(EDGEQ_ONLY_USUAL)
    const int32_t usual = 1;
#else
    const int32_t usual = !l->table && edgeq_is_usual(&l->output);
#endif
    edgeq_fill(scratch, l->zero, l->plane_h * l->plane_w);
    for (int32_t c = 0; c < l->out_c; c++) {
        const edgeq_channel channel = edgeq_channel_of(l->channels + c, &l->output);
        const edgeq_plane plane = {
            channel, l->output, l->table, l->plane_w, l->stride_w, l->stride_h, l->out_h, l->out_w, l->out_c};
        const int8_t *const w = edgeq_channel_weights(l, c, taps, (int8_t *)(scratch + l->plane_h * l->plane_w + 3));
        if (c % l->multiplier == 0) {
            edgeq_gather_plane(l, x + c / l->multiplier, scratch);
        }
#if defined(EDGEQ_LEVELS_H)
        if (l->is_long) {
            edgeq_plane_levels(&plane, l, w, scratch, out + c);
            continue;
        }
#endif
        if (is_3x3 && usual) {
            edgeq_plane_usual(&plane, w, scratch, out + c);
        } else if (is_3x3) {
            edgeq_plane_unusual(&plane, w, scratch, out + c);
        } else {
            edgeq_plane_any(&plane, l, w, scratch, out + c);
        }
    }
}

#endif
