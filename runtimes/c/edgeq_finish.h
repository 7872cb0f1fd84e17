/* What follows a convolution, on the codes of neighbouring pixels: a table of a function, then a residual. */
#ifndef EDGEQ_FINISH_H
#define EDGEQ_FINISH_H

#include "edgeq_bytes.h"
#include "edgeq_residual.h"

EDGEQ_APART EDGEQ_KERNEL void edgeq_add_residual(
    const edgeq_sum *s, int32_t count, int32_t reverse, const edgeq_code *codes, const edgeq_code *addend, edgeq_code *out)
{
    if (edgeq_is_usual(&s->output)) {
        edgeq_add_codes(s, edgeq_usual(&s->output), count, reverse, codes, addend, out);
    } else {
        edgeq_add_codes(s, s->output, count, reverse, codes, addend, out);
    }
}

EDGEQ_INLINE void edgeq_finish(const int8_t *table, const edgeq_sum *sum, int32_t count, int32_t reverse, edgeq_code *codes,
    const edgeq_code *addend, edgeq_code *out)
{
    for (int32_t c = 0; table && c < count; c++) {
        codes[c] = table[codes[c] + 128];
    }
    if (sum) {
        edgeq_add_residual(sum, count, reverse, codes, addend, out);
    } else {
        edgeq_copy(out, codes, count);
    }
}

#endif
