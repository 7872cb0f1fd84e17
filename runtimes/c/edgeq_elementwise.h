/* Sums and products of two operands, and functions of one; the output may lie exactly over an operand.
 *
 * Operands that broadcast are walked with strides over three nested loops; a stride of 0 repeats.
 */
#ifndef EDGEQ_ELEMENTWISE_H
#define EDGEQ_ELEMENTWISE_H

#include "edgeq.h"

typedef struct {
    const int32_t *a_table, *b_table; /* sums: 32-bit term of each code, from -128 on */
    int32_t a_zero, b_zero;           /* products: zero points */
    edgeq_channel channel;
    edgeq_output output;
    const int8_t *table; /* one entry per code, from -128 on; or null */
    int32_t size[3], a_stride[3], b_stride[3];
} edgeq_binary_layer;

EDGEQ_INLINE int8_t edgeq_binary_code(const edgeq_binary_layer *l, int32_t a, int32_t b, int32_t is_sum)
{
    int32_t code = is_sum ? l->a_table[a + 128] + l->b_table[b + 128] : (a - l->a_zero) * (b - l->b_zero);
    code = edgeq_requantize(code, &l->channel, &l->output);
    return (int8_t)(l->table ? l->table[code + 128] : code);
}

EDGEQ_INLINE void edgeq_binary(
    const edgeq_binary_layer *l, const int8_t *a, const int8_t *b, int8_t *out, int32_t is_sum)
{
    for (int32_t i = 0; i < l->size[0]; i++, a += l->a_stride[0], b += l->b_stride[0]) {
        const int8_t *aj = a, *bj = b;
        for (int32_t j = 0; j < l->size[1]; j++, aj += l->a_stride[1], bj += l->b_stride[1]) {
            const int8_t *ak = aj, *bk = bj;
            for (int32_t k = 0; k < l->size[2]; k++, ak += l->a_stride[2], bk += l->b_stride[2]) {
                *out++ = edgeq_binary_code(l, *ak, *bk, is_sum);
            }
        }
    }
}

EDGEQ_KERNEL void edgeq_add(const edgeq_binary_layer *l, const int8_t *a, const int8_t *b, int8_t *out)
{
    edgeq_binary(l, a, b, out, 1);
}

EDGEQ_KERNEL void edgeq_multiply(const edgeq_binary_layer *l, const int8_t *a, const int8_t *b, int8_t *out)
{
    edgeq_binary(l, a, b, out, 0);
}

/* out[i] = table[x[i]], one entry per code, from -128 on. */
EDGEQ_KERNEL void edgeq_lookup(const int8_t *table, const int8_t *x, int32_t n, int8_t *out)
{
    for (int32_t i = 0; i < n; i++) {
        out[i] = table[x[i] + 128];
    }
}

#endif
