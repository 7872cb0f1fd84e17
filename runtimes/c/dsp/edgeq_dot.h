/* Sums of products with the DSP extension (Cortex-M4, M7, M33): two multiplications per instruction.
 *
 * Weights come in blocks of four output channels as two pairs: [2 pairs][k / 4, rounded up][2 channels][4], padded with
 * zeros. A word of four bytes is widened to two words of 16-bit halves, elements 0 and 2 and elements 1 and 3; inputs and
 * weights alike, so their order does not matter. 20 instructions do 16 multiplications: 1.25 each, where loads and the
 * multiplications alone would need 1.0. Without the extension the same sums are computed in plain C.
 */
#ifndef EDGEQ_DOT_H
#define EDGEQ_DOT_H

#include "edgeq.h"

#define EDGEQ_BLOCK 4

/* Bytes of one output channel's weights. */
EDGEQ_INLINE int32_t edgeq_packed(int32_t k)
{
    return (k + 3) & ~3;
}

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
#endif

/* Four elements of two channels; sums a and b of one pixel. */
EDGEQ_INLINE void edgeq_four_1x2(uint32_t x, uint32_t wa, uint32_t wb, int32_t *a, int32_t *b)
{
    const uint32_t even = edgeq_even(x), odd = edgeq_odd(x);
    *a = edgeq_two(odd, edgeq_odd(wa), edgeq_two(even, edgeq_even(wa), *a));
    *b = edgeq_two(odd, edgeq_odd(wb), edgeq_two(even, edgeq_even(wb), *b));
}

EDGEQ_INLINE void edgeq_dot_1x4(const int8_t *x, const int8_t *w, int32_t k, int32_t *sum)
{
    for (int32_t pair = 0; pair < 4; pair += 2) {
        int32_t a = sum[pair], b = sum[pair + 1], n = k;
        const int8_t *at = x;
        for (; n >= 4; n -= 4, at += 4, w += 8) {
            edgeq_four_1x2(edgeq_word(at), edgeq_word(w), edgeq_word(w + 4), &a, &b);
        }
        if (n > 0) {
            edgeq_four_1x2(edgeq_rest(at, n), edgeq_word(w), edgeq_word(w + 4), &a, &b);
            w += 8;
        }
        sum[pair] = a, sum[pair + 1] = b;
    }
}

EDGEQ_INLINE void edgeq_four_2x2(
    uint32_t x, uint32_t y, uint32_t wa, uint32_t wb, int32_t *xa, int32_t *xb, int32_t *ya, int32_t *yb)
{
    const uint32_t a_even = edgeq_even(wa), a_odd = edgeq_odd(wa), b_even = edgeq_even(wb), b_odd = edgeq_odd(wb);
    uint32_t even = edgeq_even(x), odd = edgeq_odd(x);
    *xa = edgeq_two(odd, a_odd, edgeq_two(even, a_even, *xa));
    *xb = edgeq_two(odd, b_odd, edgeq_two(even, b_even, *xb));
    even = edgeq_even(y), odd = edgeq_odd(y);
    *ya = edgeq_two(odd, a_odd, edgeq_two(even, a_even, *ya));
    *yb = edgeq_two(odd, b_odd, edgeq_two(even, b_even, *yb));
}

EDGEQ_INLINE void edgeq_dot_2x4(const int8_t *x, const int8_t *y, const int8_t *w, int32_t k, int32_t *sum)
{
    for (int32_t pair = 0; pair < 4; pair += 2) {
        int32_t xa = sum[pair], xb = sum[pair + 1], ya = sum[pair + 4], yb = sum[pair + 5], n = k;
        const int8_t *p = x, *q = y;
        for (; n >= 8; n -= 8, p += 8, q += 8, w += 16) {
            edgeq_four_2x2(edgeq_word(p), edgeq_word(q), edgeq_word(w), edgeq_word(w + 4), &xa, &xb, &ya, &yb);
            EDGEQ_IN_ORDER;
            edgeq_four_2x2(
                edgeq_word(p + 4), edgeq_word(q + 4), edgeq_word(w + 8), edgeq_word(w + 12), &xa, &xb, &ya, &yb);
            EDGEQ_IN_ORDER;
        }
        for (; n >= 4; n -= 4, p += 4, q += 4, w += 8) {
            edgeq_four_2x2(edgeq_word(p), edgeq_word(q), edgeq_word(w), edgeq_word(w + 4), &xa, &xb, &ya, &yb);
        }
        if (n > 0) {
            edgeq_four_2x2(edgeq_rest(p, n), edgeq_rest(q, n), edgeq_word(w), edgeq_word(w + 4), &xa, &xb, &ya, &yb);
            w += 8;
        }
        sum[pair] = xa, sum[pair + 1] = xb, sum[pair + 4] = ya, sum[pair + 5] = yb;
    }
}

#endif
