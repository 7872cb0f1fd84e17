/* Sums of neighbouring channels in plain C, where the vectors that a model was written for are missing. */
#ifndef EDGEQ_PLAIN_LANES_H
#define EDGEQ_PLAIN_LANES_H

#include "edgeq.h"

typedef struct {
    int32_t sum[EDGEQ_LANES];
} edgeq_lanes;

EDGEQ_INLINE edgeq_lanes edgeq_lanes_begin(const edgeq_record *c, int32_t n)
{
    edgeq_lanes lanes;
    for (int32_t i = 0; i < EDGEQ_LANES; i++) {
        lanes.sum[i] = i < n ? edgeq_bias(c + i) : 0;
    }
    return lanes;
}

EDGEQ_INLINE edgeq_lanes edgeq_lanes_add(edgeq_lanes lanes, const int8_t *x, const int8_t *w, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        lanes.sum[i] += x[i] * w[i];
    }
    return lanes;
}

EDGEQ_INLINE void edgeq_lanes_end(edgeq_lanes lanes, const edgeq_output *o, const edgeq_record *c, int32_t n, int8_t *out)
{
    for (int32_t i = 0; i < n; i++) {
        out[i] = (int8_t)edgeq_requantize_by(lanes.sum[i], c + i, o);
    }
}

#endif
