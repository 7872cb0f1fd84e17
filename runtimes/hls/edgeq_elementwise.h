/* Sums, differences and products, element by element. An operand that is broadcast is read first, as a whole. */
#ifndef EDGEQ_ELEMENTWISE_H
#define EDGEQ_ELEMENTWISE_H

#include "hls_stream.h"

namespace edgeq {

struct sum {
    template <class A, class B> static auto of(const A &a, const B &b) -> decltype(a + b) { return a + b; }
};

struct difference {
    template <class A, class B> static auto of(const A &a, const B &b) -> decltype(a - b) { return a - b; }
};

struct reversed_difference {
    template <class A, class B> static auto of(const A &a, const B &b) -> decltype(b - a) { return b - a; }
};

struct product {
    template <class A, class B> static auto of(const A &a, const B &b) -> decltype(a * b) { return a * b; }
};

template <class C, class A, class B, class Y> void combine(hls::stream<A> &a, hls::stream<B> &b, hls::stream<Y> &y)
{
elements:
    for (int k = 0; k < C::count; k++) {
#pragma HLS pipeline II=1 style=flp
        const A left = a.read();
        const B right = b.read();
        y.write(C::rule::of(left, right));
    }
}

/* With elements of `b` at the strides C::stride_0 to C::stride_4 of the loops C::size_0 to C::size_4. */
template <class C, class A, class B, class Y> void combine_with(hls::stream<A> &a, hls::stream<Y> &y, const B *b)
{
elements:
    for (int i = 0; i < C::size_0; i++) {
        for (int j = 0; j < C::size_1; j++) {
            for (int k = 0; k < C::size_2; k++) {
                for (int l = 0; l < C::size_3; l++) {
                    for (int m = 0; m < C::size_4; m++) {
#pragma HLS pipeline II=1 style=flp
                        const int place = i * C::stride_0 + j * C::stride_1 + k * C::stride_2 + l * C::stride_3 + m * C::stride_4;
                        y.write(C::rule::of(a.read(), b[place]));
                    }
                }
            }
        }
    }
}

template <class C, class A, class B, class Y> void combine_broadcast(hls::stream<A> &a, hls::stream<B> &b, hls::stream<Y> &y)
{
    B kept[C::kept];
keep:
    for (int k = 0; k < C::kept; k++) {
#pragma HLS pipeline II=1 style=flp
        kept[k] = b.read();
    }
    combine_with<C>(a, y, kept);
}

} // namespace edgeq

#endif
