/* The 32-bit terms that codes stand for in a sum: step * code + fine[code], one fine part per code from -128 on, and where
 * the lines of both terms start in the bias of the sum.
 *
 * Terms are a scale times a code, rounded, so that what is left of a straight line fits a byte. A model where it does not
 * (codes rounded twice) defines EDGEQ_WIDE_TERMS, and its fine parts are the whole terms.
 */
#ifndef EDGEQ_TERMS_H
#define EDGEQ_TERMS_H

#include "edgeq.h"

#if defined(EDGEQ_WIDE_TERMS)
typedef int32_t edgeq_fine;
#else
typedef uint8_t edgeq_fine;
#endif

typedef struct {
    int32_t step;
    const edgeq_fine *fine;
} edgeq_terms;

EDGEQ_INLINE int32_t edgeq_term_of(const edgeq_terms *t, int32_t code)
{
    return t->step * code + t->fine[code + 128];
}

/* A residual: out = requantize(term of code + term of addend), in 32 bits, elementwise. A model defines EDGEQ_LINES if for
 * each of its residuals there are numbers that give the same for all pairs of codes without tables. */
#if defined(EDGEQ_LINES)
typedef struct {
    int32_t own, other, start, shift;
    edgeq_output output;
} edgeq_sum;

EDGEQ_INLINE int32_t edgeq_residual_of(const edgeq_sum *s, const edgeq_output *o, int32_t code, int32_t addend)
{
    return edgeq_clamp((s->own * code + s->other * addend + s->start) >> s->shift, o->low, o->high);
}
#else
typedef struct {
    edgeq_terms own, other;
    edgeq_channel channel;
    edgeq_output output;
} edgeq_sum;

EDGEQ_INLINE int32_t edgeq_residual_of(const edgeq_sum *s, const edgeq_output *o, int32_t code, int32_t addend)
{
    const int32_t sum = s->channel.bias + edgeq_term_of(&s->own, code) + edgeq_term_of(&s->other, addend);
    return edgeq_requantize(sum, &s->channel, o);
}
#endif

#endif
