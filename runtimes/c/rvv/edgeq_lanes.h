/* Sums of up to 32 neighbouring channels with RISC-V vectors; without them in plain C. */
#ifndef EDGEQ_LANES_H
#define EDGEQ_LANES_H

#include "edgeq_requantize.h"

#define EDGEQ_LANES 32

#if defined(__riscv_vector)
typedef vint32m8_t edgeq_lanes;

EDGEQ_INLINE edgeq_lanes edgeq_lanes_begin(const edgeq_record *c, int32_t n)
{
    return edgeq_biases_of(c, (size_t)n);
}

EDGEQ_INLINE edgeq_lanes edgeq_lanes_add(edgeq_lanes sum, const int8_t *x, const int8_t *w, int32_t n)
{
    const size_t some = (size_t)n;
    const vint16m4_t part = __riscv_vwmul_vv_i16m4(__riscv_vle8_v_i8m2(x, some), __riscv_vle8_v_i8m2(w, some), some);
    return __riscv_vwadd_wv_i32m8(sum, part, some);
}

EDGEQ_INLINE void edgeq_lanes_end(edgeq_lanes sum, const edgeq_output *o, const edgeq_record *c, int32_t n, int8_t *out)
{
    edgeq_store_sums(o, c, sum, (size_t)n, out);
}
#else
#include "edgeq_plain_lanes.h"
#endif

#endif
