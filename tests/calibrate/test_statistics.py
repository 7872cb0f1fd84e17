"""Statistics against plain numpy, and that merging loses nothing whatever the order and the split."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from edgeq.calibrate.statistics import (
    PER_OCTAVE,
    SIDE,
    UNIT_EDGES,
    Rows,
    Statistics,
    _sums,
    from_arrays,
    merge_all,
    merge_maps,
    statistics_of,
    to_arrays,
    weighed_histogram,
)  # fmt: skip
from edgeq.errors import DataError


def normal(*shape: int, scale: float = 1.0, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale


def same_histogram(a: Statistics, b: Statistics) -> bool:
    return a.histogram.top == b.histogram.top and np.array_equal(a.histogram.counts, b.histogram.counts)


@pytest.mark.parametrize("scale", [1e-35, 1e-20, 1e-3, 1.0, 3e5, 1e37])
def test_histogram_counts_what_numpy_counts(scale: float) -> None:
    x = normal(20000, scale=scale)
    x[::7] = 0
    found = statistics_of(x)
    values = x.numpy().astype(np.float64)
    positive, negative = values[values > 0], -values[values < 0]
    edges = found.histogram.edges[SIDE:]
    assert np.array_equal(found.histogram.counts[SIDE:], np.histogram(positive, edges)[0])
    assert np.array_equal(found.histogram.counts[:SIDE][::-1], np.histogram(negative, edges)[0])
    assert found.histogram.counts.sum() == np.count_nonzero(values)
    assert np.count_nonzero(found.histogram.counts) > 30


def test_rows_of_a_map_stand_for_those_between_them_and_ends_are_of_all() -> None:
    x = normal(1, 5, 24, 10).relu()
    x[0, 0, 1, 0], x[0, 3, 2, 5] = 100.0, -7.0
    found = [statistics_of(x, rows=Rows(300, turn)) for turn in range(4)]
    for turn, item in enumerate(found):
        plain = statistics_of(x[:, :, turn::4])
        assert (item.count, item.zeros) == (x.numel(), 4 * plain.zeros) and plain.zeros > 100
        assert (item.minimum, item.maximum) == (-7.0, 100.0)
        assert item.mean == plain.mean and item.mean_square == plain.mean_square
        assert item.histogram.counts.sum() == 4 * plain.histogram.counts.sum()
    together, all_ = merge_all(found), statistics_of(x)
    assert together.histogram.top == all_.histogram.top
    assert np.array_equal(together.histogram.counts, 4 * all_.histogram.counts)


@pytest.mark.parametrize(
    ("shape", "step"), [((1, 2, 3, 40), 2), ((1, 2, 3, 400), 3), ((1, 5, 24, 4), 4), ((3, 999), 1)]
)
def test_as_many_rows_are_passed_over_as_leave_enough(shape: tuple[int, ...], step: int) -> None:
    rows, x = Rows(120, turn=7), torch.arange(np.prod(shape)).reshape(shape)
    assert rows.step(x) == step and Rows().step(x) == 1
    assert torch.equal(rows.of(x), x[:, :, 7 % step :: step] if x.dim() == 4 else x) and rows.of(x).numel() > 0


def test_edges_ascend_and_are_shared_by_both_signs() -> None:
    assert len(UNIT_EDGES) == 2 * SIDE + 1
    assert np.all(np.diff(UNIT_EDGES) > 0)
    assert np.array_equal(UNIT_EDGES, -UNIT_EDGES[::-1])


def test_moments_and_ends() -> None:
    x = normal(2, 5, 9, 9) + 3
    x[0, 0, 0, 0] = 0
    found, values = statistics_of(x), x.numpy().astype(np.float64)
    assert (found.count, found.zeros) == (810, 1)
    assert found.zero_fraction == 1 / 810
    assert found.mean == pytest.approx(values.mean(), rel=1e-5)
    assert found.mean_square == pytest.approx((values**2).mean(), rel=1e-5)
    assert np.array_equal(found.channel_minimum, values.min((0, 2, 3)).astype(np.float32))
    assert np.array_equal(found.channel_maximum, values.max((0, 2, 3)).astype(np.float32))
    assert (found.minimum, found.maximum) == (values.min(), values.max())


@pytest.mark.parametrize(("shape", "channels"), [((2, 6, 3, 3), 6), ((2, 7, 4), 4), ((3, 5), 5), ((4,), 4), ((), 1)])
def test_channels_are_on_axis_one_of_maps_and_last_of_others(shape: tuple[int, ...], channels: int) -> None:
    assert len(statistics_of(normal(*shape)).channel_maximum) == channels


def test_strided_tensors_count_like_contiguous_ones() -> None:
    x = normal(1, 4, 6, 8).permute(0, 2, 3, 1)
    assert same_histogram(statistics_of(x), statistics_of(x.contiguous()))


@settings(max_examples=40, deadline=None)
@given(
    scales=st.lists(st.integers(-30, 30), min_size=1, max_size=6),
    order=st.randoms(use_true_random=False),
)
def test_any_order_and_any_split_give_the_same_statistics(scales: list[int], order: object) -> None:
    parts = [normal(1, 3, 5, 5, scale=2.0**scale, seed=seed) for seed, scale in enumerate(scales)]
    whole = statistics_of(torch.cat(parts))
    shuffled = list(parts)
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    merged = merge_all(map(statistics_of, shuffled))
    half = len(parts) // 2
    nested = [merge_all(map(statistics_of, group)) for group in (parts[:half], parts[half:]) if group]
    for found in (merged, merge_all(nested)):
        assert same_histogram(found, whole)
        assert (found.count, found.zeros) == (whole.count, whole.zeros)
        assert np.array_equal(found.channel_minimum, whole.channel_minimum)
        assert np.array_equal(found.channel_maximum, whole.channel_maximum)
        assert found.total_squares == pytest.approx(whole.total_squares, rel=1e-5)


def test_values_of_unlike_channels_merge_to_one_range() -> None:
    a, b = statistics_of(normal(1, 3, 4, 4)), statistics_of(normal(1, 5, 4, 4, seed=1))
    merged = a.merged(b)
    assert merged.channel_minimum.shape == (1,)
    assert merged.minimum == min(a.minimum, b.minimum)
    assert merged.maximum == max(a.maximum, b.maximum)


def test_maps_merge_value_by_value() -> None:
    clean = {"x": statistics_of(normal(100)), "y": statistics_of(normal(50))}
    degraded = {"x": statistics_of(normal(100, scale=4, seed=1)), "z": statistics_of(normal(20))}
    both = merge_maps(clean, degraded)
    assert set(both) == {"x", "y", "z"}
    assert (both["x"].count, both["y"].count, both["z"].count) == (200, 50, 20)
    assert clean["x"].count == 100


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_is_not_finite_is_an_error_that_names_the_value(bad: float) -> None:
    x = normal(10)
    x[3] = bad
    with pytest.raises(DataError, match="conv1"):
        statistics_of(x, where="conv1")


def test_nothing_to_observe_is_an_error() -> None:
    with pytest.raises(DataError, match="elements"):
        statistics_of(torch.empty(0, 3))


def test_zeros_denormals_and_the_largest_float_have_a_place() -> None:
    x = torch.tensor([0.0, -0.0, 1e-45, -1e-45, 3.4028234e38, -3.4028234e38])
    found = statistics_of(x)
    assert found.zeros == 4
    assert found.histogram.counts.sum() == 2
    assert found.histogram.top == 128


def test_arrays_hold_everything() -> None:
    written = {
        "a": statistics_of(normal(1, 3, 8, 8)),
        "b/c": statistics_of(normal(40) * 1e-9),
        "é": statistics_of(normal(2, 9)),
    }
    read = from_arrays(to_arrays(written))
    assert list(read) == list(written)
    for name, found in read.items():
        expected = written[name]
        assert same_histogram(found, expected)
        assert (found.count, found.zeros, found.total, found.total_squares) == (
            expected.count, expected.zeros, expected.total, expected.total_squares
        )  # fmt: skip
        assert np.array_equal(found.channel_minimum, expected.channel_minimum)
        assert np.array_equal(found.channel_maximum, expected.channel_maximum)
    assert from_arrays(to_arrays({})) == {}


@pytest.mark.parametrize("field", ["values", "count", "histogram", "channels", "channel_minimum", "top"])
def test_arrays_that_do_not_fit_are_refused(field: str) -> None:
    arrays = to_arrays({"a": statistics_of(normal(1, 3, 8, 8)), "b": statistics_of(normal(40))})
    with pytest.raises(DataError):
        from_arrays({name: array for name, array in arrays.items() if name != field})
    with pytest.raises(DataError):
        from_arrays({**arrays, field: arrays[field][:1]})


@pytest.mark.parametrize("beside", [2, 32])
def test_histograms_beside_each_other_add_up_to_one(beside: int) -> None:
    patterns = torch.randint(0, 300, (1001,), generator=torch.Generator().manual_seed(1), dtype=torch.int32)
    patterns[:400] = 0
    weights = torch.arange(1001, dtype=torch.float64)
    assert torch.equal(_sums(patterns.clone(), None, beside), _sums(patterns.clone(), None, 1))
    found = _sums(patterns.clone(), weights, beside)
    assert torch.equal(found, _sums(patterns.clone(), weights, 1)) and len(found.unique()) > 200


def test_spread_weights_keep_their_sums_and_reach_what_only_other_images_hold() -> None:
    random = torch.Generator().manual_seed(3)
    few = torch.randn(5000, generator=random)
    more = torch.cat([few, few * 1.5, torch.tensor([40.0])])
    weights = weighed_histogram(few, few.abs())
    like = statistics_of(more).histogram
    found = weights.spread(like, 512.0)
    assert found.top == like.top
    positive = slice(SIDE, None)
    assert found.counts.sum() == pytest.approx(float(few.abs().sum()), rel=1e-6)
    assert found.counts[positive].sum() == pytest.approx(float(few[few > 0].sum()), rel=1e-6)
    before = weights.raised(like.top).counts
    assert found.counts[-PER_OCTAVE * 2 :].sum() > 0 == before[-PER_OCTAVE * 2 :].sum()
    assert not found.counts[like.counts == 0].any()
