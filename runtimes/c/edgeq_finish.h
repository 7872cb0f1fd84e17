/* What follows a convolution, on the codes of one pixel, in portable C: a table of a function, then a residual. */
#ifndef EDGEQ_FINISH_H
#define EDGEQ_FINISH_H

#include "edgeq_bytes.h"

/* A residual: out = requantize(own[code] + other[addend]), in 32 bits, elementwise. */
typedef struct {
    const int32_t *own, *other; /* one entry per code, from -128 on */
    edgeq_channel channel;
    edgeq_output output;
} edgeq_sum;

EDGEQ_INLINE edgeq_code edgeq_sum_code(const edgeq_sum *s, int32_t own, int32_t other)
{
    return (edgeq_code)edgeq_requantize(s->own[own + 128] + s->other[other + 128], &s->channel, &s->output);
}

/* In `reverse` the last code comes first, so that the output may begin anywhere above the addend. */
EDGEQ_INLINE void edgeq_finish(const int8_t *table, const edgeq_sum *sum, int32_t count, int32_t reverse, edgeq_code *codes,
    const edgeq_code *addend, edgeq_code *out)
{
    for (int32_t c = 0; table && c < count; c++) {
        codes[c] = table[codes[c] + 128];
    }
    if (!sum) {
        edgeq_copy(out, codes, count);
        return;
    }
    const edgeq_sum s = *sum; /* a copy: stores of codes cannot change it */
    if (reverse) {
        for (int32_t c = count - 1; c >= 0; c--) {
            out[c] = edgeq_sum_code(&s, codes[c], addend[c]);
        }
    } else {
        for (int32_t c = 0; c < count; c++) {
            out[c] = edgeq_sum_code(&s, codes[c], addend[c]);
        }
    }
}

#endif
