/* Fully connected: out[o] = requantize(bias[o] + sum_k weight[o][k] x[k]) for each row of x. */
#ifndef EDGEQ_LINEAR_H
#define EDGEQ_LINEAR_H

#include "edgeq_dot.h"
#include "edgeq_store.h"

typedef struct {
    const int8_t *weights;         /* in blocks of four outputs, see edgeq_dot.h */
    int32_t bits;                  /* of a weight: 8; or 4 or 2, packed, where the model includes their sums of products */
    const edgeq_channel *channels; /* [outputs, rounded up to 4] */
    edgeq_output output;
    const int8_t *table; /* one entry per code, from -128 on; or null */
    int32_t rows, inputs, outputs;
    int32_t is_long; /* sums may exceed 32 bits: only where codes have 16 and the model includes edgeq_long.h */
} edgeq_linear_layer;

/* Sums of one block of outputs; `total` is the sum of x (used where weights are packed). */
EDGEQ_INLINE void edgeq_linear_sums(const edgeq_linear_layer *l, const edgeq_code *x, const int8_t *w, const edgeq_channel *c,
    int32_t total, int32_t *sum)
{
#if defined(EDGEQ_DOT_W4_H)
    if (l->bits == 4) {
        edgeq_dot_w4_1(x, w, l->inputs, c, total, sum);
        return;
    }
#endif
#if defined(EDGEQ_DOT_W2_H)
    if (l->bits == 2) {
        edgeq_dot_w2_1(x, w, l->inputs, c, total, sum);
        return;
    }
#endif
    (void)total;
    edgeq_dot_1(x, w, l->inputs, c, sum);
}

/* Codes of one block of `count` outputs. */
EDGEQ_INLINE void edgeq_linear_block(const edgeq_linear_layer *l, const edgeq_output *output, const edgeq_code *x,
    const int8_t *w, const edgeq_channel *c, int32_t total, int32_t count, edgeq_code *out)
{
    int32_t sum[EDGEQ_ROW_BLOCK];
#if defined(EDGEQ_LONG_H)
    if (l->is_long) {
        edgeq_long_block(output, x, w, l->inputs, c, count, out);
        return;
    }
#endif
    edgeq_linear_sums(l, x, w, c, total, sum);
    if (count == EDGEQ_ROW_BLOCK) {
        edgeq_store_4(output, c, sum, out);
    } else {
        edgeq_store_some(output, c, sum, count, out);
    }
}

/* One row. `output` is given apart so that the usual one can be a constant. */
EDGEQ_INLINE void edgeq_linear_row(const edgeq_linear_layer *l, edgeq_output output, const edgeq_code *x, edgeq_code *out)
{
    const int8_t *w = l->weights;
    const edgeq_channel *c = l->channels;
    const int8_t *const table = l->table;
    const int32_t step = EDGEQ_ROW_BLOCK * edgeq_packed(l->inputs) * l->bits / 8;
    int32_t total = 0;
#if defined(EDGEQ_TOTAL_H)
    total = l->bits < 8 ? edgeq_total(x, l->inputs) : 0;
#endif
    for (int32_t left = l->outputs; left > 0; left -= EDGEQ_ROW_BLOCK, c += EDGEQ_ROW_BLOCK) {
        const int32_t count = left < EDGEQ_ROW_BLOCK ? left : EDGEQ_ROW_BLOCK;
        edgeq_linear_block(l, &output, x, w, c, total, count, out);
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
            edgeq_linear_row(l, edgeq_usual(), x, out);
        } else {
            edgeq_linear_row(l, l->output, x, out);
        }
    }
}

#endif
