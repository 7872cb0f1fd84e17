/* Packed weights of 2 or 4 bits in order, two's complement, the first in the lowest bits: for kernels that use a weight
 * many times (a depthwise convolution) or seldom (a transposed one). The model includes this before those kernels. */
#ifndef EDGEQ_UNPACK_H
#define EDGEQ_UNPACK_H

#include "edgeq.h"

/* The index-th weight of `bits` bits (2, 4 or 8). */
EDGEQ_INLINE int32_t edgeq_field(const int8_t *from, ptrdiff_t index, int32_t bits)
{
    const ptrdiff_t at = index * bits;
    const uint32_t byte = (uint8_t)from[at / 8];
    return (int32_t)(byte << (24 + 8 - bits - at % 8)) >> (32 - bits);
}

/* `count` weights from the first-th on, one byte each. */
EDGEQ_INLINE void edgeq_unpack(const int8_t *from, ptrdiff_t first, int32_t count, int32_t bits, int8_t *to)
{
    for (int32_t i = 0; i < count; i++) {
        to[i] = (int8_t)edgeq_field(from, first + i, bits);
    }
}

#endif
