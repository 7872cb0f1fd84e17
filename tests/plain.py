"""The rounding rules and number formats once more, in plain Python integers; tests/plain_graph.py runs graphs on them.

Nothing here uses torch, numpy or the code under test. The rounding rules follow the published C.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from fractions import Fraction
from functools import cache

from edgeq.formats import Codebook, Fixed, Float, Format, Int

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


def rounded_away(x: Fraction) -> int:
    """round(x), ties away from zero."""
    whole = math.floor(abs(x) + Fraction(1, 2))
    return whole if x >= 0 else -whole


def shares(levels: list[int], table: list[int]) -> list[int]:
    """Softmax of integer levels: the nearest multiple of 1 / 32767, ties upward, of each exponential over their sum."""
    powers = [table[max(levels) - level] for level in levels]
    return [math.floor(Fraction(32767 * power, sum(powers)) + Fraction(1, 2)) for power in powers]


def normalized(levels: list[int], epsilon: int) -> list[int]:
    """Layer normalization of integer levels in multiples of 2^-b, by a root of the 32 leading bits and its reciprocal."""
    count = len(levels)
    halves = next(h for h in range(64) if 4**h >= count)
    power = count * sum(x * x for x in levels) - sum(levels) ** 2 + epsilon
    exponent = next(t for t in range(-15, 16) if power < 4 ** (t + 16))
    root = math.isqrt(math.floor(power / Fraction(4) ** exponent))
    reciprocal = (2**32 - 1) // root
    unit = Fraction(2) ** (32 + exponent - (15 - halves))
    deviations = [count * x - sum(levels) for x in levels]
    return [math.floor(d * reciprocal / unit + Fraction(1, 2)) for d in deviations]


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
    """n rounded to `bits` significant bits, ties to even, as float32 (24) or double (53) stores it."""
    excess = max(abs(n).bit_length() - bits, 0)
    return half_even(n, excess) << excess


def float32(x: Fraction | float) -> Fraction:
    """x rounded to float32 (24 significant bits, ties to even; not for subnormal or overflowing numbers)."""
    x = Fraction(x)
    scale = 1 << 200
    return Fraction(to_significant(round(x * scale), 24), scale)


def requantized(x: int, multiplier: int, shift: int, rounding: str) -> int:
    """round(x multiplier 2^(shift - 31)) under the named rule, not clamped."""
    if rounding == "gemmlowp2":
        left, right = max(shift, 0), max(-shift, 0)
        return divide_by_power_of_two(high_mul(saturated(saturated(x) << left), multiplier), right)
    if rounding == "gemmlowp2-up":
        left, right = max(shift, 0), max(-shift, 0)
        high = high_mul(saturated(saturated(x) << left), multiplier)
        return math.floor(Fraction(high, 1 << right) + Fraction(1, 2))
    if rounding == "single":
        total = 31 - shift
        return (x * multiplier + (1 << (total - 1))) >> total
    if rounding == "single15":
        total, few_bits = 15 - shift, min((multiplier + (1 << 15)) >> 16, (1 << 15) - 1)
        scaled = Fraction(x * few_bits) / Fraction(2) ** total
        return math.floor(scaled + Fraction(1, 2))
    if rounding == "fp32rne":
        product = to_significant(to_significant(x, 24) * to_significant(multiplier, 24), 24)
        return half_even(product, 31 - shift)
    if rounding == "fc-float":
        product = to_significant(to_significant(x, 53) * multiplier, 53)
        return half_away(product, 31 - shift)
    raise ValueError(rounding)


def minifloat_value(format_: Float, code: int) -> Fraction:
    """Real value of a minifloat code with the scale that makes the smallest subnormal 1, from its bit fields."""
    largest = (1 << (format_.mantissa + format_.exponent)) - 1
    code -= max((code & largest) - (largest - format_.specials), 0)  # infinity and NaN read as the largest number
    mantissa = code & ((1 << format_.mantissa) - 1)
    exponent = (code >> format_.mantissa) & ((1 << format_.exponent) - 1)
    negative = format_.signed and bool(code >> (format_.mantissa + format_.exponent))
    implicit = 1 if exponent else 0
    magnitude = (Fraction(mantissa, 1 << format_.mantissa) + implicit) * Fraction(2) ** max(exponent, 1)
    smallest = Fraction(2, 1 << format_.mantissa)
    return (-1 if negative else 1) * magnitude / smallest


def level(format_: Format, code: int, zero_point: int) -> int:
    """The level that a code stands for."""
    match format_:
        case Int():
            return code - zero_point
        case Fixed():
            return code
        case Float():
            return int(minifloat_value(format_, code))
        case Codebook():
            return format_.table[code]
        case _:
            raise ValueError(format_)


def ends(format_: Format) -> tuple[int, int]:
    """Smallest and largest code."""
    match format_:
        case Int() | Fixed():
            narrow = isinstance(format_, Int) and format_.narrow
            lowest = -(2 ** (format_.bits - 1)) if format_.signed else 0
            return lowest + int(narrow), lowest + 2**format_.bits - 1
        case Float():
            return 0, 2**format_.bits - 1
        case Codebook():
            return 0, len(format_.table) - 1
        case _:
            raise ValueError(format_)


@cache
def codes_by_level(format_: Format) -> dict[int, int]:
    """The first code of every level, in the order of levels."""
    low, high = ends(format_)
    found: dict[int, int] = {}
    for code in range(low, high + 1):
        found.setdefault(level(format_, code, 0), code)
    return dict(sorted(found.items()))


def encoded(format_: Format, x: Fraction, zero_point: int = 0) -> int:
    """The code of the level nearest to x. Ties: even level or code; of a codebook the smaller magnitude, then lower."""
    low, high = ends(format_)
    if isinstance(format_, Int | Fixed):
        return min(max(round(x) + zero_point, low), high)
    codes = codes_by_level(format_)
    levels = list(codes)
    above = bisect_left(levels, x)
    candidates = levels[max(above - 1, 0) : above + 1]
    closest = min(abs(candidate - x) for candidate in candidates)
    tied = [candidate for candidate in candidates if abs(candidate - x) == closest]
    if isinstance(format_, Float):
        return codes[min(tied, key=lambda candidate: codes[candidate] % 2)]
    return codes[min(tied, key=lambda candidate: (abs(candidate), candidate))]
