/* Sums of one row times four columns, for columns that are activations themselves: those of edgeq_dot.h with MVE. */
#ifndef EDGEQ_FOUR_H
#define EDGEQ_FOUR_H

#include "edgeq_dot.h"

#define EDGEQ_FOUR_DEPTH 16 /* elements of one column that lie side by side */

EDGEQ_INLINE void edgeq_four(const int8_t *x, const int8_t *w, int32_t k, int32_t *sum)
{
    static const edgeq_record none[4] = {{0}}; /* a record holds no sums of any size */
    int32_t products[4];
    edgeq_dot_1(x, w, k, none, products);
    sum[0] += products[0], sum[1] += products[1], sum[2] += products[2], sum[3] += products[3];
}

#endif
