/* Sums and products of two operands, and functions of one; the output may lie exactly over an operand.
 *
 * Operands that broadcast are walked with strides over three nested loops; a stride of 0 repeats.
 */
#ifndef EDGEQ_ELEMENTWISE_H
#define EDGEQ_ELEMENTWISE_H

#include "edgeq_terms.h"

typedef struct {
#if defined(EDGEQ_WIDE_CODES)
    edgeq_channel a_ratio, b_ratio; /* sums: what makes a 32-bit term of a code; `bias` is its sign, `offset` its zero point */
#else
    edgeq_terms a_terms, b_terms; /* sums */
#endif
    int32_t a_zero, b_zero;           /* products: zero points */
    edgeq_channel channel;
    edgeq_output output;
    const int8_t *table; /* one entry per code, from -128 on; or null */
    int32_t size[3], a_stride[3], b_stride[3];
} edgeq_binary_layer;

#if defined(EDGEQ_WIDE_CODES)
EDGEQ_INLINE int32_t edgeq_term(const edgeq_channel *ratio, int32_t code)
{
    const int64_t product = (int64_t)(code - ratio->offset) * ratio->multiplier;
    return ratio->bias * (int32_t)((product + ((int64_t)1 << (ratio->shift - 1))) >> ratio->shift);
}

EDGEQ_INLINE int32_t edgeq_sum_of(const edgeq_binary_layer *l, int32_t a, int32_t b)
{
    return edgeq_term(&l->a_ratio, a) + edgeq_term(&l->b_ratio, b);
}
#else
EDGEQ_INLINE int32_t edgeq_sum_of(const edgeq_binary_layer *l, int32_t a, int32_t b)
{
    return l->channel.bias + edgeq_term_of(&l->a_terms, a) + edgeq_term_of(&l->b_terms, b);
}
#endif

EDGEQ_INLINE edgeq_code edgeq_binary_code(const edgeq_binary_layer *l, int32_t a, int32_t b, int32_t is_sum)
{
    int32_t code = is_sum ? edgeq_sum_of(l, a, b) : (a - l->a_zero) * (b - l->b_zero);
    code = edgeq_requantize(code, &l->channel, &l->output);
    return (edgeq_code)(l->table ? l->table[code + 128] : code);
}

EDGEQ_INLINE void edgeq_binary(
    const edgeq_binary_layer *l, const edgeq_code *a, const edgeq_code *b, edgeq_code *out, int32_t is_sum)
{
    for (int32_t i = 0; i < l->size[0]; i++, a += l->a_stride[0], b += l->b_stride[0]) {
        const edgeq_code *aj = a, *bj = b;
        for (int32_t j = 0; j < l->size[1]; j++, aj += l->a_stride[1], bj += l->b_stride[1]) {
            const edgeq_code *ak = aj, *bk = bj;
            for (int32_t k = 0; k < l->size[2]; k++, ak += l->a_stride[2], bk += l->b_stride[2]) {
                *out++ = edgeq_binary_code(l, *ak, *bk, is_sum);
            }
        }
    }
}

EDGEQ_KERNEL void edgeq_add(const edgeq_binary_layer *l, const edgeq_code *a, const edgeq_code *b, edgeq_code *out)
{
    edgeq_binary(l, a, b, out, 1);
}

EDGEQ_KERNEL void edgeq_multiply(const edgeq_binary_layer *l, const edgeq_code *a, const edgeq_code *b, edgeq_code *out)
{
    edgeq_binary(l, a, b, out, 0);
}

/* out[i] = table[x[i]], one entry per code, from -128 on. */
EDGEQ_KERNEL void edgeq_lookup(const int8_t *table, const edgeq_code *x, int32_t n, edgeq_code *out)
{
    for (int32_t i = 0; i < n; i++) {
        out[i] = table[x[i] + 128];
    }
}

#endif
