/* Convolution: out[p][o] = requantize(bias[o] + sum_k weight[o][k] x[patch of p][k]).
 *
 * Activations lie as [height][width][channel]. Two or three output pixels are computed at a time: their patches are
 * gathered into columns of k = kernel_h kernel_w group_c codes (a 1x1 kernel of stride 1 reads the input in place), and the
 * dot product runs over the columns. An optional table maps the codes, an optional addend is added to them.
 */
#ifndef EDGEQ_CONV_H
#define EDGEQ_CONV_H

#include "edgeq_block.h"
#include "edgeq_finish.h"
#include "edgeq_patch.h"

typedef struct {
    const int8_t *weights;         /* of each group in blocks, see edgeq_block.h */
    int32_t bits;                  /* of a weight: 8; or 4 or 2, packed, where the model includes their sums of products */
    const edgeq_record *channels; /* [groups][out channels of a group, rounded up to whole blocks] */
    edgeq_output output;
    const int8_t *table; /* one entry per code, from -128 on; or null */
    const edgeq_sum *sum;
    int32_t in_h, in_w, in_c;
    int32_t out_h, out_w, out_c;
    int32_t kernel_h, kernel_w, stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w, groups;
    int32_t zero;    /* input code of a padded element */
    int32_t is_long; /* sums need more care, see edgeq_block.h */
    int32_t direct;  /* 1x1 kernel of stride 1 whose input is not overwritten, or whose columns are wide */
    int32_t reverse; /* from the last pixel to the first: the output may then overlap the end of the input */
} edgeq_conv_layer;

/* The `taps` elements of one kernel row at input row iy, columns ix, ix + dilation ... */
EDGEQ_INLINE edgeq_code *edgeq_gather_row(const edgeq_conv_layer *l, const edgeq_code *x, int32_t iy, int32_t ix, int32_t depth,
    int32_t wide, edgeq_code *to)
{
    if (iy < 0 || iy >= l->in_h) {
        return edgeq_pad(to, l->zero, l->kernel_w * depth, wide);
    }
    x += (ptrdiff_t)iy * l->in_w * l->in_c;
    for (int32_t kx = 0; kx < l->kernel_w; kx++, ix += l->dilation_w) {
        if (ix < 0 || ix >= l->in_w) {
            to = edgeq_pad(to, l->zero, depth, wide);
        } else {
            to = edgeq_put(to, x + (ptrdiff_t)ix * l->in_c, depth, wide);
        }
    }
    return to;
}

/* The window of one pixel as a column. */
EDGEQ_INLINE void edgeq_gather(
    const edgeq_conv_layer *l, const edgeq_code *x, int32_t pixel, int32_t depth, int32_t wide, edgeq_code *to)
{
    const int32_t oy = pixel / l->out_w, ox = pixel - oy * l->out_w, run = l->kernel_w * depth;
    const int32_t iy = oy * l->stride_h - l->pad_top, ix = ox * l->stride_w - l->pad_left;
    const int32_t last = iy + (l->kernel_h - 1) * l->dilation_h;
    if (depth == l->in_c && l->dilation_w == 1 && iy >= 0 && last < l->in_h && ix >= 0 && ix + l->kernel_w <= l->in_w) {
        const ptrdiff_t step = (ptrdiff_t)l->dilation_h * l->in_w * depth;
        x += ((ptrdiff_t)iy * l->in_w + ix) * depth;
        for (int32_t ky = l->kernel_h; ky > 0; ky--, x += step) {
            to = edgeq_put(to, x, run, wide);
        }
        return;
    }
    for (int32_t y = iy; y <= last; y += l->dilation_h) {
        to = edgeq_gather_row(l, x, y, ix, depth, wide, to);
    }
}

/* The column of a pixel: codes of a depth that is no multiple of four are gathered behind the place of wide ones. */
EDGEQ_INLINE void edgeq_column(const edgeq_conv_layer *l, const edgeq_code *x, int32_t pixel, int32_t depth, edgeq_code *to)
{
#if EDGEQ_WIDE_COLUMNS
    const int32_t wide = (depth & 3) == 0, k = edgeq_packed(l->kernel_h * l->kernel_w * depth);
    if (l->direct && wide) {
        edgeq_widen(to, x + (ptrdiff_t)pixel * depth, depth);
        return;
    }
    edgeq_gather(l, x, pixel, depth, wide, wide ? to : to + k);
    if (!wide) {
        edgeq_widen(to, to + k, k);
    }
#else
    edgeq_gather(l, x, pixel, depth, 0, to);
#endif
}

/* All output channels of one group for the columns x0, x1 and, if there are three, x2. `output` is given apart so that the
 * usual one can be a constant. */
EDGEQ_INLINE void edgeq_conv_group(const edgeq_conv_layer *l, edgeq_output output, int32_t group, int32_t k, int32_t count,
    const edgeq_code *x0, const edgeq_code *x1, const edgeq_code *x2, edgeq_code *out0, edgeq_code *out1, edgeq_code *out2)
{
    const int32_t outputs = l->out_c / l->groups, step = EDGEQ_BLOCK * edgeq_packed(k) * l->bits / 8;
    const int8_t *w = l->weights + group * edgeq_group_bytes(outputs, k, l->bits);
    const edgeq_record *c = l->channels + (ptrdiff_t)group * edgeq_group_channels(outputs);
    int32_t totals[2] = {0, 0};
#if EDGEQ_PIXELS == 3
    if (count == 3) {
        for (int32_t left = outputs; left > 0; left -= EDGEQ_BLOCK) {
            edgeq_block_3(&output, l->is_long, x0, x1, x2, w, k, c, left, out0, out1, out2);
            c += EDGEQ_BLOCK, w += step, out0 += EDGEQ_BLOCK, out1 += EDGEQ_BLOCK, out2 += EDGEQ_BLOCK;
        }
        return;
    }
#endif
    (void)count, (void)x2, (void)out2;
#if defined(EDGEQ_TOTAL_H)
    if (l->bits < 8) {
        totals[0] = edgeq_column_total(x0, k), totals[1] = edgeq_column_total(x1, k);
    }
#endif
    for (int32_t left = outputs; left > 0; left -= EDGEQ_BLOCK) {
        edgeq_block_2(&output, l->bits, l->is_long, x0, x1, w, k, c, totals, left, out0, out1);
        c += EDGEQ_BLOCK, w += step, out0 += EDGEQ_BLOCK, out1 += EDGEQ_BLOCK;
    }
}

#if EDGEQ_PIXELS == 3
#define EDGEQ_OF_ITS_OWN EDGEQ_APART EDGEQ_KERNEL /* sums of three pixels need all registers */
#else
#define EDGEQ_OF_ITS_OWN EDGEQ_INLINE
#endif

EDGEQ_OF_ITS_OWN void edgeq_conv_usual(const edgeq_conv_layer *l, int32_t group, int32_t k, int32_t count,
    const edgeq_code *x0, const edgeq_code *x1, const edgeq_code *x2, edgeq_code *out0, edgeq_code *out1, edgeq_code *out2)
{
    edgeq_conv_group(l, edgeq_usual(&l->output), group, k, count, x0, x1, x2, out0, out1, out2);
}

EDGEQ_OF_ITS_OWN void edgeq_conv_unusual(const edgeq_conv_layer *l, int32_t group, int32_t k, int32_t count,
    const edgeq_code *x0, const edgeq_code *x1, const edgeq_code *x2, edgeq_code *out0, edgeq_code *out1, edgeq_code *out2)
{
    edgeq_conv_group(l, l->output, group, k, count, x0, x1, x2, out0, out1, out2);
}

/* How many of the pixels that are left to compute together: as many as registers hold, but none alone after others. */
EDGEQ_INLINE int32_t edgeq_conv_count(const edgeq_conv_layer *l, int32_t left)
{
    if (EDGEQ_PIXELS == 3 && l->bits == 8 && left > 2 && left != 4) {
        return 3;
    }
    return left < 2 ? left : 2;
}

/* scratch: columns for the pixels that are computed together unless they are read in place, then out_c codes for each of them
 * if there is a table or a sum. */
EDGEQ_KERNEL void edgeq_conv(const edgeq_conv_layer *l, const edgeq_code *x, const edgeq_code *addend, edgeq_code *out, edgeq_code *scratch)
{
    const int32_t depth = l->in_c / l->groups, outputs = l->out_c / l->groups;
    const int32_t k = l->kernel_h * l->kernel_w * depth, pixels = l->out_h * l->out_w;
    const int32_t finished = l->table || l->sum;
    const int32_t usual = edgeq_is_usual(&l->output);
    const int32_t column = edgeq_column_size(k), in_place = l->direct && !EDGEQ_WIDE_COLUMNS;
    edgeq_code *const codes = in_place ? scratch : scratch + (l->bits == 8 ? EDGEQ_PIXELS : 2) * column;
    int32_t count;
    for (int32_t done = 0; done < pixels; done += count) {
        count = edgeq_conv_count(l, pixels - done);
        const int32_t first = l->reverse ? pixels - done - count : done;
        const int32_t second = count > 1 ? first + 1 : first, third = count > 2 ? first + 2 : first; /* one alone: twice */
        edgeq_code *const out0 = out + (ptrdiff_t)first * l->out_c, *const out1 = out + (ptrdiff_t)second * l->out_c;
        edgeq_code *const out2 = out + (ptrdiff_t)third * l->out_c;
        edgeq_code *to0 = finished ? codes : out0, *to1 = finished ? codes + l->out_c : out1;
        edgeq_code *to2 = finished ? codes + 2 * l->out_c : out2;
        for (int32_t g = 0; g < l->groups; g++) {
            const edgeq_code *x0 = x + (ptrdiff_t)first * l->in_c, *x1 = x + (ptrdiff_t)second * l->in_c;
            const edgeq_code *x2 = x + (ptrdiff_t)third * l->in_c;
            if (!in_place) {
                x0 = scratch, x1 = count > 1 ? scratch + column : scratch, x2 = scratch + 2 * column;
                for (int32_t i = 0; i < count; i++) {
                    edgeq_column(l, x + (ptrdiff_t)g * depth, first + i, depth, scratch + i * column);
                }
            }
            if (usual) {
                edgeq_conv_usual(l, g, k, count, x0, x1, x2, to0, to1, to2);
            } else {
                edgeq_conv_unusual(l, g, k, count, x0, x1, x2, to0, to1, to2);
            }
            to0 += outputs, to1 += outputs, to2 += outputs;
        }
        if (finished) {
            const edgeq_code *const others = addend ? addend + (out0 - out) : NULL;
            edgeq_finish(l->table, l->sum, count * l->out_c, l->reverse, codes, others, out0);
        }
    }
}

#endif
