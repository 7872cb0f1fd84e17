"""Weights and biases as codes: one symmetric scale per output channel, every scale exactly a float32.

The largest magnitude of a channel meets the format's largest level; weights that already lie on such a grid come back
bit for bit. Clipping below the largest magnitude is tried only when asked for, and taken only when it lowers the
squared error.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from edgeq.errors import UnsupportedError, UsageError
from edgeq.formats import Fixed, FloatArray, Format, Int, IntArray, Real, decode, encode, level_range
from edgeq.ir.graph import Array, Type

SCALE_FLOOR = 2.0**-60
"""No scale is smaller, so that a product of two scales stays a normal float32."""

SCALE_CEILING = float(np.finfo(np.float32).max)

BIAS_LIMIT = 1 << 30
"""Largest magnitude of a bias code; it leaves half of an int32 accumulator to the products."""

ClipSearch = Literal["largest", "squared_error"]

_CLIP_RATIOS = np.linspace(1.0, 0.3, 71)


def along(numbers: npt.ArrayLike, axis: int | None, dimensions: int) -> FloatArray:
    """`numbers` (one, or one per index of `axis`) as float64 that broadcasts against an array of `dimensions` axes."""
    array = np.asarray(numbers, dtype=np.float64)
    shape = [1] * dimensions
    if axis is not None:
        shape[axis] = -1
    return array.reshape(shape)


def _rows(array: Array, axis: int | None) -> FloatArray:
    """[channels, elements of a channel] as float64."""
    wide: FloatArray = np.asarray(array, dtype=np.float64)
    return wide.reshape(1, -1) if axis is None else np.moveaxis(wide, axis, 0).reshape(wide.shape[axis], -1)


def _check(array: Array, format: Format, where: object) -> None:
    if array.size == 0:
        raise UnsupportedError("a weight without elements", where=where)
    if not np.isfinite(array).all():
        raise UnsupportedError("the weights hold NaN or infinity", where=where, next_step="The model file is damaged.")
    if isinstance(format, Real):
        raise UsageError("weights cannot be codes of a real format", where=where)
    if level_range(format)[0] >= 0 and array.min() < 0:
        raise UnsupportedError("negative weights in a format without negative levels", where=where, value=format)


def _reach(format: Format) -> tuple[float, float]:
    """Magnitude of the most negative and the most positive level that a symmetric grid uses."""
    if isinstance(format, Int):
        return (float(format.high) if format.signed else 0.0), float(format.high)
    low, high = level_range(format)
    return float(-low), float(high)


def _largest_scales(rows: FloatArray, format: Format) -> FloatArray:
    """float64 [channels]: the smallest scale at which no element of the channel is clipped; 0 for a zero channel."""
    down, up = _reach(format)
    positive: FloatArray = rows.max(axis=1, initial=0.0) / up
    return positive if down == 0 else np.maximum(positive, -rows.min(axis=1, initial=0.0) / down)


def _float32(scales: FloatArray) -> FloatArray:
    return np.clip(scales, SCALE_FLOOR, SCALE_CEILING).astype(np.float32).astype(np.float64)


def _on_grid(rows: FloatArray, scales: FloatArray, format: Format) -> FloatArray:
    """`scales` moved by up to two float32 steps where that makes float32(scale level) equal every weight.

    A weight on a grid was rounded to float32 once, so dividing the largest by its level may miss the scale by one.
    """
    single = scales.astype(np.float32)
    steps = [single, np.nextafter(single, np.float32(0)), np.nextafter(single, np.float32(np.inf))]
    steps += [np.nextafter(steps[1], np.float32(0)), np.nextafter(steps[2], np.float32(np.inf))]
    found, settled = single.copy(), np.zeros(len(single), dtype=bool)
    for step in steps:
        wide = step.astype(np.float64)[:, None]
        exact = np.all((decode(format, encode(format, rows / wide)) * wide).astype(np.float32) == rows, axis=1)
        found[exact & ~settled] = step[exact & ~settled]
        settled |= exact
    return found.astype(np.float64)


def _squared_errors(rows: FloatArray, scales: FloatArray, format: Format) -> FloatArray:
    wide = scales[:, None]
    errors: FloatArray = np.square(decode(format, encode(format, rows / wide)) * wide - rows).sum(axis=1)
    return errors


def _clipped(rows: FloatArray, scales: FloatArray, format: Format) -> FloatArray:
    """Per channel the scale of least squared error among shrunken ones; the first, `scales` itself, wins ties."""
    best, least = scales.copy(), np.full(len(scales), np.inf)
    for ratio in _CLIP_RATIOS:
        candidate = scales if ratio == 1.0 else _float32(scales * ratio)
        errors = _squared_errors(rows, candidate, format)
        better = errors < least
        best[better], least[better] = candidate[better], errors[better]
    return best


def weight_type(
    array: Array, format: Format, axis: int | None, *, clip: ClipSearch = "largest", where: object = None
) -> Type:
    """The symmetric type of the weight `array`, one float32 scale per index of `axis` (one in all for None).

    `clip` "largest" never clips; "squared_error" takes per channel the clip of least squared error. A channel of
    zeros takes the largest scale of the tensor. A Fixed format has its own scale. Raises UnsupportedError, which
    names `where`, for NaN, infinity, no elements, or signs that the format cannot hold.
    """
    _check(array, format, where)
    if isinstance(format, Fixed):
        return Type(array.shape, format, (2.0**-format.fraction,))
    rows = _rows(array, axis)
    largest = _largest_scales(rows, format)
    empty = largest == 0
    largest[empty] = largest.max() or 1.0 / _reach(format)[1]
    scales = _on_grid(rows, _float32(largest), format)
    if clip == "squared_error":
        scales = _clipped(rows, scales, format)
    return Type(array.shape, format, tuple(scales.tolist()), axis=axis)


def quantize_weight(array: Array, type_: Type) -> IntArray:
    """Codes (int64) of the levels of `type_` nearest to `array`, ties to even, saturating."""
    return encode(
        type_.format, np.asarray(array, dtype=np.float64) / along(type_.scale, type_.axis, array.ndim), type_.zero_point
    )


def dequantize_weight(codes: IntArray, type_: Type) -> npt.NDArray[np.float32]:
    """float32(scale level) of every code."""
    levels = decode(type_.format, codes, type_.zero_point)
    return (levels * along(type_.scale, type_.axis, codes.ndim)).astype(np.float32)


def bias_codes(bias: Array, scale_x: float, weight_scales: tuple[float, ...]) -> tuple[IntArray, tuple[float, ...]]:
    """Codes round(bias / (scale_x scale_w)) (int64, ties to even), and the weight scales they are in units of.

    `weight_scales` has one entry, or one per output channel. A scale is raised, just enough, where |code| would
    exceed BIAS_LIMIT (a tiny weight scale under a large bias); elsewhere it comes back as it was, so comparing
    the two tells which channels were widened. Raises UnsupportedError if a bias is not finite.
    """
    real = np.asarray(bias, dtype=np.float64).reshape(-1, len(weight_scales))
    if not np.isfinite(real).all():
        raise UnsupportedError("a bias holds NaN or infinity", next_step="The model file is damaged.")
    needed = np.abs(real).max(axis=0, initial=0.0) / BIAS_LIMIT / scale_x
    single = needed.astype(np.float32)
    single = np.where(single < needed, np.nextafter(single, np.float32(np.inf)), single)
    scales = np.maximum(weight_scales, single.astype(np.float64))
    codes = np.clip(np.rint(real / (scale_x * scales)), -BIAS_LIMIT, BIAS_LIMIT)
    return codes.astype(np.int64).reshape(np.shape(bias)), tuple(scales.tolist())
