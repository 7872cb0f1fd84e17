"""The rounding rules against the published C, written in Python integers, and against exact fractions."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from edgeq.errors import UsageError
from edgeq.ir.ops import Rounding
from edgeq.reference.arithmetic import (
    INT32_MAX,
    INT32_MIN,
    WIDE_SHIFT_MIN,
    quantize_multiplier,
    requantize,
    rounding_divide_by_power_of_two,
    saturating_rounding_doubling_high_mul,
)
from tests import plain

ROUNDINGS: tuple[Rounding, ...] = get_args(Rounding)
SHIFTS = (-31, -30, -17, -9, -8, -1, 0, 1, 2, 7, 30)
MULTIPLIERS = (1 << 30, (1 << 30) + 1, 1518500250, 1717986918, (1 << 31) - 2, (1 << 31) - 1)

int32 = st.integers(INT32_MIN, INT32_MAX)
multipliers = st.integers(1 << 30, (1 << 31) - 1)
shifts = st.integers(-31, 30)
roundings = st.sampled_from(ROUNDINGS)


def requantize_one(x: int, multiplier: int, shift: int, rounding: Rounding) -> int:
    return int(requantize(torch.tensor(x), torch.tensor(multiplier), torch.tensor(shift), rounding))


def ratio_of(multiplier: int, shift: int) -> Fraction:
    return Fraction(multiplier) * Fraction(2) ** (shift - 31)


def awkward_levels(shift: int) -> list[int]:
    """Ends of int32, small numbers, and exact ties of the ratio 2^(shift - 1) with their neighbours."""
    unit = 1 << max(-shift, 0)
    ties = [sign * odd * unit + off for sign in (1, -1) for odd in (1, 3, 5, 127, 255) for off in (-1, 0, 1)]
    ends = [INT32_MIN, INT32_MIN + 1, INT32_MAX - 1, INT32_MAX, (1 << 24) + 1, -(1 << 24) - 1, (1 << 24) + 3]
    return [x for x in [*range(-9, 10), *ties, *ends] if INT32_MIN <= x <= INT32_MAX]


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("shift", SHIFTS)
def test_awkward_levels(rounding: Rounding, shift: int) -> None:
    levels = awkward_levels(shift)
    distinct: set[int] = set()
    for multiplier in MULTIPLIERS:
        found = requantize(torch.tensor(levels), torch.tensor(multiplier), torch.tensor(shift), rounding)
        expected = [plain.requantized(x, multiplier, shift, rounding) for x in levels]
        assert found.tolist() == expected
        distinct.update(expected)
    # At shift -31 only the ends of int32 leave zero.
    assert len(distinct) >= (2 if shift < -28 else 6)


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_a_million_random_levels(rounding: Rounding) -> None:
    generator = np.random.default_rng(1)
    count = 1 << 20
    magnitude = np.exp2(generator.uniform(0, 31, count)).astype(np.int64)
    x = np.where(generator.random(count) < 0.5, -magnitude, magnitude).clip(INT32_MIN, INT32_MAX)
    ratio = np.exp2(generator.uniform(-14, 1, count))
    ratio[: count // 4] = np.exp2(generator.integers(-14, 2, count // 4))  # powers of two: ties everywhere
    q, e = np.array([quantize_multiplier(r) for r in ratio.tolist()]).T
    found = requantize(torch.tensor(x), torch.tensor(q), torch.tensor(e), rounding)
    rows = zip(x.tolist(), q.tolist(), e.tolist(), strict=True)
    expected = [plain.requantized(*row, rounding) for row in rows]
    assert found.tolist() == expected
    assert len(set(expected)) > count // 8


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_the_rules_really_differ(rounding: Rounding) -> None:
    """Each rule disagrees with every other one somewhere on ties, so the tests above can tell them apart."""
    x = torch.arange(-4096, 4096)
    q, e = torch.tensor(1 << 30), torch.tensor(-6)
    found = {rule: requantize(x, q, e, rule) for rule in ROUNDINGS}
    for other in set(ROUNDINGS) - {rounding}:
        if {rounding, other} in ({"gemmlowp2", "fc-float"}, {"single", "single15"}):
            continue  # alike for powers of two: one rounding, and a multiplier that 15 bits hold
        assert not torch.equal(found[rounding], found[other])
    x = torch.arange(-(1 << 20), 1 << 20)
    q = torch.tensor(1717986918)
    assert not torch.equal(requantize(x, q, e, "gemmlowp2"), requantize(x, q, e, "fc-float"))
    assert not torch.equal(requantize(x, q, e, "single"), requantize(x, q, e, "single15"))


@given(int32, multipliers, shifts, roundings)
def test_any_level(x: int, multiplier: int, shift: int, rounding: Rounding) -> None:
    assert requantize_one(x, multiplier, shift, rounding) == plain.requantized(x, multiplier, shift, rounding)


@given(int32, multipliers, st.integers(-31, 0))
def test_every_rule_is_near_the_exact_product(x: int, multiplier: int, shift: int) -> None:
    exact, half = x * ratio_of(multiplier, shift), Fraction(1, 2)
    found = {rule: requantize_one(x, multiplier, shift, rule) for rule in ROUNDINGS}
    assert found["single"] == math.floor(exact + half)
    assert abs(found["single15"] - exact) <= half + abs(exact) / 2**14
    assert abs(found["gemmlowp2"] - exact) <= 1 and abs(found["gemmlowp2-up"] - exact) <= 1
    assert abs(found["fc-float"] - exact) <= half + abs(exact) / 2**52
    assert abs(found["fp32rne"] - exact) <= half + abs(exact) / 2**22


@given(st.tuples(int32, int32), multipliers, shifts, roundings)
def test_monotone(pair: tuple[int, int], multiplier: int, shift: int, rounding: Rounding) -> None:
    low, high = (requantize_one(x, multiplier, shift, rounding) for x in sorted(pair))
    assert low <= high


@given(st.integers(-(1 << 62), 1 << 62), multipliers, st.integers(WIDE_SHIFT_MIN, 0))
def test_single_is_exact_beyond_32_bits(x: int, multiplier: int, shift: int) -> None:
    assert requantize_one(x, multiplier, shift, "single") == plain.requantized(x, multiplier, shift, "single")


def test_gemmlowp2_saturates_before_it_multiplies() -> None:
    assert requantize_one(INT32_MIN, 1 << 30, 1, "gemmlowp2") == -(1 << 30)
    assert requantize_one(1 << 30, (1 << 31) - 1, 5, "gemmlowp2") == INT32_MAX - 1
    assert requantize_one(1 << 40, 1 << 30, 0, "gemmlowp2") == 1 << 30


def test_a_zero_multiplier_gives_zero() -> None:
    for rounding in ROUNDINGS:
        assert requantize_one(INT32_MIN, 0, 0, rounding) == 0
        assert requantize_one(INT32_MAX, 0, 0, rounding) == 0


@pytest.mark.parametrize("rounding", ["fp32rne", "fc-float"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_levels_carried_in_floats_give_the_same_integers(rounding: Rounding, dtype: torch.dtype) -> None:
    x = torch.arange(-(1 << 18), 1 << 18) * 61
    q, e = torch.tensor([quantize_multiplier(r) for r in (0.0123, 0.5, 0.9)]).T
    expected = requantize(x[:, None], q, e, rounding)
    found = requantize(x[:, None].to(dtype), q, e, rounding)
    assert found.is_floating_point()
    assert torch.equal(found.to(torch.int64), expected)
    assert len(set(expected.flatten().tolist())) > 10_000


def test_fp32rne_is_what_numpy_computes_in_float32() -> None:
    x = np.random.default_rng(2).integers(INT32_MIN, INT32_MAX, 1 << 20)
    q, e = quantize_multiplier(3.3e-7)
    expected = np.rint(x.astype(np.float32) * np.float32(math.ldexp(q, e - 31)))
    found = requantize(torch.from_numpy(x), torch.tensor(q), torch.tensor(e), "fp32rne")
    assert np.array_equal(found.numpy(), expected)
    assert len(np.unique(expected)) > 1000


def test_one_multiplier_per_channel_broadcasts() -> None:
    x = torch.arange(-300, 300).reshape(2, 3, 10, 10) * 997
    q, e = torch.tensor([quantize_multiplier(r) for r in (0.1, 0.01, 3.0)]).T.reshape(2, 1, 3, 1, 1)
    for rounding in ROUNDINGS:
        found = requantize(x, q, e, rounding)
        for channel in range(3):
            alone = requantize(x[:, channel], q[0, channel], e[0, channel], rounding)
            assert torch.equal(found[:, channel], alone)


def all_pairs(values: list[int]) -> tuple[Tensor, Tensor]:
    grid = torch.cartesian_prod(torch.tensor(values), torch.tensor(values))
    return grid[:, 0], grid[:, 1]


def test_high_mul_saturates_only_at_the_smallest_pair() -> None:
    values = [INT32_MIN, INT32_MIN + 1, -(1 << 30), -3, -2, -1, 0, 1, 2, 3, 1 << 30, INT32_MAX - 1, INT32_MAX]
    a, b = all_pairs(values)
    found = saturating_rounding_doubling_high_mul(a, b)
    assert found.tolist() == [plain.high_mul(x, y) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    assert found.max() == INT32_MAX


@given(int32, int32)
def test_high_mul(a: int, b: int) -> None:
    found = int(saturating_rounding_doubling_high_mul(torch.tensor(a), torch.tensor(b)))
    assert found == plain.high_mul(a, b)


@given(int32, st.integers(0, 31))
def test_divide_by_power_of_two(x: int, exponent: int) -> None:
    found = int(rounding_divide_by_power_of_two(torch.tensor(x), torch.tensor(exponent)))
    exact = Fraction(x, 1 << exponent)
    away = math.floor(abs(exact) + Fraction(1, 2)) * (1 if x >= 0 else -1)
    assert found == plain.divide_by_power_of_two(x, exponent) == away


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [
        (1.0, (1 << 30, 1)),
        (0.5, (1 << 30, 0)),
        (0.75, (3 << 29, 0)),
        (math.nextafter(1.0, 0.0), (1 << 30, 1)),  # the mantissa rounds to 2^31
        (math.nextafter(0.125, 0.0), (1 << 30, -2)),
        ((2**31 - 0.5) / 2**31, (1 << 30, 1)),  # a tie, away from zero
        ((2**30 + 0.5) / 2**31, ((1 << 30) + 1, 0)),
        (2.0**-32, (1 << 30, -31)),
        (math.nextafter(2.0**-32, 0.0), (1 << 30, -31)),
        ((1 - 2.0**-20) * 2.0**-32, (0, 0)),
        (5e-324, (0, 0)),
        (0.0, (0, 0)),
        (2.0**29, (1 << 30, 30)),
    ],
)
def test_quantize_multiplier_corners(ratio: float, expected: tuple[int, int]) -> None:
    assert quantize_multiplier(ratio) == expected


@given(st.floats(2.0**-32, 2.0**29))
def test_quantize_multiplier_is_the_nearest(ratio: float) -> None:
    multiplier, shift = quantize_multiplier(ratio)
    assert 1 << 30 <= multiplier < 1 << 31
    assert -31 <= shift <= 30
    assert abs(ratio_of(multiplier, shift) - Fraction(ratio)) <= Fraction(ratio) / 2**31


@pytest.mark.parametrize("ratio", [-0.5, math.inf, -math.inf, math.nan, 2.0**30, 1e300])
def test_quantize_multiplier_refuses(ratio: float) -> None:
    with pytest.raises(UsageError, match="scale ratio"):
        quantize_multiplier(ratio)
