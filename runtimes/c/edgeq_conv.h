/* Convolution: out[p][o] = requantize(bias[o] + sum_k weight[o][k] x[patch of p][k]).
 *
 * Activations lie as [height][width][channel]. Two or three output pixels are computed at a time (where three are, a model
 * defines EDGEQ_PAIRS if the last two or one are worth code of their own; else they are computed as three): their patches are
 * gathered into columns of k = kernel_h kernel_w group_c codes (a 1x1 kernel of stride 1 reads the input in place), and the
 * dot product runs over the columns. An optional table maps the codes, an optional addend is added to them.
 */
#ifndef EDGEQ_CONV_H
#define EDGEQ_CONV_H

#include "edgeq_block.h"
#include "edgeq_finish.h"
#include "edgeq_packed.h"
#include "edgeq_patch.h"

#if defined(EDGEQ_PAIRS)
#define EDGEQ_ONLY_THREES 0
#else
#define EDGEQ_ONLY_THREES 1
#endif

typedef struct {
    const int8_t *weights;        /* of each group in blocks, see edgeq_block.h */
    const edgeq_record *channels; /* [groups][out channels of a group, rounded up to whole blocks] */
    edgeq_output output;
    const int8_t *table; /* one entry per code, from -128 on; or null */
    const edgeq_sum *sum;
    edgeq_size in_h, in_w, in_c;
    edgeq_size out_h, out_w, out_c;
    edgeq_size kernel_h, kernel_w, stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w, groups;
    int16_t zero;    /* input code of a padded element */
    int16_t is_long; /* sums need more care, see edgeq_block.h */
    uint8_t bits;    /* of a weight: 8; or 4 or 2, packed, where the model includes their sums of products */
    uint8_t direct;  /* 1x1 kernel of stride 1 whose input is not overwritten, or whose columns are wide */
    uint8_t reverse; /* from the last pixel to the first: the output may then overlap the end of the input */
} edgeq_conv_layer;

/* A model without convolutions in groups defines EDGEQ_ONE_GROUP. */
#if defined(EDGEQ_ONE_GROUP)
#define edgeq_groups(l) 1
#else
#define edgeq_groups(l) (l)->groups
#endif

/* Channels of one group. */
EDGEQ_INLINE int32_t edgeq_of_group(const edgeq_conv_layer *l, int32_t channels)
{
    (void)l;
    return channels / edgeq_groups(l);
}

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

/* The pixels that are computed together: their columns, and where their codes go. Where fewer are left, the last one stands
 * for those that are missing. */
typedef struct {
    const edgeq_code *x[EDGEQ_PIXELS];
    edgeq_code *out[EDGEQ_PIXELS];
    int32_t count;
} edgeq_pixels;

/* All output channels of one group. `output` is given apart so that the usual one can be a constant. */
EDGEQ_INLINE void edgeq_conv_group(
    const edgeq_conv_layer *l, edgeq_output output, int32_t group, int32_t k, const edgeq_pixels *p)
{
    const int32_t outputs = edgeq_of_group(l, l->out_c), step = EDGEQ_BLOCK * edgeq_packed(k) * edgeq_bits(l) / 8;
    const int8_t *w = l->weights + group * edgeq_group_bytes(outputs, k, edgeq_bits(l));
    const edgeq_record *c = l->channels + (ptrdiff_t)group * edgeq_group_channels(outputs);
    const edgeq_code *const x0 = p->x[0], *const x1 = p->x[1];
    edgeq_code *out0 = p->out[0], *out1 = p->out[1];
    int32_t totals[2] = {0, 0};
#if EDGEQ_PIXELS == 3
    if (EDGEQ_ONLY_THREES || p->count == 3) {
        const edgeq_code *const x2 = p->x[2];
        edgeq_code *out2 = p->out[2];
        for (int32_t left = outputs; left > 0; left -= EDGEQ_BLOCK) {
            edgeq_block_3(&output, l->is_long, x0, x1, x2, w, k, c, left, out0, out1, out2);
            c += EDGEQ_BLOCK, w += step, out0 += EDGEQ_BLOCK, out1 += EDGEQ_BLOCK, out2 += EDGEQ_BLOCK;
        }
        return;
    }
#endif
#if defined(EDGEQ_TOTAL_H)
    if (edgeq_bits(l) < 8) {
        totals[0] = edgeq_column_total(x0, k), totals[1] = edgeq_column_total(x1, k);
    }
#endif
    for (int32_t left = outputs; left > 0; left -= EDGEQ_BLOCK) {
        edgeq_block_2(&output, edgeq_bits(l), l->is_long, x0, x1, w, k, c, totals, left, out0, out1);
        c += EDGEQ_BLOCK, w += step, out0 += EDGEQ_BLOCK, out1 += EDGEQ_BLOCK;
    }
}

#if EDGEQ_PIXELS == 3
#define EDGEQ_OF_ITS_OWN EDGEQ_APART EDGEQ_KERNEL /* sums of three pixels need all registers */
#else
#define EDGEQ_OF_ITS_OWN EDGEQ_INLINE
#endif

EDGEQ_OF_ITS_OWN void edgeq_conv_usual(const edgeq_conv_layer *l, int32_t group, int32_t k, const edgeq_pixels *p)
{
    edgeq_conv_group(l, edgeq_usual(&l->output), group, k, p);
}

EDGEQ_OF_ITS_OWN void edgeq_conv_unusual(const edgeq_conv_layer *l, int32_t group, int32_t k, const edgeq_pixels *p)
{
    edgeq_conv_group(l, l->output, group, k, p);
}

/* All output channels of pixels whose columns are in place or still to be gathered into scratch. */
EDGEQ_INLINE void edgeq_conv_pixels(
    const edgeq_conv_layer *l, const edgeq_code *x, int32_t first, int32_t in_place, edgeq_pixels *p, edgeq_code *scratch)
{
    const int32_t depth = edgeq_of_group(l, l->in_c), outputs = edgeq_of_group(l, l->out_c);
    const int32_t k = l->kernel_h * l->kernel_w * depth, column = edgeq_column_size(k);
    for (int32_t g = 0; g < edgeq_groups(l); g++, x += depth) {
        for (int32_t i = 0; !in_place && i < p->count; i++) {
            edgeq_column(l, x, first + i, depth, scratch + i * column);
        }
        if (edgeq_is_usual(&l->output)) {
            edgeq_conv_usual(l, g, k, p);
        } else {
            edgeq_conv_unusual(l, g, k, p);
        }
        for (int32_t i = 0; i < EDGEQ_PIXELS; i++) {
            p->out[i] += outputs;
        }
    }
}

/* scratch: columns for the pixels that are computed together unless they are read in place, then out_c codes for each of them
 * if there is a table or a sum. */
EDGEQ_KERNEL void edgeq_conv(
    const edgeq_conv_layer *l, const edgeq_code *x, const edgeq_code *addend, edgeq_code *out, edgeq_code *scratch)
{
    const int32_t k = l->kernel_h * l->kernel_w * edgeq_of_group(l, l->in_c), pixels = l->out_h * l->out_w;
    const int32_t column = edgeq_column_size(k), most = EDGEQ_PIXELS == 3 && edgeq_bits(l) == 8 ? 3 : 2;
    const int32_t finished = edgeq_table(l) || l->sum, in_place = l->direct && !EDGEQ_WIDE_COLUMNS;
    edgeq_code *const codes = in_place ? scratch : scratch + most * column;
    edgeq_pixels p;
    for (int32_t left = pixels; left > 0; left -= p.count) {
        p.count = left < most ? left : most;
        const int32_t first = l->reverse ? left - p.count : pixels - left;
        for (int32_t i = 0; i < EDGEQ_PIXELS; i++) {
            const int32_t own = i < p.count ? i : p.count - 1;
            p.x[i] = in_place ? x + (ptrdiff_t)(first + own) * l->in_c : scratch + own * column;
            p.out[i] = finished ? codes + own * l->out_c : out + (ptrdiff_t)(first + own) * l->out_c;
        }
        edgeq_conv_pixels(l, x, first, in_place, &p, scratch);
        if (finished) {
            edgeq_code *const to = out + (ptrdiff_t)first * l->out_c;
            const edgeq_code *const others = addend ? addend + (to - out) : NULL;
            edgeq_finish(edgeq_table(l), l->sum, p.count * l->out_c, l->reverse, codes, others, to);
        }
    }
}

#endif
