/* Matrix products, softmax and layer normalization of rows. */
#ifndef EDGEQ_ATTENTION_H
#define EDGEQ_ATTENTION_H

#include "ap_int.h"
#include "hls_stream.h"

namespace edgeq {

/* Of every batch the matrix b [C::depth][C::columns] is kept, then rows of a are multiplied one after another. */
template <class C, class A, class B, class Y> void matmul(hls::stream<A> &a, hls::stream<B> &b, hls::stream<Y> &y)
{
    B kept[C::depth][C::columns];
    A row[C::depth];
batches:
    for (int batch = 0; batch < C::batches; batch++) {
        for (int k = 0; k < C::depth; k++) {
            for (int column = 0; column < C::columns; column++) {
#pragma HLS pipeline II=1 style=flp
                kept[k][column] = b.read();
            }
        }
    rows:
        for (int r = 0; r < C::rows; r++) {
            for (int k = 0; k < C::depth; k++) {
#pragma HLS pipeline II=1 style=flp
                row[k] = a.read();
            }
            for (int column = 0; column < C::columns; column++) {
                Y sum = 0;
                for (int k = 0; k < C::depth; k++) {
#pragma HLS pipeline II=1 style=flp
                    sum += row[k] * kept[k][column];
                }
                y.write(sum);
            }
        }
    }
}

/* round((2^15 - 1) e / sum e), e = table[largest - x]; ties upward. */
template <class C, class X, class Y, class T> void softmax(hls::stream<X> &x, hls::stream<Y> &y, const T (&table)[C::entries])
{
    X row[C::row];
    T powers[C::row];
rows:
    for (int r = 0; r < C::rows; r++) {
        X most = 0;
        for (int k = 0; k < C::row; k++) {
#pragma HLS pipeline II=1 style=flp
            row[k] = x.read();
            most = k == 0 || row[k] > most ? row[k] : most;
        }
        ap_uint<32> total = 0;
        for (int k = 0; k < C::row; k++) {
#pragma HLS pipeline II=1 style=flp
            powers[k] = table[(most - row[k]).to_int()];
            total += powers[k];
        }
        for (int k = 0; k < C::row; k++) {
#pragma HLS pipeline style=flp
            const ap_uint<33> scaled = powers[k] * ap_uint<15>(32767) + (total >> 1);
            const unsigned long long numerator = scaled, denominator = total;
            y.write(Y(numerator / denominator));
        }
    }
}

/* The leading 32 bits of `power` (an even shift away) and twice the shift's half. */
inline int leading_exponent(ap_int<64> power)
{
    int exponent = 0;
    for (int k = 1; k < 16; k++) {
#pragma HLS unroll
        exponent += (power >> (30 + 2 * k)) > 0 ? 1 : 0;
        exponent -= (power >> (32 - 2 * k)) == 0 ? 1 : 0;
    }
    return exponent;
}

/* floor(sqrt(number)), a bit at a time. */
inline ap_uint<16> root(ap_uint<32> number)
{
    ap_uint<16> found = 0;
    for (int bit = 15; bit >= 0; bit--) {
        const ap_uint<16> tried = found | (1 << bit);
        found = tried * tried <= number ? tried : found;
    }
    return found;
}

/* round(2^C::fraction D / sqrt(V + epsilon)) gamma + beta with D = n x - sum, V = n sum x^2 - (sum x)^2. */
template <class C, class X, class Y, class G, class B>
void layer_norm(hls::stream<X> &x, hls::stream<Y> &y, const G (&gammas)[C::row], const B (&betas)[C::row], long long epsilon)
{
    X row[C::row];
rows:
    for (int r = 0; r < C::rows; r++) {
        ap_int<48> sum = 0;
        ap_int<64> squares = 0;
        for (int k = 0; k < C::row; k++) {
#pragma HLS pipeline II=1 style=flp
            row[k] = x.read();
            sum += row[k];
            squares += row[k] * row[k];
        }
        const ap_int<64> power = squares * C::row - sum * sum + epsilon;
        const int exponent = leading_exponent(power);
        const ap_uint<32> leading = exponent < 0 ? ap_int<64>(power << (-2 * exponent)) : ap_int<64>(power >> (2 * exponent));
        const ap_uint<17> reciprocal = 0xFFFFFFFFu / (unsigned)root(leading).to_int();
        const int shift = 32 + exponent - C::fraction;
        for (int k = 0; k < C::row; k++) {
#pragma HLS pipeline II=1 style=flp
            const ap_int<32> deviation = row[k] * C::row - sum;
            const ap_int<64> product = deviation * reciprocal;
            const ap_int<32> normal = (product + (ap_int<64>(1) << (shift - 1))) >> shift;
            y.write(normal * gammas[k] + betas[k]);
        }
    }
}

} // namespace edgeq

#endif
