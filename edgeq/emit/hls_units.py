"""LUTs of arithmetic units: products of weights with levels by format, and adders.

Calibrated on units that Yosys synthesized for 7-series parts (runtimes/hls/UNITS.md has both figures side by side).
"""

from __future__ import annotations

from edgeq.emit.hls_numbers import digits
from edgeq.formats import Codebook, Float, Format, Int, bits_of


def adder_luts(bits: int) -> int:
    """One LUT a bit: sum and carry."""
    return bits


def dsps_of(a: int, b: int) -> int:
    """DSP slices of a product of `a` by `b` bits, of 25 by 18 each."""
    return min(-(-a // 25) * -(-b // 18), -(-a // 18) * -(-b // 25))


def product_luts(weight: Format, level_bits: int) -> int:
    """LUTs of a product of a weight's code and a level of `level_bits`, without DSP slices."""
    match weight:
        case Int():
            return _integer(bits_of(weight), level_bits)
        case Float():
            span = (1 << weight.exponent) - 2
            product = weight.mantissa + 1 + level_bits
            shifter = span.bit_length() * (product + span) // 2
            return _integer(weight.mantissa + 1, level_bits) + shifter + (product + span if weight.signed else 0)
        case Codebook():
            return _shifts(weight, level_bits)
        case _:
            raise TypeError(f"no unit for {weight}")


def _integer(a: int, b: int) -> int:
    """FINN-R's multiplier of LUTs: (2 ceil((W + A) / 6) - 1) (W + A)."""
    return (2 * -(-(a + b) // 6) - 1) * (a + b)


def _shifts(weight: Codebook, level_bits: int) -> int:
    """An adder for each further digit of each magnitude, a choice between magnitudes, and the sign."""
    magnitudes = {abs(level) for level in weight.table if level}
    width = level_bits + max(magnitudes).bit_length()
    odd = {magnitude // (magnitude & -magnitude) for magnitude in magnitudes}
    adders = sum(len(digits(number)) - 1 for number in odd)
    choices = -(-len(magnitudes) // 3)
    return adders * adder_luts(level_bits + 4) + choices * width + width
