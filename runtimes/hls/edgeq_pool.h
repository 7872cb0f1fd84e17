/* Largest level, or sum of levels, of each window; and the sum of all pixels. Padding never wins and adds nothing. */
#ifndef EDGEQ_POOL_H
#define EDGEQ_POOL_H

#include "edgeq_window.h"

namespace edgeq {

struct largest {
    template <class Y, class X> static Y of(const Y &found, const X &x) { return x > found ? Y(x) : found; }
};

struct total {
    template <class Y, class X> static Y of(const Y &found, const X &x) { return found + x; }
};

/* `first` is what a window without pixels gives: the lowest level for the largest, 0 for the sum. */
template <class C, class X, class Y> void pool(hls::stream<X> &x, hls::stream<Y> &y, Y first)
{
    line_buffer<C, X> lines;
    lines.row = lines.column = 0;
pixels:
    for (int pixel = 0, out_y = 0, out_x = 0; pixel < C::out_h * C::out_w; pixel++) {
        lines.read_for(x, out_y, out_x);
    channels:
        for (int channel = 0; channel < C::in_c; channel++) {
            Y found = first;
        window:
            for (int ky = 0; ky < C::kernel_h; ky++) {
                for (int kx = 0; kx < C::kernel_w; kx++) {
#pragma HLS pipeline II=1 style=flp
                    const int row = out_y * C::stride_h - C::pad_top + ky * C::dilation_h;
                    const int column = out_x * C::stride_w - C::pad_left + kx * C::dilation_w;
                    if (row >= 0 && row < C::in_h && column >= 0 && column < C::in_w) {
                        found = C::rule::of(found, lines.pixels[row & (C::rows - 1)][column][channel]);
                    }
                }
            }
            y.write(found);
        }
        out_x++;
        if (out_x == C::out_w) {
            out_x = 0;
            out_y++;
        }
    }
    lines.read_rest(x);
}

/* out[channel] = the sum over C::pixels pixels. */
template <class C, class X, class Y> void sum_pixels(hls::stream<X> &x, hls::stream<Y> &y)
{
    Y sums[C::channels];
pixels:
    for (int pixel = 0; pixel < C::pixels; pixel++) {
        for (int channel = 0; channel < C::channels; channel++) {
#pragma HLS pipeline II=1 style=flp
            const Y sum = pixel == 0 ? Y(0) : sums[channel];
            sums[channel] = sum + x.read();
        }
    }
results:
    for (int channel = 0; channel < C::channels; channel++) {
#pragma HLS pipeline II=1 style=flp
        y.write(sums[channel]);
    }
}

} // namespace edgeq

#endif
