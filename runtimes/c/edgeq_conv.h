/* Convolution: out[p][o] = requantize(bias[o] + sum_k weight[o][k] x[patch of p][k]).
 *
 * Activations lie as [height][width][channel]. Two output pixels are computed at a time: their patches are gathered
 * into two columns of k = kernel_h kernel_w group_c codes (a 1x1 kernel of stride 1 reads the input in place), and the
 * dot product runs over the columns. An optional table maps the codes, an optional addend is added to them.
 */
#ifndef EDGEQ_CONV_H
#define EDGEQ_CONV_H

#include "edgeq_block.h"
#include "edgeq_bytes.h"
#include "edgeq_finish.h"

typedef struct {
    const int8_t *weights;         /* of each group in blocks, see edgeq_block.h */
    int32_t bits;                  /* of a weight: 8; or 4 or 2, packed, where the model includes their sums of products */
    const edgeq_channel *channels; /* [groups][out channels of a group, rounded up to whole blocks] */
    edgeq_output output;
    const int8_t *table; /* one entry per code, from -128 on; or null */
    const edgeq_sum *sum;
    int32_t in_h, in_w, in_c;
    int32_t out_h, out_w, out_c;
    int32_t kernel_h, kernel_w, stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w, groups;
    int32_t zero;    /* input code of a padded element */
    int32_t is_long; /* sums need more care, see edgeq_block.h */
    int32_t direct;  /* 1x1 kernel of stride 1 whose input is not overwritten */
    int32_t reverse; /* from the last pixel to the first: the output may then overlap the end of the input */
} edgeq_conv_layer;

/* The `taps` elements of one kernel row at input row iy, columns ix, ix + dilation ... */
EDGEQ_INLINE edgeq_code *edgeq_gather_row(
    const edgeq_conv_layer *l, const edgeq_code *x, int32_t iy, int32_t ix, int32_t depth, edgeq_code *to)
{
    const int32_t run = l->kernel_w * depth;
    if (iy < 0 || iy >= l->in_h) {
        edgeq_fill(to, l->zero, run);
        return to + run;
    }
    x += (ptrdiff_t)iy * l->in_w * l->in_c;
    if (depth == l->in_c && l->dilation_w == 1 && ix >= 0 && ix + l->kernel_w <= l->in_w) {
        edgeq_copy(to, x + (ptrdiff_t)ix * depth, run);
        return to + run;
    }
    for (int32_t kx = 0; kx < l->kernel_w; kx++, ix += l->dilation_w, to += depth) {
        if (ix < 0 || ix >= l->in_w) {
            edgeq_fill(to, l->zero, depth);
        } else {
            edgeq_copy(to, x + (ptrdiff_t)ix * l->in_c, depth);
        }
    }
    return to;
}

EDGEQ_INLINE void edgeq_gather(const edgeq_conv_layer *l, const edgeq_code *x, int32_t pixel, int32_t depth, edgeq_code *to)
{
    const int32_t oy = pixel / l->out_w, ox = pixel - oy * l->out_w;
    int32_t iy = oy * l->stride_h - l->pad_top;
    for (int32_t ky = 0; ky < l->kernel_h; ky++, iy += l->dilation_h) {
        to = edgeq_gather_row(l, x, iy, ox * l->stride_w - l->pad_left, depth, to);
    }
}

/* All output channels of one group for two pixels. `output` is given apart so that the usual one can be a constant. */
EDGEQ_INLINE void edgeq_conv_pair(const edgeq_conv_layer *l, edgeq_output output, int32_t group, int32_t k,
    const edgeq_code *x0, const edgeq_code *x1, edgeq_code *out0, edgeq_code *out1)
{
    const int32_t outputs = l->out_c / l->groups, step = EDGEQ_BLOCK * edgeq_packed(k) * l->bits / 8;
    const int8_t *w = l->weights + group * edgeq_group_bytes(outputs, k, l->bits);
    const edgeq_channel *c = l->channels + (ptrdiff_t)group * edgeq_group_channels(outputs);
    int32_t totals[2] = {0, 0};
#if defined(EDGEQ_TOTAL_H)
    if (l->bits < 8) {
        totals[0] = edgeq_total(x0, k), totals[1] = edgeq_total(x1, k);
    }
#endif
    for (int32_t left = outputs; left > 0; left -= EDGEQ_BLOCK) {
        edgeq_block_2(&output, l->bits, l->is_long, x0, x1, w, k, c, totals, left, out0, out1);
        c += EDGEQ_BLOCK, w += step, out0 += EDGEQ_BLOCK, out1 += EDGEQ_BLOCK;
    }
}

/* scratch: two columns of k codes unless direct, then two pixels of out_c codes if there is a table or a sum. */
EDGEQ_KERNEL void edgeq_conv(const edgeq_conv_layer *l, const edgeq_code *x, const edgeq_code *addend, edgeq_code *out, edgeq_code *scratch)
{
    const int32_t depth = l->in_c / l->groups, outputs = l->out_c / l->groups;
    const int32_t k = l->kernel_h * l->kernel_w * depth, pixels = l->out_h * l->out_w;
    const int32_t finished = l->table || l->sum;
    const int32_t usual = edgeq_is_usual(&l->output);
    edgeq_code *const codes = l->direct ? scratch : scratch + 2 * k;
    for (int32_t i = 0; i < pixels; i += 2) {
        /* Of an odd number the last pixel is computed twice. */
        const int32_t first = l->reverse ? (i + 2 > pixels ? 0 : pixels - 2 - i) : i;
        const int32_t second = first + 1 < pixels && i + 1 < pixels ? first + 1 : first;
        edgeq_code *const out0 = out + (ptrdiff_t)first * l->out_c, *const out1 = out + (ptrdiff_t)second * l->out_c;
        edgeq_code *const to0 = finished ? codes : out0, *const to1 = finished ? codes + l->out_c : out1;
        for (int32_t g = 0; g < l->groups; g++) {
            const edgeq_code *x0 = x + (ptrdiff_t)first * l->in_c, *x1 = x + (ptrdiff_t)second * l->in_c;
            if (!l->direct) {
                x0 = scratch, x1 = scratch + k;
                edgeq_gather(l, x + (ptrdiff_t)g * depth, first, depth, scratch);
                edgeq_gather(l, x + (ptrdiff_t)g * depth, second, depth, scratch + k);
            }
            if (usual) {
                edgeq_conv_pair(l, edgeq_usual(), g, k, x0, x1, to0 + (ptrdiff_t)g * outputs, to1 + (ptrdiff_t)g * outputs);
            } else {
                edgeq_conv_pair(l, l->output, g, k, x0, x1, to0 + (ptrdiff_t)g * outputs, to1 + (ptrdiff_t)g * outputs);
            }
        }
        if (finished) {
            edgeq_finish(l->table, l->sum, l->out_c, codes, addend ? addend + (ptrdiff_t)first * l->out_c : NULL, out0);
            if (second != first) {
                edgeq_finish(l->table, l->sum, l->out_c, codes + l->out_c, addend ? addend + (ptrdiff_t)second * l->out_c : NULL, out1);
            }
        }
    }
}

#endif
