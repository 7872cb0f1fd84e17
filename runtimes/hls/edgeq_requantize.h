/* Levels of one scale to codes of another, and functions of codes as tables.
 *
 * clamp(floor((x q + 2^(t-1)) / 2^t), low, high), q and t of each channel: what AP_RND does to x q 2^-t.
 */
#ifndef EDGEQ_REQUANTIZE_H
#define EDGEQ_REQUANTIZE_H

#include "ap_fixed.h"
#include "hls_stream.h"

namespace edgeq {

/* The bits of `raw`, read with FRACTION of them behind the point, as the nearest code of BITS bits, saturating. */
template <int BITS, int FRACTION, int WIDTH> ap_int<BITS> nearest(const ap_int<WIDTH> &raw)
{
    ap_fixed<WIDTH, WIDTH - FRACTION> exact;
    exact.range() = raw;
    const ap_fixed<BITS, BITS, AP_RND, AP_SAT> code = exact;
    return code.range();
}

/* The code of `raw`; C::code_bits hold all codes with a sign, whether Y has one or not. */
template <class C, class Y, int WIDTH> Y rounded(const ap_int<WIDTH> &raw)
{
    const ap_int<C::code_bits> code = nearest<C::code_bits, C::fraction>(raw);
    return code < C::low ? Y(C::low) : code > C::high ? Y(C::high) : Y(code);
}

/* With multipliers: WIDTH bits hold every product, brought to C::fraction bits behind the point. */
template <class C, class X, class Y>
void requantize(hls::stream<X> &x, hls::stream<Y> &y, const ap_uint<C::multiplier_bits> (&multipliers)[C::channels],
                const ap_uint<6> (&shifts)[C::channels])
{
pixels:
    for (int pixel = 0; pixel < C::pixels; pixel++) {
        for (int channel = 0; channel < C::channels; channel++) {
#pragma HLS pipeline II=1 style=flp
            const ap_int<C::width> product = x.read() * multipliers[channel];
            const ap_int<C::width> raised = product << shifts[channel].to_int();
            y.write(rounded<C, Y>(raised));
        }
    }
}

/* Scales that are powers of two: shifts alone. */
template <class C, class X, class Y>
void requantize_by_shifts(hls::stream<X> &x, hls::stream<Y> &y, const ap_uint<6> (&shifts)[C::channels])
{
pixels:
    for (int pixel = 0; pixel < C::pixels; pixel++) {
        for (int channel = 0; channel < C::channels; channel++) {
#pragma HLS pipeline II=1 style=flp
            const ap_int<C::width> raised = ap_int<C::width>(x.read()) << shifts[channel].to_int();
            y.write(rounded<C, Y>(raised));
        }
    }
}

/* The code that the table has for every code, the lowest first. */
template <class C, class X, class Y> void lookup(hls::stream<X> &x, hls::stream<Y> &y, const Y (&table)[C::entries])
{
codes:
    for (int k = 0; k < C::count; k++) {
#pragma HLS pipeline II=1 style=flp
        y.write(table[x.read().to_int() - C::lowest]);
    }
}

} // namespace edgeq

#endif
