/* One block of output channels with RISC-V vectors: a channel in every lane, sums kept in vector registers.
 *
 * Weights come in blocks of 32 output channels, the last as long as it is: [k][channels of the block]. Two products of
 * 8-bit numbers fit 16 bits (unless a weight is -128: then `is_long`), so per two elements and pixel one product, one
 * accumulation and one widening sum do 64 multiplications. Any vector length of 128 bits or more does; without vectors
 * the same sums are computed in plain C.
 */
#ifndef EDGEQ_BLOCK_H
#define EDGEQ_BLOCK_H

#include "edgeq_requantize.h"

#define EDGEQ_BLOCK 32
#define EDGEQ_PIXELS 2 /* of a convolution that are computed together */
#define EDGEQ_ROW_BLOCK 32

/* Where element i of channel j of a block of `count` lies. */
#define EDGEQ_WEIGHT_AT(i, j, count) ((i) * (count) + (j))

/* Bytes of one output channel's weights. */
EDGEQ_INLINE int32_t edgeq_packed(int32_t k)
{
    return k;
}

/* Entries of the channels of one group of a convolution, and bytes of its weights. */
EDGEQ_INLINE ptrdiff_t edgeq_group_channels(int32_t outputs)
{
    return outputs;
}

EDGEQ_INLINE ptrdiff_t edgeq_group_bytes(int32_t outputs, int32_t k, int32_t bits)
{
    return (ptrdiff_t)outputs * k * bits / 8;
}

#if defined(__riscv_vector)
/* x[0] w[0] + x[1] w[1] in 16 bits, where w[1] are the weights of the next element. */
EDGEQ_INLINE vint16m4_t edgeq_two_products(const int8_t *x, vint8m2_t w0, vint8m2_t w1, size_t n)
{
    return __riscv_vwmacc_vx_i16m4(__riscv_vwmul_vx_i16m4(w0, x[0], n), x[1], w1, n);
}

EDGEQ_INLINE vint32m8_t edgeq_one_product(vint32m8_t sum, const int8_t *x, const int8_t *w, size_t n)
{
    return __riscv_vwadd_wv_i32m8(sum, __riscv_vwmul_vx_i16m4(__riscv_vle8_v_i8m2(w, n), x[0], n), n);
}

EDGEQ_INLINE vint32m8_t edgeq_row_sums(const int8_t *x, const int8_t *w, int32_t k, int32_t is_long, const edgeq_record *c, size_t n)
{
    vint32m8_t a = edgeq_biases_of(c, n);
    for (; k >= 2 && !is_long; k -= 2, x += 2, w += 2 * n) {
        const vint8m2_t w0 = __riscv_vle8_v_i8m2(w, n), w1 = __riscv_vle8_v_i8m2(w + n, n);
        a = __riscv_vwadd_wv_i32m8(a, edgeq_two_products(x, w0, w1, n), n);
    }
    for (; k > 0; k--, x++, w += n) {
        a = edgeq_one_product(a, x, w, n);
    }
    return a;
}

EDGEQ_INLINE void edgeq_sums_1(int32_t bits, const int8_t *x, const int8_t *w, int32_t k, const edgeq_record *c,
    int32_t total, int32_t count, int32_t *sum)
{
    (void)bits, (void)total;
    __riscv_vse32_v_i32m8(sum, edgeq_row_sums(x, w, k, 1, c, (size_t)count), (size_t)count);
}

EDGEQ_INLINE void edgeq_block_1(const edgeq_output *output, int32_t bits, int32_t is_long, const int8_t *x,
    const int8_t *w, int32_t k, const edgeq_record *c, int32_t total, int32_t count, int8_t *out)
{
    (void)bits, (void)total;
    edgeq_store_sums(output, c, edgeq_row_sums(x, w, k, is_long, c, (size_t)count), (size_t)count, out);
}

/* Two elements of two pixels, from the i-th on. Both widening sums come last: the vector unit changes its element size once. */
#define EDGEQ_TWO_OF_TWO(i)                                                                                    \
    do {                                                                                                       \
        const vint8m2_t w0 = __riscv_vle8_v_i8m2(w + (i) * n, n), w1 = __riscv_vle8_v_i8m2(w + ((i) + 1) * n, n); \
        const vint16m4_t p = edgeq_two_products(x + (i), w0, w1, n), q = edgeq_two_products(y + (i), w0, w1, n);  \
        a = __riscv_vwadd_wv_i32m8(a, p, n);                                                                   \
        b = __riscv_vwadd_wv_i32m8(b, q, n);                                                                   \
    } while (0)

EDGEQ_INLINE void edgeq_block_2(const edgeq_output *output, int32_t bits, int32_t is_long, const int8_t *x,
    const int8_t *y, const int8_t *w, int32_t k, const edgeq_record *c, const int32_t *totals, int32_t left, int8_t *out0,
    int8_t *out1)
{
    const size_t n = left < EDGEQ_BLOCK ? (size_t)left : EDGEQ_BLOCK;
    vint32m8_t a = edgeq_biases_of(c, n), b = a;
    (void)bits, (void)totals;
    for (; k >= 4 && !is_long; k -= 4, x += 4, y += 4, w += 4 * n) {
        EDGEQ_TWO_OF_TWO(0);
        EDGEQ_TWO_OF_TWO(2);
    }
    for (; k > 0; k--, x++, y++, w += n) {
        a = edgeq_one_product(a, x, w, n);
        b = edgeq_one_product(b, y, w, n);
    }
    edgeq_store_sums(output, c, a, n, out0);
    edgeq_store_sums(output, c, b, n, out1);
}
#else
#include "edgeq_plain_block.h"
#endif

#endif
