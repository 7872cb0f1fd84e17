/* Blocks of eight output channels, whole ones: how long their weights and the entries of their channels are. */
#ifndef EDGEQ_EIGHTS_H
#define EDGEQ_EIGHTS_H

#include "edgeq.h"

#define EDGEQ_BLOCK 8
#define EDGEQ_PIXELS 2 /* of a convolution that are computed together */
#define EDGEQ_ROW_BLOCK 8

/* Bytes of one output channel's weights. */
EDGEQ_INLINE int32_t edgeq_packed(int32_t k)
{
    return (k + EDGEQ_DEPTH - 1) / EDGEQ_DEPTH * EDGEQ_DEPTH;
}

/* Entries of the channels of one group of a convolution, and bytes of its weights: both in whole blocks. */
EDGEQ_INLINE ptrdiff_t edgeq_group_channels(int32_t outputs)
{
    return (ptrdiff_t)(outputs + EDGEQ_BLOCK - 1) / EDGEQ_BLOCK * EDGEQ_BLOCK;
}

EDGEQ_INLINE ptrdiff_t edgeq_group_bytes(int32_t outputs, int32_t k, int32_t bits)
{
    return edgeq_group_channels(outputs) * edgeq_packed(k) * bits / 8;
}

/* Where element i of channel j of a block lies. */
#define EDGEQ_WEIGHT_AT(i, j, count) ((i) / EDGEQ_DEPTH * EDGEQ_DEPTH * EDGEQ_BLOCK + EDGEQ_DEPTH * (j) + (i) % EDGEQ_DEPTH)

#endif
