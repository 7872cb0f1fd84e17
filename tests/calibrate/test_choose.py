"""Range estimators against brute force on the samples themselves, and the promises every grid keeps."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeq.calibrate.choose import choose, expected_error, parse_estimator
from edgeq.calibrate.estimators import (
    Entropy,
    Estimator,
    MinMax,
    Mse,
    Octav,
    Percentile,
    divergences,
    quantiles,
)  # fmt: skip
from edgeq.calibrate.grid import grid_of_range, map_of
from edgeq.calibrate.statistics import Statistics, statistics_of
from edgeq.errors import UsageError
from edgeq.formats import INT8, INT16, UINT8, FloatArray, Int
from edgeq.ir.ops import Function

ESTIMATORS: tuple[Estimator, ...] = (MinMax(), Percentile(99.99), Entropy(), Mse(), Octav())
UINT4, INT4 = Int(4, signed=False), Int(4)
SILU = Function("silu")
CASES = ((UINT8, False), (INT8, True), (UINT4, False), (INT4, True), (INT8, False))


def sample(name: str, size: int = 20_000, seed: int = 0) -> FloatArray:
    """Float32 numbers of a named distribution, as float64."""
    random = np.random.default_rng(seed)
    normal = random.normal(size=size)
    drawn = {
        "normal": normal,
        "laplace": random.laplace(size=size),
        "relu": np.maximum(normal, 0),
        "silu": 3 * normal / (1 + np.exp(-3 * normal)),
        "negative": -np.abs(normal) - 0.5,
        "outlier": np.append(normal, 1000.0),
        "bimodal": np.concatenate([normal[::2] / 10 - 5, normal[1::2] + 20]),
        "heavy": random.standard_t(2, size=size),
        "sparse": np.where(random.random(size) < 0.7, 0.0, normal),
    }[name]
    found: FloatArray = drawn.astype(np.float32).astype(np.float64)
    return found


NAMES = ("normal", "laplace", "relu", "silu", "negative", "outlier", "bimodal", "heavy", "sparse")


def statistics(x: FloatArray) -> Statistics:
    return statistics_of(torch.from_numpy(x.astype(np.float32)))


def quantized(x: FloatArray, format: Int, scale: float, zero_point: int) -> FloatArray:
    """A plain quantizer and back."""
    levels: FloatArray = np.clip(np.rint(x / scale) + zero_point, format.low, format.high) - zero_point
    return levels * scale


def true_error(x: FloatArray, format: Int, grid: tuple[float, int], f: Callable[[FloatArray], FloatArray]) -> float:
    return float(np.mean((f(quantized(x, format, *grid)) - f(x)) ** 2))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("format", "symmetric"), CASES)
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
def test_every_grid_is_legal_and_its_error_is_known(
    name: str, format: Int, symmetric: bool, estimator: Estimator
) -> None:
    x = sample(name)
    found = statistics(x)
    grid = choose(found, format, symmetric=symmetric, estimator=estimator)
    scale, zero_point = grid
    assert scale > 0
    assert scale == float(np.float32(scale))
    assert format.low <= zero_point <= format.high
    assert quantized(np.zeros(1), format, *grid)[0] == 0.0
    if symmetric:
        assert zero_point == 0
    assert grid == choose(found, format, symmetric=symmetric, estimator=estimator)
    expected = expected_error(found, format, *grid)
    assert expected == pytest.approx(true_error(x, format, grid, lambda v: v), rel=0.06)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("format", "symmetric"), CASES)
@pytest.mark.parametrize("through", [None, SILU], ids=str)
def test_mse_is_never_worse_than_minmax_and_close_to_the_best_of_all_ranges(
    name: str, format: Int, symmetric: bool, through: Function | None
) -> None:
    x = sample(name, 6000)
    found, f = statistics(x), map_of(through)
    grid = choose(found, format, symmetric=symmetric, estimator=Mse(), through=through)
    whole = choose(found, format, symmetric=symmetric, estimator=MinMax())
    assert expected_error(found, format, *grid, through) <= expected_error(found, format, *whole, through)
    shares = 1 - np.linspace(0, 1, 24)[:-1] ** 1.5
    ends = np.array([(min(x.min(), 0) * a, max(x.max(), 0) * b) for a, b in product(shares, shares)])
    scales, zeros = grid_of_range(ends[:, 0], ends[:, 1], format, symmetric=symmetric)
    best = min(true_error(x, format, pair, f) for pair in set(zip(scales.tolist(), zeros.tolist(), strict=True)))
    assert true_error(x, format, grid, f) <= 1.1 * best


def test_a_tail_that_silu_flattens_is_clipped() -> None:
    found = statistics(3 * sample("normal"))
    plain = choose(found, UINT8, symmetric=False, estimator=Mse())
    behind = choose(found, UINT8, symmetric=False, estimator=Mse(), through=SILU)
    low = -behind[0] * behind[1]
    assert -7 < low < -3
    assert expected_error(found, UINT8, *behind, SILU) < 0.7 * expected_error(found, UINT8, *plain, SILU)


def test_a_function_without_a_value_somewhere_is_no_obstacle() -> None:
    found = statistics(np.abs(sample("normal")) + 0.25)
    for name in ("log", "sqrt", "reciprocal"):
        scale, _ = choose(found, UINT8, symmetric=False, estimator=Mse(), through=Function(name))
        assert 0 < scale < 0.05


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("percent", [50.0, 90.0, 99.0, 99.9, 100.0])
def test_percentiles_are_those_of_the_samples(name: str, percent: float) -> None:
    x = sample(name)
    shares = [(100 - percent) / 200, (100 + percent) / 200]
    both, order = quantiles(statistics(x), shares, magnitude=False), np.sort(x)
    (reach,) = quantiles(statistics(x), [percent / 100], magnitude=True)
    for share, found, values in (
        (shares[0], both[0], order),
        (shares[1], both[1], order),
        (percent / 100, reach, np.sort(np.abs(x))),
    ):
        # Within a bin (1/256) of the neighbours of the exact rank.
        rank = share * len(values)
        near = values[[max(int(rank) - 2, 0), min(int(rank) + 1, len(values) - 1)]]
        slack = np.abs(near) / 128
        assert near[0] - slack[0] <= found <= near[1] + slack[1]


def test_minmax_keeps_image_pixels_exactly() -> None:
    pixels = (np.arange(256) / 255).astype(np.float32)
    scale, zero_point = choose(statistics(pixels.astype(np.float64)), UINT8, symmetric=False, estimator=MinMax())
    assert (scale, zero_point) == (float(np.float32(1 / 255)), 0)
    codes = np.rint(pixels / np.float32(scale))
    assert np.array_equal(codes, np.arange(256))
    assert np.abs(codes * scale - pixels).max() < 1e-7


def test_minmax_covers_the_whole_range() -> None:
    for name, (format, symmetric) in product(NAMES, CASES):
        x = sample(name)
        scale, zero_point = choose(statistics(x), format, symmetric=symmetric, estimator=MinMax())
        assert (format.low - zero_point - 0.501) * scale <= x.min()
        assert (format.high - zero_point + 0.501) * scale >= x.max()


def test_headroom_widens_the_range_of_wide_formats() -> None:
    found = statistics(sample("normal"))
    plain, _ = choose(found, INT16, symmetric=True, estimator=MinMax())
    roomy, _ = choose(found, INT16, symmetric=True, estimator=MinMax(1.5))
    assert roomy == pytest.approx(1.5 * plain)
    assert choose(found, INT16, symmetric=True, estimator=Mse())[0] == plain


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
def test_symmetric_unsigned_formats_take_the_middle_code_only_for_negatives(estimator: Estimator) -> None:
    positive = choose(statistics(sample("relu")), UINT8, symmetric=True, estimator=estimator)
    both = choose(statistics(sample("normal")), UINT8, symmetric=True, estimator=estimator)
    assert (positive[1], both[1]) == (0, 128)


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
@pytest.mark.parametrize("constant", [0.0, 3.0, -0.125, 1e-44, 1e-20, 3e38])
@pytest.mark.parametrize(("format", "symmetric"), CASES)
def test_constant_values(estimator: Estimator, constant: float, format: Int, symmetric: bool) -> None:
    x = np.full(50, np.float32(constant), dtype=np.float64)
    scale, zero_point = choose(statistics(x), format, symmetric=symmetric, estimator=estimator)
    assert 0 < scale < np.inf
    assert format.low <= zero_point <= format.high
    if abs(constant) > 1e-15:
        assert quantized(x, format, scale, zero_point) == pytest.approx(x, rel=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=30),
    case=st.sampled_from(CASES),
    estimator=st.sampled_from(ESTIMATORS),
)
def test_any_numbers_give_a_legal_grid(values: list[float], case: tuple[Int, bool], estimator: Estimator) -> None:
    format, symmetric = case
    found = statistics(np.array(values))
    scale, zero_point = choose(found, format, symmetric=symmetric, estimator=estimator)
    assert 0 < scale < np.inf
    assert format.low <= zero_point <= format.high
    if isinstance(estimator, Mse):
        whole = choose(found, format, symmetric=symmetric, estimator=MinMax())
        assert expected_error(found, format, scale, zero_point) <= expected_error(found, format, *whole)


def test_one_outlier_costs_the_robust_estimators_little() -> None:
    x = np.append(sample("normal"), 60.0)
    found = statistics(x)
    width = {str(e): 255 * choose(found, UINT8, symmetric=False, estimator=e)[0] for e in ESTIMATORS}
    assert width["minmax"] > 60
    assert width["percentile:99.99"] < 12
    # One in 20,000 at 60: clipping it to 20 costs 40**2 / 20,000 = 0.08, keeping it costs 0.0053.
    assert 40 < width["mse"] <= width["minmax"]
    often = statistics(np.append(10 * [*sample("normal")], 60.0))
    assert 255 * choose(often, UINT4, symmetric=False, estimator=Octav())[0] < 200
    assert choose(often, UINT4, symmetric=False, estimator=Mse())[0] * 15 < 12


def test_two_far_modes_keep_both_ends() -> None:
    found = statistics(sample("bimodal"))
    for estimator in ESTIMATORS:
        scale, zero_point = choose(found, UINT8, symmetric=False, estimator=estimator)
        low, high = -zero_point * scale, (255 - zero_point) * scale
        assert low == pytest.approx(-5.3, abs=0.3)
        assert high == pytest.approx(23.5, abs=1.5)


@pytest.mark.parametrize("name", ["normal", "laplace", "heavy", "relu"])
@pytest.mark.parametrize(("format", "symmetric"), [(INT8, True), (INT4, True), (UINT8, False), (UINT4, False)])
def test_octav_balances_rounding_and_clipping(name: str, format: Int, symmetric: bool) -> None:
    """Sakr et al.: the clip minimises range**2 / (12 steps**2) P(inside) + E[clipped part squared]."""
    x = sample(name)
    scale, zero_point = choose(statistics(x), format, symmetric=symmetric, estimator=Octav())
    nonzero = x[x != 0]

    def noise(low: float, high: float) -> float:
        step = (high - low) / (format.high - format.low) if not symmetric else high / format.high
        clipped = np.maximum(nonzero - high, 0) + np.maximum(low - nonzero, 0)
        return float(step**2 / 12 * np.mean(clipped == 0) + np.mean(clipped**2))

    high = (format.high - zero_point) * scale
    low = -high if symmetric else (format.low - zero_point) * scale
    shares = np.linspace(0.05, 1, 80)
    if symmetric:
        least = min(noise(-t, t) for t in shares * np.abs(x).max())
    else:
        least = min(noise(a, b) for a, b in product(min(x.min(), 0) * shares[::3], x.max() * shares))
    assert noise(low, high) <= 1.03 * least


def plain_divergence(mass: FloatArray, borders: FloatArray, format: Int, scale: float, zero_point: int) -> float:
    """KL(P || Q) of one clip, bin by bin."""
    cut = (np.arange(format.low, format.high + 2) - 0.5 - zero_point) * scale
    cut = np.clip(np.rint((cut - borders[0]) / (borders[1] - borders[0])), 0, len(mass)).astype(int)
    first, last = cut[0], cut[-1]
    p, q = mass[first:last].copy(), np.zeros(last - first)
    p[0] += mass[:first].sum()
    p[-1] += mass[last:].sum()
    for start, stop in pairwise(cut - first):
        occupied = [k for k in range(start, stop) if p[k] > 0]
        q[occupied] = mass[first + start : first + stop].sum() / max(len(occupied), 1)
    p, q = p / p.sum(), np.maximum(q / q.sum(), 1e-6 * (p > 0))
    return float(np.sum(p[p > 0] * np.log(p[p > 0] / q[p > 0])))


@pytest.mark.parametrize(("format", "symmetric"), [(INT8, True), (UINT8, False), (UINT4, False), (INT4, True)])
@pytest.mark.parametrize("name", ["normal", "laplace", "relu"])
def test_divergence_is_the_plain_one(name: str, format: Int, symmetric: bool) -> None:
    x = sample(name)
    low, high = (-np.abs(x).max(), np.abs(x).max()) if symmetric else (x.min(), x.max())
    mass, borders = np.histogram(x[x != 0], np.linspace(low, high, (16 << format.bits) + 1))
    shares = np.array([1.0, 0.8, 0.5, 0.3])
    lows, highs = np.maximum(low, -shares * high), shares * high
    grids = grid_of_range(lows, highs, format, symmetric=symmetric)
    found = divergences(mass.astype(np.float64), borders, lows, highs, format, symmetric)
    for k, (scale, zero_point) in enumerate(zip(*grids, strict=True)):
        expected = plain_divergence(mass.astype(np.float64), borders, format, scale, int(zero_point))
        assert found[k] == pytest.approx(expected, rel=1e-6, abs=1e-9)
    assert len(set(np.round(found, 6))) > 1


@pytest.mark.parametrize("estimator", [*ESTIMATORS, MinMax(1.5), Percentile(99.9)], ids=str)
def test_estimators_read_back_from_their_names(estimator: Estimator) -> None:
    assert parse_estimator(str(estimator)) == estimator


@pytest.mark.parametrize(
    "name", ["", "mss", "minmax:0.5", "minmax:x", "minmax:nan", "percentile:101", "mse:3", "entropy:", "percentile:inf"]
)
def test_other_names_are_errors(name: str) -> None:
    with pytest.raises(UsageError):
        parse_estimator(name)


def test_a_misspelt_estimator_gets_a_hint() -> None:
    with pytest.raises(UsageError, match="Did you mean percentile"):
        parse_estimator("percentil")
