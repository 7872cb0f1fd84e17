"""Number formats: every format maps an integer code to an exact integer level, and real = scale * level.

    format           level(code)                                   scale
    Int              code - zero_point                             any positive real
    Fixed            code                                          exactly 2**-fraction
    Float (EeMm)     value in units of the smallest subnormal      any positive real (block formats: a power of two)
    Codebook         table[code]                                   any positive real

Because levels are integers, a dot product of levels is exact integer arithmetic, whatever the formats were.
`Real` marks a value that is still an ordinary float32.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgeq.errors import UsageError

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

Rounding = Literal["nearest-even", "half-up", "up", "down", "zero", "stochastic"]
"""Which of the two levels around a number it becomes: the nearest (ties to the even code, or upward), the larger, the
smaller, the one towards zero, or either by a draw whose chance is the nearness."""


@dataclass(frozen=True)
class Real:
    """Float32, not quantized."""

    def __str__(self) -> str:
        return "real"


@dataclass(frozen=True)
class Int:
    """Integer code of `bits`; `narrow` leaves the most negative code of a signed format unused."""

    bits: int
    signed: bool = True
    narrow: bool = False

    def __str__(self) -> str:
        return f"{'' if self.signed else 'u'}int{self.bits}{'n' if self.narrow else ''}"

    @property
    def low(self) -> int:
        """Smallest code."""
        return -(1 << (self.bits - 1)) + int(self.narrow) if self.signed else 0

    @property
    def high(self) -> int:
        """Largest code."""
        return (1 << (self.bits - 1)) - 1 if self.signed else (1 << self.bits) - 1


@dataclass(frozen=True)
class Fixed:
    """Two's complement fixed point <bits, fraction>: real = code * 2**-fraction (ap_fixed<bits, bits - fraction>)."""

    bits: int
    fraction: int
    signed: bool = True

    def __str__(self) -> str:
        return f"{'' if self.signed else 'u'}fx{self.bits}.{self.fraction}"

    @property
    def low(self) -> int:
        """Smallest code."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def high(self) -> int:
        """Largest code."""
        return (1 << (self.bits - 1)) - 1 if self.signed else (1 << self.bits) - 1


@dataclass(frozen=True)
class Float:
    """Minifloat EeMm; by default without infinity or NaN: every code is finite. Encoding saturates.

    The code is sign, exponent, mantissa from the top bit down; exponent 0 holds the subnormals. A level counts
    units of the smallest subnormal, so it is an integer of (mantissa + 1) + (2**exponent - 2) bits plus sign.
    The `specials` largest magnitudes stand for infinity and NaN elsewhere (OCP FP8): encoding never gives them, and
    they decode to the largest level that is a number.
    """

    exponent: int
    mantissa: int
    signed: bool = True
    specials: int = 0

    def __str__(self) -> str:
        special = f"s{self.specials}" if self.specials else ""
        return f"{'' if self.signed else 'u'}e{self.exponent}m{self.mantissa}{special}"

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return self.exponent + self.mantissa + int(self.signed)


@dataclass(frozen=True)
class Codebook:
    """Non-uniform format: `table[code]` is the level. Used for POST, power-of-two, DenseShift, NUPES, k-means."""

    name: str
    table: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name}{self.bits}:{','.join(map(str, self.table))}"

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return max(1, (len(self.table) - 1).bit_length())


Format = Real | Int | Fixed | Float | Codebook


def _mirrored(name: str, magnitudes: list[int]) -> Codebook:
    """0 and plus and minus every one of the falling `magnitudes`, in ascending order."""
    return Codebook(name, (*(-m for m in magnitudes), 0, *reversed(magnitudes)))


def power_of_sqrt2(bits: int) -> Codebook:
    """POST: 0 and ±round(127 · 2^(-k/2)) for k = 0 … 2^(bits-1) - 2; beyond four bits the steps no longer get finer.

    >>> power_of_sqrt2(3).table
    (-127, -90, -64, 0, 64, 90, 127)
    """
    if not 2 <= bits <= 4:
        raise UsageError("power-of-sqrt2 has two to four bits", value=bits)
    return _mirrored("post", [round(127 * 2 ** (-k / 2)) for k in range((1 << (bits - 1)) - 1)])


def power_of_two(bits: int) -> Codebook:
    """0 and ±2^k for k = 0 … 2^(bits-1) - 2: products are shifts.

    >>> power_of_two(3).table
    (-4, -2, -1, 0, 1, 2, 4)
    """
    if not 2 <= bits <= 5:
        raise UsageError("power-of-two has two to five bits", value=bits)
    return _mirrored("pot", [1 << k for k in reversed(range((1 << (bits - 1)) - 1))])


REAL = Real()
INT4 = Int(4)
INT4_NARROW = Int(4, narrow=True)
INT8 = Int(8)
INT8_NARROW = Int(8, narrow=True)
UINT8 = Int(8, signed=False)
UINT16 = Int(16, signed=False)
INT16 = Int(16)
INT32 = Int(32)
INT64 = Int(64)
POST4 = power_of_sqrt2(4)
POT4 = power_of_two(4)
E2M1 = Float(2, 1)
E2M3 = Float(2, 3)
INDEX = INT64
BOOL = Int(1, signed=False)

_NAMES = (
    (re.compile(r"real"), lambda m: REAL),
    (re.compile(r"(u?)int(\d+)(n?)"), lambda m: Int(int(m[2]), not m[1], bool(m[3]))),
    (re.compile(r"(u?)fx(\d+)\.(-?\d+)"), lambda m: Fixed(int(m[2]), int(m[3]), not m[1])),
    (re.compile(r"(u?)e(\d+)m(\d+)(?:s([1-9]\d*))?"), lambda m: Float(int(m[2]), int(m[3]), not m[1], int(m[4] or 0))),
    (
        re.compile(r"([a-z_]+)\d+:(-?\d+(?:,-?\d+)*)"),
        lambda m: Codebook(m[1], tuple(int(level) for level in m[2].split(","))),
    ),
)


def parse_format(name: str) -> Format:
    """The format that prints as `name`; raises UsageError for a name no format has.

    >>> parse_format("int8n"), parse_format("e2m3"), parse_format("ufx8.4")
    (Int(bits=8, signed=True, narrow=True), Float(exponent=2, mantissa=3, signed=True, specials=0), Fixed(bits=8, fraction=4, signed=False))
    """
    for pattern, build in _NAMES:
        if match := pattern.fullmatch(name):
            return build(match)
    raise UsageError("unknown number format", value=name, allowed="int8, uint8, int8n, fx8.4, e2m3, post4:…, real")


@lru_cache(maxsize=64)
def _float_table(format: Float) -> IntArray:
    magnitude = np.arange(1 << (format.exponent + format.mantissa), dtype=np.int64)
    exponent, mantissa = magnitude >> format.mantissa, magnitude & ((1 << format.mantissa) - 1)
    normal = ((1 << format.mantissa) + mantissa) << np.maximum(exponent - 1, 0)
    positive = np.where(exponent == 0, mantissa, normal)
    positive = np.minimum(positive, positive[len(positive) - 1 - format.specials])
    return np.concatenate([positive, -positive]) if format.signed else positive


def level_table(format: Format) -> IntArray:
    """Levels of codes 0, 1, 2 … of a table format (Float, Codebook), as int64 [number of codes]."""
    match format:
        case Float():
            return _float_table(format)
        case Codebook():
            return np.asarray(format.table, dtype=np.int64)
        case Int() | Fixed() | Real():
            raise UsageError("this format has no level table", value=format, allowed="minifloat or codebook")


def code_range(format: Format) -> tuple[int, int]:
    """Smallest and largest code."""
    match format:
        case Int() | Fixed():
            return format.low, format.high
        case Float():
            return 0, (1 << format.bits) - 1
        case Codebook():
            return 0, len(format.table) - 1
        case Real():
            raise UsageError("a real value has no codes", next_step="Quantize it first.")


def level_range(format: Format, zero_point: int = 0) -> tuple[int, int]:
    """Smallest and largest level."""
    match format:
        case Float() | Codebook():
            table = level_table(format)
            return int(table.min()), int(table.max())
        case _:
            low, high = code_range(format)
            return low - zero_point, high - zero_point


def fits_in_bytes(format: Format) -> bool:
    """Whether every level lies in ±127, so that codes of INT8 stand for the same levels.

    >>> fits_in_bytes(POST4), fits_in_bytes(Float(2, 4)), fits_in_bytes(Float(3, 2)), fits_in_bytes(Int(8))
    (True, True, False, False)
    """
    if isinstance(format, Real):
        return False
    low, high = level_range(format)
    return low >= INT8_NARROW.low and high <= INT8_NARROW.high


def looks_up(format: Format) -> bool:
    """Whether codes of at most four bits look levels up that lie in ±127."""
    return isinstance(format, Float | Codebook) and format.bits <= 4 and fits_in_bytes(format)


LARGEST_WIDE_LEVEL = 1 << 24
"""A product of such a level and a byte fits in 32 bits."""


def looks_up_wide(format: Format) -> bool:
    """Whether codes of at most eight bits look levels up that do not lie in ±127, yet fit in 32 bits times a byte.

    >>> looks_up_wide(Float(3, 2)), looks_up_wide(POST4), looks_up_wide(Float(4, 3)), looks_up_wide(Float(5, 2))
    (True, False, True, False)
    """
    if not isinstance(format, Float | Codebook) or format.bits > 8 or fits_in_bytes(format):
        return False
    low, high = level_range(format)
    return max(-low, high) <= LARGEST_WIDE_LEVEL


def decode(format: Format, codes: npt.ArrayLike, zero_point: int = 0) -> IntArray:
    """Levels of `codes` (any shape), exact."""
    codes = np.asarray(codes, dtype=np.int64)
    match format:
        case Float() | Codebook():
            levels: IntArray = np.asarray(level_table(format)[codes])
            return levels
        case _:
            return np.asarray(codes - zero_point)  # of no dimension, the difference would be a number


@lru_cache(maxsize=64)
def _thresholds(format: Format) -> tuple[FloatArray, IntArray]:
    """Codes in the order of their levels, and the largest real that each but the last is nearest to.

    On a tie a minifloat takes the even mantissa; other codebooks take the smaller magnitude.
    """
    levels, codes = np.unique(level_table(format), return_index=True)
    below, above = levels[:-1], levels[1:]
    middle = (below + above) / 2
    upper = (codes[1:] & 1) == 0 if isinstance(format, Float) else np.abs(above) < np.abs(below)
    return np.where(upper, np.nextafter(middle, -np.inf), middle), codes


def _encode_table(format: Format, levels: FloatArray) -> IntArray:
    thresholds, codes = _thresholds(format)
    nearest: IntArray = codes[np.searchsorted(thresholds, levels)]
    return nearest


def _around(format: Format, levels: FloatArray, zero_point: int) -> tuple[FloatArray, FloatArray]:
    """The largest level not above, and the smallest not below, `levels` that lie within the format's range."""
    if not isinstance(format, Float | Codebook):
        return np.floor(levels), np.ceil(levels)
    known = np.unique(level_table(format)).astype(np.float64)
    return known[np.searchsorted(known, levels, "right") - 1], known[np.searchsorted(known, levels)]


def round_level(
    format: Format, levels: npt.ArrayLike, rounding: Rounding, zero_point: int = 0, draws: FloatArray | None = None
) -> FloatArray:
    """The level that each real-valued level (real / scale) becomes, saturating.

    `draws` are numbers in [0, 1), one for each level, which "stochastic" needs: the larger neighbour is taken where
    a draw is less than the share of the way to it, so that the mean is the number itself. Raises UsageError without.

    >>> round_level(INT8, [0.5, -1.5], "half-up").tolist(), round_level(Float(2, 1), [5.0], "zero").tolist()
    ([1.0, -1.0], [4.0])
    """
    wanted = np.clip(np.asarray(levels, dtype=np.float64), *level_range(format, zero_point))
    if rounding == "nearest-even":
        return decode(format, encode(format, wanted, zero_point), zero_point).astype(np.float64)
    below, above = _around(format, wanted, zero_point)
    share = (wanted - below) / np.where(above > below, above - below, 1.0)
    match rounding:
        case "half-up":
            upward = share >= 0.5
        case "up":
            upward = share > 0
        case "down":
            upward = np.zeros(share.shape, dtype=bool)
        case "zero":
            upward = wanted < 0
        case "stochastic":
            if draws is None:
                raise UsageError("stochastic rounding needs draws", next_step="Give one number in [0, 1) per level.")
            upward = draws < share
    return np.where(upward, above, below)


def encode(format: Format, levels: npt.ArrayLike, zero_point: int = 0) -> IntArray:
    """Codes of the levels nearest to real-valued `levels` (real / scale), saturating; ties go to the even code.

    `round_level` gives levels by other rules, whose codes these are.

    >>> encode(INT8, [0.5, 1.5, 300.0]).tolist()
    [0, 2, 127]
    """
    levels = np.asarray(levels, dtype=np.float64)
    match format:
        case Float() | Codebook():
            return _encode_table(format, levels)
        case _:
            low, high = code_range(format)
            codes: IntArray = np.clip(np.rint(levels) + zero_point, low, high).astype(np.int64)
            return codes


def bits_of(format: Format) -> int:
    """Bits that one stored code takes."""
    return 32 if isinstance(format, Real) else format.bits
