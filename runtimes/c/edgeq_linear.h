/* Fully connected: out[o] = requantize(bias[o] + sum_k weight[o][k] x[k]) for each row of x. */
#ifndef EDGEQ_LINEAR_H
#define EDGEQ_LINEAR_H

#include "edgeq_block.h"
#include "edgeq_packed.h"

typedef struct {
    const int8_t *weights;         /* in blocks of outputs, see edgeq_block.h */
    int32_t bits;                  /* of a weight: 8; or 4 or 2, packed, where the model includes their sums of products */
    const edgeq_record *channels; /* [outputs, rounded up to whole blocks] */
    edgeq_output output;
    const int8_t *table; /* one entry per code, from -128 on; or null */
    int32_t rows, inputs, outputs;
    int32_t is_long; /* sums need more care, see edgeq_block.h */
} edgeq_linear_layer;

/* One row. `output` is given apart so that the usual one can be a constant. */
EDGEQ_INLINE void edgeq_linear_row(const edgeq_linear_layer *l, edgeq_output output, const edgeq_code *x, edgeq_code *out)
{
    const int8_t *w = l->weights;
    const edgeq_record *c = l->channels;
    const int8_t *const table = edgeq_table(l);
    const int32_t step = EDGEQ_ROW_BLOCK * edgeq_packed(l->inputs) * edgeq_bits(l) / 8;
    int32_t total = 0;
#if defined(EDGEQ_TOTAL_H)
    total = edgeq_bits(l) < 8 ? edgeq_total(x, l->inputs) : 0;
#endif
    for (int32_t left = l->outputs; left > 0; left -= EDGEQ_ROW_BLOCK, c += EDGEQ_ROW_BLOCK) {
        const int32_t count = left < EDGEQ_ROW_BLOCK ? left : EDGEQ_ROW_BLOCK;
        edgeq_block_1(&output, edgeq_bits(l), l->is_long, x, w, l->inputs, c, total, count, out);
        w += step;
        for (int32_t j = 0; table && j < count; j++) {
            out[j] = table[out[j] + 128];
        }
        out += count;
    }
}

EDGEQ_KERNEL void edgeq_linear(const edgeq_linear_layer *l, const edgeq_code *x, edgeq_code *out)
{
    for (int32_t row = 0; row < l->rows; row++, x += l->inputs, out += l->outputs) {
        if (edgeq_is_usual(&l->output)) {
            edgeq_linear_row(l, edgeq_usual(&l->output), x, out);
        } else {
            edgeq_linear_row(l, l->output, x, out);
        }
    }
}

#endif
