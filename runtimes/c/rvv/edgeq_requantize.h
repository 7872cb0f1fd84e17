/* From the sums of neighbouring output channels to their codes with RISC-V vectors: edgeq_requantize in every lane. */
#ifndef EDGEQ_REQUANTIZE_H
#define EDGEQ_REQUANTIZE_H

#include "edgeq.h"

#if defined(__riscv_vector)
#include <riscv_vector.h>

/* n numbers within the range of codes. */
EDGEQ_INLINE void edgeq_store_clamped(const edgeq_output *o, vint32m4_t sum, size_t n, int8_t *out)
{
    sum = __riscv_vmin_vx_i32m4(__riscv_vmax_vx_i32m4(sum, o->low, n), o->high, n);
    __riscv_vse8_v_i8m1(out, __riscv_vncvt_x_x_w_i8m1(__riscv_vncvt_x_x_w_i16m2(sum, n), n), n);
}

#if defined(EDGEQ_WIDE_RECORDS)
EDGEQ_INLINE vint32m8_t edgeq_biases_of(const edgeq_record *c, size_t n)
{
    return __riscv_vlse32_v_i32m8(&c->bias, sizeof *c, n);
}

EDGEQ_INLINE vint32m4_t edgeq_shifts_of(const edgeq_record *c, size_t n)
{
    return __riscv_vlse32_v_i32m4(&c->shift, sizeof *c, n);
}
#else
EDGEQ_INLINE vint32m8_t edgeq_biases_of(const edgeq_record *c, size_t n)
{
    return __riscv_vsra_vx_i32m8(__riscv_vlse32_v_i32m8(&c->bias_and_shift, sizeof *c, n), 8, n);
}

EDGEQ_INLINE vint32m4_t edgeq_shifts_of(const edgeq_record *c, size_t n)
{
    return __riscv_vand_vx_i32m4(__riscv_vlse32_v_i32m4(&c->bias_and_shift, sizeof *c, n), 31, n);
}
#endif

/* n codes whose channels have these numbers. */
EDGEQ_INLINE void edgeq_store_scaled(const edgeq_output *o, vint32m4_t multiplier, vint32m4_t offset, vuint32m4_t shift,
    vint32m4_t sum, size_t n, int8_t *out)
{
    if (o->factor != 1) {
        sum = __riscv_vmul_vx_i32m4(sum, o->factor, n);
    }
    sum = __riscv_vmulh_vv_i32m4(sum, multiplier, n);
#ifdef EDGEQ_GEMMLOWP
    sum = __riscv_vsra_vx_i32m4(__riscv_vadd_vx_i32m4(sum, 1, n), 1, n);
    /* Ties away from zero, where there is a shift: one less of a negative number. */
    const vuint32m4_t shifted = __riscv_vminu_vx_u32m4(shift, 1, n);
    const vint32m4_t negative = __riscv_vsra_vx_i32m4(sum, 31, n);
    const vint32m4_t tie = __riscv_vand_vv_i32m4(negative, __riscv_vreinterpret_v_u32m4_i32m4(shifted), n);
    sum = __riscv_vsub_vv_i32m4(sum, tie, n);
#endif
    edgeq_store_clamped(o, __riscv_vsra_vv_i32m4(__riscv_vadd_vv_i32m4(sum, offset, n), shift, n), n, out);
}

/* n codes of the channels from c on. */
EDGEQ_INLINE void edgeq_store_some_sums(const edgeq_output *o, const edgeq_record *c, vint32m4_t sum, size_t n, int8_t *out)
{
    const vuint32m4_t shift = __riscv_vreinterpret_v_i32m4_u32m4(edgeq_shifts_of(c, n));
    const vint32m4_t middle = __riscv_vsll_vv_i32m4(__riscv_vmv_v_x_i32m4(o->middle, n), shift, n);
    const vint32m4_t multiplier = __riscv_vlse32_v_i32m4(&c->multiplier, sizeof *c, n);
    edgeq_store_scaled(o, multiplier, __riscv_vsra_vx_i32m4(middle, 1, n), shift, sum, n, out);
}

/* The same for up to twice as many. */
EDGEQ_INLINE void edgeq_store_sums(const edgeq_output *o, const edgeq_record *c, vint32m8_t sum, size_t n, int8_t *out)
{
    const size_t half = __riscv_vsetvlmax_e32m4(), first = n < half ? n : half;
    edgeq_store_some_sums(o, c, __riscv_vget_v_i32m8_i32m4(sum, 0), first, out);
    if (n > first) {
        edgeq_store_some_sums(o, c + first, __riscv_vget_v_i32m8_i32m4(sum, 1), n - first, out + first);
    }
}
#endif

#endif
