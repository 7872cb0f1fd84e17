"""Weights and biases as codes: exact on a grid, bounded elsewhere, for every format; hostile channels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeq.errors import UnsupportedError, UsageError
from edgeq.formats import (
    INT8,
    INT8_NARROW,
    REAL,
    UINT8,
    Codebook,
    Fixed,
    Float,
    Format,
    Int,
    bits_of,
    code_range,
    decode,
    level_range,
)
from edgeq.ir import ops as o
from edgeq.ir.graph import Type
from edgeq.quantize.scale import (
    BIAS_LIMIT,
    BIAS_REACH,
    SCALE_FLOOR,
    WIDE_BIAS_LIMIT,
    bias_codes,
    bias_limit,
    dequantize_weight,
    quantize_weight,
    weight_type,
)

Weights = npt.NDArray[np.float32]
POST4 = Codebook("post", (0, 2, 3, 4, 6, 8, 11, 16, 0, -2, -3, -4, -6, -8, -11, -16))
LOPSIDED = Codebook("kmeans", (-9, -4, -1, 0, 2, 3, 5, 7))
FORMATS: tuple[Format, ...] = (
    INT8, INT8_NARROW, Int(4), Int(4, narrow=True), Int(2, narrow=True), Float(4, 3), Float(2, 1), POST4, LOPSIDED
)  # fmt: skip


def weights(shape: tuple[int, ...] = (6, 4, 3, 3), seed: int = 0) -> Weights:
    """Normal weights whose channels differ in size by powers of ten."""
    random = np.random.default_rng(seed)
    sizes = 10.0 ** random.integers(-4, 2, shape[0])
    return (random.normal(size=shape) * sizes.reshape(-1, *[1] * (len(shape) - 1))).astype(np.float32)


@pytest.mark.parametrize("axis", [0, 1, None])
@pytest.mark.parametrize("seed", range(5))
def test_weights_on_a_grid_of_127_levels_come_back_bit_for_bit(axis: int | None, seed: int) -> None:
    random = np.random.default_rng(seed)
    codes = random.integers(-127, 128, (40, 30, 3, 3))
    channels = 1 if axis is None else codes.shape[axis]
    (codes[:1] if axis is None else np.moveaxis(codes, axis, 0))[:, 0, 0, 0] = random.choice([-127, 127], channels)
    scale = np.exp(random.uniform(-12, 2, channels)).astype(np.float32)
    shape = [1] * 4
    if axis is not None:
        shape[axis] = -1
    array = (codes * scale.reshape(shape).astype(np.float64)).astype(np.float32)
    for clip in ("largest", "squared_error"):
        type_ = weight_type(array, INT8_NARROW, axis, clip=clip)
        found = quantize_weight(array, type_)
        assert np.array_equal(found, codes)
        assert np.array_equal(dequantize_weight(found, type_), array)
    assert len(np.unique(codes)) == 255


@pytest.mark.parametrize("format", FORMATS, ids=str)
@pytest.mark.parametrize("axis", [0, 1, None])
def test_nothing_is_clipped_and_every_error_is_at_most_half_a_gap(format: Format, axis: int | None) -> None:
    array = weights()
    type_ = weight_type(array, format, axis)
    assert len(type_.scale) == (1 if axis is None else array.shape[axis])
    assert type_.axis == axis
    assert all(scale == float(np.float32(scale)) > 0 for scale in type_.scale)
    codes = quantize_weight(array, type_)
    low, high = code_range(format)
    assert low <= codes.min()
    assert codes.max() <= high
    table = np.unique(decode(format, np.arange(low, high + 1)))
    gap = float(np.diff(table).max())
    scales = np.asarray(type_.scale).reshape([-1 if k == axis else 1 for k in range(4)])
    assert np.all(np.abs(dequantize_weight(codes, type_) - array) <= scales * gap / 2 * (1 + 1e-6))
    assert len(np.unique(codes)) > 2


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_searched_clips_are_never_worse_in_any_channel(format: Format) -> None:
    array = weights((8, 50))
    array[3, 7] = 30 * np.abs(array[3]).max()
    errors = []
    for clip in ("largest", "squared_error"):
        type_ = weight_type(array, format, 0, clip=clip)
        restored = dequantize_weight(quantize_weight(array, type_), type_).astype(np.float64)
        errors.append(((restored - array) ** 2).sum(axis=1))
    assert np.all(errors[1] <= errors[0] * (1 + 1e-6))
    assert bits_of(format) == 8 or np.any(errors[1] < 0.99 * errors[0])


def test_a_searched_clip_is_near_the_best_of_many() -> None:
    array = np.random.default_rng(3).laplace(size=(4, 400)).astype(np.float32)
    type_ = weight_type(array, Int(4, narrow=True), 0, clip="squared_error")
    for row, scale in zip(array.astype(np.float64), type_.scale, strict=True):
        candidates = np.abs(row).max() / 7 * np.linspace(0.05, 1, 800)
        errors = [np.square(np.clip(np.rint(row / s), -7, 7) * s - row).sum() for s in candidates]
        assert np.square(np.clip(np.rint(row / scale), -7, 7) * scale - row).sum() <= 1.02 * min(errors)


def test_channels_of_zeros_take_the_scale_of_the_largest_channel() -> None:
    array = weights()
    array[2] = 0
    type_ = weight_type(array, INT8_NARROW, 0)
    assert type_.scale[2] == pytest.approx(float(np.abs(array).max()) / 127)
    assert not quantize_weight(array, type_)[2].any()
    assert weight_type(np.zeros((3, 4), np.float32), INT8_NARROW, 0).scale == (float(np.float32(1 / 127)),) * 3


def test_tiny_channels_get_the_smallest_scale() -> None:
    array = np.array([[1e-45, -1e-45], [1.0, -0.5], [1e-30, 1e-31]], dtype=np.float32)
    type_ = weight_type(array, INT8_NARROW, 0)
    assert (type_.scale[0], type_.scale[2]) == (SCALE_FLOOR, SCALE_FLOOR)
    assert quantize_weight(array, type_)[:, 0].tolist() == [0, 127, 0]
    assert float(np.float32(SCALE_FLOOR * SCALE_FLOOR)) >= np.finfo(np.float32).tiny


def test_the_largest_weights_stay_finite() -> None:
    array = np.array([[3.4e38, -3.4e38]], dtype=np.float32)
    type_ = weight_type(array, INT8_NARROW, 0)
    assert quantize_weight(array, type_).tolist() == [[127, -127]]
    assert np.isfinite(dequantize_weight(np.array([[127, -127]]), type_)).all()


def test_fixed_point_has_its_own_scale() -> None:
    array = np.array([[0.5, -0.25, 7.9, 100.0]], dtype=np.float32)
    type_ = weight_type(array, Fixed(8, 4), 0)
    assert (type_.scale, type_.axis) == ((2.0**-4,), None)
    assert quantize_weight(array, type_).tolist() == [[8, -4, 126, 127]]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_an_error_that_names_the_tensor(bad: float) -> None:
    array = weights()
    array[1, 1, 1, 1] = bad
    with pytest.raises(UnsupportedError, match=r"stem\.weight"):
        weight_type(array, INT8_NARROW, 0, where="stem.weight")


def test_formats_that_cannot_hold_the_weights_are_errors() -> None:
    for format in (UINT8, Float(2, 3, signed=False)):
        with pytest.raises(UnsupportedError, match="negative"):
            weight_type(weights(), format, 0)
        assert weight_type(np.abs(weights()), format, 0).scale
    with pytest.raises(UsageError):
        weight_type(weights(), REAL, 0)
    with pytest.raises(UnsupportedError, match="elements"):
        weight_type(np.zeros((0, 3), np.float32), INT8, 0)


@settings(max_examples=80, deadline=None)
@given(
    values=st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=6, max_size=6),
    format=st.sampled_from(FORMATS),
    axis=st.sampled_from([0, 1, None]),
)
def test_any_weights_give_legal_codes(values: list[float], format: Format, axis: int | None) -> None:
    array = np.array(values, dtype=np.float32).reshape(2, 3)
    type_ = weight_type(array, format, axis)
    assert all(SCALE_FLOOR <= scale < np.inf and scale == float(np.float32(scale)) for scale in type_.scale)
    levels = decode(format, quantize_weight(array, type_))
    low, high = level_range(format)
    assert low <= levels.min()
    assert levels.max() <= high


def test_bias_codes_are_in_units_of_both_scales() -> None:
    bias, scales = np.array([1.0, -0.3, 0.0], np.float32), (0.01, 0.003, 1e-5)
    codes, kept = bias_codes(bias, 0.02, scales)
    assert kept == scales
    assert codes.tolist() == [5000, -5000, 0]
    assert codes.dtype == np.int64


def test_a_bias_too_large_for_its_scale_widens_only_that_channel() -> None:
    bias = np.array([0.5, -400.0, 0.25], np.float32)
    scales = (0.01, 1e-9, 0.02)
    codes, widened = bias_codes(bias, 1e-3, scales)
    assert (widened[0], widened[2]) == (scales[0], scales[2])
    assert widened[1] == float(np.float32(widened[1])) > scales[1]
    assert BIAS_LIMIT - 200 <= -codes[1] <= BIAS_LIMIT
    assert codes * 1e-3 * np.asarray(widened) == pytest.approx(bias, rel=1e-4)


def test_one_scale_for_all_channels_is_widened_for_the_largest_bias() -> None:
    bias = np.array([[1.0, -400.0], [3.0, 2.0]], np.float32)
    codes, widened = bias_codes(bias, 1e-3, (1e-9,))
    assert len(widened) == 1
    assert codes.shape == bias.shape
    assert np.abs(codes).max() <= BIAS_LIMIT
    assert codes * 1e-3 * widened[0] == pytest.approx(bias, abs=1e-3 * widened[0])


@settings(max_examples=100, deadline=None)
@given(
    bias=st.floats(-(2.0**60), 2.0**60, width=32),
    scale_x=st.floats(SCALE_FLOOR, 2.0**40),
    scale=st.floats(SCALE_FLOOR, 2.0**40, width=32),
)
def test_any_bias_fits_its_accumulator(bias: float, scale_x: float, scale: float) -> None:
    codes, (widened,) = bias_codes(np.array([bias], np.float32), scale_x, (scale,))
    assert abs(int(codes[0])) <= BIAS_LIMIT
    assert widened >= scale
    assert abs(codes[0] * scale_x * widened - bias) <= scale_x * widened * 0.5001


E4M3, DENSE = Float(4, 3), o.Linear("x", "w", "b", "y")


@pytest.mark.parametrize(
    ("weight", "x", "taps", "limit"),
    [
        (INT8, INT8, 1 << 20, BIAS_LIMIT),  # the products exceed 32 bits, yet a bias of so many would not help
        (Int(4), Int(16), 64, BIAS_LIMIT),
        (INT8, Int(16), 4096, BIAS_LIMIT),
        (E4M3, INT8, 9, BIAS_LIMIT),
        (E4M3, INT8, 90, BIAS_REACH * 245_760 * 128),
        (E4M3, E4M3, 1, BIAS_REACH * 245_760**2),
        (Float(5, 2), Float(5, 2), 9, WIDE_BIAS_LIMIT),
    ],
    ids=str,
)
def test_biases_are_wide_where_products_are(weight: Format, x: Format, taps: int, limit: int) -> None:
    assert bias_limit(DENSE, Type((1, taps), x, (0.1,)), Type((5, taps), weight, (0.1,))) == limit


def test_a_wide_bias_leaves_the_weights_alone() -> None:
    bias, scales = np.array([400.0, -3e-5], np.float32), (1e-12, 1e-9)
    codes, kept = bias_codes(bias, 1e-3, scales, limit=1 << 60)
    assert kept == scales
    assert codes * 1e-3 * np.asarray(scales) == pytest.approx(bias, rel=1e-9)
    narrow, raised = bias_codes(bias, 1e-3, scales)
    assert raised[0] > scales[0] and raised[1] == scales[1] and narrow[1] == codes[1]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bias_that_is_not_finite_is_an_error(bad: float) -> None:
    with pytest.raises(UnsupportedError, match="bias"):
        bias_codes(np.array([0.0, bad], np.float32), 0.1, (0.1, 0.1))
