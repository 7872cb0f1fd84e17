/* The sum of a layer's codes and a residual's, in portable C. */
#ifndef EDGEQ_RESIDUAL_H
#define EDGEQ_RESIDUAL_H

#include "edgeq_terms.h"

/* The output is given apart so that the usual one can be a constant. In `reverse` the last code comes first, so that the
 * output may begin anywhere above the addend. */
EDGEQ_INLINE void edgeq_add_codes(const edgeq_sum *sum, edgeq_output output, int32_t count, int32_t reverse,
    const edgeq_code *codes, const edgeq_code *addend, edgeq_code *out)
{
    const edgeq_sum s = *sum; /* a copy: stores of codes cannot change it */
    const int32_t step = reverse ? -1 : 1;
    for (int32_t c = reverse ? count - 1 : 0; count > 0; count--, c += step) {
        out[c] = (edgeq_code)edgeq_residual_of(&s, &output, codes[c], addend[c]);
    }
}

#endif
