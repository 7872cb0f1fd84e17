/* Copying and filling codes, in portable C. */
#ifndef EDGEQ_BYTES_H
#define EDGEQ_BYTES_H

#include "edgeq.h"

#if defined(__ARM_FEATURE_UNALIGNED) || defined(__x86_64__)
/* Words may lie anywhere. */
#define EDGEQ_WORDS(to, from) 1
EDGEQ_INLINE void edgeq_copy_word(int8_t *to, const int8_t *from)
{
    __builtin_memcpy(to, from, 4);
}
#elif defined(__GNUC__)
#define EDGEQ_WORDS(to, from) ((((uintptr_t)(to) | (uintptr_t)(from)) & 3u) == 0)
EDGEQ_INLINE void edgeq_copy_word(int8_t *to, const int8_t *from)
{
    __builtin_memcpy(__builtin_assume_aligned(to, 4), __builtin_assume_aligned(from, 4), 4);
}
#endif

/* Copy n bytes: by words where both ends allow it. */
EDGEQ_INLINE void edgeq_copy_bytes(int8_t *to, const int8_t *from, int32_t n)
{
    int32_t i = 0;
#if defined(EDGEQ_WORDS)
    if (EDGEQ_WORDS(to, from)) {
        for (; i + 16 <= n; i += 16) {
            edgeq_copy_word(to + i, from + i);
            edgeq_copy_word(to + i + 4, from + i + 4);
            edgeq_copy_word(to + i + 8, from + i + 8);
            edgeq_copy_word(to + i + 12, from + i + 12);
        }
        for (; i + 4 <= n; i += 4) {
            edgeq_copy_word(to + i, from + i);
        }
    }
#endif
    for (; i < n; i++) {
        to[i] = from[i];
    }
}

/* Copy n codes. */
EDGEQ_INLINE void edgeq_copy(edgeq_code *to, const edgeq_code *from, int32_t n)
{
    edgeq_copy_bytes((int8_t *)to, (const int8_t *)from, n * (int32_t)sizeof *to);
}

EDGEQ_INLINE void edgeq_fill(edgeq_code *to, int32_t code, int32_t n)
{
    int32_t i = 0;
#if defined(EDGEQ_WORDS) && !defined(EDGEQ_WIDE_CODES)
    if (EDGEQ_WORDS(to, to)) {
        const uint32_t word = (uint8_t)code * UINT32_C(0x01010101);
        for (; i + 4 <= n; i += 4) {
            edgeq_copy_word(to + i, (const int8_t *)&word);
        }
    }
#endif
    for (; i < n; i++) {
        to[i] = (edgeq_code)code;
    }
}

/* Every step-th code of `from`, n of them. */
EDGEQ_INLINE void edgeq_collect(edgeq_code *to, const edgeq_code *from, ptrdiff_t step, int32_t n)
{
    for (; n >= 4; n -= 4, to += 4, from += 4 * step) {
        to[0] = from[0], to[1] = from[step], to[2] = from[2 * step], to[3] = from[3 * step];
    }
    for (; n > 0; n--, from += step) {
        *to++ = *from;
    }
}

#endif
