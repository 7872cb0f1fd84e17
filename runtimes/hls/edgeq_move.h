/* Whatever only moves codes: the result's k-th token is the operand's token number source(k), or `fill` where that is -1.
 *
 * Tokens are read when they are wanted and kept in a ring of C::ring tokens (a power of two), which is as long as the
 * oldest is wanted again.
 */
#ifndef EDGEQ_MOVE_H
#define EDGEQ_MOVE_H

#include "hls_stream.h"

namespace edgeq {

template <class C, class X> struct token_ring {
    X tokens[C::ring];
    int read;

    X take(hls::stream<X> &x, int source, const X &fill)
    {
    wanted:
        while (read <= source) {
#pragma HLS pipeline II=1 style=flp
            tokens[read & (C::ring - 1)] = x.read();
            read++;
        }
        return source < 0 ? fill : tokens[source & (C::ring - 1)];
    }

    void read_rest(hls::stream<X> &x)
    {
    rest:
        for (; read < C::in_count; read++) {
#pragma HLS pipeline II=1 style=flp
            x.read();
        }
    }
};

/* By a table of sources. */
template <class C, class X, class S> void move(hls::stream<X> &x, hls::stream<X> &y, const S (&sources)[C::out_count], X fill)
{
    token_ring<C, X> ring;
    ring.read = 0;
results:
    for (int k = 0; k < C::out_count; k++) {
        y.write(ring.take(x, sources[k].to_int(), fill));
    }
    ring.read_rest(x);
}

/* By nested loops from C::first on, outermost first. */
template <class C, class X> void move_in_loops(hls::stream<X> &x, hls::stream<X> &y)
{
    token_ring<C, X> ring;
    ring.read = 0;
results:
    for (int h = 0; h < C::size_0; h++) {
        for (int i = 0; i < C::size_1; i++) {
            for (int j = 0; j < C::size_2; j++) {
                for (int k = 0; k < C::size_3; k++) {
                    for (int l = 0; l < C::size_4; l++) {
                        for (int m = 0; m < C::size_5; m++) {
                            const int source = C::first + h * C::stride_0 + i * C::stride_1 + j * C::stride_2 +
                                               k * C::stride_3 + l * C::stride_4 + m * C::stride_5;
                            y.write(ring.take(x, source, X(0)));
                        }
                    }
                }
            }
        }
    }
    ring.read_rest(x);
}

} // namespace edgeq

#endif
