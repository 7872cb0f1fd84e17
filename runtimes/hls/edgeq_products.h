/* A weight's code times a level. Every format has a struct with `of(code, level)`, exact for every code. */
#ifndef EDGEQ_PRODUCTS_H
#define EDGEQ_PRODUCTS_H

#include "ap_int.h"

namespace edgeq {

/* Integer weights: one multiplier. */
struct integer_product {
    template <class W, class X> static auto of(const W &code, const X &x) -> decltype(code * x) { return code * x; }
};

/* Minifloats of E exponent and M mantissa bits, sign first: a product with the mantissa, shifted by the exponent. Exponent
 * 0 holds the subnormals; a level counts units of the smallest one. WIDTH bits hold every product.
 */
template <int E, int M, bool SIGNED, int WIDTH> struct minifloat_product {
    template <class W, class X> static ap_int<WIDTH> of(const W &code, const X &x)
    {
        const ap_uint<E> exponent = code >> M;
        const bool is_normal = exponent != 0;
        const ap_uint<M + 1> mantissa = (code & ((1 << M) - 1)) | (is_normal ? 1 << M : 0);
        const ap_int<WIDTH> product = mantissa * x;
        const ap_int<WIDTH> shifted = product << (is_normal ? exponent.to_int() - 1 : 0);
        return SIGNED && ((code >> (E + M)) & 1) != 0 ? ap_int<WIDTH>(-shifted) : shifted;
    }
};

} // namespace edgeq

#endif
