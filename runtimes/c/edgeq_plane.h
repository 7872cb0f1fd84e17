/* One channel of a depthwise convolution, gathered with its padding into a plane. */
#ifndef EDGEQ_PLANE_H
#define EDGEQ_PLANE_H

#include "edgeq.h"

/* What stays in registers while one channel is computed. Copies, since a store of codes might change the originals for
 * all that a compiler knows. */
typedef struct {
    edgeq_channel channel;
    edgeq_output output;
    const int8_t *table;
    int32_t width, stride_w, stride_h, rows, columns; /* bytes of a row of the plane, strides, and outputs */
    int32_t step;                                     /* bytes between outputs */
} edgeq_plane;

EDGEQ_INLINE void edgeq_store_code(const edgeq_plane *r, int32_t sum, edgeq_code *out)
{
    const int32_t code = edgeq_requantize(sum, &r->channel, &r->output);
    *out = (edgeq_code)(r->table ? r->table[code + 128] : code);
}

#endif
