/* Sums that 16-bit codes take part in: the residual stream of a transformer.
 *
 * out = requantize(term of a + term of b). An 8-bit code stands for a term by table, a 16-bit one by multiplication.
 * The shorter operand repeats from its start. The output may lie exactly over an operand of codes as wide as its own.
 */
#ifndef EDGEQ_STREAM_H
#define EDGEQ_STREAM_H

#include "edgeq.h"

typedef struct {
    const int32_t *table;  /* of 8-bit codes, from -128 on; null: codes of 16 bits */
    int32_t sign;          /* 1 or -1 */
    edgeq_channel channel; /* its bias takes the zero point out */
    edgeq_output output;
} edgeq_addend;

typedef struct {
    edgeq_channel channel;
    edgeq_output output;
    int32_t is_wide; /* the output has 16-bit codes */
    const edgeq_addend *a, *b;
    int32_t count, a_count, b_count;
} edgeq_stream_layer;

EDGEQ_INLINE int32_t edgeq_addend_term(const edgeq_addend *a, const int8_t *codes, int32_t i)
{
    if (a->table) {
        return a->table[codes[i] + 128];
    }
    const int16_t *const wide = (const int16_t *)(const void *)codes;
    return a->sign * edgeq_requantize(wide[i] + a->channel.bias, &a->channel, &a->output);
}

EDGEQ_INLINE void edgeq_stream_store(const edgeq_stream_layer *l, int32_t sum, int8_t *out, int32_t i)
{
    const int32_t code = edgeq_requantize(sum, &l->channel, &l->output);
    if (l->is_wide) {
        ((int16_t *)(void *)out)[i] = (int16_t)code;
    } else {
        out[i] = (int8_t)code;
    }
}

EDGEQ_KERNEL void edgeq_stream(const edgeq_stream_layer *l, const int8_t *a, const int8_t *b, int8_t *out)
{
    for (int32_t i = 0, ia = 0, ib = 0; i < l->count; i++) {
        edgeq_stream_store(l, edgeq_addend_term(l->a, a, ia) + edgeq_addend_term(l->b, b, ib), out, i);
        ia = ia + 1 < l->a_count ? ia + 1 : 0;
        ib = ib + 1 < l->b_count ? ib + 1 : 0;
    }
}

#endif
