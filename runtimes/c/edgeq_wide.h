/* Functions of 16-bit codes, and codes under another scale; the output may lie exactly over the input. */
#ifndef EDGEQ_WIDE_H
#define EDGEQ_WIDE_H

#include "edgeq.h"

/* Linear interpolation between 513 samples, those of the codes -32768, -32640 ... 32768; ties upward. */
EDGEQ_KERNEL void edgeq_interpolate(const int16_t *samples, const edgeq_code *x, int32_t n, edgeq_code *out)
{
    for (int32_t i = 0; i < n; i++) {
        const int32_t place = x[i] + 32768, low = samples[place >> 7], step = samples[(place >> 7) + 1] - low;
        out[i] = (edgeq_code)(low + ((step * (place & 127) + 64) >> 7));
    }
}

/* A table of all codes, for functions that no interpolation equals. */
EDGEQ_KERNEL void edgeq_lookup_wide(const int16_t *table, const edgeq_code *x, int32_t n, edgeq_code *out)
{
    for (int32_t i = 0; i < n; i++) {
        out[i] = (edgeq_code)table[x[i] + 32768];
    }
}

typedef struct {
    edgeq_channel channel; /* its bias takes the input's zero point out */
    edgeq_output output;
} edgeq_rescale_layer;

EDGEQ_KERNEL void edgeq_rescale(const edgeq_rescale_layer *l, const edgeq_code *x, int32_t n, edgeq_code *out)
{
    for (int32_t i = 0; i < n; i++) {
        out[i] = (edgeq_code)edgeq_requantize(x[i] + l->channel.bias, &l->channel, &l->output);
    }
}

#endif
