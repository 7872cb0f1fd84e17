/* Words of four bytes as pairs of 16-bit halves, and products of halves: the DSP extension, or the same in plain C.
 *
 * edgeq_even gives elements 0 and 2 of a word, sign-extended, edgeq_odd elements 1 and 3; the first is the lower half.
 */
#ifndef EDGEQ_HALVES_H
#define EDGEQ_HALVES_H

#include "edgeq.h"

EDGEQ_INLINE uint32_t edgeq_word(const int8_t *from)
{
#if defined(__ARM_FEATURE_DSP)
    uint32_t word;
    __builtin_memcpy(&word, from, 4);
    return word;
#else
    const uint8_t b0 = (uint8_t)from[0], b1 = (uint8_t)from[1], b2 = (uint8_t)from[2], b3 = (uint8_t)from[3];
    return (uint32_t)b0 | (uint32_t)b1 << 8 | (uint32_t)b2 << 16 | (uint32_t)b3 << 24;
#endif
}

/* The last n < 4 bytes; the rest of the word is zero. */
EDGEQ_INLINE uint32_t edgeq_rest(const int8_t *from, int32_t n)
{
    uint32_t word = (uint8_t)from[0];
    word |= n > 1 ? (uint32_t)(uint8_t)from[1] << 8 : 0u;
    word |= n > 2 ? (uint32_t)(uint8_t)from[2] << 16 : 0u;
    return word;
}

/* Two words at a multiple of four, and the address moves on; the compiler does not know of the alignment. */
EDGEQ_INLINE void edgeq_take_two(const int8_t **from, uint32_t *first, uint32_t *second)
{
#if defined(__ARM_FEATURE_DSP)
    __asm__ volatile("ldrd %0, %1, [%2], #8" : "=&r"(*first), "=&r"(*second), "+r"(*from) : : "memory");
#else
    *first = edgeq_word(*from), *second = edgeq_word(*from + 4);
    *from += 8;
#endif
}

EDGEQ_INLINE void edgeq_put_two(int8_t **to, uint32_t first, uint32_t second)
{
#if defined(__ARM_FEATURE_DSP)
    __asm__ volatile("strd %1, %2, [%0], #8" : "+r"(*to) : "r"(first), "r"(second) : "memory");
#else
    for (int32_t i = 0; i < 4; i++) {
        (*to)[i] = (int8_t)(first >> 8 * i & 0xFFu), (*to)[i + 4] = (int8_t)(second >> 8 * i & 0xFFu);
    }
    *to += 8;
#endif
}

#if defined(__ARM_FEATURE_DSP)
EDGEQ_INLINE uint32_t edgeq_even(uint32_t x)
{
    uint32_t halves;
    __asm__("sxtb16 %0, %1" : "=r"(halves) : "r"(x));
    return halves;
}

EDGEQ_INLINE uint32_t edgeq_odd(uint32_t x)
{
    uint32_t halves;
    __asm__("sxtb16 %0, %1, ror #8" : "=r"(halves) : "r"(x));
    return halves;
}

EDGEQ_INLINE int32_t edgeq_two(uint32_t x, uint32_t w, int32_t sum)
{
    __asm__("smlad %0, %1, %2, %0" : "+r"(sum) : "r"(x), "r"(w));
    return sum;
}

/* The lower half of x times the lower half of w, and the upper half of x times the lower half of w. */
EDGEQ_INLINE int32_t edgeq_lower(uint32_t x, uint32_t w, int32_t sum)
{
    __asm__("smlabb %0, %1, %2, %0" : "+r"(sum) : "r"(x), "r"(w));
    return sum;
}

EDGEQ_INLINE int32_t edgeq_upper(uint32_t x, uint32_t w, int32_t sum)
{
    __asm__("smlatb %0, %1, %2, %0" : "+r"(sum) : "r"(x), "r"(w));
    return sum;
}
#else
EDGEQ_INLINE uint32_t edgeq_even(uint32_t x)
{
    const uint32_t low = ((x & 0xFFu) ^ 0x80u) - 0x80u, high = ((x >> 16 & 0xFFu) ^ 0x80u) - 0x80u;
    return (low & 0xFFFFu) | high << 16;
}

EDGEQ_INLINE uint32_t edgeq_odd(uint32_t x)
{
    return edgeq_even(x >> 8);
}

EDGEQ_INLINE int32_t edgeq_half(uint32_t x)
{
    return (int32_t)((x & 0xFFFFu) ^ 0x8000u) - 0x8000;
}

EDGEQ_INLINE int32_t edgeq_two(uint32_t x, uint32_t w, int32_t sum)
{
    return sum + edgeq_half(x) * edgeq_half(w) + edgeq_half(x >> 16) * edgeq_half(w >> 16);
}

EDGEQ_INLINE int32_t edgeq_lower(uint32_t x, uint32_t w, int32_t sum)
{
    return sum + edgeq_half(x) * edgeq_half(w);
}

EDGEQ_INLINE int32_t edgeq_upper(uint32_t x, uint32_t w, int32_t sum)
{
    return edgeq_lower(x >> 16, w, sum);
}
#endif

#endif
