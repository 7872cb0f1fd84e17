/* Linear interpolation: every row and column of the result lies between two of the operand, `upper` 2^-10 of the way. */
#ifndef EDGEQ_RESIZE_H
#define EDGEQ_RESIZE_H

#include "edgeq_window.h"
#include "ap_int.h"

namespace edgeq {

struct interpolation {
    int lower, higher, upper;
};

template <class C, class X, class Y>
void resize(hls::stream<X> &x, hls::stream<Y> &y, const interpolation (&rows)[C::out_h], const interpolation (&columns)[C::out_w])
{
    line_buffer<C, X> lines;
    lines.row = lines.column = 0;
pixels:
    for (int out_y = 0; out_y < C::out_h; out_y++) {
        for (int out_x = 0; out_x < C::out_w; out_x++) {
            const interpolation vertical = rows[out_y], horizontal = columns[out_x];
        fill:
            while (lines.row < vertical.higher || (lines.row == vertical.higher && lines.column <= horizontal.higher)) {
                lines.read_pixel(x);
            }
        channels:
            for (int c = 0; c < C::in_c; c++) {
#pragma HLS pipeline II=2 style=flp
                const X *above_left = lines.pixels[vertical.lower & (C::rows - 1)][horizontal.lower];
                const X *above_right = lines.pixels[vertical.lower & (C::rows - 1)][horizontal.higher];
                const X *below_left = lines.pixels[vertical.higher & (C::rows - 1)][horizontal.lower];
                const X *below_right = lines.pixels[vertical.higher & (C::rows - 1)][horizontal.higher];
                const ap_uint<11> right = horizontal.upper, below = vertical.upper;
                const ap_uint<11> left = 1024 - horizontal.upper, above = 1024 - vertical.upper;
                const ap_int<X::width + 12> upper_row = above_left[c] * left + above_right[c] * right;
                const ap_int<X::width + 12> lower_row = below_left[c] * left + below_right[c] * right;
                y.write(upper_row * above + lower_row * below);
            }
        }
    }
    lines.read_rest(x);
}

} // namespace edgeq

#endif
