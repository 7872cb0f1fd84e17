/* Depthwise convolution: out[p][c] = requantize(bias[c] + sum_k weight[c][k] x[patch of p][c]).
 *
 * One channel at a time is gathered into a plane with its padding, so that its weights stay in registers and the output
 * may lie exactly over the input. With `multiplier` m, output channel c reads input channel c / m.
 */
#ifndef EDGEQ_DEPTHWISE_H
#define EDGEQ_DEPTHWISE_H

#include "edgeq.h"

typedef struct {
    const int8_t *weights; /* [out_c][kernel_h][kernel_w] */
    const edgeq_channel *channels;
    edgeq_output output;
    const int8_t *table; /* one entry per code, from -128 on; or null */
    int32_t in_h, in_w, in_c;
    int32_t out_h, out_w, out_c, multiplier;
    int32_t kernel_h, kernel_w, stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w;
    int32_t plane_h, plane_w; /* what the windows cover, padding included */
    int32_t zero;             /* input code of a padded element */
} edgeq_depthwise_layer;

EDGEQ_INLINE void edgeq_store_code(const edgeq_depthwise_layer *l, const edgeq_channel *c, int32_t sum, int8_t *out)
{
    const int32_t code = edgeq_requantize(sum, c, &l->output);
    *out = (int8_t)(l->table ? l->table[code + 128] : code);
}

/* The part of channel x that the windows cover, into the plane whose padding is already there. */
EDGEQ_INLINE void edgeq_gather_plane(const edgeq_depthwise_layer *l, const int8_t *x, int8_t *plane)
{
    const int32_t bottom = l->plane_h - l->pad_top, right = l->plane_w - l->pad_left;
    const int32_t rows = bottom < l->in_h ? bottom : l->in_h, columns = right < l->in_w ? right : l->in_w;
    for (int32_t y = 0; y < rows; y++) {
        const int8_t *from = x + (ptrdiff_t)y * l->in_w * l->in_c;
        int8_t *to = plane + (ptrdiff_t)(y + l->pad_top) * l->plane_w + l->pad_left;
        int8_t *const end = to + columns;
        for (; to < end; to++, from += l->in_c) {
            *to = *from;
        }
    }
}

/* Four neighbouring outputs of a 3x3 window share their input columns. */
EDGEQ_INLINE void edgeq_row_3x3(
    const edgeq_depthwise_layer *l, const edgeq_channel *c, const int8_t *w, const int8_t *p, int32_t stride, int8_t *out)
{
    const int32_t w0 = w[0], w1 = w[1], w2 = w[2], w3 = w[3], w4 = w[4], w5 = w[5], w6 = w[6], w7 = w[7], w8 = w[8];
    const int8_t *q = p + l->plane_w, *r = q + l->plane_w;
    const int32_t step = l->out_c;
    int32_t x = 0;
    if (stride == 1) {
        for (; x + 4 <= l->out_w; x += 4, p += 4, q += 4, r += 4, out += 4 * (ptrdiff_t)step) {
            int32_t s0 = c->bias, s1 = c->bias, s2 = c->bias, s3 = c->bias;
            s0 += p[0] * w0 + p[1] * w1 + p[2] * w2, s1 += p[1] * w0 + p[2] * w1 + p[3] * w2;
            s2 += p[2] * w0 + p[3] * w1 + p[4] * w2, s3 += p[3] * w0 + p[4] * w1 + p[5] * w2;
            s0 += q[0] * w3 + q[1] * w4 + q[2] * w5, s1 += q[1] * w3 + q[2] * w4 + q[3] * w5;
            s2 += q[2] * w3 + q[3] * w4 + q[4] * w5, s3 += q[3] * w3 + q[4] * w4 + q[5] * w5;
            s0 += r[0] * w6 + r[1] * w7 + r[2] * w8, s1 += r[1] * w6 + r[2] * w7 + r[3] * w8;
            s2 += r[2] * w6 + r[3] * w7 + r[4] * w8, s3 += r[3] * w6 + r[4] * w7 + r[5] * w8;
            edgeq_store_code(l, c, s0, out);
            edgeq_store_code(l, c, s1, out + step);
            edgeq_store_code(l, c, s2, out + 2 * (ptrdiff_t)step);
            edgeq_store_code(l, c, s3, out + 3 * (ptrdiff_t)step);
        }
    }
    for (; x < l->out_w; x++, p += stride, q += stride, r += stride, out += step) {
        int32_t sum = c->bias + p[0] * w0 + p[1] * w1 + p[2] * w2;
        sum += q[0] * w3 + q[1] * w4 + q[2] * w5;
        sum += r[0] * w6 + r[1] * w7 + r[2] * w8;
        edgeq_store_code(l, c, sum, out);
    }
}

EDGEQ_INLINE void edgeq_row_any(
    const edgeq_depthwise_layer *l, const edgeq_channel *c, const int8_t *w, const int8_t *p, int8_t *out)
{
    for (int32_t x = 0; x < l->out_w; x++, p += l->stride_w, out += l->out_c) {
        const int8_t *row = p, *tap = w;
        int32_t sum = c->bias;
        for (int32_t ky = 0; ky < l->kernel_h; ky++, row += (ptrdiff_t)l->dilation_h * l->plane_w) {
            for (int32_t kx = 0; kx < l->kernel_w; kx++) {
                sum += row[kx * l->dilation_w] * *tap++;
            }
        }
        edgeq_store_code(l, c, sum, out);
    }
}

/* scratch: plane_h plane_w bytes. */
static void edgeq_depthwise(const edgeq_depthwise_layer *l, const int8_t *x, int8_t *out, int8_t *scratch)
{
    const int32_t taps = l->kernel_h * l->kernel_w;
    const int32_t is_3x3 = l->kernel_h == 3 && l->kernel_w == 3 && l->dilation_h == 1 && l->dilation_w == 1;
    const ptrdiff_t down = (ptrdiff_t)l->stride_h * l->plane_w;
    edgeq_fill(scratch, l->zero, l->plane_h * l->plane_w);
    for (int32_t c = 0; c < l->out_c; c++) {
        const edgeq_channel *const channel = l->channels + c;
        const int8_t *const w = l->weights + (ptrdiff_t)c * taps;
        const int8_t *p = scratch;
        int8_t *to = out + c;
        if (c % l->multiplier == 0) {
            edgeq_gather_plane(l, x + c / l->multiplier, scratch);
        }
        for (int32_t y = 0; y < l->out_h; y++, p += down, to += (ptrdiff_t)l->out_w * l->out_c) {
            if (!is_3x3) {
                edgeq_row_any(l, channel, w, p, to);
            } else if (l->stride_w == 1) {
                edgeq_row_3x3(l, channel, w, p, 1, to);
            } else {
                edgeq_row_3x3(l, channel, w, p, l->stride_w, to);
            }
        }
    }
}

#endif
