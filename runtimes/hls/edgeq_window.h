/* The rows of an image that windows still need, in a ring of C::rows rows (a power of two).
 *
 * Pixels are read when the next window needs them and not before, so what a function reads and writes, and in which
 * order, depends on shapes alone.
 */
#ifndef EDGEQ_WINDOW_H
#define EDGEQ_WINDOW_H

#include "hls_stream.h"

namespace edgeq {

template <class C, class X> struct line_buffer {
    X pixels[C::rows][C::in_w][C::in_c];
    int row, column;

    void read_pixel(hls::stream<X> &x)
    {
    read:
        for (int c = 0; c < C::in_c; c++) {
#pragma HLS pipeline II=1 style=flp
            pixels[row & (C::rows - 1)][column][c] = x.read();
        }
        column++;
        if (column == C::in_w) {
            column = 0;
            row++;
        }
    }

    /* Read on up to the last pixel of the window of the result's pixel (y, x). */
    void read_for(hls::stream<X> &x, int out_y, int out_x)
    {
        const int below = out_y * C::stride_h - C::pad_top + (C::kernel_h - 1) * C::dilation_h;
        const int right = out_x * C::stride_w - C::pad_left + (C::kernel_w - 1) * C::dilation_w;
        const int last_row = below < C::in_h - 1 ? below : C::in_h - 1;
        const int last_column = right < C::in_w - 1 ? right : C::in_w - 1;
    fill:
        while (row < last_row || (row == last_row && column <= last_column)) {
            read_pixel(x);
        }
    }

    /* Read what no window needs. */
    void read_rest(hls::stream<X> &x)
    {
    rest:
        while (row < C::in_h) {
            read_pixel(x);
        }
    }
};

} // namespace edgeq

#endif
