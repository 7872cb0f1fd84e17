/* From the sums of neighbouring output channels to their codes, in portable C. */
#ifndef EDGEQ_STORE_H
#define EDGEQ_STORE_H

#include "edgeq.h"

/* What brings the sums of one block to codes, read once for all pixels where that saves instructions. */
typedef const edgeq_channel *edgeq_scales;

EDGEQ_INLINE edgeq_scales edgeq_scales_of(const edgeq_channel *c)
{
    return c;
}

EDGEQ_INLINE void edgeq_store_2(const edgeq_output *o, edgeq_scales s, const int32_t *sum, edgeq_code *out)
{
    out[0] = (edgeq_code)edgeq_requantize(sum[0], s, o);
    out[1] = (edgeq_code)edgeq_requantize(sum[1], s + 1, o);
}

EDGEQ_INLINE void edgeq_store_4(const edgeq_output *o, edgeq_scales s, const int32_t *sum, edgeq_code *out)
{
    edgeq_store_2(o, s, sum, out);
    edgeq_store_2(o, s + 2, sum + 2, out + 2);
}

EDGEQ_INLINE void edgeq_store_some(
    const edgeq_output *o, const edgeq_channel *c, const int32_t *sum, int32_t count, edgeq_code *out)
{
    for (int32_t j = 0; j < count; j++) {
        out[j] = (edgeq_code)edgeq_requantize(sum[j], c + j, o);
    }
}

#endif
