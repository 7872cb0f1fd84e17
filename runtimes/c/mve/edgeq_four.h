/* Sums of one row times four columns, for columns that are activations themselves: those of edgeq_dot.h with MVE. */
#ifndef EDGEQ_FOUR_H
#define EDGEQ_FOUR_H

#include "edgeq_dot.h"

#define EDGEQ_FOUR_DEPTH 16 /* elements of one column that lie side by side */

EDGEQ_INLINE void edgeq_four(const int8_t *x, const int8_t *w, int32_t k, int32_t *sum)
{
    const edgeq_channel channels[4] = {{sum[0], 0, 0, 0}, {sum[1], 0, 0, 0}, {sum[2], 0, 0, 0}, {sum[3], 0, 0, 0}};
    edgeq_dot_1(x, w, k, channels, sum);
}

#endif
