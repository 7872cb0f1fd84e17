/* Sums of products of one row and four columns with RISC-V vectors, for products of two activations.
 *
 * Columns lie as [k / 16, rounded up][4 columns][16], padded with zeros; sixteen lanes hold sums until the end.
 */
#ifndef EDGEQ_FOUR_H
#define EDGEQ_FOUR_H

#include "edgeq.h"

#define EDGEQ_FOUR_DEPTH 16 /* elements of one column that lie side by side */

#if defined(__riscv_vector)
#include <riscv_vector.h>

EDGEQ_INLINE vint32m4_t edgeq_add_products(vint32m4_t sum, vint8m1_t x, const int8_t *w, size_t n)
{
    return __riscv_vwadd_wv_i32m4_tu(sum, sum, __riscv_vwmul_vv_i16m2(x, __riscv_vle8_v_i8m1(w, n), n), n);
}

EDGEQ_INLINE int32_t edgeq_across(vint32m4_t sum, int32_t bias)
{
    const vint32m1_t start = __riscv_vmv_s_x_i32m1(bias, 1);
    return __riscv_vmv_x_s_i32m1_i32(__riscv_vredsum_vs_i32m4_i32m1(sum, start, EDGEQ_FOUR_DEPTH));
}

EDGEQ_INLINE void edgeq_four(const int8_t *x, const int8_t *w, int32_t k, int32_t *sum)
{
    vint32m4_t a = __riscv_vmv_v_x_i32m4(0, EDGEQ_FOUR_DEPTH), b = a, c = a, d = a;
    for (; k > 0; k -= EDGEQ_FOUR_DEPTH, x += EDGEQ_FOUR_DEPTH, w += 4 * EDGEQ_FOUR_DEPTH) {
        const size_t n = k < EDGEQ_FOUR_DEPTH ? (size_t)k : EDGEQ_FOUR_DEPTH;
        const vint8m1_t v = __riscv_vle8_v_i8m1(x, n);
        a = edgeq_add_products(a, v, w, n);
        b = edgeq_add_products(b, v, w + EDGEQ_FOUR_DEPTH, n);
        c = edgeq_add_products(c, v, w + 2 * EDGEQ_FOUR_DEPTH, n);
        d = edgeq_add_products(d, v, w + 3 * EDGEQ_FOUR_DEPTH, n);
    }
    sum[0] = edgeq_across(a, sum[0]), sum[1] = edgeq_across(b, sum[1]);
    sum[2] = edgeq_across(c, sum[2]), sum[3] = edgeq_across(d, sum[3]);
}
#else
EDGEQ_INLINE void edgeq_four(const int8_t *x, const int8_t *w, int32_t k, int32_t *sum)
{
    for (int32_t j = 0; j < 4; j++) {
        for (int32_t i = 0; i < k; i++) {
            sum[j] += x[i] * w[(i & ~15) * 4 + EDGEQ_FOUR_DEPTH * j + (i & 15)];
        }
    }
}
#endif

#endif
