/* Copying and filling codes with NEON, sixteen at a time; without it in plain C. */
#ifndef EDGEQ_BYTES_H
#define EDGEQ_BYTES_H

#include "edgeq.h"

#if defined(__ARM_NEON)
#include <arm_neon.h>
#endif

EDGEQ_INLINE void edgeq_copy(int8_t *to, const int8_t *from, int32_t n)
{
    int32_t i = 0;
#if defined(__ARM_NEON)
    for (; i + 16 <= n; i += 16) {
        vst1q_s8(to + i, vld1q_s8(from + i));
    }
    if (i + 8 <= n) {
        vst1_s8(to + i, vld1_s8(from + i));
        i += 8;
    }
#endif
    for (; i < n; i++) {
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
