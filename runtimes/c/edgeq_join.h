/* A fully connected layer that joins a stream: its sums are added to the stream's codes before they are rounded to codes.
 *
 * The layer's own requantization gives 32-bit terms in the unit of the addition.
 */
#ifndef EDGEQ_JOIN_H
#define EDGEQ_JOIN_H

#include "edgeq_linear.h"
#include "edgeq_stream.h"

EDGEQ_KERNEL void edgeq_join(
    const edgeq_stream_layer *l, const edgeq_linear_layer *m, const int8_t *x, const int8_t *addend, int8_t *out)
{
    const int32_t step = EDGEQ_ROW_BLOCK * edgeq_packed(m->inputs) * m->bits / 8;
    int32_t i = 0;
    for (int32_t row = 0; row < m->rows; row++, x += m->inputs) {
        const int8_t *w = m->weights;
        const edgeq_channel *c = m->channels;
        int32_t total = 0;
#if defined(EDGEQ_TOTAL_H)
        total = m->bits < 8 ? edgeq_total(x, m->inputs) : 0;
#endif
        for (int32_t left = m->outputs; left > 0; left -= EDGEQ_ROW_BLOCK, c += EDGEQ_ROW_BLOCK, w += step) {
            const int32_t count = left < EDGEQ_ROW_BLOCK ? left : EDGEQ_ROW_BLOCK;
            int32_t sum[EDGEQ_ROW_BLOCK];
            edgeq_linear_sums(m, x, w, c, total, sum);
            for (int32_t j = 0; j < count; j++, i++) {
                const int32_t term = edgeq_requantize(sum[j], c + j, &m->output);
                edgeq_stream_store(l, term + edgeq_addend_term(l->a, addend, i), out, i);
            }
        }
    }
}

#endif
