/* Arbitrary-width integers for C simulation on the host: the subset of ap_int and ap_uint that generated designs use,
 * written from the published semantics. Up to 128 bits.
 *
 * Invariant: `value` always holds the number itself, wrapped to W bits, so that it fits its storage. Results of operators
 * are as wide as they can become; assignment wraps. A shift keeps the width of its left operand.
 */
#ifndef EDGEQ_HOST_AP_INT_H
#define EDGEQ_HOST_AP_INT_H

#include <type_traits>

namespace edgeq_host {

typedef __int128 widest;
typedef unsigned __int128 widest_unsigned;

template <int W, bool S> struct storage {
    static_assert(W >= 1 && W <= 128, "this subset holds 1 to 128 bits");
    typedef typename std::conditional<
        (W <= 8), signed char,
        typename std::conditional<
            (W <= 16), short,
            typename std::conditional<(W <= 32), int, typename std::conditional<(W <= 64), long long, widest>::type>::type>::type>::type
        signed_type;
    typedef typename std::conditional<
        (W <= 8), unsigned char,
        typename std::conditional<
            (W <= 16), unsigned short,
            typename std::conditional<
                (W <= 32), unsigned, typename std::conditional<(W <= 64), unsigned long long, widest_unsigned>::type>::type>::type>::type
        unsigned_type;
    typedef typename std::conditional<S, signed_type, unsigned_type>::type type;
};

/* What arithmetic on integers of W bits is done in. */
template <int W, bool S> struct carrier {
    typedef typename std::conditional<
        S, typename std::conditional<(W <= 63), long long, widest>::type,
        typename std::conditional<(W <= 64), unsigned long long, widest_unsigned>::type>::type type;
};

constexpr int larger(int a, int b) { return a > b ? a : b; }

template <int W, bool S> class integer;

/* Width and sign of a built-in integer. */
template <class T> struct builtin {
    static const int width = std::is_same<T, bool>::value ? 1 : 8 * (int)sizeof(T);
    static const bool is_signed = std::is_signed<T>::value;
};

template <int W, bool S> class integer {
public:
    static const int width = W;
    static const bool is_signed = S;
    typedef typename storage<W, S>::type type;
    typedef typename carrier<W, S>::type wide;
    type value;

    integer() = default;
    template <class T, class = typename std::enable_if<std::is_integral<T>::value>::type>
    constexpr integer(T from) : value(wrapped(from)) {}
    constexpr integer(widest from) : value(wrapped(from)) {}
    template <int V, bool R> constexpr integer(const integer<V, R> &from) : value(wrapped(from.value)) {}

    /* `from` modulo 2^W. */
    template <class T> static constexpr type wrapped(T from)
    {
        typedef typename storage<W, false>::unsigned_type bits;
        constexpr int spare = 8 * (int)sizeof(bits) - W;
        return S ? (type)((typename storage<W, true>::signed_type)(bits)((bits)from << spare) >> spare)
                 : (type)((bits)((bits)from << spare) >> spare);
    }

    constexpr operator wide() const { return value; }
    int to_int() const { return (int)value; }
    long long to_int64() const { return (long long)value; }
    double to_double() const { return (double)value; }
    int length() const { return W; }
    bool operator[](int bit) const { return (value >> bit) & 1; }

    template <class T> integer &operator+=(const T &by) { return *this = *this + by; }
    template <class T> integer &operator-=(const T &by) { return *this = *this - by; }
    template <class T> integer &operator*=(const T &by) { return *this = *this * by; }
    integer &operator<<=(int by) { return *this = *this << by; }
    integer &operator>>=(int by) { return *this = *this >> by; }
    integer &operator++() { return *this += integer<2, true>(1); }
    integer<W + 1, true> operator-() const { return integer<W + 1, true>((typename carrier<W + 1, true>::type)0 - value); }
    integer operator~() const { return integer(~(wide)value); }

    /* A negative count shifts the other way, as published for signed counts. */
    integer operator<<(int by) const
    {
        if (by < 0) {
            return *this >> -by;
        }
        return by >= W ? integer(0) : integer((typename carrier<W, S>::type)((typename carrier<W, false>::type)value << by));
    }
    integer operator>>(int by) const
    {
        if (by < 0) {
            return *this << -by;
        }
        return by >= W ? integer(S && value < 0 ? -1 : 0) : integer((type)(value >> by));
    }
};

template <int W, bool S, int V, bool R> struct grown {
    static const bool is_signed = S || R;
    static const int common = larger(W + (!S && R), V + (!R && S));
};

#define EDGEQ_HOST_ARITHMETIC(sign, width_of, signed_of)                                                               \
    template <int W, bool S, int V, bool R>                                                                            \
    constexpr integer<width_of, signed_of> operator sign(const integer<W, S> &a, const integer<V, R> &b)               \
    {                                                                                                                  \
        typedef typename carrier<width_of, signed_of>::type wide;                                                      \
        return integer<width_of, signed_of>((wide)((wide)a.value sign(wide) b.value));                                 \
    }                                                                                                                  \
    EDGEQ_HOST_MIXED(sign)
#define EDGEQ_HOST_MIXED(sign)                                                                                         \
    template <int W, bool S, class T, class = typename std::enable_if<std::is_integral<T>::value>::type>               \
    constexpr auto operator sign(const integer<W, S> &a, T b)                                                          \
        -> decltype(a sign(integer<builtin<T>::width, builtin<T>::is_signed>(b)))                                      \
    {                                                                                                                  \
        return a sign(integer<builtin<T>::width, builtin<T>::is_signed>(b));                                           \
    }                                                                                                                  \
    template <int W, bool S, class T, class = typename std::enable_if<std::is_integral<T>::value>::type>               \
    constexpr auto operator sign(T a, const integer<W, S> &b)                                                          \
        -> decltype(integer<builtin<T>::width, builtin<T>::is_signed>(a) sign b)                                       \
    {                                                                                                                  \
        return integer<builtin<T>::width, builtin<T>::is_signed>(a) sign b;                                            \
    }

#define EDGEQ_HOST_GROWN grown<W, S, V, R>
EDGEQ_HOST_ARITHMETIC(+, (EDGEQ_HOST_GROWN::common + 1), (EDGEQ_HOST_GROWN::is_signed))
EDGEQ_HOST_ARITHMETIC(-, (EDGEQ_HOST_GROWN::common + 1), true)
EDGEQ_HOST_ARITHMETIC(*, (W + V), (EDGEQ_HOST_GROWN::is_signed))
EDGEQ_HOST_ARITHMETIC(&, (EDGEQ_HOST_GROWN::common), (EDGEQ_HOST_GROWN::is_signed))
EDGEQ_HOST_ARITHMETIC(|, (EDGEQ_HOST_GROWN::common), (EDGEQ_HOST_GROWN::is_signed))
EDGEQ_HOST_ARITHMETIC(^, (EDGEQ_HOST_GROWN::common), (EDGEQ_HOST_GROWN::is_signed))

#define EDGEQ_HOST_COMPARISON(sign)                                                                                    \
    template <int W, bool S, int V, bool R>                                                                            \
    constexpr bool operator sign(const integer<W, S> &a, const integer<V, R> &b)                                       \
    {                                                                                                                  \
        typedef typename carrier<EDGEQ_HOST_GROWN::common, EDGEQ_HOST_GROWN::is_signed>::type wide;                    \
        return (wide)a.value sign(wide) b.value;                                                                       \
    }                                                                                                                  \
    EDGEQ_HOST_MIXED(sign)
EDGEQ_HOST_COMPARISON(<)
EDGEQ_HOST_COMPARISON(>)
EDGEQ_HOST_COMPARISON(<=)
EDGEQ_HOST_COMPARISON(>=)
EDGEQ_HOST_COMPARISON(==)
EDGEQ_HOST_COMPARISON(!=)

} // namespace edgeq_host

template <int W> using ap_int = edgeq_host::integer<W, true>;
template <int W> using ap_uint = edgeq_host::integer<W, false>;

#endif
