/* Copying and filling codes with RISC-V vectors; without them in plain C. */
#ifndef EDGEQ_BYTES_H
#define EDGEQ_BYTES_H

#include "edgeq.h"

#if defined(__riscv_vector)
#include <riscv_vector.h>

EDGEQ_INLINE void edgeq_copy(int8_t *to, const int8_t *from, int32_t n)
{
    for (size_t left = (size_t)n, some; left > 0; left -= some, to += some, from += some) {
        some = __riscv_vsetvl_e8m8(left);
        __riscv_vse8_v_i8m8(to, __riscv_vle8_v_i8m8(from, some), some);
    }
}

EDGEQ_INLINE void edgeq_fill(int8_t *to, int32_t code, int32_t n)
{
    for (size_t left = (size_t)n, some; left > 0; left -= some, to += some) {
        some = __riscv_vsetvl_e8m8(left);
        __riscv_vse8_v_i8m8(to, __riscv_vmv_v_x_i8m8((int8_t)code, some), some);
    }
}
#else
EDGEQ_INLINE void edgeq_copy(int8_t *to, const int8_t *from, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        to[i] = from[i];
    }
}

EDGEQ_INLINE void edgeq_fill(int8_t *to, int32_t code, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        to[i] = (int8_t)code;
    }
}
#endif

#endif
