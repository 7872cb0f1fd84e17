/* The sum of codes, which takes the offset of packed weights out of sums of products. */
#ifndef EDGEQ_TOTAL_H
#define EDGEQ_TOTAL_H

#include "edgeq.h"

EDGEQ_INLINE int32_t edgeq_total(const edgeq_code *x, int32_t k)
{
    int32_t sum = 0;
    for (; k >= 4; k -= 4, x += 4) {
        sum += x[0] + x[1] + x[2] + x[3];
    }
    for (; k > 0; k--) {
        sum += *x++;
    }
    return sum;
}

#endif
