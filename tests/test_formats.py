"""Every code of every small format against gfloat, ml_dtypes and the definition in plain integers; encoding's ties."""

from __future__ import annotations

import itertools
from bisect import bisect_left, bisect_right
from fractions import Fraction
from typing import Any

import gfloat
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeq.errors import UsageError
from edgeq.formats import (
    INT8,
    INT8_NARROW,
    POST4,
    POT4,
    REAL,
    Codebook,
    Fixed,
    Float,
    Format,
    Int,
    Rounding,
    bits_of,
    code_range,
    decode,
    encode,
    level_range,
    level_table,
    parse_format,
    power_of_sqrt2,
    power_of_two,
    round_level,
)
from tests import plain
from tests.draws import FORMATS

FLOATS = [
    Float(exponent, mantissa, signed)
    for exponent, mantissa, signed in itertools.product(range(1, 6), range(8), (True, False))
    if 2 <= exponent + mantissa + signed <= 8
]
OCP = [Float(4, 3, specials=1), Float(5, 2, specials=4), Float(3, 1, False, 2)]
INTEGERS = [Int(bits, signed) for bits in range(1, 9) for signed in (True, False)]
INTEGERS += [Int(bits, narrow=True) for bits in range(2, 9)]
FIXED = [Fixed(bits, fraction, signed) for bits in range(1, 9) for fraction in (-2, 5) for signed in (True, False)]
POST_TABLE = (-127, -90, -64, -45, -32, -22, -16, 0, 16, 22, 32, 45, 64, 90, 127)
POST = Codebook("post", (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12))
ODD = Codebook("odd", (-3, -1, 1, 3))
ALL = [*FLOATS, *OCP, *INTEGERS, *FIXED, POST, ODD, POST4, POT4]

IEEE_LIKE: list[tuple[str, Float]] = [
    ("float4_e2m1fn", Float(2, 1)),
    ("float6_e2m3fn", Float(2, 3)),
    ("float6_e3m2fn", Float(3, 2)),
    ("float8_e4m3fn", Float(4, 3)),
    ("float8_e4m3", Float(4, 3)),
    ("float8_e3m4", Float(3, 4)),
    ("float8_e5m2", Float(5, 2)),
]


MODES: dict[Rounding, gfloat.RoundMode] = {
    "nearest-even": gfloat.RoundMode.TiesToEven,
    "up": gfloat.RoundMode.TowardPositive,
    "down": gfloat.RoundMode.TowardNegative,
    "zero": gfloat.RoundMode.TowardZero,
}


def _info(kind: Any) -> Any:
    return ml_dtypes.finfo(kind)  # type: ignore[no-untyped-call]


def all_codes(format_: Format) -> list[int]:
    low, high = plain.ends(format_)
    return list(range(low, high + 1))


def in_gfloat(format_: Float) -> Any:
    """The same format in gfloat, with the bias that makes the smallest subnormal 1."""
    return gfloat.FormatInfo(
        str(format_),
        format_.bits,
        format_.mantissa + 1,
        bias=1 - format_.mantissa,
        is_signed=format_.signed,
        domain=gfloat.Domain.Finite,
        has_nz=format_.signed,
        num_high_nans=0,
        has_subnormals=True,
        is_twos_complement=False,
    )


@pytest.mark.parametrize("format_", ALL, ids=str)
def test_every_code_has_the_defined_level(format_: Format) -> None:
    codes = all_codes(format_)
    zero_point = 3 if isinstance(format_, Int) and format_.high >= 3 else 0
    expected = [plain.level(format_, code, zero_point) for code in codes]
    assert decode(format_, codes, zero_point).tolist() == expected
    assert (min(expected), max(expected)) == level_range(format_, zero_point)
    assert (codes[0], codes[-1]) == code_range(format_)
    assert bits_of(format_) == max(1, (len(codes) - 1).bit_length())


@pytest.mark.parametrize("format_", FLOATS, ids=str)
def test_every_minifloat_code_equals_gfloat(format_: Float) -> None:
    info = in_gfloat(format_)
    expected = [gfloat.decode_float(info, code).fval for code in all_codes(format_)]
    assert level_table(format_).tolist() == expected
    assert len(set(expected)) > (1 << (format_.bits - 1)) - 2


@pytest.mark.parametrize(("name", "format_"), IEEE_LIKE, ids=[name for name, _ in IEEE_LIKE])
def test_every_finite_code_equals_ml_dtypes(name: str, format_: Float) -> None:
    kind = getattr(ml_dtypes, name)
    codes = np.arange(1 << format_.bits, dtype=np.uint8)
    reals = codes.view(kind).astype(np.float64)
    finite = np.isfinite(reals)
    assert finite.sum() >= len(codes) * 3 // 4
    smallest = float(_info(kind).smallest_subnormal)
    assert np.array_equal(reals[finite] / smallest, decode(format_, codes)[finite])


@pytest.mark.parametrize(
    ("name", "format_"), [("int2", Int(2)), ("uint2", Int(2, False)), ("int4", Int(4)), ("uint4", Int(4, False))]
)
def test_small_integers_equal_ml_dtypes(name: str, format_: Int) -> None:
    info = ml_dtypes.iinfo(getattr(ml_dtypes, name))  # type: ignore[no-untyped-call]
    assert (format_.low, format_.high) == (info.min, info.max)


@pytest.mark.parametrize("format_", ALL, ids=str)
def test_every_level_encodes_to_a_code_of_it(format_: Format) -> None:
    levels = decode(format_, all_codes(format_))
    assert np.array_equal(decode(format_, encode(format_, levels)), levels)


@pytest.mark.parametrize("format_", ALL, ids=str)
def test_ties_and_their_neighbourhood(format_: Format) -> None:
    levels = sorted({plain.level(format_, code, 0) for code in all_codes(format_)})
    middles = [Fraction(a + b, 2) for a, b in itertools.pairwise(levels)]
    around = [Fraction(1, 4), Fraction(-1, 4), Fraction(0)]
    targets = [m + d for m in [*middles, *map(Fraction, levels)] for d in around]
    targets += [Fraction(levels[0] - 1000), Fraction(levels[-1] + 1000)]
    expected = [plain.encoded(format_, target) for target in targets]
    assert encode(format_, [float(target) for target in targets]).tolist() == expected
    assert len(set(expected)) >= len(levels)


@pytest.mark.parametrize(("name", "format_"), IEEE_LIKE[:4], ids=[name for name, _ in IEEE_LIKE[:4]])
def test_rounding_equals_ml_dtypes(name: str, format_: Float) -> None:
    kind = getattr(ml_dtypes, name)
    largest, smallest = float(_info(kind).max), float(_info(kind).smallest_subnormal)
    reals = np.random.default_rng(3).uniform(-largest, largest, 20_000).astype(np.float32)
    reals[:10_000] *= np.exp2(np.random.default_rng(4).uniform(-8, 0, 10_000)).astype(np.float32)
    expected = reals.astype(kind).astype(np.float64) / smallest
    found = decode(format_, encode(format_, reals.astype(np.float64) / smallest))
    assert np.array_equal(found, expected)
    assert len(np.unique(expected)) > (1 << (format_.bits - 1))


@pytest.mark.parametrize("format_", [f for f in FLOATS if f.bits > 2], ids=str)
def test_saturating_rounding_equals_gfloat(format_: Float) -> None:
    info = in_gfloat(format_)
    low, high = level_range(format_)
    targets = np.random.default_rng(5).uniform(low * 1.2 - 1, high * 1.2 + 1, 200)
    if not format_.signed:
        targets = np.abs(targets)
    expected = [gfloat.round_float(info, target, sat=True) for target in targets.tolist()]
    assert decode(format_, encode(format_, targets)).tolist() == expected


def grid_around(levels: list[int]) -> list[int]:
    """Eight times every level and middle, and a little to either side of both, and far beyond the ends."""
    middles = [4 * (a + b) for a, b in itertools.pairwise(levels)]
    inside = [m + d for m in [*middles, *(8 * level for level in levels)] for d in (-1, 0, 1)]
    return [*inside, 8 * levels[0] - 8000, 8 * levels[-1] + 8000]


def rounded(levels: list[int], x: int, rounding: Rounding) -> int:
    """The rule on eight times the number, in integers."""
    x = min(max(x, 8 * levels[0]), 8 * levels[-1])
    above = levels[bisect_left(levels, x / 8)]
    below = levels[bisect_right(levels, x / 8) - 1]
    nearest = above if 2 * x >= 8 * (below + above) else below
    return {"up": above, "down": below, "zero": below if x >= 0 else above, "half-up": nearest}[rounding]


@pytest.mark.parametrize("rounding", ["half-up", "up", "down", "zero"])
@pytest.mark.parametrize("format_", ALL, ids=str)
def test_directed_rounding_of_every_level_and_middle(format_: Format, rounding: Rounding) -> None:
    levels = list(plain.codes_by_level(format_))
    targets = grid_around(levels)
    expected = [rounded(levels, target, rounding) for target in targets]
    assert round_level(format_, np.array(targets) / 8, rounding).tolist() == expected
    assert set(expected) == set(levels)


@pytest.mark.parametrize("rounding", MODES)
@pytest.mark.parametrize("format_", [f for f in FLOATS if f.bits > 3], ids=str)
def test_rounding_modes_equal_gfloat(format_: Float, rounding: Rounding) -> None:
    low, high = level_range(format_)
    targets = np.random.default_rng(6).uniform(low, high, 100)
    info = in_gfloat(format_)
    expected = [gfloat.round_float(info, target, MODES[rounding], sat=True) for target in targets.tolist()]
    assert round_level(format_, targets, rounding).tolist() == expected
    assert len(set(expected)) > 4


@pytest.mark.parametrize("format_", [Int(4), Float(2, 3), POST4, Fixed(6, 2)], ids=str)
def test_stochastic_rounding_keeps_the_mean_and_takes_neighbours(format_: Format) -> None:
    low, high = level_range(format_)
    wanted = np.repeat(np.linspace(low, high, 47), 4000)
    found = round_level(format_, wanted, "stochastic", draws=np.random.default_rng(7).random(wanted.size))
    below, above = round_level(format_, wanted, "down"), round_level(format_, wanted, "up")
    assert np.all((found == below) | (found == above))
    error = (found - wanted).reshape(47, -1).mean(axis=1)
    assert np.all(np.abs(error) <= 5 * (above - below).reshape(47, -1)[:, 0] / 2 / np.sqrt(4000))
    assert ((above - below).reshape(47, -1)[:, 0] > 0).sum() > 20
    with pytest.raises(UsageError, match="draws"):
        round_level(format_, wanted, "stochastic")


@given(st.lists(st.floats(-300, 300), min_size=1), st.sampled_from([INT8, INT8_NARROW, Int(8, False), Int(4)]))
def test_integers_round_half_even_around_the_zero_point(levels: list[float], format_: Int) -> None:
    zero = (format_.low + format_.high) // 2
    expected = [plain.encoded(format_, Fraction(level), zero) for level in levels]
    assert encode(format_, levels, zero).tolist() == expected


@settings(max_examples=300)
@given(FORMATS | st.just(REAL))
def test_names_read_back(format_: Format) -> None:
    assert parse_format(str(format_)) == format_


@pytest.mark.parametrize(
    "name", ["", "int", "int8x", "int-8", "fx8", "e4", "e4m", "post4:", "post4:1,", "Real", "int8 ", "e4m3fn"]
)
def test_names_that_no_format_has(name: str) -> None:
    with pytest.raises(UsageError, match="unknown number format"):
        parse_format(name)


def test_formats_without_codes_or_tables_say_so() -> None:
    with pytest.raises(UsageError, match="no codes"):
        code_range(REAL)
    for format_ in (REAL, INT8, Fixed(8, 4)):
        with pytest.raises(UsageError, match="no level table"):
            level_table(format_)


def test_shapes_are_kept() -> None:
    codes = np.arange(24).reshape(2, 3, 4) % 16
    assert decode(POST, codes).shape == codes.shape
    assert encode(Float(2, 1), np.zeros((2, 0, 3))).shape == (2, 0, 3)


def test_tables_of_powers() -> None:
    """The published levels: each a power of two, or of its root, of the largest, rounded to an integer."""
    assert POST4.table == POST_TABLE and POT4.table == (-64, -32, -16, -8, -4, -2, -1, 0, 1, 2, 4, 8, 16, 32, 64)
    for bits in (2, 3, 4):
        table = np.array(power_of_sqrt2(bits).table)
        positive = table[table > 0][::-1]
        assert np.all(np.abs(positive / 127 * 2 ** (np.arange(len(positive)) / 2) - 1) < 0.021)
    for bits in (2, 3, 4, 5):
        assert bits_of(power_of_two(bits)) == bits and len(power_of_two(bits).table) == 2**bits - 1


@pytest.mark.parametrize(
    ("make", "bits"), [(power_of_sqrt2, 1), (power_of_sqrt2, 5), (power_of_two, 1), (power_of_two, 6)]
)
def test_tables_of_powers_have_few_bits(make: Any, bits: int) -> None:
    with pytest.raises(UsageError, match="bits"):
        make(bits)
