/* Linear interpolation: out = requantize(sum over four taps of row weight, column weight, code).
 *
 * Weights are multiples of 2^-10 and sum to 1 on each axis, so the sum carries 20 more bits than the codes.
 */
#ifndef EDGEQ_RESIZE_H
#define EDGEQ_RESIZE_H

#include "edgeq.h"

typedef struct {
    edgeq_channel channel; /* its bias takes the input's zero point out */
    edgeq_output output;
    const int8_t *table; /* one entry per code, from -128 on; or null */
    const edgeq_mix *rows, *columns;
    int32_t in_w, in_c, out_h, out_w;
    int32_t divisor; /* of TFLite's way, round(sum / divisor); 0: requantized */
} edgeq_resize_layer;

EDGEQ_KERNEL void edgeq_resize(const edgeq_resize_layer *l, const edgeq_code *x, edgeq_code *out)
{
    for (int32_t y = 0; y < l->out_h; y++) {
        const edgeq_mix *const row = l->rows + y;
        const edgeq_code *const top = x + (ptrdiff_t)row->first * l->in_w * l->in_c;
        const edgeq_code *const bottom = x + (ptrdiff_t)row->second * l->in_w * l->in_c;
        for (int32_t i = 0; i < l->out_w; i++) {
            const edgeq_mix *const column = l->columns + i;
            const ptrdiff_t left = (ptrdiff_t)column->first * l->in_c, right = (ptrdiff_t)column->second * l->in_c;
            for (int32_t c = 0; c < l->in_c; c++) {
                const int32_t upper = top[left + c] * (1024 - column->weight) + top[right + c] * column->weight;
                const int32_t lower = bottom[left + c] * (1024 - column->weight) + bottom[right + c] * column->weight;
                const edgeq_long_sum sum =
                    l->channel.bias + (edgeq_long_sum)upper * (1024 - row->weight) + (edgeq_long_sum)lower * row->weight;
                const int32_t code = edgeq_average(sum, l->divisor, &l->channel, &l->output);
                *out++ = (edgeq_code)(l->table ? l->table[code + 128] : code);
            }
        }
    }
}

#endif
