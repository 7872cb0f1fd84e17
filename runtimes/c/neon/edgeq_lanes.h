/* Sums of up to eight neighbouring channels with NEON; without it in plain C. */
#ifndef EDGEQ_LANES_H
#define EDGEQ_LANES_H

#include "edgeq_requantize.h"

#define EDGEQ_LANES 8

#if defined(__ARM_NEON)
typedef struct {
    int32x4_t a, b;
} edgeq_lanes;

/* n <= 8 bytes, zeros after them. */
EDGEQ_INLINE int8x8_t edgeq_eight(const int8_t *from, int32_t n)
{
    if (n == EDGEQ_LANES) {
        return vld1_s8(from);
    }
    int8_t some[EDGEQ_LANES] = {0};
    for (int32_t i = 0; i < n; i++) {
        some[i] = from[i];
    }
    return vld1_s8(some);
}

/* The entries of the channels come in whole vectors. */
EDGEQ_INLINE edgeq_lanes edgeq_lanes_begin(const edgeq_channel *c, int32_t n)
{
    const edgeq_lanes lanes = {vld4q_s32((const int32_t *)c).val[0], vld4q_s32((const int32_t *)(c + 4)).val[0]};
    (void)n;
    return lanes;
}

EDGEQ_INLINE edgeq_lanes edgeq_lanes_add(edgeq_lanes lanes, const int8_t *x, const int8_t *w, int32_t n)
{
    const int16x8_t part = vmull_s8(edgeq_eight(x, n), edgeq_eight(w, n));
    lanes.a = vaddw_s16(lanes.a, vget_low_s16(part));
    lanes.b = vaddw_high_s16(lanes.b, part);
    return lanes;
}

EDGEQ_INLINE void edgeq_lanes_end(edgeq_lanes lanes, const edgeq_output *o, const edgeq_channel *c, int32_t n, int8_t *out)
{
    edgeq_store_8(o, c, lanes.a, lanes.b, n, out);
}
#else
#include "edgeq_plain_lanes.h"
#endif

#endif
