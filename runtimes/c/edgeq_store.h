/* From the sums of neighbouring output channels to their codes, in portable C. */
#ifndef EDGEQ_STORE_H
#define EDGEQ_STORE_H

#include "edgeq.h"

EDGEQ_INLINE void edgeq_store_2(const edgeq_output *o, const edgeq_channel *c, const int32_t *sum, edgeq_code *out)
{
    out[0] = (edgeq_code)edgeq_requantize(sum[0], c, o);
    out[1] = (edgeq_code)edgeq_requantize(sum[1], c + 1, o);
}

EDGEQ_INLINE void edgeq_store_4(const edgeq_output *o, const edgeq_channel *c, const int32_t *sum, edgeq_code *out)
{
    edgeq_store_2(o, c, sum, out);
    edgeq_store_2(o, c + 2, sum + 2, out + 2);
}

EDGEQ_INLINE void edgeq_store_some(
    const edgeq_output *o, const edgeq_channel *c, const int32_t *sum, int32_t count, edgeq_code *out)
{
    for (int32_t j = 0; j < count; j++) {
        out[j] = (edgeq_code)edgeq_requantize(sum[j], c + j, o);
    }
}

#endif
