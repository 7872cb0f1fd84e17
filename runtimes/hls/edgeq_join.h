/* One stream for several readers; several streams one after another; a constant as a stream. */
#ifndef EDGEQ_JOIN_H
#define EDGEQ_JOIN_H

#include "hls_stream.h"

namespace edgeq {

template <class X> void write_all(const X &token, hls::stream<X> &y) { y.write(token); }

template <class X, class... Rest> void write_all(const X &token, hls::stream<X> &y, Rest &...rest)
{
    y.write(token);
    write_all(token, rest...);
}

template <int COUNT, class X, class... Streams> void fork(hls::stream<X> &x, Streams &...ys)
{
tokens:
    for (int k = 0; k < COUNT; k++) {
#pragma HLS pipeline II=1 style=flp
        write_all(x.read(), ys...);
    }
}

template <class Y> void copy_chunks(hls::stream<Y> &, const int *) {}

template <class Y, class... Rest> void copy_chunks(hls::stream<Y> &y, const int *counts, hls::stream<Y> &x, Rest &...rest)
{
chunk:
    for (int k = 0; k < counts[0]; k++) {
#pragma HLS pipeline II=1 style=flp
        y.write(x.read());
    }
    copy_chunks(y, counts + 1, rest...);
}

/* C::rounds times counts[k] tokens of the k-th operand, operand after operand. */
template <class C, class Y, class... Streams> void concat(hls::stream<Y> &y, const int *counts, Streams &...xs)
{
rounds:
    for (int round = 0; round < C::rounds; round++) {
        copy_chunks(y, counts, xs...);
    }
}

template <int COUNT, class Y> void constant(hls::stream<Y> &y, const Y (&codes)[COUNT])
{
codes:
    for (int k = 0; k < COUNT; k++) {
#pragma HLS pipeline II=1 style=flp
        y.write(codes[k]);
    }
}

} // namespace edgeq

#endif
