/* Fully connected: out[o] = requantize(bias[o] + sum_k weight[o][k] x[k]) for each row of x. */
#ifndef EDGEQ_LINEAR_H
#define EDGEQ_LINEAR_H

#include "edgeq_dot.h"

typedef struct {
    const int8_t *weights;         /* [outputs / 4, rounded up][inputs][4] */
    const edgeq_channel *channels; /* [outputs, rounded up to 4] */
    edgeq_output output;
    const int8_t *table; /* one entry per code, from -128 on; or null */
    int32_t rows, inputs, outputs;
} edgeq_linear_layer;

static void edgeq_linear(const edgeq_linear_layer *l, const int8_t *x, int8_t *out)
{
    for (int32_t row = 0; row < l->rows; row++, x += l->inputs) {
        const int8_t *w = l->weights;
        const edgeq_channel *c = l->channels;
        for (int32_t o = 0; o < l->outputs; o += EDGEQ_BLOCK, c += EDGEQ_BLOCK) {
            int32_t sum[4] = {c[0].bias, c[1].bias, c[2].bias, c[3].bias};
            edgeq_dot_1x4(x, w, l->inputs, sum);
            w += EDGEQ_BLOCK * edgeq_packed(l->inputs);
            for (int32_t j = 0; j < EDGEQ_BLOCK && o + j < l->outputs; j++) {
                const int32_t code = edgeq_requantize(sum[j], c + j, &l->output);
                *out++ = (int8_t)(l->table ? l->table[code + 128] : code);
            }
        }
    }
}

#endif
