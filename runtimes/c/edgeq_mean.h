/* Mean over the middle of three axes: out[i][j] = requantize(bias + sum_r x[i][r][j]). */
#ifndef EDGEQ_MEAN_H
#define EDGEQ_MEAN_H

#include "edgeq.h"

typedef struct {
    edgeq_channel channel; /* its bias takes the input's zero point out */
    edgeq_output output;
    const int8_t *table; /* one entry per code, from -128 on; or null */
    int32_t divisor; /* of a mean in TFLite's way, round(sum / divisor); 0: requantized */
    int32_t outer, count, inner;
} edgeq_mean_layer;

EDGEQ_KERNEL void edgeq_mean(const edgeq_mean_layer *l, const edgeq_code *x, edgeq_code *out)
{
    for (int32_t i = 0; i < l->outer; i++, x += (ptrdiff_t)l->count * l->inner) {
        for (int32_t j = 0; j < l->inner; j++) {
            const edgeq_code *from = x + j;
            int32_t sum = l->channel.bias;
            for (int32_t r = 0; r < l->count; r++, from += l->inner) {
                sum += *from;
            }
            sum = edgeq_average(sum, l->divisor, &l->channel, &l->output);
            *out++ = (edgeq_code)(edgeq_table(l) ? edgeq_table(l)[sum + 128] : sum);
        }
    }
}

#endif
