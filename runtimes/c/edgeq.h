/* Types and arithmetic shared by all kernels. Integers only; nothing here allocates, recurses or calls a library.
 *
 * An activation is a code q of 8 bits (16 if the model defines EDGEQ_CODE_BITS so), and real = scale * (q - zero point).
 * A kernel sums products of codes in 32 bits (the zero points are folded into the bias when the code is generated) and
 * brings the sum to an output code with edgeq_requantize. Arithmetic right shift of negative numbers is assumed, as every compiler for these cores has it.
 */
#ifndef EDGEQ_H
#define EDGEQ_H

#include <stddef.h>
#include <stdint.h>

#if defined(__STDC_VERSION__) && __STDC_VERSION__ >= 201112L
#define EDGEQ_STATIC_ASSERT(name, condition) _Static_assert(condition, #name)
#else
#define EDGEQ_STATIC_ASSERT(name, condition) typedef char edgeq_assert_##name[(condition) ? 1 : -1]
#endif

/* EDGEQ_APART keeps a function out of its caller, whose variables would take the registers of its loops.
 * EDGEQ_IN_ORDER keeps a compiler from moving loads ahead of it: in an unrolled loop it would move them all to the front,
 * run out of registers, and spill; EDGEQ_DONE keeps it from leaving four sums for later as well. EDGEQ_ALIGNED puts bytes
 * where words may be read. edgeq_is_known says whether the compiler knows a value. */
#if defined(__GNUC__)
#define EDGEQ_INLINE static inline __attribute__((always_inline))
#define EDGEQ_KERNEL static __attribute__((unused))
#define EDGEQ_IN_ORDER __asm__ volatile("" : : : "memory")
#define EDGEQ_DONE(a, b, c, d) __asm__ volatile("" : "+r"(a), "+r"(b), "+r"(c), "+r"(d) : : "memory")
#define EDGEQ_APART __attribute__((noinline))
#define EDGEQ_ALIGNED __attribute__((aligned(4)))
#define edgeq_is_known __builtin_constant_p
#else
#define EDGEQ_INLINE static inline
#define EDGEQ_KERNEL static
#define EDGEQ_IN_ORDER ((void)0)
#define EDGEQ_DONE(a, b, c, d) ((void)0)
#define EDGEQ_APART
#define EDGEQ_ALIGNED
#define edgeq_is_known(value) 0
#endif

#if defined(EDGEQ_CODE_BITS) && EDGEQ_CODE_BITS == 16
#define EDGEQ_WIDE_CODES
#define EDGEQ_LOWEST (-32768)
#define EDGEQ_HIGHEST 32767
typedef int16_t edgeq_code;
typedef int64_t edgeq_long_sum; /* of products with weights of more than 8 bits */
#else
#define EDGEQ_LOWEST (-128)
#define EDGEQ_HIGHEST 127
typedef int8_t edgeq_code;
typedef int32_t edgeq_long_sum;
#endif

/* One output channel: its bias, and the three numbers that bring a sum to a code. */
typedef struct {
    int32_t bias;
    int32_t multiplier;
    int32_t offset; /* rounding and output zero point; of sums of 64 bits the latter and, 16 bits up, the bias beyond 32 */
    int32_t shift;
} edgeq_channel;

/* What all channels of a layer share: a factor for sums (a power of two), the range of output codes, whether every channel's
 * shift is positive, and one more than twice the output zero point. */
typedef struct {
    int32_t factor;
    int32_t low, high;
    int16_t shifts, middle;
} edgeq_output;

/* A channel as flash holds it: its bias above eight bits of shift, and its multiplier. The offset follows from the shift and
 * the layer's zero point. A model some of whose numbers do not fit defines EDGEQ_WIDE_RECORDS. */
#if defined(EDGEQ_WIDE_RECORDS)
typedef edgeq_channel edgeq_record;
#else
typedef struct {
    int32_t bias_and_shift;
    int32_t multiplier;
} edgeq_record;
#endif

/* Sizes of the larger descriptors. A model with one above 65,535 defines EDGEQ_LARGE_SIZES. */
#if defined(EDGEQ_LARGE_SIZES)
typedef int32_t edgeq_size;
#else
typedef uint16_t edgeq_size;
#endif

/* The table of a layer. A model without tables behind convolutions, matrix products and means defines EDGEQ_NO_TABLES. */
#if defined(EDGEQ_NO_TABLES)
#define edgeq_table(l) ((const int8_t *)NULL)
#else
#define edgeq_table(l) (l)->table
#endif

/* The two input rows (or columns) that an output row mixes: (1024 - weight) first + weight second. */
typedef struct {
    int32_t first, second, weight;
} edgeq_mix;

EDGEQ_INLINE int32_t edgeq_high(int32_t a, int32_t b)
{
    return (int32_t)(((int64_t)a * b) >> 32);
}

EDGEQ_INLINE int32_t edgeq_clamp(int32_t x, int32_t low, int32_t high)
{
#if defined(__ARM_FEATURE_SAT)
    if (edgeq_is_known(low) && edgeq_is_known(high) && low == -128 && high == 127) {
        __asm__("ssat %0, #8, %1" : "=r"(x) : "r"(x));
        return x;
    }
#endif
    if (edgeq_is_known(low) && edgeq_is_known(high) && low == -128 && high == 127) {
        return (uint32_t)x + 128u > 255u ? (x >> 31) ^ 127 : x;
    }
    x = x < low ? low : x;
    return x > high ? high : x;
}

/* The output of nearly every layer without an activation that clamps: constants, so that they take no registers. A model
 * defines EDGEQ_ONLY_USUAL if all its layers with weights are so, and no depthwise convolution has a table: the code for
 * the others is then left out. */
#ifdef EDGEQ_GEMMLOWP
#define EDGEQ_USUAL_FACTOR 4
#else
#define EDGEQ_USUAL_FACTOR 1
#endif

EDGEQ_INLINE int32_t edgeq_clamps_nothing(const edgeq_output *o)
{
    return o->factor == EDGEQ_USUAL_FACTOR && o->low == EDGEQ_LOWEST && o->high == EDGEQ_HIGHEST && o->shifts;
}

/* Of a layer with weights. */
EDGEQ_INLINE int32_t edgeq_is_usual(const edgeq_output *o)
{
#if defined(EDGEQ_ONLY_USUAL)
    (void)o;
    return 1;
#else
    return edgeq_clamps_nothing(o);
#endif
}

EDGEQ_INLINE edgeq_output edgeq_usual(const edgeq_output *o)
{
    const edgeq_output output = {EDGEQ_USUAL_FACTOR, EDGEQ_LOWEST, EDGEQ_HIGHEST, 1, o->middle};
    return output;
}

#if defined(EDGEQ_WIDE_RECORDS)
EDGEQ_INLINE int32_t edgeq_bias(const edgeq_record *r)
{
    return r->bias;
}

EDGEQ_INLINE edgeq_channel edgeq_channel_of(const edgeq_record *r, const edgeq_output *o)
{
    (void)o;
    return *r;
}
#else
EDGEQ_INLINE int32_t edgeq_bias(const edgeq_record *r)
{
    return r->bias_and_shift >> 8;
}

EDGEQ_INLINE edgeq_channel edgeq_channel_of(const edgeq_record *r, const edgeq_output *o)
{
    const int32_t shift = r->bias_and_shift & 31; /* the upper three of its bits are zeros */
    const int32_t offset = (int32_t)((uint32_t)o->middle << shift) >> 1;
    const edgeq_channel channel = {edgeq_bias(r), r->multiplier, offset, shift};
    return channel;
}
#endif

EDGEQ_INLINE int32_t edgeq_saturated(int64_t x, const edgeq_output *o)
{
    return x < o->low ? o->low : x > o->high ? o->high : (int32_t)x;
}

/* The bias of a sum of 64 bits. */
EDGEQ_INLINE int64_t edgeq_bias_64(const edgeq_channel *c)
{
    return c->bias + (int64_t)(c->offset - (int16_t)c->offset) * 65536;
}

/* One rounding in 64 bits: round(sum q / 2^shift), ties upward, of sums of up to 60 bits. With sum = 2^31 h + l, neither
 * h q nor l q overflows. */
EDGEQ_INLINE int32_t edgeq_requantize_64(int64_t sum, const edgeq_channel *c, const edgeq_output *o)
{
    const int64_t low = (sum & INT32_MAX) * c->multiplier, high = (sum >> 31) * c->multiplier;
    const int32_t shift = c->shift;
    const int64_t whole = shift > 31
        ? (high + (low >> 31) + ((int64_t)1 << (shift - 32))) >> (shift - 31)
        : high * ((int64_t)1 << (31 - shift)) + ((low + ((int64_t)1 << (shift - 1))) >> shift);
    return edgeq_saturated(whole + (int16_t)c->offset, o);
}

#if defined(EDGEQ_WIDE_CODES)
#define edgeq_requantize_long edgeq_requantize_64

/* The same of 32-bit sums. */
EDGEQ_INLINE int32_t edgeq_requantize(int32_t sum, const edgeq_channel *c, const edgeq_output *o)
{
    const int64_t half = (int64_t)1 << (c->shift - 1);
    return edgeq_saturated((((int64_t)sum * c->multiplier + half) >> c->shift) + c->offset, o);
}
#elif defined(EDGEQ_GEMMLOWP)
/* Two roundings, as gemmlowp, TFLite and CMSIS-NN do: r = round(sum q / 2^31), ties upward, then round(r / 2^shift),
 * ties away from zero. factor is 4 2^max(e, 0), so that the high word holds one bit more than r. */
EDGEQ_INLINE int32_t edgeq_requantize(int32_t sum, const edgeq_channel *c, const edgeq_output *o)
{
#if defined(__ARM_FEATURE_DSP)
    int32_t r = sum * (o->factor / 2);
    __asm__("smmulr %0, %0, %1" : "+r"(r) : "r"(c->multiplier));
#else
    const int32_t r = (edgeq_high(sum * o->factor, c->multiplier) + 1) >> 1;
#endif
    const int32_t tie = (int32_t)((uint32_t)r >> 31) & (o->shifts | (c->shift > 0));
    return edgeq_clamp((r + c->offset - tie) >> c->shift, o->low, o->high);
}
#else
/* One rounding: round(sum q / 2^(31 - e)), ties upward. With 31 - e >= 33 (factor sees to it) the half that rounds is a
 * multiple of 2^32, so the low word of the product never matters. */
EDGEQ_INLINE int32_t edgeq_requantize(int32_t sum, const edgeq_channel *c, const edgeq_output *o)
{
    return edgeq_clamp((edgeq_high(sum * o->factor, c->multiplier) + c->offset) >> c->shift, o->low, o->high);
}
#endif

#if !defined(EDGEQ_WIDE_CODES)
#define edgeq_requantize_long edgeq_requantize
#endif

EDGEQ_INLINE int32_t edgeq_requantize_by(int32_t sum, const edgeq_record *r, const edgeq_output *o)
{
    const edgeq_channel channel = edgeq_channel_of(r, o);
    return edgeq_requantize(sum, &channel, o);
}

/* round(sum / divisor), ties away from zero, or with no divisor (as always with 16-bit codes) the requantized sum. */
EDGEQ_INLINE int32_t edgeq_average(edgeq_long_sum sum, int32_t divisor, const edgeq_channel *c, const edgeq_output *o)
{
#if defined(EDGEQ_WIDE_CODES)
    (void)divisor;
    return edgeq_requantize_long(sum, c, o);
#else
    if (divisor == 0) {
        return edgeq_requantize(sum, c, o);
    }
    const int32_t half = divisor / 2;
    return edgeq_clamp(sum < 0 ? -((half - sum) / divisor) : (sum + half) / divisor, o->low, o->high);
#endif
}

#endif
