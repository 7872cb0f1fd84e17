"""The formats that have a short name: tables of powers, OCP minifloats, and families that are fitted to each weight.

A table lists integer levels, so that a weight of any of them is read by looking its code up. A family is no format by
itself: it says how one is made for a given weight (edgeq/quantize/weights.py, `typed_weight`).

    name             levels                                               source
    post2 … post4    0, ±127 2^(-k/2)                                     POST (2504.17263); no finer beyond four bits
    pot2 … pot5      0, ±2^k                                              power-of-two
    dense1 … dense4  ±2^k, without zero; dense1 is binary                 DenseShift; DoReFa (1606.06160)
    khot5 … khot7    ±2^j ± 2^k and ±2^k: at most two additions           QFX's K-hot weights (2401.17544), signed digits
    fp8_e4m3         E4M3, of which one magnitude is NaN                  OCP 8-bit floating point
    fp8_e5m2         E5M2, of which four magnitudes are infinity and NaN  OCP 8-bit floating point
    kmeans2 … 8      where the weight's own elements cluster              k-means
    nupes2 … 8       ±127 (k / n)^(1/a), a fitted to the weight           NUPES (2308.05600)
    mxfp8_e4m3 …     E4M3, E5M2, E3M2, E2M3, E2M1, INT8; 2^n per block    OCP microscaling (MX) 1.0
    bfp4 …           INT; 2^n per block of 16                             block floating point
    int4g32 …        INT; a scale per block of 32                         INT4 per group
"""

from __future__ import annotations

from dataclasses import dataclass

from edgeq.errors import UsageError, did_you_mean
from edgeq.formats import POST4, POT4, Codebook, Float, Format, Int, bits_of, parse_format, power_of_sqrt2, power_of_two

TOP_LEVEL = 127
"""The largest level of tables that signed bytes hold."""

MX_BLOCK, GROUP, BFP_BLOCK = 32, 32, 16
SCALE_BITS = {True: 8, False: 16}
"""Bits of a block's scale: an exponent (E8M0), or a half-precision number."""


@dataclass(frozen=True)
class KMeans:
    """Every weight gets a table of its own, of 2^`bits` levels where its elements cluster."""

    bits: int

    def __str__(self) -> str:
        return f"kmeans{self.bits}"


@dataclass(frozen=True)
class Nupes:
    """Every weight gets the table of powers (see `power_law`) that is nearest to it."""

    bits: int

    def __str__(self) -> str:
        return f"nupes{self.bits}"


@dataclass(frozen=True)
class Blocks:
    """`element` with a scale for at most `size` weights of an output channel: whole input channels share one.

    With `power_of_two` scales are 2^n with n = floor(log2 largest magnitude) - floor(log2 largest level), as OCP MX
    has them; larger elements saturate.
    """

    name: str
    element: Int | Float
    size: int
    power_of_two: bool

    def __str__(self) -> str:
        return self.name

    @property
    def bits(self) -> int:
        """Bits of a code, its share of the scale apart."""
        return self.element.bits


Family = KMeans | Nupes | Blocks
Choice = Format | Family


def dense_shift(bits: int) -> Codebook:
    """±2^k for k = 0 … 2^(bits-1) - 1, without zero: products are shifts, and no code is spent twice.

    >>> dense_shift(3).table
    (-8, -4, -2, -1, 1, 2, 4, 8)
    """
    if not 1 <= bits <= 4:
        raise UsageError("DenseShift has one to four bits", value=bits)
    powers = [1 << k for k in range(1 << (bits - 1))]
    return Codebook("dense", (*(-p for p in reversed(powers)), *powers))


def two_hot(bits: int) -> Codebook:
    """Integers of at most two signed binary digits, up to the largest 2^n - 1 whose table has codes of so many bits.

    >>> two_hot(5).table[-8:]
    (6, 7, 8, 9, 10, 12, 14, 15)
    """
    if not 5 <= bits <= 7:
        raise UsageError("two-hot weights have five to seven bits", value=bits)
    top = {5: 15, 6: 63, 7: TOP_LEVEL}[bits]
    powers = [0, *(1 << k for k in range(8))]
    levels = {sign * (a + b) for a in powers for b in (*powers, *(-p for p in powers)) for sign in (-1, 1)}
    return Codebook("khot", tuple(sorted(level for level in levels if abs(level) <= top)))


def power_law(bits: int, exponent: float) -> Codebook:
    """round(±127 (k / n)^(1 / exponent)) for k = 0 … n = 2^(bits-1) - 1: x^exponent is uniform. Equal levels count once.

    >>> power_law(3, 0.5).table, power_law(4, 1.0).table[-3:]
    ((-127, -56, -14, 0, 14, 56, 127), (91, 109, 127))
    """
    if not 2 <= bits <= 8 or not 0 < exponent <= 1:
        raise UsageError("power laws have two to eight bits and an exponent up to 1", value=(bits, exponent))
    steps = (1 << (bits - 1)) - 1
    levels = {round(TOP_LEVEL * (k / steps) ** (1 / exponent)) for k in range(steps + 1)}
    return Codebook("nupes", tuple(sorted({*levels, *(-level for level in levels)})))


FP8_E4M3, FP8_E5M2 = Float(4, 3, specials=1), Float(5, 2, specials=4)
_MX: dict[str, Int | Float] = {
    "mxfp8_e4m3": FP8_E4M3, "mxfp8_e5m2": FP8_E5M2, "mxfp6_e3m2": Float(3, 2), "mxfp6_e2m3": Float(2, 3),
    "mxfp4": Float(2, 1), "mxint8": Int(8, narrow=True),
}  # fmt: skip

NAMED: dict[str, Format] = {
    **{f"post{bits}": power_of_sqrt2(bits) for bits in (2, 3)}, "post4": POST4,
    **{f"pot{bits}": power_of_two(bits) for bits in (2, 3, 5)}, "pot4": POT4,
    **{f"dense{bits}": dense_shift(bits) for bits in (1, 2, 3, 4)},
    **{f"khot{bits}": two_hot(bits) for bits in (5, 6, 7)},
    "fp8_e4m3": FP8_E4M3, "fp8_e5m2": FP8_E5M2,
}  # fmt: skip
"""Formats with a short name."""

FAMILIES: dict[str, Family] = {
    **{f"kmeans{bits}": KMeans(bits) for bits in range(2, 9)},
    **{f"nupes{bits}": Nupes(bits) for bits in range(2, 9)},
    **{name: Blocks(name, element, MX_BLOCK, True) for name, element in _MX.items()},
    **{f"bfp{bits}": Blocks(f"bfp{bits}", Int(bits, narrow=True), BFP_BLOCK, True) for bits in range(3, 9)},
    **{f"int{bits}g32": Blocks(f"int{bits}g32", Int(bits, narrow=True), GROUP, False) for bits in range(3, 9)},
}
"""Families by name."""


def find_choice(name: str) -> Choice:
    """The format or family called `name`; raises UsageError with the closest name.

    >>> find_choice("e2m1"), str(find_choice("mxfp4")), bits_of(find_choice("pot4"))
    (Float(exponent=2, mantissa=1, signed=True, specials=0), 'mxfp4', 4)
    """
    known = FAMILIES.get(name) or NAMED.get(name)
    if known is not None:
        return known
    try:
        return parse_format(name)
    except UsageError as error:
        names = [*NAMED, *FAMILIES, "int4", "e2m1"]
        raise UsageError(
            "unknown number format", value=name,
            allowed=f"int2 … int16, e2m1 …, {', '.join(NAMED)}, kmeans4 …, nupes4 …, bfp4 …, int4g32 …, {', '.join(_MX)}",
            next_step=did_you_mean(name, names),
        ) from error  # fmt: skip


def short_name(choice: Choice) -> str:
    """The name that people use.

    >>> short_name(POST4), short_name(FP8_E4M3), short_name(Int(4, narrow=True))
    ('post4', 'fp8_e4m3', 'int4')
    """
    known = next((name for name, format_ in NAMED.items() if format_ == choice), None)
    return known or str(choice).split(":")[0].removesuffix("n" if isinstance(choice, Int) else "\0")


def bits_per_weight(choice: Choice) -> float:
    """Bits that a weight takes, with its share of a block's scale (scales of channels count nothing)."""
    if isinstance(choice, Blocks):
        return choice.bits + SCALE_BITS[choice.power_of_two] / choice.size
    return float(choice.bits if isinstance(choice, KMeans | Nupes) else bits_of(choice))
