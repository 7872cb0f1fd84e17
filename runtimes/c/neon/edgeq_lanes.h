/* Sums of up to sixteen neighbouring channels with NEON; without it in plain C. */
#ifndef EDGEQ_LANES_H
#define EDGEQ_LANES_H

#include "edgeq_requantize.h"

#define EDGEQ_LANES 16

#if defined(__ARM_NEON)
typedef struct {
    int32x4_t a, b, c, d;
} edgeq_lanes;

/* The first n bytes, at most eight; zeros after them. */
EDGEQ_INLINE int8x8_t edgeq_eight(const int8_t *from, int32_t n)
{
    if (n >= 8) {
        return vld1_s8(from);
    }
    int8_t some[8] = {0};
    for (int32_t i = 0; i < n; i++) {
        some[i] = from[i];
    }
    return vld1_s8(some);
}

/* The entries of the channels come in multiples of eight. */
EDGEQ_INLINE edgeq_lanes edgeq_lanes_begin(const edgeq_record *c, int32_t n)
{
    const edgeq_record *const upper = n > 8 ? c + 8 : c;
    const edgeq_lanes lanes = {edgeq_biases_of_4(c), edgeq_biases_of_4(c + 4),
        edgeq_biases_of_4(upper), edgeq_biases_of_4(upper + 4)};
    return lanes;
}

EDGEQ_INLINE edgeq_lanes edgeq_lanes_add(edgeq_lanes lanes, const int8_t *x, const int8_t *w, int32_t n)
{
    if (n == EDGEQ_LANES) {
        const int8x16_t xs = vld1q_s8(x), ws = vld1q_s8(w);
        const int16x8_t lower = vmull_s8(vget_low_s8(xs), vget_low_s8(ws)), upper = vmull_high_s8(xs, ws);
        lanes.a = vaddw_s16(lanes.a, vget_low_s16(lower)), lanes.b = vaddw_high_s16(lanes.b, lower);
        lanes.c = vaddw_s16(lanes.c, vget_low_s16(upper)), lanes.d = vaddw_high_s16(lanes.d, upper);
        return lanes;
    }
    const int16x8_t lower = vmull_s8(edgeq_eight(x, n), edgeq_eight(w, n));
    lanes.a = vaddw_s16(lanes.a, vget_low_s16(lower)), lanes.b = vaddw_high_s16(lanes.b, lower);
    if (n > 8) {
        const int16x8_t upper = vmull_s8(edgeq_eight(x + 8, n - 8), edgeq_eight(w + 8, n - 8));
        lanes.c = vaddw_s16(lanes.c, vget_low_s16(upper)), lanes.d = vaddw_high_s16(lanes.d, upper);
    }
    return lanes;
}

EDGEQ_INLINE void edgeq_lanes_end(edgeq_lanes lanes, const edgeq_output *o, const edgeq_record *c, int32_t n, int8_t *out)
{
    edgeq_store_8(o, c, lanes.a, lanes.b, n < 8 ? n : 8, out);
    if (n > 8) {
        edgeq_store_8(o, c + 8, lanes.c, lanes.d, n - 8, out + 8);
    }
}
#else
#include "edgeq_plain_lanes.h"
#endif

#endif
