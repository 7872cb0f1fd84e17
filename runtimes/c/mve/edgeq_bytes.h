/* Copying and filling codes with MVE, sixteen at a time; without it in plain C. */
#ifndef EDGEQ_BYTES_H
#define EDGEQ_BYTES_H

#include "edgeq.h"

#if defined(__ARM_FEATURE_MVE)
#include <arm_mve.h>

EDGEQ_INLINE void edgeq_copy(int8_t *to, const int8_t *from, int32_t n)
{
    __asm__ volatile(
        "wlstp.8 lr, %[n], 2f\n"
        "1:\n"
        "vldrb.8 q0, [%[from]], #16\n"
        "vstrb.8 q0, [%[to]], #16\n"
        "letp lr, 1b\n"
        "2:\n"
        : [to] "+r"(to), [from] "+r"(from)
        : [n] "r"(n)
        : "lr", "q0", "memory");
}

/* Every step-th byte of `from`, n of them. */
EDGEQ_INLINE void edgeq_collect(int8_t *to, const int8_t *from, ptrdiff_t step, int32_t n)
{
    const uint16x8_t places = vmulq_n_u16(vidupq_n_u16(0, 1), (uint16_t)step);
    for (; n > 0; n -= 8, to += 8, from += 8 * step) {
        const mve_pred16_t left = vctp16q((uint32_t)n);
        vstrbq_p_s16(to, vldrbq_gather_offset_z_s16(from, places, left), left);
    }
}
#else
EDGEQ_INLINE void edgeq_copy(int8_t *to, const int8_t *from, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        to[i] = from[i];
    }
}

EDGEQ_INLINE void edgeq_collect(int8_t *to, const int8_t *from, ptrdiff_t step, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        to[i] = from[i * step];
    }
}
#endif

EDGEQ_INLINE void edgeq_fill(int8_t *to, int32_t code, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        to[i] = (int8_t)code;
    }
}

#endif
