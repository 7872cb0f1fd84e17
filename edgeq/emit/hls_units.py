"""LUTs of arithmetic units: products of weights with levels by format, and adders.

A LUT of a 7-series part adds a bit and masks one operand on the way, so that a further row of a multiplier costs no more
than its adder. It chooses among four; wider choices are joined by the slice's own multiplexers. scripts/fpga_units.py
puts these figures beside synthesized ones (runtimes/hls/UNITS.md).
"""

from __future__ import annotations

from edgeq.emit.hls_numbers import adders, decoded_bits, is_multiplier_free
from edgeq.formats import Codebook, Fixed, Float, Format, Int, bits_of


def adder_luts(bits: int) -> int:
    """One LUT a bit: sum and carry."""
    return bits


def choice_luts(choices: int, bits: int) -> int:
    """LUTs that choose among `choices` words of `bits`."""
    return bits * -(-choices // 4)


def dsps_of(a: int, b: int) -> int:
    """DSP slices of a product of `a` by `b` bits, of 25 by 18 each."""
    return min(-(-a // 25) * -(-b // 18), -(-a // 18) * -(-b // 25))


def product_luts(weight: Format, level_bits: int) -> int:
    """LUTs of a product of a weight's code and a level of `level_bits`, without DSP slices."""
    match weight:
        case Int() | Fixed():
            return multiplier_luts(bits_of(weight), level_bits)
        case Float():
            shifts = (1 << weight.exponent) - 1
            product = level_bits + weight.mantissa + 1 + shifts - 1
            sign = product if weight.signed else 0
            return multiplier_luts(weight.mantissa + 1, level_bits) + choice_luts(shifts, product) + sign
        case Codebook():
            if is_multiplier_free(weight):
                return _shifts(weight, level_bits)
            return decoder_luts(weight) + multiplier_luts(decoded_bits(weight), level_bits)
        case _:
            raise TypeError(f"no unit for {weight}")


def decoder_luts(weight: Format) -> int:
    """LUTs of the table that makes levels of codes, where products need one."""
    if not isinstance(weight, Codebook) or is_multiplier_free(weight):
        return 0
    return decoded_bits(weight) * -(-len(weight.table) // 64)


def slice_operand_bits(weight: Format) -> int:
    """Bits of what a DSP slice multiplies for a weight; 0 where few LUTs do."""
    match weight:
        case Int() | Fixed() if bits_of(weight) > 4:
            return bits_of(weight)
        case Codebook() if not is_multiplier_free(weight) and decoded_bits(weight) > 4:
            return decoded_bits(weight)
        case _:
            return 0


def multiplier_luts(a: int, b: int) -> int:
    """A row of adders for each bit of the shorter operand; the first masks alone."""
    short, long = min(a, b), max(a, b)
    return long + (short - 1) * adder_luts(long + 1)


def _shifts(weight: Codebook, level_bits: int) -> int:
    """An adder for each multiple, a choice among all levels of one sign, and the sign."""
    magnitudes = {abs(level) for level in weight.table if level}
    sums = sum(adder_luts(level_bits + adder.number.bit_length()) for adder in adders(weight.table))
    width = level_bits + max(magnitudes).bit_length()
    return sums + choice_luts(len(magnitudes) + 1, width) + width


def mac_luts(weight: Format, level_bits: int, sum_bits: int) -> int:
    """LUTs of one product and the addition to its sum, without DSP slices."""
    return product_luts(weight, level_bits) + adder_luts(sum_bits)


def requantizer_luts(sum_bits: int, multiplier_bits: int, dropped: int, code_bits: int) -> int:
    """LUTs of a requantization without DSP slices: product, rounding of what stays after `dropped` bits, saturation."""
    product = multiplier_luts(sum_bits, multiplier_bits) if multiplier_bits else 0
    return product + adder_luts(sum_bits + multiplier_bits - dropped) // 2 + code_bits
