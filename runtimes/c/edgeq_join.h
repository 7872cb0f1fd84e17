/* A fully connected layer that joins a stream: its sums are added to the stream's codes before they are rounded to codes.
 *
 * The layer's own requantization gives 32-bit terms in the unit of the addition. Weights of fewer than 8 bits are known
 * where the model includes their sums of products.
 */
#ifndef EDGEQ_JOIN_H
#define EDGEQ_JOIN_H

#include "edgeq_columns.h"
#include "edgeq_stream.h"

typedef struct {
    const int8_t *weights;         /* in blocks of four outputs, see edgeq_four.h */
    int32_t bits;                  /* of a weight */
    const edgeq_record *channels; /* [outputs, rounded up to 4]: from sums to terms */
    edgeq_output output;
    int32_t rows, inputs, outputs;
    int32_t is_long; /* weights look their levels up, see edgeq_levels.h */
} edgeq_join_layer;

/* Sums of four outputs. */
EDGEQ_INLINE void edgeq_join_sums(
    const edgeq_join_layer *m, const int8_t *x, const int8_t *w, const edgeq_record *c, int32_t total, int32_t *sum)
{
#if defined(EDGEQ_DOT_W4_H)
    if (m->bits == 4) {
        edgeq_dot_w4_1(x, w, m->inputs, c, total, sum);
        return;
    }
#endif
#if defined(EDGEQ_DOT_W2_H)
    if (m->bits == 2) {
        edgeq_dot_w2_1(x, w, m->inputs, c, total, sum);
        return;
    }
#endif
    (void)total;
    for (int32_t j = 0; j < EDGEQ_COLUMNS; j++) {
        sum[j] = edgeq_bias(c + j);
    }
    edgeq_four(x, w, m->inputs, sum);
}

/* Terms of four outputs. */
EDGEQ_INLINE void edgeq_join_terms(const edgeq_join_layer *m, const edgeq_output *terms, const int8_t *x, const int8_t *w,
    const edgeq_record *c, int32_t total, int32_t *term)
{
    int32_t sum[EDGEQ_COLUMNS];
#if defined(EDGEQ_LEVELS_H)
    if (m->is_long) {
        int64_t wide[EDGEQ_COLUMNS];
        edgeq_level_sums(m->is_long, x, w, m->inputs, wide);
        for (int32_t j = 0; j < EDGEQ_COLUMNS; j++) {
            term[j] = edgeq_requantize_64(wide[j] + edgeq_bias_64(c + j), c + j, terms);
        }
        return;
    }
#endif
    edgeq_join_sums(m, x, w, c, total, sum);
    for (int32_t j = 0; j < EDGEQ_COLUMNS; j++) {
        term[j] = edgeq_requantize_by(sum[j], c + j, terms);
    }
}

EDGEQ_KERNEL void edgeq_join(
    const edgeq_stream_layer *given, const edgeq_join_layer *m, const int8_t *x, const int8_t *addend, int8_t *out)
{
    const edgeq_addend a = *given->a; /* copies: stores of codes cannot change them */
    const edgeq_stream_layer stream = *given, *const l = &stream;
    const edgeq_output terms = m->output;
    const int32_t step = EDGEQ_COLUMNS * edgeq_column_bytes(m->inputs) * m->bits / 8;
    int32_t i = 0;
    for (int32_t row = 0; row < m->rows; row++, x += m->inputs) {
        const int8_t *w = m->weights;
        const edgeq_record *c = m->channels;
        const int32_t total = m->bits < 8 ? edgeq_total(x, m->inputs) : 0;
        for (int32_t left = m->outputs; left > 0; left -= EDGEQ_COLUMNS, c += EDGEQ_COLUMNS, w += step) {
            const int32_t count = left < EDGEQ_COLUMNS ? left : EDGEQ_COLUMNS;
            int32_t term[EDGEQ_COLUMNS];
            edgeq_join_terms(m, &terms, x, w, c, total, term);
            for (int32_t j = 0; j < count; j++, i++) {
                edgeq_stream_store(l, term[j] + edgeq_addend_term(&a, addend, i), out, i);
            }
        }
    }
}

#endif
