/* Sums of up to sixteen neighbouring channels with AVX2; without it in plain C. */
#ifndef EDGEQ_LANES_H
#define EDGEQ_LANES_H

#include "edgeq_requantize.h"

#define EDGEQ_LANES 16

#if defined(__AVX2__)
typedef struct {
    __m256i a, b;
} edgeq_lanes;

/* The first n bytes, at most sixteen, as numbers of 16 bits; zeros after them. */
EDGEQ_INLINE __m256i edgeq_sixteen(const int8_t *from, int32_t n)
{
    if (n == EDGEQ_LANES) {
        return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)from));
    }
    int8_t some[16] = {0};
    for (int32_t i = 0; i < n; i++) {
        some[i] = from[i];
    }
    return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)some));
}

/* The entries of the channels come in multiples of eight. */
EDGEQ_INLINE edgeq_lanes edgeq_lanes_begin(const edgeq_record *c, int32_t n)
{
    const edgeq_lanes lanes = {edgeq_biases_of_8(c), edgeq_biases_of_8(n > 8 ? c + 8 : c)};
    return lanes;
}

EDGEQ_INLINE edgeq_lanes edgeq_lanes_add(edgeq_lanes lanes, const int8_t *x, const int8_t *w, int32_t n)
{
    const __m256i products = _mm256_mullo_epi16(edgeq_sixteen(x, n), edgeq_sixteen(w, n));
    lanes.a = _mm256_add_epi32(lanes.a, _mm256_cvtepi16_epi32(_mm256_castsi256_si128(products)));
    lanes.b = _mm256_add_epi32(lanes.b, _mm256_cvtepi16_epi32(_mm256_extracti128_si256(products, 1)));
    return lanes;
}

EDGEQ_INLINE void edgeq_lanes_end(edgeq_lanes lanes, const edgeq_output *o, const edgeq_record *c, int32_t n, int8_t *out)
{
    edgeq_store_8(o, c, lanes.a, n < 8 ? n : 8, out);
    if (n > 8) {
        edgeq_store_8(o, c + 8, lanes.b, n - 8, out + 8);
    }
}
#else
#include "edgeq_plain_lanes.h"
#endif

#endif
