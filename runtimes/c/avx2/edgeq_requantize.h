/* From the sums of eight neighbouring output channels to their codes with AVX2: edgeq_requantize in every lane. */
#ifndef EDGEQ_REQUANTIZE_H
#define EDGEQ_REQUANTIZE_H

#include "edgeq.h"

#if defined(__AVX2__)
#include <immintrin.h>

/* The same number of eight channels: `first` is that of the first one. */
EDGEQ_INLINE __m256i edgeq_of_channels(const int32_t *first)
{
    const int32_t step = (int32_t)(sizeof(edgeq_record) / 4);
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_i32gather_epi32(first, _mm256_mullo_epi32(lanes, _mm256_set1_epi32(step)), 4);
}

#if defined(EDGEQ_WIDE_RECORDS)
#define edgeq_biases_of_8(c) edgeq_of_channels(&(c)->bias)
#define edgeq_shifts_of_8(c) edgeq_of_channels(&(c)->shift)
#else
#define edgeq_biases_of_8(c) _mm256_srai_epi32(edgeq_of_channels(&(c)->bias_and_shift), 8)
#define edgeq_shifts_of_8(c) _mm256_and_si256(edgeq_of_channels(&(c)->bias_and_shift), _mm256_set1_epi32(31))
#endif

/* The high words of eight products. */
EDGEQ_INLINE __m256i edgeq_high_8(__m256i a, __m256i b)
{
    const __m256i even = _mm256_mul_epi32(a, b), odd = _mm256_mul_epi32(_mm256_srli_epi64(a, 32), _mm256_srli_epi64(b, 32));
    return _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xAA);
}

EDGEQ_INLINE __m256i edgeq_requantize_8(__m256i sum, const edgeq_record *c, const edgeq_output *o)
{
    const __m256i shift = edgeq_shifts_of_8(c);
    const __m256i offset = _mm256_srai_epi32(_mm256_sllv_epi32(_mm256_set1_epi32(o->middle), shift), 1);
    __m256i r = _mm256_mullo_epi32(sum, _mm256_set1_epi32(o->factor));
    r = edgeq_high_8(r, edgeq_of_channels(&c->multiplier));
#ifdef EDGEQ_GEMMLOWP
    r = _mm256_srai_epi32(_mm256_add_epi32(r, _mm256_set1_epi32(1)), 1);
    /* Ties away from zero, where there is a shift: one less of a negative number. */
    r = _mm256_add_epi32(r, _mm256_and_si256(_mm256_srai_epi32(r, 31), _mm256_cmpgt_epi32(shift, _mm256_setzero_si256())));
#endif
    r = _mm256_srav_epi32(_mm256_add_epi32(r, offset), shift);
    return _mm256_min_epi32(_mm256_max_epi32(r, _mm256_set1_epi32(o->low)), _mm256_set1_epi32(o->high));
}

/* `count` <= 8 codes; the entries of eight channels are read. */
EDGEQ_INLINE void edgeq_store_8(const edgeq_output *o, const edgeq_record *c, __m256i sum, int32_t count, int8_t *out)
{
    const __m256i wide = edgeq_requantize_8(sum, c, o);
    const __m128i halves = _mm_packs_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
    const __m128i codes = _mm_packs_epi16(halves, halves);
    if (count == 8) {
        _mm_storel_epi64((__m128i *)(void *)out, codes);
        return;
    }
    int8_t some[16];
    _mm_storeu_si128((__m128i *)(void *)some, codes);
    for (int32_t i = 0; i < count; i++) {
        out[i] = some[i];
    }
}
#endif

#endif
