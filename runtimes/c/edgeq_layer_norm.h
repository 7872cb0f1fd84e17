/* Layer normalization: exact sums, one square root of 16 bits per row, one product per element.
 *
 * With the sum S and the sum of squares Q of a row of n codes, d = n x - S is n times the deviation from the mean and
 * n Q - S^2 is n^2 times the variance. y = round(2^fraction d / sqrt(n Q - S^2 + epsilon)), then gamma y + beta.
 */
#ifndef EDGEQ_LAYER_NORM_H
#define EDGEQ_LAYER_NORM_H

#include "edgeq.h"

typedef struct {
    const int16_t *gamma; /* [count]; or null: 1 */
    const int32_t *beta;  /* [count]; or null: 0 */
    int64_t epsilon;
    edgeq_channel channel;
    edgeq_output output;
    const int8_t *table; /* one entry per code, from -128 on; or null */
    int32_t rows, count, fraction;
} edgeq_layer_norm_layer;

/* What brings the deviations of one row to y: (high(d << left, multiplier) + half) >> right. */
typedef struct {
    int32_t left, multiplier, half, right;
} edgeq_normal;

/* floor(sqrt(x)), bit by bit. */
EDGEQ_INLINE uint32_t edgeq_root(uint32_t x)
{
    uint32_t root = 0;
    for (uint32_t bit = UINT32_C(1) << 30; bit != 0; bit >>= 2) {
        const uint32_t trial = root + bit;
        root >>= 1;
        if (x >= trial) {
            x -= trial;
            root += bit;
        }
    }
    return root;
}

/* power / 4^t, 2^30 <= it < 2^32, has the root q; r = floor((2^32 - 1) / q) and y = round(d r / 2^(32 + t - fraction)).
 * r is taken 14 bits higher and, where the whole shift would stay below 33, d is shifted first, so that the high word of
 * the product is enough. */
EDGEQ_INLINE edgeq_normal edgeq_normal_of(int64_t power, int32_t fraction)
{
    uint64_t leading = (uint64_t)power;
    int32_t t = 0;
    while (leading >> 32) {
        leading >>= 2;
        t++;
    }
    while (leading < (UINT64_C(1) << 30)) {
        leading <<= 2;
        t--;
    }
    const uint32_t reciprocal = UINT32_MAX / edgeq_root((uint32_t)leading);
    const int32_t shift = 46 + t - fraction, left = shift < 33 ? 33 - shift : 0;
    const edgeq_normal normal = {
        left, (int32_t)(reciprocal << 14), (int32_t)(UINT32_C(1) << (shift + left - 33)), shift + left - 32};
    return normal;
}

EDGEQ_INLINE int8_t edgeq_normal_code(const edgeq_layer_norm_layer *l, const edgeq_normal *n, int32_t d, int32_t i)
{
    int32_t y = (edgeq_high(d * (int32_t)(UINT32_C(1) << n->left), n->multiplier) + n->half) >> n->right;
    y = l->gamma ? y * l->gamma[i] : y;
    y = edgeq_requantize(l->beta ? y + l->beta[i] : y, &l->channel, &l->output);
    return (int8_t)(l->table ? l->table[y + 128] : y);
}

EDGEQ_KERNEL void edgeq_layer_norm(const edgeq_layer_norm_layer *given, const int8_t *x, int8_t *out)
{
    const edgeq_layer_norm_layer layer = *given, *const l = &layer; /* a copy: stores of codes cannot change it */
    for (int32_t row = 0; row < l->rows; row++, x += l->count, out += l->count) {
        int32_t total = 0;
        int64_t squares = 0;
        for (int32_t i = 0; i < l->count; i++) {
            total += x[i];
            squares += x[i] * x[i];
        }
        const edgeq_normal normal = edgeq_normal_of(l->count * squares - (int64_t)total * total + l->epsilon, l->fraction);
        for (int32_t i = 0; i < l->count; i++) {
            out[i] = edgeq_normal_code(l, &normal, l->count * x[i] - total, i);
        }
    }
}

/* The same of 16-bit codes. */
EDGEQ_KERNEL void edgeq_layer_norm_wide(const edgeq_layer_norm_layer *given, const int16_t *x, int8_t *out)
{
    const edgeq_layer_norm_layer layer = *given, *const l = &layer;
    for (int32_t row = 0; row < l->rows; row++, x += l->count, out += l->count) {
        int32_t total = 0;
        int64_t squares = 0;
        for (int32_t i = 0; i < l->count; i++) {
            total += x[i];
            squares += x[i] * x[i];
        }
        const edgeq_normal normal = edgeq_normal_of(l->count * squares - (int64_t)total * total + l->epsilon, l->fraction);
        for (int32_t i = 0; i < l->count; i++) {
            out[i] = edgeq_normal_code(l, &normal, l->count * x[i] - total, i);
        }
    }
}

#endif
