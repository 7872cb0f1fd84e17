/* Transposed convolution, as a sum over the input pixels that reach each output pixel. */
#ifndef EDGEQ_CONV_TRANSPOSE_H
#define EDGEQ_CONV_TRANSPOSE_H

#include "edgeq.h"

typedef struct {
    const int8_t *weights; /* [out_c][kernel_h][kernel_w][in_c / groups] */
    int32_t bits;          /* of a weight: 8; or 4 or 2, packed, where the model includes edgeq_unpack.h */
    const edgeq_record *channels;
    edgeq_output output;
    const int8_t *table; /* one entry per code, from -128 on; or null */
    int32_t in_h, in_w, in_c;
    int32_t out_h, out_w, out_c;
    int32_t kernel_h, kernel_w, stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w, groups;
    int32_t zero;    /* input's zero point */
    int32_t is_long; /* weights look their levels up, see edgeq_levels.h */
} edgeq_conv_transpose_layer;

#if defined(EDGEQ_LEVELS_H)
typedef int64_t edgeq_taps_sum;
#else
typedef edgeq_long_sum edgeq_taps_sum;
#endif

/* The input position that tap k of an output position reads, or -1 if there is none. */
EDGEQ_INLINE int32_t edgeq_source(int32_t position, int32_t k, int32_t dilation, int32_t stride, int32_t size)
{
    const int32_t reach = position - k * dilation;
    return reach < 0 || reach % stride != 0 || reach / stride >= size ? -1 : reach / stride;
}

/* Sum of products of n inputs and the weights from the first-th on. */
EDGEQ_INLINE edgeq_taps_sum edgeq_tap_sum(const edgeq_conv_transpose_layer *l, const edgeq_code *x, ptrdiff_t first, int32_t n)
{
    edgeq_taps_sum sum = 0;
#if defined(EDGEQ_LEVELS_H)
    if (l->is_long) {
        for (int32_t i = 0; i < n; i++) {
            sum += (x[i] - l->zero) * (int64_t)edgeq_wide_level(l->is_long, l->weights[first + i]);
        }
        return sum;
    }
#endif
#if defined(EDGEQ_UNPACK_H)
    if (l->bits < 8) {
        for (int32_t i = 0; i < n; i++) {
            sum += (x[i] - l->zero) * edgeq_field(l->weights, first + i, l->bits);
        }
        return sum;
    }
#endif
    for (int32_t i = 0; i < n; i++) {
        sum += (x[i] - l->zero) * l->weights[first + i];
    }
    return sum;
}

/* The sum of one output; its weights are those from the first-th on. */
EDGEQ_INLINE edgeq_taps_sum edgeq_transposed_sum(
    const edgeq_conv_transpose_layer *l, const edgeq_code *x, int32_t y, int32_t column, ptrdiff_t first)
{
    const int32_t depth = l->in_c / l->groups;
    edgeq_taps_sum sum = 0;
    for (int32_t ky = 0; ky < l->kernel_h; ky++) {
        const int32_t iy = edgeq_source(y + l->pad_top, ky, l->dilation_h, l->stride_h, l->in_h);
        for (int32_t kx = 0; kx < l->kernel_w; kx++, first += depth) {
            const int32_t ix = edgeq_source(column + l->pad_left, kx, l->dilation_w, l->stride_w, l->in_w);
            if (iy >= 0 && ix >= 0) {
                const edgeq_code *const from = x + ((ptrdiff_t)iy * l->in_w + ix) * l->in_c;
                sum += edgeq_tap_sum(l, from, first, depth);
            }
        }
    }
    return sum;
}

/* The sum of no taps. */
EDGEQ_INLINE edgeq_taps_sum edgeq_transposed_bias(const edgeq_conv_transpose_layer *l, const edgeq_record *c)
{
#if defined(EDGEQ_WIDE_CODES)
    (void)l;
    return edgeq_bias_64(c);
#elif defined(EDGEQ_LEVELS_H)
    return l->is_long ? edgeq_bias_64(c) : edgeq_bias(c);
#else
    (void)l;
    return edgeq_bias(c);
#endif
}

EDGEQ_INLINE int32_t edgeq_transposed_code(const edgeq_conv_transpose_layer *l, edgeq_taps_sum sum, const edgeq_record *r)
{
    const edgeq_channel c = edgeq_channel_of(r, &l->output);
#if defined(EDGEQ_LEVELS_H)
    if (l->is_long) {
        return edgeq_requantize_64(sum, &c, &l->output);
    }
#endif
    return edgeq_requantize_long((edgeq_long_sum)sum, &c, &l->output);
}

EDGEQ_KERNEL void edgeq_conv_transpose(const edgeq_conv_transpose_layer *l, const edgeq_code *x, edgeq_code *out)
{
    const int32_t depth = l->in_c / l->groups, outputs = l->out_c / l->groups;
    const ptrdiff_t taps = (ptrdiff_t)l->kernel_h * l->kernel_w * depth;
    for (int32_t y = 0; y < l->out_h; y++) {
        for (int32_t i = 0; i < l->out_w; i++) {
            for (int32_t c = 0; c < l->out_c; c++) {
                const edgeq_code *const group = x + (ptrdiff_t)(c / outputs) * depth;
                const edgeq_record *const channel = l->channels + c;
                const edgeq_taps_sum sum = edgeq_transposed_bias(l, channel) + edgeq_transposed_sum(l, group, y, i, c * taps);
                const int32_t code = edgeq_transposed_code(l, sum, channel);
                *out++ = (edgeq_code)(l->table ? l->table[code + 128] : code);
            }
        }
    }
}

#endif
