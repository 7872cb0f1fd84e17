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

EDGEQ_INLINE edgeq_code edgeq_largest(
    const edgeq_pool_layer *l, const edgeq_code *x, int32_t rows, int32_t columns)
{
    const ptrdiff_t right = (ptrdiff_t)l->dilation_w * l->in_c, down = (ptrdiff_t)l->dilation_h * l->in_w * l->in_c;
    int32_t best = EDGEQ_LOWEST;
    for (int32_t ky = 0; ky < rows; ky++, x += down) {
        const edgeq_code *tap = x;
        for (int32_t kx = 0; kx < columns; kx++, tap += right) {
            best = *tap > best ? *tap : best;
        }
    }
    return (edgeq_code)best;
}

EDGEQ_INLINE edgeq_code edgeq_mean_code(const edgeq_pool_layer *l, int32_t sum)
{
    sum = edgeq_average(sum, l->divisor, &l->channel, &l->output);
    return (edgeq_code)(l->table ? l->table[sum + 128] : sum);
}

/* The means of `count` <= 4 neighbouring channels of one window. */
EDGEQ_INLINE void edgeq_mean_codes(
    const edgeq_pool_layer *l, const edgeq_code *x, int32_t rows, int32_t columns, int32_t count, edgeq_code *out)
{
    const int32_t outside = l->kernel_h * l->kernel_w - rows * columns;
    const int32_t start = l->channel.bias + l->zero * outside;
    const ptrdiff_t right = l->in_c, down = (ptrdiff_t)l->in_w * l->in_c;
    int32_t sum[4] = {start, start, start, start};
    if (count == 4) {
        int32_t a = start, b = start, c = start, d = start;
        for (int32_t ky = 0; ky < rows; ky++, x += down) {
            const edgeq_code *tap = x;
            for (int32_t kx = 0; kx < columns; kx++, tap += right) {
                a += tap[0], b += tap[1], c += tap[2], d += tap[3];
            }
        }
        sum[0] = a, sum[1] = b, sum[2] = c, sum[3] = d;
    } else {
        for (int32_t ky = 0; ky < rows; ky++, x += down) {
            for (int32_t kx = 0; kx < columns; kx++) {
                for (int32_t c = 0; c < count; c++) {
                    sum[c] += x[kx * right + c];
                }
            }
        }
    }
    for (int32_t c = 0; c < count; c++) {
        out[c] = edgeq_mean_code(l, sum[c]);
    }
}

EDGEQ_INLINE void edgeq_pool(const edgeq_pool_layer *l, const edgeq_code *x, edgeq_code *out, int32_t is_mean)
{
    for (int32_t oy = 0; oy < l->out_h; oy++) {
        int32_t iy, ix;
        const int32_t rows =
            edgeq_inside(oy * l->stride_h - l->pad_top, l->kernel_h, l->dilation_h, l->in_h, &iy);
        for (int32_t ox = 0; ox < l->out_w; ox++) {
            const int32_t columns =
                edgeq_inside(ox * l->stride_w - l->pad_left, l->kernel_w, l->dilation_w, l->in_w, &ix);
            const edgeq_code *from = x + ((ptrdiff_t)iy * l->in_w + ix) * l->in_c;
            for (int32_t c = 0; c < l->in_c; c += is_mean ? 4 : 1) {
                if (is_mean) {
                    edgeq_mean_codes(l, from + c, rows, columns, l->in_c - c < 4 ? l->in_c - c : 4, out + c);
                } else {
                    out[c] = edgeq_largest(l, from + c, rows, columns);
                }
            }
            out += l->in_c;
        }
    }
}

EDGEQ_KERNEL void edgeq_max_pool(const edgeq_pool_layer *l, const edgeq_code *x, edgeq_code *out)
{
    edgeq_pool(l, x, out, 0);
}

EDGEQ_KERNEL void edgeq_average_pool(const edgeq_pool_layer *l, const edgeq_code *x, edgeq_code *out)
{
    edgeq_pool(l, x, out, 1);
}

#endif
