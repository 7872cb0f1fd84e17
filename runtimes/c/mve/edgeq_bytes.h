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

EDGEQ_INLINE void edgeq_fill(int8_t *to, int32_t code, int32_t n)
{
    const int8x16_t codes = vdupq_n_s8((int8_t)code);
    __asm__ volatile(
        "wlstp.8 lr, %[n], 2f\n"
        "1:\n"
        "vstrb.8 %q[codes], [%[to]], #16\n"
        "letp lr, 1b\n"
        "2:\n"
        : [to] "+r"(to)
        : [n] "r"(n), [codes] "w"(codes)
        : "lr", "memory");
}

/* Every step-th byte of `from`, n of them. */
EDGEQ_INLINE void edgeq_collect(int8_t *to, const int8_t *from, ptrdiff_t step, int32_t n)
{
    const uint16x8_t places = vmulq_n_u16(vidupq_n_u16(0, 1), (uint16_t)step);
    __asm__ volatile(
        "wlstp.16 lr, %[n], 2f\n"
        "1:\n"
        "vldrb.u16 q0, [%[from], %q[places]]\n"
        "vstrb.16 q0, [%[to]], #8\n"
        "add %[from], %[eight]\n"
        "letp lr, 1b\n"
        "2:\n"
        : [to] "+l"(to), [from] "+r"(from)
        : [n] "r"(n), [places] "w"(places), [eight] "r"(8 * step)
        : "lr", "q0", "memory");
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

EDGEQ_INLINE void edgeq_fill(int8_t *to, int32_t code, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        to[i] = (int8_t)code;
    }
}
#endif

#endif
