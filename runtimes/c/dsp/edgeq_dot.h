/* Sums of products with the DSP extension (Cortex-M4, M7, M33): two multiplications per instruction.
 *
 * Weights come in blocks of two output channels (four of a matrix product), [k / 4, rounded up][channels][4], padded with
 * zeros. A word of four bytes is widened to two words of 16-bit halves, elements 0 and 2 and elements 1 and 3; inputs and
 * weights alike, so their order does not matter. The columns of a convolution are widened once for all its channels
 * (edgeq_patch.h): two words of halves and two of weights are each one load then, and 15 instructions do 16 multiplications,
 * 0.94 each, where the multiplications alone would need 0.5. Without the extension the same sums are computed in plain C.
 */
#ifndef EDGEQ_DOT_H
#define EDGEQ_DOT_H

#include "edgeq_halves.h"

#define EDGEQ_BLOCK 2
#define EDGEQ_PIXELS 2 /* of a convolution that are computed together */
#define EDGEQ_ROW_BLOCK 4

/* Bytes of one output channel's weights. */
EDGEQ_INLINE int32_t edgeq_packed(int32_t k)
{
    return (k + 3) & ~3;
}

/* Four elements of two channels; sums a and b of one pixel. */
EDGEQ_INLINE void edgeq_four_1x2(uint32_t even, uint32_t odd, const int8_t *w, int32_t *a, int32_t *b)
{
    const uint32_t wa = edgeq_word(w), wb = edgeq_word(w + 4);
    *a = edgeq_two(odd, edgeq_odd(wa), edgeq_two(even, edgeq_even(wa), *a));
    *b = edgeq_two(odd, edgeq_odd(wb), edgeq_two(even, edgeq_even(wb), *b));
}

EDGEQ_INLINE void edgeq_dot_1(
    const int8_t *x, const int8_t *w, int32_t k, const edgeq_record *channel, int32_t *sum)
{
    int32_t a = edgeq_bias(channel), b = edgeq_bias(channel + 1), c = edgeq_bias(channel + 2), d = edgeq_bias(channel + 3);
    for (const int8_t *const end = x + (k & ~7); x < end; x += 8, w += 32) {
        const uint32_t word = edgeq_word(x), even = edgeq_even(word), odd = edgeq_odd(word);
        edgeq_four_1x2(even, odd, w, &a, &b);
        edgeq_four_1x2(even, odd, w + 8, &c, &d);
        EDGEQ_IN_ORDER;
        const uint32_t next = edgeq_word(x + 4), next_even = edgeq_even(next), next_odd = edgeq_odd(next);
        edgeq_four_1x2(next_even, next_odd, w + 16, &a, &b);
        edgeq_four_1x2(next_even, next_odd, w + 24, &c, &d);
        EDGEQ_IN_ORDER;
    }
    for (k &= 7; k > 0; k -= 4, x += 4, w += 16) {
        const uint32_t word = k >= 4 ? edgeq_word(x) : edgeq_rest(x, k), even = edgeq_even(word), odd = edgeq_odd(word);
        edgeq_four_1x2(even, odd, w, &a, &b);
        edgeq_four_1x2(even, odd, w + 8, &c, &d);
    }
    sum[0] = a, sum[1] = b, sum[2] = c, sum[3] = d;
}

/* Four elements of two columns and two channels. */
EDGEQ_INLINE void edgeq_four_2x2(const int8_t **x, const int8_t **y, uint32_t wa, uint32_t wb, int32_t *xa, int32_t *xb,
    int32_t *ya, int32_t *yb)
{
    const uint32_t a_even = edgeq_even(wa), a_odd = edgeq_odd(wa), b_even = edgeq_even(wb), b_odd = edgeq_odd(wb);
    uint32_t even, odd;
    edgeq_take_two(x, &even, &odd);
    *xa = edgeq_two(odd, a_odd, edgeq_two(even, a_even, *xa));
    *xb = edgeq_two(odd, b_odd, edgeq_two(even, b_even, *xb));
    edgeq_take_two(y, &even, &odd);
    *ya = edgeq_two(odd, a_odd, edgeq_two(even, a_even, *ya));
    *yb = edgeq_two(odd, b_odd, edgeq_two(even, b_even, *yb));
}

/* The same with the weights' loads. In one piece it takes every register but one, so that no compiler copies any of them; one
 * that does not optimize needs more. */
#if defined(__ARM_FEATURE_DSP) && defined(__OPTIMIZE__)
#define EDGEQ_DOT_STEP                                                                                            \
    do {                                                                                                          \
        uint32_t a, b, c, d, e, f;                                                                                \
        __asm__ volatile("ldrd %[a], %[b], [%[w]], #8\n\t"                                                        \
                         "sxtb16 %[c], %[a]\n\t"                                                                  \
                         "sxtb16 %[a], %[a], ror #8\n\t"                                                          \
                         "sxtb16 %[d], %[b]\n\t"                                                                  \
                         "sxtb16 %[b], %[b], ror #8\n\t"                                                          \
                         "ldrd %[e], %[f], [%[x]], #8\n\t"                                                        \
                         "smlad %[xa], %[e], %[c], %[xa]\n\t"                                                     \
                         "smlad %[xb], %[e], %[d], %[xb]\n\t"                                                     \
                         "smlad %[xa], %[f], %[a], %[xa]\n\t"                                                     \
                         "smlad %[xb], %[f], %[b], %[xb]\n\t"                                                     \
                         "ldrd %[e], %[f], [%[y]], #8\n\t"                                                        \
                         "smlad %[ya], %[e], %[c], %[ya]\n\t"                                                     \
                         "smlad %[yb], %[e], %[d], %[yb]\n\t"                                                     \
                         "smlad %[ya], %[f], %[a], %[ya]\n\t"                                                     \
                         "smlad %[yb], %[f], %[b], %[yb]"                                                         \
                         : [x] "+r"(x), [y] "+r"(y), [w] "+r"(w), [xa] "+r"(xa), [xb] "+r"(xb), [ya] "+r"(ya),     \
                         [yb] "+r"(yb), [a] "=&r"(a), [b] "=&r"(b), [c] "=&r"(c), [d] "=&r"(d), [e] "=&r"(e),      \
                         [f] "=&r"(f)                                                                             \
                         :                                                                                        \
                         : "memory");                                                                             \
    } while (0)
#else
#define EDGEQ_DOT_STEP                                                \
    do {                                                              \
        uint32_t a, b;                                                \
        edgeq_take_two(&w, &a, &b);                                   \
        edgeq_four_2x2(&x, &y, a, b, &xa, &xb, &ya, &yb);             \
    } while (0)
#endif

EDGEQ_INLINE void edgeq_dot_2(
    const int8_t *x, const int8_t *y, const int8_t *w, int32_t k, const edgeq_record *channel, int32_t *sum)
{
    int32_t xa = edgeq_bias(channel), xb = edgeq_bias(channel + 1), ya = xa, yb = xb;
    for (const int8_t *const end = x + 2 * (k & ~15); x < end;) {
        EDGEQ_DOT_STEP;
        EDGEQ_DOT_STEP;
        EDGEQ_DOT_STEP;
        EDGEQ_DOT_STEP;
    }
    for (k &= 15; k > 0; k -= 4) {
        EDGEQ_DOT_STEP;
    }
    sum[0] = xa, sum[1] = xb, sum[2] = ya, sum[3] = yb;
}

#endif
