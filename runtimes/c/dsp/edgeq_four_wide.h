/* Sums of one row of 16-bit codes times four columns of 8-bit codes with the DSP extension: two multiplications per
 * instruction.
 *
 * Columns lie as [k / 4, rounded up][4 columns][4], padded with zeros. Words of four bytes widen to elements 0 and 2, and 1
 * and 3; two words of two 16-bit codes are paired alike. 24 instructions do 16 multiplications.
 */
#ifndef EDGEQ_FOUR_WIDE_H
#define EDGEQ_FOUR_WIDE_H

#include "edgeq_halves.h"

#define EDGEQ_WIDE_DEPTH 4 /* elements of one column that lie side by side */

EDGEQ_INLINE int32_t edgeq_wide_column(uint32_t even, uint32_t odd, const int8_t *w, int32_t sum)
{
    const uint32_t word = edgeq_word(w);
    return edgeq_two(odd, edgeq_odd(word), edgeq_two(even, edgeq_even(word), sum));
}

EDGEQ_INLINE uint32_t edgeq_pair(int32_t low, int32_t high)
{
    return ((uint32_t)low & 0xFFFFu) | (uint32_t)high << 16;
}

EDGEQ_INLINE void edgeq_four_wide(const int16_t *x, const int8_t *w, int32_t k, int32_t *sum)
{
    int32_t a = sum[0], b = sum[1], c = sum[2], d = sum[3];
    for (const int16_t *const end = x + (k & ~3); x < end; x += 4, w += 16) {
        const uint32_t first = edgeq_word((const int8_t *)x), second = edgeq_word((const int8_t *)(x + 2));
        const uint32_t even = (first & 0xFFFFu) | second << 16, odd = first >> 16 | (second & 0xFFFF0000u);
        a = edgeq_wide_column(even, odd, w, a);
        b = edgeq_wide_column(even, odd, w + 4, b);
        c = edgeq_wide_column(even, odd, w + 8, c);
        d = edgeq_wide_column(even, odd, w + 12, d);
        EDGEQ_IN_ORDER;
    }
    if (k &= 3) {
        const uint32_t even = edgeq_pair(x[0], k > 2 ? x[2] : 0), odd = edgeq_pair(k > 1 ? x[1] : 0, 0);
        a = edgeq_wide_column(even, odd, w, a);
        b = edgeq_wide_column(even, odd, w + 4, b);
        c = edgeq_wide_column(even, odd, w + 8, c);
        d = edgeq_wide_column(even, odd, w + 12, d);
    }
    sum[0] = a, sum[1] = b, sum[2] = c, sum[3] = d;
}

#endif
