/* Largest and mean code of each window; activations lie as [height][width][channel]. */
#ifndef EDGEQ_POOL_H
#define EDGEQ_POOL_H

#include "edgeq.h"

typedef struct {
    edgeq_channel channel; /* of a mean; its bias takes the input's zero point out of a full window */
    edgeq_output output;
    const int8_t *table; /* one entry per code, from -128 on; or null */
    int32_t in_h, in_w, in_c;
    int32_t out_h, out_w;
    int32_t kernel_h, kernel_w, stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w;
    int32_t zero;    /* input code of a padded element */
    int32_t divisor; /* of a mean in TFLite's way, round(sum / divisor); 0: requantized */
} edgeq_pool_layer;

/* The window of an output row or column: first position inside the input, and the number of taps inside. */
EDGEQ_INLINE int32_t edgeq_inside(int32_t start, int32_t taps, int32_t dilation, int32_t size, int32_t *first)
{
    int32_t skipped = start < 0 ? (dilation - 1 - start) / dilation : 0;
    int32_t last = size - 1 - start < 0 ? -1 : (size - 1 - start) / dilation;
    last = last < taps - 1 ? last : taps - 1;
    *first = start + skipped * dilation;
    return last - skipped + 1;
}

EDGEQ_INLINE int8_t edgeq_largest(
    const edgeq_pool_layer *l, const int8_t *x, int32_t rows, int32_t columns)
{
    const ptrdiff_t right = (ptrdiff_t)l->dilation_w * l->in_c, down = (ptrdiff_t)l->dilation_h * l->in_w * l->in_c;
    int32_t best = -128;
    for (int32_t ky = 0; ky < rows; ky++, x += down) {
        const int8_t *tap = x;
        for (int32_t kx = 0; kx < columns; kx++, tap += right) {
            best = *tap > best ? *tap : best;
        }
    }
    return (int8_t)best;
}

EDGEQ_INLINE int8_t edgeq_mean_code(
    const edgeq_pool_layer *l, const int8_t *x, int32_t rows, int32_t columns)
{
    int32_t sum = l->channel.bias + l->zero * (l->kernel_h * l->kernel_w - rows * columns);
    for (int32_t ky = 0; ky < rows; ky++, x += (ptrdiff_t)l->in_w * l->in_c) {
        const int8_t *tap = x;
        for (int32_t kx = 0; kx < columns; kx++, tap += l->in_c) {
            sum += *tap;
        }
    }
    sum = edgeq_average(sum, l->divisor, &l->channel, &l->output);
    return (int8_t)(l->table ? l->table[sum + 128] : sum);
}

EDGEQ_INLINE void edgeq_pool(const edgeq_pool_layer *l, const int8_t *x, int8_t *out, int32_t is_mean)
{
    for (int32_t oy = 0; oy < l->out_h; oy++) {
        int32_t iy, ix;
        const int32_t rows =
            edgeq_inside(oy * l->stride_h - l->pad_top, l->kernel_h, l->dilation_h, l->in_h, &iy);
        for (int32_t ox = 0; ox < l->out_w; ox++) {
            const int32_t columns =
                edgeq_inside(ox * l->stride_w - l->pad_left, l->kernel_w, l->dilation_w, l->in_w, &ix);
            const int8_t *from = x + ((ptrdiff_t)iy * l->in_w + ix) * l->in_c;
            for (int32_t c = 0; c < l->in_c; c++) {
                *out++ = is_mean ? edgeq_mean_code(l, from + c, rows, columns)
                                 : edgeq_largest(l, from + c, rows, columns);
            }
        }
    }
}

EDGEQ_KERNEL void edgeq_max_pool(const edgeq_pool_layer *l, const int8_t *x, int8_t *out)
{
    edgeq_pool(l, x, out, 0);
}

EDGEQ_KERNEL void edgeq_average_pool(const edgeq_pool_layer *l, const int8_t *x, int8_t *out)
{
    edgeq_pool(l, x, out, 1);
}

#endif
