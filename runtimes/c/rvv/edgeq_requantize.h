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

/* n codes of the channels from c on, `step` bytes apart. */
EDGEQ_INLINE void edgeq_store_some_sums(
    const edgeq_output *o, const edgeq_channel *c, ptrdiff_t step, vint32m4_t sum, size_t n, int8_t *out)
{
    const vint32m4_t offset = __riscv_vlse32_v_i32m4(&c->offset, step, n);
    const vuint32m4_t shift = __riscv_vreinterpret_v_i32m4_u32m4(__riscv_vlse32_v_i32m4(&c->shift, step, n));
    if (o->factor != 1) {
        sum = __riscv_vmul_vx_i32m4(sum, o->factor, n);
    }
    sum = __riscv_vmulh_vv_i32m4(sum, __riscv_vlse32_v_i32m4(&c->multiplier, step, n), n);
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

/* The same for up to twice as many. */
EDGEQ_INLINE void edgeq_store_sums(const edgeq_output *o, const edgeq_channel *c, vint32m8_t sum, size_t n, int8_t *out)
{
    const size_t half = __riscv_vsetvlmax_e32m4(), first = n < half ? n : half;
    edgeq_store_some_sums(o, c, sizeof *c, __riscv_vget_v_i32m8_i32m4(sum, 0), first, out);
    if (n > first) {
        edgeq_store_some_sums(o, c + first, sizeof *c, __riscv_vget_v_i32m8_i32m4(sum, 1), n - first, out + first);
    }
}
#endif

#endif
