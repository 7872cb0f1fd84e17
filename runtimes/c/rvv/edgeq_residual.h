/* The sum of a layer's codes and a residual's with RISC-V vectors; without them in plain C. */
#ifndef EDGEQ_RESIDUAL_H
#define EDGEQ_RESIDUAL_H

#include "edgeq_requantize.h"
#include "edgeq_terms.h"

#if defined(__riscv_vector) && defined(EDGEQ_LINES)
EDGEQ_INLINE void edgeq_add_some(
    const edgeq_sum *s, const edgeq_output *output, const int8_t *codes, const int8_t *addend, size_t n, int8_t *out)
{
    const vint32m4_t own = __riscv_vsext_vf4_i32m4(__riscv_vle8_v_i8m1(codes, n), n);
    const vint32m4_t other = __riscv_vsext_vf4_i32m4(__riscv_vle8_v_i8m1(addend, n), n);
    vint32m4_t sum = __riscv_vmacc_vx_i32m4(__riscv_vmv_v_x_i32m4(s->start, n), s->own, own, n);
    sum = __riscv_vsra_vx_i32m4(__riscv_vmacc_vx_i32m4(sum, s->other, other, n), (size_t)s->shift, n);
    edgeq_store_clamped(output, sum, n, out);
}
#elif defined(__riscv_vector)
/* `sum` and the terms of n codes. */
EDGEQ_INLINE vint32m4_t edgeq_add_terms(vint32m4_t sum, const edgeq_terms *t, const int8_t *codes, size_t n)
{
    const vint8m1_t some = __riscv_vle8_v_i8m1(codes, n);
    const vuint8m1_t place = __riscv_vreinterpret_v_i8m1_u8m1(__riscv_vxor_vx_i8m1(some, -128, n));
#if defined(EDGEQ_WIDE_TERMS)
    const vuint32m4_t offset = __riscv_vsll_vx_u32m4(__riscv_vzext_vf4_u32m4(place, n), 2, n);
    const vint32m4_t fine = __riscv_vluxei32_v_i32m4(t->fine, offset, n);
#else
    const vuint8m1_t bytes = __riscv_vluxei8_v_u8m1(t->fine, place, n);
    const vint32m4_t fine = __riscv_vreinterpret_v_u32m4_i32m4(__riscv_vzext_vf4_u32m4(bytes, n));
#endif
    sum = __riscv_vadd_vv_i32m4(sum, fine, n);
    return __riscv_vmacc_vx_i32m4(sum, t->step, __riscv_vsext_vf4_i32m4(some, n), n);
}

EDGEQ_INLINE void edgeq_add_some(
    const edgeq_sum *s, const edgeq_output *output, const int8_t *codes, const int8_t *addend, size_t n, int8_t *out)
{
    vint32m4_t sum = __riscv_vmv_v_x_i32m4(s->channel.bias, n);
    sum = edgeq_add_terms(edgeq_add_terms(sum, &s->own, codes, n), &s->other, addend, n);
    edgeq_store_scaled(output, __riscv_vmv_v_x_i32m4(s->channel.multiplier, n), __riscv_vmv_v_x_i32m4(s->channel.offset, n),
        __riscv_vmv_v_x_u32m4((uint32_t)s->channel.shift, n), sum, n, out);
}
#else
EDGEQ_INLINE void edgeq_add_some(
    const edgeq_sum *s, const edgeq_output *output, const int8_t *codes, const int8_t *addend, size_t n, int8_t *out)
{
    for (size_t i = 0; i < n; i++) {
        out[i] = (int8_t)edgeq_residual_of(s, output, codes[i], addend[i]);
    }
}
#endif

/* In `reverse` the last codes come first, so that the output may begin anywhere above the addend. */
EDGEQ_INLINE void edgeq_add_codes(const edgeq_sum *s, edgeq_output output, int32_t count, int32_t reverse,
    const int8_t *codes, const int8_t *addend, int8_t *out)
{
#if defined(__riscv_vector)
    const int32_t most = (int32_t)__riscv_vsetvlmax_e32m4();
#else
    const int32_t most = 1;
#endif
    for (int32_t done = 0, n; done < count; done += n) {
        n = count - done < most ? count - done : most;
        const int32_t c = reverse ? count - done - n : done;
        edgeq_add_some(s, &output, codes + c, addend + c, (size_t)n, out + c);
    }
}

#endif
