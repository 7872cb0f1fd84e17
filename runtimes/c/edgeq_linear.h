/* Fully connected: out[o] = requantize(bias[o] + sum_k weight[o][k] x[k]) for each row of x. */
#ifndef EDGEQ_LINEAR_H
#define EDGEQ_LINEAR_H

#include "edgeq_dot.h"
#include "edgeq_store.h"

typedef struct {
    const int8_t *weights;         /* in blocks of four outputs, see edgeq_dot.h */
    const edgeq_channel *channels; /* [outputs, rounded up to 4] */
    edgeq_output output;
    const int8_t *table; /* one entry per code, from -128 on; or null */
    int32_t rows, inputs, outputs;
} edgeq_linear_layer;

EDGEQ_KERNEL void edgeq_linear(const edgeq_linear_layer *l, const int8_t *x, int8_t *out)
{
    const edgeq_output output = l->output;
    const int8_t *const table = l->table;
    const int32_t outputs = l->outputs;
    for (int32_t row = 0; row < l->rows; row++, x += l->inputs) {
        const int8_t *w = l->weights;
        const edgeq_channel *c = l->channels;
        for (int32_t o = 0; o < outputs; o += EDGEQ_ROW_BLOCK, c += EDGEQ_ROW_BLOCK) {
            int32_t sum[EDGEQ_ROW_BLOCK];
            edgeq_dot_1(x, w, l->inputs, c, sum);
            w += EDGEQ_ROW_BLOCK * edgeq_packed(l->inputs);
            const int32_t count = outputs - o < EDGEQ_ROW_BLOCK ? outputs - o : EDGEQ_ROW_BLOCK;
            if (count == EDGEQ_ROW_BLOCK) {
                edgeq_store_4(&output, c, sum, out);
            } else {
                edgeq_store_some(&output, c, sum, count, out);
            }
            for (int32_t j = 0; table && j < count; j++) {
                out[j] = table[out[j] + 128];
            }
            out += count;
        }
    }
}

#endif
