/* The sum of codes, which takes the offset of packed weights out of sums of products, with MVE. */
#ifndef EDGEQ_TOTAL_H
#define EDGEQ_TOTAL_H

#include "edgeq.h"

#if defined(__ARM_FEATURE_MVE)
#include <arm_mve.h>

EDGEQ_INLINE int32_t edgeq_total(const int8_t *x, int32_t k)
{
    int32_t sum = 0;
    for (; k > 0; k -= 16, x += 16) {
        sum = vaddvaq_s8(sum, vldrbq_z_s8(x, vctp8q((uint32_t)k)));
    }
    return sum;
}
#else
EDGEQ_INLINE int32_t edgeq_total(const int8_t *x, int32_t k)
{
    int32_t sum = 0;
    for (int32_t i = 0; i < k; i++) {
        sum += x[i];
    }
    return sum;
}
#endif

#endif
