/* Packed codes of 4 bits in order, the first in the low bits, that look their levels up in EDGEQ_LEVELS: in the place of
 * edgeq_unpack.h, whose interface it has. The model includes this before the kernels that read weights so. */
#ifndef EDGEQ_UNPACK_H
#define EDGEQ_UNPACK_H

#include "edgeq.h"

/* The index-th weight; codes have 4 bits. */
EDGEQ_INLINE int32_t edgeq_field(const int8_t *from, ptrdiff_t index, int32_t bits)
{
    const uint8_t byte = (uint8_t)from[index / 2];
    (void)bits;
    return EDGEQ_LEVELS[index % 2 ? byte >> 4 : byte & 15];
}

/* `count` weights from the first-th on, one byte each. */
EDGEQ_INLINE void edgeq_unpack(const int8_t *from, ptrdiff_t first, int32_t count, int32_t bits, int8_t *to)
{
    for (int32_t i = 0; i < count; i++) {
        to[i] = (int8_t)edgeq_field(from, first + i, bits);
    }
}

#endif
