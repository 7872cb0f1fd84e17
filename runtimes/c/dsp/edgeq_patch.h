/* Columns of a convolution with the DSP extension: 16-bit halves, of every four codes the even pair, then the odd pair.
 *
 * The last four are padded with anything: no sum depends on it, since weights there are zero. A column begins at a multiple
 * of eight bytes.
 */
#ifndef EDGEQ_PATCH_H
#define EDGEQ_PATCH_H

#include "edgeq_bytes.h"
#include "edgeq_halves.h"

#define EDGEQ_WIDE_COLUMNS 1

/* What a column of k codes takes, in codes. */
EDGEQ_INLINE int32_t edgeq_column_size(int32_t k)
{
    return 2 * ((k + 3) & ~3);
}

/* The next n codes of a column, n a multiple of four; the codes may lie in the column's second half. */
EDGEQ_INLINE void edgeq_widen(int8_t *to, const int8_t *from, int32_t n)
{
    for (; n >= 8; n -= 8, from += 8) {
        const uint32_t first = edgeq_word(from), second = edgeq_word(from + 4);
        edgeq_put_two(&to, edgeq_even(first), edgeq_odd(first));
        edgeq_put_two(&to, edgeq_even(second), edgeq_odd(second));
    }
    if (n > 0) {
        const uint32_t word = edgeq_word(from);
        edgeq_put_two(&to, edgeq_even(word), edgeq_odd(word));
    }
}

/* The next n codes of a column as bytes or, if `wide` (n a multiple of four), as halves; where the column goes on. */
EDGEQ_INLINE int8_t *edgeq_put(int8_t *to, const int8_t *from, int32_t n, int32_t wide)
{
    if (wide) {
        edgeq_widen(to, from, n);
        return to + 2 * n;
    }
    edgeq_copy(to, from, n);
    return to + n;
}

/* The same with n times the code of padding. */
EDGEQ_INLINE int8_t *edgeq_pad(int8_t *to, int32_t code, int32_t n, int32_t wide)
{
    if (wide) {
        const uint32_t half = (uint32_t)code & 0xFFFFu, both = half | half << 16;
        for (; n > 0; n -= 4) {
            edgeq_put_two(&to, both, both);
        }
        return to;
    }
    edgeq_fill(to, code, n);
    return to + n;
}

/* The sum of a column's codes, those that pad it included: packed weights there are l = h = 0, which is u = b = 8. */
EDGEQ_INLINE int32_t edgeq_column_total(const int8_t *x, int32_t k)
{
    int32_t sum = 0;
    for (; k > 0; k -= 4) {
        uint32_t even, odd;
        edgeq_take_two(&x, &even, &odd);
        sum = edgeq_two(odd, 0x00010001u, edgeq_two(even, 0x00010001u, sum));
    }
    return sum;
}

#endif
