/* Codes that enter and leave as words of an AXI stream, one code a word; the last word of a frame has `last` set. */
#ifndef EDGEQ_PORT_H
#define EDGEQ_PORT_H

#include "ap_axi_sdata.h"
#include "hls_stream.h"

namespace edgeq {

template <int COUNT, class X, int BITS> void enter(hls::stream<ap_axis<BITS, 0, 0, 0>> &from, hls::stream<X> &x)
{
words:
    for (int k = 0; k < COUNT; k++) {
#pragma HLS pipeline II=1 style=flp
        x.write(X(from.read().data));
    }
}

template <int COUNT, class X, int BITS> void leave(hls::stream<X> &x, hls::stream<ap_axis<BITS, 0, 0, 0>> &to)
{
words:
    for (int k = 0; k < COUNT; k++) {
#pragma HLS pipeline II=1 style=flp
        ap_axis<BITS, 0, 0, 0> word;
        word.data = x.read();
        word.keep = -1;
        word.strb = -1;
        word.last = k == COUNT - 1;
        to.write(word);
    }
}

} // namespace edgeq

#endif
