"""Requantization and products as a design computes them: exact integers, as few bits as the proof allows.

`single`: floor((x q + 2^(t-1)) / 2^t) with t = 31 - e is what AP_RND does to x q 2^-t. Zeros at the end of q are taken out of
both, so that a power of two leaves q = 1 and a shift. Channels of different t are raised to the largest one's fraction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgeq.errors import UnsupportedError
from edgeq.formats import Codebook, Float, Format, Int, level_range
from edgeq.ir import ops as o
from edgeq.ir.bounds import Interval, signed_bits

LARGEST_WIDTH = 120
"""Bits of the widest product that the host's integers hold with room for rounding."""


@dataclass(frozen=True)
class Rescaling:
    """q and left shift of each channel; what results has `fraction` bits behind the point and fits `width` bits."""

    multipliers: tuple[int, ...]
    shifts: tuple[int, ...]
    fraction: int
    width: int

    @property
    def is_shift(self) -> bool:
        """Whether no multiplier is needed."""
        return set(self.multipliers) == {1}


def rescaling(op: o.Requantize, x: Interval) -> Rescaling:
    """The numbers of `op` for levels within `x`. Raises UnsupportedError for other rules and for absurd scales."""
    if op.rounding != "single":
        raise UnsupportedError("a design rounds by the rule single alone", where=op.out, value=op.rounding)
    pairs = [_reduced(q, 31 - e) for q, e in zip(op.multiplier, op.shift, strict=True)]
    fraction = max(0, *(t for _, t in pairs))
    shifts = tuple(fraction - t for _, t in pairs)
    largest = max(-x[0], x[1]) * max(q << s for (q, _), s in zip(pairs, shifts, strict=True))
    width = signed_bits((-largest, largest))
    if width > LARGEST_WIDTH or max(shifts) > 63:
        raise UnsupportedError("the scales of one layer lie too far apart", where=op.out, value=f"{width} bits")
    return Rescaling(tuple(q for q, _ in pairs), shifts, fraction, max(width, fraction + 1))


def _reduced(q: int, t: int) -> tuple[int, int]:
    if q == 0:
        return 0, 0
    zeros = (q & -q).bit_length() - 1
    return q >> zeros, t - zeros


def digits(number: int) -> list[tuple[int, int]]:
    """`number` as a sum of (sign, power of two) with no two neighbours: its canonical signed digits.

    >>> digits(127), digits(90)
    ([(-1, 0), (1, 7)], [(1, 1), (-1, 3), (-1, 5), (1, 7)])
    >>> digits(22)
    [(-1, 1), (-1, 3), (1, 5)]
    """
    found, power = [], 0
    while number:
        if number & 1:
            digit = 2 - (number & 3)
            found.append((digit, power))
            number -= digit
        number >>= 1
        power += 1
    return found


def product_bits(weight: Format, x: Interval) -> int:
    """Bits that hold every product of a weight with a level of `x`."""
    low, high = level_range(weight)
    corners = [a * b for a in (low, high) for b in x]
    return signed_bits((min(corners), max(corners)))


def product_type(weight: Format, x: Interval) -> tuple[str, str]:
    """The C++ type that multiplies codes of `weight` with levels of `x`, and its definition ("" if it is in a header)."""
    bits = product_bits(weight, x)
    match weight:
        case Int():
            return "edgeq::integer_product", ""
        case Float():
            template = f"{weight.exponent}, {weight.mantissa}, {str(weight.signed).lower()}, {bits}"
            return f"edgeq::minifloat_product<{template}>", ""
        case Codebook():
            name = f"{weight.name}{weight.bits}_product_{bits}"
            return name, shifted_products(name, weight.table, bits)
        case _:
            raise UnsupportedError("a design holds no weights of this format", value=weight)


def shifted_products(name: str, table: Sequence[int], bits: int) -> str:
    """A struct that multiplies by sums of shifts: the magnitude by a case each, then the sign."""
    magnitudes = sorted({abs(level) for level in table})
    cases = "".join(
        f"        case {level}: return {_signed(magnitudes.index(abs(entry)), entry)};\n"
        for level, entry in enumerate(table)
    )
    lines = "".join(f"        const product m{k} = {_shifts(level)};\n" for k, level in enumerate(magnitudes) if level)
    return f"""/* Codes of the levels {", ".join(map(str, table))}: products are sums of shifts. */
struct {name} {{
    template <class W, class X> static ap_int<{bits}> of(const W &code, const X &x)
    {{
        typedef ap_int<{bits}> product;
{lines}        switch (code.to_int()) {{
{cases}        default: return product(0);
        }}
    }}
}};
"""


def _signed(magnitude: int, level: int) -> str:
    if level == 0:
        return "product(0)"
    return f"m{magnitude}" if level > 0 else f"product(-m{magnitude})"


def _shifts(level: int) -> str:
    terms = sorted(digits(level), key=lambda term: -term[1])
    text = " ".join(f"{'+' if sign > 0 else '-'} (product(x) << {power})" for sign, power in terms)
    return text.removeprefix("+ ")


def weight_type(weight: Format) -> tuple[str, int]:
    """The C++ type of a weight's code, and its bits."""
    match weight:
        case Int():
            return f"ap_int<{weight.bits}>", weight.bits
        case Float() | Codebook():
            return f"ap_uint<{weight.bits}>", weight.bits
        case _:
            raise UnsupportedError("a design holds no weights of this format", value=weight)
