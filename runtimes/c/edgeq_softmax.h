/* Softmax: share = round((2^15 - 1) e / sum e) with e = exponentials[largest code - code], 2^15 for the largest.
 *
 * All in 32 bits without sign, for rows of up to 2^16 codes. No sum is zero.
 */
#ifndef EDGEQ_SOFTMAX_H
#define EDGEQ_SOFTMAX_H

#include "edgeq.h"

#define EDGEQ_SHARE_UNIT UINT32_C(32767)

typedef struct {
    const uint16_t *exponentials; /* [256], by the difference of two codes */
    edgeq_channel channel;        /* of 8-bit results */
    edgeq_output output;
    const int8_t *table; /* one entry per code, from -128 on; or null */
    int32_t outer, count, inner;
} edgeq_softmax_layer;

/* Of `count` codes, `step` apart. */
EDGEQ_INLINE int32_t edgeq_largest_code(const int8_t *x, int32_t count, int32_t step)
{
    int32_t largest = -128;
    for (const int8_t *const end = x + (ptrdiff_t)count * step; x < end; x += step) {
        largest = *x > largest ? *x : largest;
    }
    return largest;
}

EDGEQ_INLINE uint32_t edgeq_total_of(
    const uint16_t *exponentials, const int8_t *x, int32_t count, int32_t step, int32_t largest)
{
    uint32_t total = 0;
    for (const int8_t *const end = x + (ptrdiff_t)count * step; x < end; x += step) {
        total += exponentials[largest - *x];
    }
    return total;
}

EDGEQ_INLINE int32_t edgeq_share(uint32_t exponential, uint32_t total)
{
    return (int32_t)((EDGEQ_SHARE_UNIT * exponential + total / 2) / total);
}

EDGEQ_INLINE void edgeq_softmax_row(const edgeq_softmax_layer *l, const int8_t *x, int8_t *narrow, int16_t *wide)
{
    const int32_t largest = edgeq_largest_code(x, l->count, l->inner);
    const uint32_t total = edgeq_total_of(l->exponentials, x, l->count, l->inner, largest);
    for (int32_t i = 0; i < l->count; i++) {
        const ptrdiff_t at = (ptrdiff_t)i * l->inner;
        const int32_t share = edgeq_share(l->exponentials[largest - x[at]], total);
        if (wide) {
            wide[at] = (int16_t)share;
        } else {
            const int32_t code = edgeq_requantize(share, &l->channel, &l->output);
            narrow[at] = (int8_t)(l->table ? l->table[code + 128] : code);
        }
    }
}

EDGEQ_KERNEL void edgeq_softmax(const edgeq_softmax_layer *l, const int8_t *x, int8_t *out)
{
    for (int32_t i = 0; i < l->outer; i++, x += (ptrdiff_t)l->count * l->inner, out += (ptrdiff_t)l->count * l->inner) {
        for (int32_t j = 0; j < l->inner; j++) {
            edgeq_softmax_row(l, x + j, out + j, NULL);
        }
    }
}

/* Shares as 16-bit codes. */
EDGEQ_KERNEL void edgeq_softmax_wide(const edgeq_softmax_layer *l, const int8_t *x, int16_t *out)
{
    for (int32_t i = 0; i < l->outer; i++, x += (ptrdiff_t)l->count * l->inner, out += (ptrdiff_t)l->count * l->inner) {
        for (int32_t j = 0; j < l->inner; j++) {
            edgeq_softmax_row(l, x + j, NULL, out + j);
        }
    }
}

#endif
