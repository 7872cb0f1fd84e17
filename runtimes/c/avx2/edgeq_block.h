/* One block of output channels with AVX2: sums of two products per lane and instruction.
 *
 * Weights come in blocks of eight output channels, [k / 2, rounded up][8 channels][2], padded with zeros. Two elements of
 * two pixels take one load of weights, two of inputs and four instructions for 32 multiplications. Without AVX2 the same
 * sums are computed in plain C.
 */
#ifndef EDGEQ_BLOCK_H
#define EDGEQ_BLOCK_H

#define EDGEQ_DEPTH 2 /* elements of one output channel that lie side by side */

#include "edgeq_eights.h"
#include "edgeq_requantize.h"

#if defined(__AVX2__)
/* Sixteen elements as eight pairs of 16 bits, as multiplications take them. */
EDGEQ_INLINE void edgeq_pairs(const int8_t *x, int32_t *pairs)
{
    const __m128i codes = _mm_loadu_si128((const __m128i *)(const void *)x);
    _mm256_storeu_si256((__m256i *)(void *)pairs, _mm256_cvtepi8_epi16(codes));
}

/* The same of the last n < 16, zeros after them. */
EDGEQ_INLINE void edgeq_last_pairs(const int8_t *x, int32_t n, int32_t *pairs)
{
    int8_t some[16] = {0};
    for (int32_t i = 0; i < n; i++) {
        some[i] = x[i];
    }
    edgeq_pairs(some, pairs);
}

/* The weights of two elements and eight channels. */
EDGEQ_INLINE __m256i edgeq_two_of_eight(const int8_t *w)
{
    return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)w));
}

EDGEQ_INLINE __m256i edgeq_add_two(__m256i sum, __m256i w, int32_t pair)
{
    return _mm256_add_epi32(sum, _mm256_madd_epi16(w, _mm256_set1_epi32(pair)));
}

EDGEQ_INLINE __m256i edgeq_row_sums(const int8_t *x, const int8_t *w, int32_t k, const edgeq_record *c)
{
    __m256i sum = edgeq_biases_of_8(c);
    int32_t pairs[8];
    for (; k >= 16; k -= 16, x += 16, w += 128) {
        edgeq_pairs(x, pairs);
        for (int32_t i = 0; i < 8; i++) {
            sum = edgeq_add_two(sum, edgeq_two_of_eight(w + 16 * i), pairs[i]);
        }
    }
    edgeq_last_pairs(x, k, pairs);
    for (int32_t i = 0; 2 * i < k; i++) {
        sum = edgeq_add_two(sum, edgeq_two_of_eight(w + 16 * i), pairs[i]);
    }
    return sum;
}

EDGEQ_INLINE void edgeq_sums_1(int32_t bits, const int8_t *x, const int8_t *w, int32_t k, const edgeq_record *c,
    int32_t total, int32_t count, int32_t *sum)
{
    (void)bits, (void)total, (void)count;
    _mm256_storeu_si256((__m256i *)(void *)sum, edgeq_row_sums(x, w, k, c));
}

EDGEQ_INLINE void edgeq_block_1(const edgeq_output *output, int32_t bits, int32_t is_long, const int8_t *x,
    const int8_t *w, int32_t k, const edgeq_record *c, int32_t total, int32_t count, int8_t *out)
{
    (void)bits, (void)is_long, (void)total;
    edgeq_store_8(output, c, edgeq_row_sums(x, w, k, c), count, out);
}

EDGEQ_INLINE void edgeq_block_2(const edgeq_output *output, int32_t bits, int32_t is_long, const int8_t *x,
    const int8_t *y, const int8_t *w, int32_t k, const edgeq_record *c, const int32_t *totals, int32_t left, int8_t *out0,
    int8_t *out1)
{
    const int32_t count = left < EDGEQ_BLOCK ? left : EDGEQ_BLOCK;
    __m256i a = edgeq_biases_of_8(c), b = a;
    int32_t first[8], second[8];
    (void)bits, (void)is_long, (void)totals;
    for (; k >= 16; k -= 16, x += 16, y += 16, w += 128) {
        edgeq_pairs(x, first), edgeq_pairs(y, second);
        for (int32_t i = 0; i < 8; i++) {
            const __m256i two = edgeq_two_of_eight(w + 16 * i);
            a = edgeq_add_two(a, two, first[i]), b = edgeq_add_two(b, two, second[i]);
        }
    }
    edgeq_last_pairs(x, k, first), edgeq_last_pairs(y, k, second);
    for (int32_t i = 0; 2 * i < k; i++) {
        const __m256i two = edgeq_two_of_eight(w + 16 * i);
        a = edgeq_add_two(a, two, first[i]), b = edgeq_add_two(b, two, second[i]);
    }
    edgeq_store_8(output, c, a, count, out0);
    edgeq_store_8(output, c, b, count, out1);
}
#else
#include "edgeq_plain_block.h"
#endif

#endif
