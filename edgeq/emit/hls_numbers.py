"""Requantization and products as a design computes them: exact integers, as few bits as the proof allows.

`single`: floor((x q + 2^(t-1)) / 2^t) with t = 31 - e is what AP_RND does to x q 2^-t. Zeros at the end of q are taken out of
both, so that a power of two leaves q = 1 and a shift. Channels of different t are raised to the largest one's fraction.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product

from edgeq.errors import UnsupportedError
from edgeq.formats import Codebook, Fixed, Float, Format, Int, level_range
from edgeq.ir import ops as o
from edgeq.ir.bounds import Interval, signed_bits

LARGEST_WIDTH = 120
"""Bits of the widest product that the host's integers hold with room for rounding."""

MOST_ADDERS = 4
"""Tables whose multiples take more are looked up and multiplied: POST has four, powers of two none."""


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


@dataclass(frozen=True)
class Adder:
    """`number` = (`left` << `shift`) + `sign` `right`, of odd numbers that came before; the first of all is 1."""

    number: int
    left: int
    shift: int
    sign: int
    right: int


def odd_part(number: int) -> int:
    """A positive number without its factors of two."""
    return number // (number & -number)


def adders(levels: Iterable[int]) -> list[Adder]:
    """Few adders that make every multiple that `levels` need, from 1, of shifted ones: levels are shifts of these.

    What one adder makes of the multiples there are comes first; where that makes none of those still needed, the
    smallest multiple that brings most of them within one adder is put between.

    >>> [adder.number for adder in adders((127, 90, 64, 45, 32, 22, 16))]
    [127, 3, 11, 45]
    """
    needed = {odd_part(abs(level)) for level in levels if level}
    known, found = [1], list[Adder]()
    while missing := sorted(needed - set(known)):
        made = next((adder for number in missing if (adder := _one_adder(number, known))), None)
        if made is None:
            between = [adder for n in range(3, max(missing) + 2, 2) if (adder := _one_adder(n, known))]
            made = max(between, key=lambda adder: _within_reach(missing, [*known, adder.number]))
        known.append(made.number)
        found.append(made)
    return found


def _within_reach(missing: Sequence[int], known: Sequence[int]) -> int:
    return sum(_one_adder(number, known) is not None for number in missing)


def _one_adder(number: int, known: Sequence[int]) -> Adder | None:
    for left, right in product(known, known):
        for shift in range(1, number.bit_length() + 1):
            for sign in (1, -1):
                if (left << shift) + sign * right == number and number not in known:
                    return Adder(number, left, shift, sign, right)
    return None


def product_bits(weight: Format, x: Interval) -> int:
    """Bits that hold every product of a weight with a level of `x`."""
    low, high = level_range(weight)
    corners = [a * b for a in (low, high) for b in x]
    return signed_bits((min(corners), max(corners)))


def product_type(weight: Format, x: Interval) -> tuple[str, str]:
    """The C++ type that multiplies codes of `weight` with levels of `x`, and its definition ("" if it is in a header)."""
    bits = product_bits(weight, x)
    match weight:
        case Int() | Fixed():
            return "edgeq::integer_product", ""
        case Float():
            template = f"{weight.exponent}, {weight.mantissa}, {str(weight.signed).lower()}, {bits}"
            return f"edgeq::minifloat_product<{template}>", ""
        case Codebook():
            name = f"{weight.name}{weight.bits}_{_short_digest(weight.table)}_product_{bits}"
            text = shifted_products if is_multiplier_free(weight) else decoded_products
            return name, text(name, weight.table, bits)
        case _:
            raise UnsupportedError("a design holds no weights of this format", value=weight)


def _short_digest(table: Sequence[int]) -> str:
    """Tables of one name and width (k-means) differ from weight to weight; eight digits tell them apart."""
    return f"{zlib.crc32(repr(tuple(table)).encode()):08x}"


def is_multiplier_free(weight: Codebook) -> bool:
    """Whether products with its levels are few sums of shifts.

    >>> is_multiplier_free(Codebook("pot", (-4, -2, -1, 0, 1, 2, 4))), is_multiplier_free(Codebook("t", tuple(range(99))))
    (True, False)
    """
    odd = {odd_part(abs(level)) for level in weight.table if level} - {1}
    return len(odd) <= MOST_ADDERS and len(adders(weight.table)) <= MOST_ADDERS


def decoded_bits(weight: Codebook) -> int:
    """Bits of the levels of a table, signed."""
    return signed_bits(level_range(weight))


def decoded_products(name: str, table: Sequence[int], bits: int) -> str:
    """A struct that looks the level up and multiplies."""
    width = signed_bits((min(table), max(table)))
    return f"""/* Codes of the levels {", ".join(map(str, table))}: the level is looked up, then multiplied. */
struct {name} {{
    template <class W, class X> static ap_int<{bits}> of(const W &code, const X &x)
    {{
        static const ap_int<{width}> levels[{len(table)}] = {{{", ".join(map(str, table))}}};
#pragma HLS bind_storage variable=levels type=rom_np impl=lutram
        return levels[code.to_int()] * x;
    }}
}};
"""


def shifted_products(name: str, table: Sequence[int], bits: int) -> str:
    """A struct that multiplies by sums of shifts: multiples of the level, a choice between them, then the sign."""
    sums = "".join(
        f"        const product x{a.number} = (x{a.left} << {a.shift}) {'+' if a.sign > 0 else '-'} x{a.right};\n"
        for a in adders(table)
    )
    cases = "".join(f"        case {code}: return {_multiple(level)};\n" for code, level in enumerate(table))
    return f"""/* Codes of the levels {", ".join(map(str, table))}: products are sums of shifts. */
struct {name} {{
    template <class W, class X> static ap_int<{bits}> of(const W &code, const X &x)
    {{
        typedef ap_int<{bits}> product;
        const product x1 = x;
{sums}        switch (code.to_int()) {{
{cases}        default: return product(0);
        }}
    }}
}};
"""


def _multiple(level: int) -> str:
    """The multiple that `level` is, shifted."""
    if level == 0:
        return "product(0)"
    odd = odd_part(abs(level))
    text = f"product(x{odd} << {(abs(level) // odd).bit_length() - 1})"
    return text if level > 0 else f"product(-{text})"


def weight_type(weight: Format) -> tuple[str, int]:
    """The C++ type of a weight's code, and its bits."""
    match weight:
        case Int() | Fixed():
            return f"ap_{'' if weight.signed else 'u'}int<{weight.bits}>", weight.bits
        case Float() | Codebook():
            return f"ap_uint<{weight.bits}>", weight.bits
        case _:
            raise UnsupportedError("a design holds no weights of this format", value=weight)
