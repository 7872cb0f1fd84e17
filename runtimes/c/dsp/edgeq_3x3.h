/* A 3x3 window over one channel with the DSP extension: four input bytes of a row serve two outputs.
 *
 * Of a row x0 x1 x2 x3 the even halves are (x0, x2) and the odd ones (x1, x3). With the weights (w0, w2) in one word and w1
 * in another, output 0 is even . (w0, w2) + x1 w1 and output 1 is odd . (w0, w2) + x2 w1: seven instructions for six
 * multiplications, loads included.
 */
#ifndef EDGEQ_3X3_H
#define EDGEQ_3X3_H

#include "edgeq_halves.h"
#include "edgeq_plane.h"

EDGEQ_INLINE uint32_t edgeq_outer(const int8_t *w)
{
    return ((uint32_t)w[0] & 0xFFFFu) | (uint32_t)w[2] << 16;
}

EDGEQ_INLINE void edgeq_row_of_two(const int8_t *x, uint32_t outer, uint32_t inner, int32_t *a, int32_t *b)
{
    const uint32_t word = edgeq_word(x), even = edgeq_even(word), odd = edgeq_odd(word);
    *a = edgeq_lower(odd, inner, edgeq_two(even, outer, *a));
    *b = edgeq_upper(even, inner, edgeq_two(odd, outer, *b));
}

EDGEQ_INLINE int32_t edgeq_row_of_one(const int8_t *x, uint32_t outer, uint32_t inner, int32_t sum)
{
    const uint32_t word = edgeq_word(x); /* the fourth byte is not used */
    return edgeq_lower(edgeq_odd(word), inner, edgeq_two(edgeq_even(word), outer, sum));
}

/* All outputs of one channel; p is its plane, n its weights. */
EDGEQ_INLINE void edgeq_plane_3x3(const edgeq_plane *r, const int8_t *n, const int8_t *p, int8_t *out)
{
    const uint32_t o0 = edgeq_outer(n), o1 = edgeq_outer(n + 3), o2 = edgeq_outer(n + 6);
    const uint32_t i0 = (uint32_t)n[1], i1 = (uint32_t)n[4], i2 = (uint32_t)n[7];
    const int32_t stride = r->stride_w;
    const ptrdiff_t width = r->width, step = r->step, down = r->stride_h * width;
    for (int32_t y = r->rows; y > 0; y--, p += down) {
        const int8_t *at = p;
        int32_t x = r->columns;
        if (stride == 1) {
            for (; x >= 2; x -= 2, at += 2, out += 2 * step) {
                int32_t a = r->channel.bias, b = a;
                edgeq_row_of_two(at, o0, i0, &a, &b);
                EDGEQ_IN_ORDER;
                edgeq_row_of_two(at + width, o1, i1, &a, &b);
                EDGEQ_IN_ORDER;
                edgeq_row_of_two(at + 2 * width, o2, i2, &a, &b);
                edgeq_store_code(r, a, out);
                edgeq_store_code(r, b, out + step);
            }
        }
        for (; x > 0; x--, at += stride, out += step) {
            int32_t sum = edgeq_row_of_one(at, o0, i0, r->channel.bias);
            sum = edgeq_row_of_one(at + width, o1, i1, sum);
            edgeq_store_code(r, edgeq_row_of_one(at + 2 * width, o2, i2, sum), out);
        }
    }
}

#endif
