/* Depthwise convolution on vectors: out[p][c] = requantize(bias[c] + sum_k weight[k][c] x[patch of p][c]).
 *
 * Neighbouring channels share a vector (edgeq_lanes.h of the set of kernels), so inputs are read in place: no gathering. A
 * tap outside the image reads a row of padding. For one output channel per input channel.
 */
#ifndef EDGEQ_CHANNELWISE_H
#define EDGEQ_CHANNELWISE_H

#include "edgeq_bytes.h"
#include "edgeq_lanes.h"

typedef struct {
    const int8_t *weights; /* [kernel_h][kernel_w][channels] */
    const edgeq_record *channels;
    edgeq_output output;
    const int8_t *table; /* one entry per code, from -128 on; or null */
    int32_t in_h, in_w, in_c;
    int32_t out_h, out_w;
    int32_t kernel_h, kernel_w, stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w;
    int32_t zero; /* input code of a padded element */
} edgeq_channelwise_layer;

/* Codes of n channels from c on of the pixel whose window begins at (iy, ix). */
EDGEQ_INLINE void edgeq_channels(const edgeq_channelwise_layer *l, const int8_t *x, const int8_t *padding, int32_t iy,
    int32_t ix, int32_t c, int32_t n, int8_t *out)
{
    edgeq_lanes sum = edgeq_lanes_begin(l->channels + c, n);
    const int8_t *w = l->weights + c;
    const int32_t channels = l->in_c, width = l->in_w, right = l->dilation_w;
    for (int32_t ky = 0; ky < l->kernel_h; ky++, iy += l->dilation_h) {
        const int32_t columns = iy >= 0 && iy < l->in_h ? width : 0; /* that have something to read */
        const int8_t *tap = x + ((ptrdiff_t)iy * width + ix) * channels + c;
        for (int32_t kx = 0, column = ix; kx < l->kernel_w; kx++, column += right, w += channels) {
            sum = edgeq_lanes_add(sum, (uint32_t)column < (uint32_t)columns ? tap : padding, w, n);
            tap += (ptrdiff_t)right * channels;
        }
    }
    edgeq_lanes_end(sum, &l->output, l->channels + c, n, out);
    for (int32_t i = 0; l->table && i < n; i++) {
        out[i] = l->table[out[i] + 128];
    }
}

/* scratch: EDGEQ_LANES bytes. */
EDGEQ_KERNEL void edgeq_channelwise(const edgeq_channelwise_layer *l, const int8_t *x, int8_t *out, int8_t *scratch)
{
    edgeq_fill(scratch, l->zero, EDGEQ_LANES);
    for (int32_t oy = 0, iy = -l->pad_top; oy < l->out_h; oy++, iy += l->stride_h) {
        for (int32_t ox = 0, ix = -l->pad_left; ox < l->out_w; ox++, ix += l->stride_w, out += l->in_c) {
            int32_t c = 0;
            for (; c + EDGEQ_LANES <= l->in_c; c += EDGEQ_LANES) {
                edgeq_channels(l, x, scratch, iy, ix, c, EDGEQ_LANES, out + c);
            }
            if (c < l->in_c) {
                edgeq_channels(l, x, scratch, iy, ix, c, l->in_c - c, out + c);
            }
        }
    }
}

#endif
