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

EDGEQ_INLINE uint32_t edgeq_pair(int32_t low, int32_t high)
{
    return ((uint32_t)low & 0xFFFFu) | (uint32_t)high << 16;
}

EDGEQ_INLINE void edgeq_four_wide_step(uint32_t even, uint32_t odd, const int8_t *w, int32_t *sum)
{
    for (int32_t j = 0; j < 4; j++) {
        const uint32_t word = edgeq_word(w + 4 * j);
        sum[j] = edgeq_two(odd, edgeq_odd(word), edgeq_two(even, edgeq_even(word), sum[j]));
    }
}

EDGEQ_INLINE void edgeq_four_wide(const int16_t *x, const int8_t *w, int32_t k, int32_t *sum)
{
    for (; k >= 4; k -= 4, x += 4, w += 16) {
        edgeq_four_wide_step(edgeq_pair(x[0], x[2]), edgeq_pair(x[1], x[3]), w, sum);
    }
    if (k > 0) {
        const int32_t second = k > 1 ? x[1] : 0, third = k > 2 ? x[2] : 0;
        edgeq_four_wide_step(edgeq_pair(x[0], third), edgeq_pair(second, 0), w, sum);
    }
}

#endif
