/* Convolution of any grouping; dense layers are 1x1 windows. C::pe output channels and C::simd inputs of each at once.
 *
 * weights[fold * steps + step][pe * C::simd + simd]: folds of output channels, then steps over rows, columns and channels
 * of the window. Padding has level 0. Sums wrap, so that they are exact if the last one is.
 */
#ifndef EDGEQ_CONV_H
#define EDGEQ_CONV_H

#include "edgeq_window.h"

namespace edgeq {

template <class C, class X, class Y, class W, class B>
void conv(hls::stream<X> &x, hls::stream<Y> &y, const W (&weights)[C::folds * C::steps][C::lanes], const B (&bias)[C::out_c])
{
    line_buffer<C, X> lines;
    lines.row = lines.column = 0;
#pragma HLS array_reshape variable=lines.pixels dim=3 type=cyclic factor=C::channels_at_once
#pragma HLS array_reshape variable=weights dim=2 type=complete
    Y sums[C::pe];
#pragma HLS array_partition variable=sums type=complete
pixels:
    for (int pixel = 0, out_y = 0, out_x = 0; pixel < C::out_h * C::out_w; pixel++) {
        lines.read_for(x, out_y, out_x);
    folds:
        for (int fold = 0; fold < C::folds; fold++) {
            int ky = 0, kx = 0, channel = 0;
        steps:
            for (int step = 0; step < C::steps; step++) {
#pragma HLS pipeline II=1 style=flp
                const int row = out_y * C::stride_h - C::pad_top + ky * C::dilation_h;
                const int column = out_x * C::stride_w - C::pad_left + kx * C::dilation_w;
                const bool inside = row >= 0 && row < C::in_h && column >= 0 && column < C::in_w;
                for (int pe = 0; pe < C::pe; pe++) {
#pragma HLS unroll
                    const int output = fold * C::pe + pe;
                    const int first = output / C::outputs_of_group * C::inputs_of_group + channel;
                    Y sum = step == 0 ? Y(bias[output]) : sums[pe];
                    for (int simd = 0; simd < C::simd; simd++) {
#pragma HLS unroll
                        const X level = inside ? lines.pixels[row & (C::rows - 1)][column][first + simd] : X(0);
                        sum += C::product::of(weights[fold * C::steps + step][pe * C::simd + simd], level);
                    }
                    sums[pe] = sum;
                }
                channel += C::simd;
                if (channel == C::inputs_of_group) {
                    channel = 0;
                    kx++;
                    if (kx == C::kernel_w) {
                        kx = 0;
                        ky++;
                    }
                }
            }
        results:
            for (int pe = 0; pe < C::pe; pe++) {
#pragma HLS pipeline II=1 style=flp
                y.write(sums[pe]);
            }
        }
        out_x++;
        if (out_x == C::out_w) {
            out_x = 0;
            out_y++;
        }
    }
    lines.read_rest(x);
}

} // namespace edgeq

#endif
