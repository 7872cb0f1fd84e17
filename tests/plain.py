"""The meaning of lowered graphs once more, in plain Python integers and loops.

Nothing here uses torch, numpy arithmetic or the code under test: values are flat lists of int, every operator
is the formula of its docstring written as nested loops, and the rounding rules follow the published C.
"""

from __future__ import annotations

INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1


def truncated(numerator: int, denominator: int) -> int:
    """C's integer division."""
    quotient = abs(numerator) // abs(denominator)
    return quotient if (numerator < 0) == (denominator < 0) else -quotient


def high_mul(a: int, b: int) -> int:
    """gemmlowp SaturatingRoundingDoublingHighMul on int32."""
    if a == b == INT32_MIN:
        return INT32_MAX
    product = a * b
    nudge = 1 << 30 if product >= 0 else 1 - (1 << 30)
    return truncated(product + nudge, 1 << 31)


def divide_by_power_of_two(x: int, exponent: int) -> int:
    """gemmlowp RoundingDivideByPOT."""
    mask = (1 << exponent) - 1
    remainder = x & mask
    threshold = (mask >> 1) + (1 if x < 0 else 0)
    return (x >> exponent) + (1 if remainder > threshold else 0)


def saturated(x: int) -> int:
    """x moved into int32."""
    return min(max(x, INT32_MIN), INT32_MAX)


def half_even(numerator: int, shift: int) -> int:
    """numerator / 2^shift to the nearest integer, ties to even."""
    if shift <= 0:
        return numerator << -shift
    whole, rest, half = numerator >> shift, numerator & ((1 << shift) - 1), 1 << (shift - 1)
    return whole + (1 if rest > half or (rest == half and whole & 1) else 0)


def half_away(numerator: int, shift: int) -> int:
    """numerator / 2^shift to the nearest integer, ties away from zero."""
    if shift <= 0:
        return numerator << -shift
    magnitude = (abs(numerator) + (1 << (shift - 1))) >> shift
    return magnitude if numerator >= 0 else -magnitude


def to_significant(n: int, bits: int) -> int:
    """n rounded to `bits` significant bits, ties to even, as float32 (24) or double (53) store it."""
    excess = max(abs(n).bit_length() - bits, 0)
    return half_even(n, excess) << excess


def requantized(x: int, multiplier: int, shift: int, rounding: str) -> int:
    """round(x multiplier 2^(shift - 31)) under the named rule, not clamped."""
    if rounding == "gemmlowp2":
        left, right = max(shift, 0), max(-shift, 0)
        return divide_by_power_of_two(high_mul(saturated(saturated(x) << left), multiplier), right)
    if rounding == "single":
        total = 31 - shift
        return (x * multiplier + (1 << (total - 1))) >> total
    if rounding == "fp32rne":
        product = to_significant(to_significant(x, 24) * to_significant(multiplier, 24), 24)
        return half_even(product, 31 - shift)
    if rounding == "fc-float":
        product = to_significant(to_significant(x, 53) * multiplier, 53)
        return half_away(product, 31 - shift)
    raise ValueError(rounding)
