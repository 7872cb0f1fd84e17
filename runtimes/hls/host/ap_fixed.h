/* Fixed-point numbers for C simulation on the host: the subset of ap_fixed and ap_ufixed that generated designs use,
 * written from the published semantics.
 *
 * ap_fixed<W, I, Q, O> holds raw 2^-(W - I) with a raw integer of W bits. Assignment drops bits by the rule Q and meets
 * the end of the range by the rule O; a sum or product is exact and as wide as it can become.
 */
#ifndef EDGEQ_HOST_AP_FIXED_H
#define EDGEQ_HOST_AP_FIXED_H

#include "ap_int.h"
#include <cmath>

/* Nearest, ties toward +infinity, zero, -infinity, away from zero, to even; toward -infinity; toward zero. */
enum ap_q_mode { AP_RND, AP_RND_ZERO, AP_RND_MIN_INF, AP_RND_INF, AP_RND_CONV, AP_TRN, AP_TRN_ZERO };
enum ap_o_mode { AP_SAT, AP_SAT_ZERO, AP_SAT_SYM, AP_WRAP };

namespace edgeq_host {

/* Whether floor(raw / 2^d) is to be raised by one, where `rest` of 2^d was dropped. */
inline bool rounds_up(ap_q_mode mode, bool negative, bool odd, widest rest, widest half)
{
    switch (mode) {
    case AP_RND:
        return rest >= half;
    case AP_RND_ZERO:
        return rest > half || (rest == half && negative);
    case AP_RND_MIN_INF:
        return rest > half;
    case AP_RND_INF:
        return rest > half || (rest == half && !negative);
    case AP_RND_CONV:
        return rest > half || (rest == half && odd);
    case AP_TRN_ZERO:
        return negative && rest != 0;
    default:
        return false;
    }
}

/* raw 2^-from in units of 2^-to; the caller sees to it that 127 bits hold what a left shift gives. */
inline widest with_fraction(widest raw, int from, int to, ap_q_mode mode)
{
    if (to >= from) {
        return (widest)((widest_unsigned)raw << (to - from));
    }
    const int d = from - to;
    if (d > 126) {
        return rounds_up(mode, raw < 0, raw < 0, raw < 0 ? 3 : raw != 0, 2) - (raw < 0);
    }
    const widest floor = raw >> d;
    const widest rest = raw - (widest)((widest_unsigned)floor << d);
    return floor + rounds_up(mode, raw < 0, floor & 1, rest, (widest)1 << (d - 1));
}

template <int W, bool S> typename integer<W, S>::type within(widest raw, ap_o_mode mode)
{
    const widest high = ((widest)1 << (W - S)) - 1, low = S ? -high - 1 : 0;
    if (mode == AP_WRAP) {
        return integer<W, S>::wrapped(raw);
    }
    const widest lowest = S && mode == AP_SAT_SYM ? -high : low;
    if (raw > high) {
        return mode == AP_SAT_ZERO ? 0 : (typename integer<W, S>::type)high;
    }
    if (raw < lowest) {
        return mode == AP_SAT_ZERO ? 0 : (typename integer<W, S>::type)lowest;
    }
    return (typename integer<W, S>::type)raw;
}

template <int W, int I, bool S, ap_q_mode Q, ap_o_mode O> class fixed {
public:
    static const int width = W, iwidth = I, fraction = W - I;
    integer<W, S> raw;

    fixed() = default;
    template <class T, class = typename std::enable_if<std::is_integral<T>::value>::type>
    fixed(T from) : raw(settled((widest)from, 0)) {}
    template <int V, bool R> fixed(const integer<V, R> &from) : raw(settled(from.value, 0)) {}
    template <int V, int J, bool R, ap_q_mode P, ap_o_mode N>
    fixed(const fixed<V, J, R, P, N> &from) : raw(settled(from.raw.value, V - J)) {}
    fixed(double from)
    {
        int exponent;
        const double mantissa = std::frexp(from, &exponent);
        const widest bits = (widest)std::ldexp(mantissa, 53);
        const int reach = 53 - exponent;
        raw = fraction - reach > 70 ? settled(bits < 0 ? -1 : bits != 0, -100) : settled(bits, reach);
    }

    /* The W bits as they are, to read or to write: x.range() = bits. */
    integer<W, S> &range() { return raw; }
    const integer<W, S> &range() const { return raw; }
    double to_double() const { return std::ldexp((double)raw.value, -fraction); }
    template <int V> explicit operator integer<V, true>() const
    {
        return integer<V, true>(with_fraction(raw.value, fraction, 0, AP_TRN_ZERO));
    }

private:
    static typename integer<W, S>::type settled(widest from, int from_fraction)
    {
        return within<W, S>(with_fraction(from, from_fraction, fraction, Q), O);
    }
};

#define EDGEQ_HOST_FIXED template <int W, int I, bool S, ap_q_mode Q, ap_o_mode O, int V, int J, bool R, ap_q_mode P, ap_o_mode N>
#define EDGEQ_HOST_SUM(sign, signed_of)                                                                                \
    EDGEQ_HOST_FIXED                                                                                                   \
    fixed<larger(W - I, V - J) + larger(I + (!S && R), J + (!R && S)) + 1, larger(I + (!S && R), J + (!R && S)) + 1,   \
          signed_of, AP_TRN, AP_WRAP>                                                                                  \
    operator sign(const fixed<W, I, S, Q, O> &a, const fixed<V, J, R, P, N> &b)                                        \
    {                                                                                                                  \
        const int common = larger(W - I, V - J), whole = larger(I + (!S && R), J + (!R && S)) + 1;                     \
        fixed<common + whole, whole, signed_of, AP_TRN, AP_WRAP> result;                                               \
        result.raw = with_fraction(a.raw.value, W - I, common, AP_TRN) sign with_fraction(b.raw.value, V - J, common, AP_TRN); \
        return result;                                                                                                 \
    }
EDGEQ_HOST_SUM(+, (S || R))
EDGEQ_HOST_SUM(-, true)

EDGEQ_HOST_FIXED
fixed<W + V, I + J, (S || R), AP_TRN, AP_WRAP> operator*(const fixed<W, I, S, Q, O> &a, const fixed<V, J, R, P, N> &b)
{
    fixed<W + V, I + J, (S || R), AP_TRN, AP_WRAP> result;
    result.raw = a.raw * b.raw;
    return result;
}

} // namespace edgeq_host

template <int W, int I, ap_q_mode Q = AP_TRN, ap_o_mode O = AP_WRAP, int N = 0>
using ap_fixed = edgeq_host::fixed<W, I, true, Q, O>;
template <int W, int I, ap_q_mode Q = AP_TRN, ap_o_mode O = AP_WRAP, int N = 0>
using ap_ufixed = edgeq_host::fixed<W, I, false, Q, O>;

#endif
