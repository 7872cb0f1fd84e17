/* Sums of products that may exceed 32 bits: a few products at a time are summed in 32 bits, their sums in 64.
 *
 * A product of a 16-bit code and an 8-bit weight is at most 2^22, so 256 of them stay below 2^31. Only for codes of 16 bits
 * and weights of 8. The model includes this before edgeq_conv.h.
 */
#ifndef EDGEQ_LONG_H
#define EDGEQ_LONG_H

#include "edgeq_dot.h"

#define EDGEQ_LONG_STEP 256

/* Codes of `count` <= 4 output channels of one block. */
EDGEQ_INLINE void edgeq_long_block(int32_t is_long, const edgeq_output *output, const edgeq_code *x, const int8_t *w, int32_t k,
    const edgeq_record *c, int32_t count, edgeq_code *out)
{
    static const edgeq_record none[EDGEQ_BLOCK] = {{0, 0, 0, 0}};
    int64_t sum[EDGEQ_BLOCK] = {0};
    (void)is_long;
    for (; k > 0; k -= EDGEQ_LONG_STEP, x += EDGEQ_LONG_STEP, w += EDGEQ_BLOCK * EDGEQ_LONG_STEP) {
        int32_t part[EDGEQ_BLOCK];
        edgeq_dot_1(x, w, k < EDGEQ_LONG_STEP ? k : EDGEQ_LONG_STEP, none, part);
        for (int32_t j = 0; j < EDGEQ_BLOCK; j++) {
            sum[j] += part[j];
        }
    }
    for (int32_t j = 0; j < count; j++) {
        out[j] = (edgeq_code)edgeq_requantize_long(sum[j] + edgeq_bias_64(c + j), c + j, output);
    }
}

#endif
