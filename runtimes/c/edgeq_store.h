/* From the sums of neighbouring output channels to their codes, in portable C. */
#ifndef EDGEQ_STORE_H
#define EDGEQ_STORE_H

#include "edgeq.h"

/* One channel of two or three pixels, whose sums lie `block` apart: its numbers are read once for all of them. */
EDGEQ_INLINE void edgeq_store_channel(const edgeq_output *o, const edgeq_record *c, const int32_t *sum, int32_t block,
    int32_t pixels, edgeq_code *out0, edgeq_code *out1, edgeq_code *out2)
{
    const edgeq_channel own = edgeq_channel_of(c, o);
    *out0 = (edgeq_code)edgeq_requantize(sum[0], &own, o);
    *out1 = (edgeq_code)edgeq_requantize(sum[block], &own, o);
    if (pixels == 3) {
        *out2 = (edgeq_code)edgeq_requantize(sum[2 * block], &own, o);
    }
}

/* A block of two or four channels of two or three pixels; with two, out2 is not used. */
EDGEQ_INLINE void edgeq_store_pixels(const edgeq_output *o, const edgeq_record *c, const int32_t *sum, int32_t block,
    int32_t pixels, edgeq_code *out0, edgeq_code *out1, edgeq_code *out2)
{
    edgeq_store_channel(o, c, sum, block, pixels, out0, out1, out2);
    edgeq_store_channel(o, c + 1, sum + 1, block, pixels, out0 + 1, out1 + 1, out2 + 1);
    if (block == 4) {
        edgeq_store_channel(o, c + 2, sum + 2, block, pixels, out0 + 2, out1 + 2, out2 + 2);
        edgeq_store_channel(o, c + 3, sum + 3, block, pixels, out0 + 3, out1 + 3, out2 + 3);
    }
}

EDGEQ_INLINE void edgeq_store_some(
    const edgeq_output *o, const edgeq_record *c, const int32_t *sum, int32_t count, edgeq_code *out)
{
    for (int32_t j = 0; j < count; j++) {
        out[j] = (edgeq_code)edgeq_requantize_by(sum[j], c + j, o);
    }
}

/* The first `count` of four channels of one row. */
EDGEQ_INLINE void edgeq_store_row(
    const edgeq_output *o, const edgeq_record *c, const int32_t *sum, int32_t count, edgeq_code *out)
{
    if (count == 4) {
        out[0] = (edgeq_code)edgeq_requantize_by(sum[0], c, o);
        out[1] = (edgeq_code)edgeq_requantize_by(sum[1], c + 1, o);
        out[2] = (edgeq_code)edgeq_requantize_by(sum[2], c + 2, o);
        out[3] = (edgeq_code)edgeq_requantize_by(sum[3], c + 3, o);
        return;
    }
    edgeq_store_some(o, c, sum, count, out);
}

#endif
