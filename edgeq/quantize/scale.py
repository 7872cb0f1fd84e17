"""Weights and biases as codes: one symmetric scale per output channel (or block), every scale exactly a float32.

The largest magnitude of a channel meets the format's largest level; weights that already lie on such a grid come back
bit for bit. Clipping below the largest magnitude is tried only when asked for, and taken only when it lowers the
squared error. Files that store scales in half precision get scales that it holds, rounded up so that nothing clips.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgeq.errors import UnsupportedError, UsageError
from edgeq.formats import INT8, Fixed, FloatArray, Format, Int, IntArray, Real, code_range, decode, encode, level_range
from edgeq.ir import ops as o
from edgeq.ir.bounds import taps
from edgeq.ir.graph import Array, Type

SCALE_FLOOR = 2.0**-60
"""No scale is smaller, so that a product of two scales stays a normal float32."""

SCALE_CEILING = float(np.finfo(np.float32).max)

BIAS_LIMIT = 1 << 30
"""Largest magnitude of a bias code; it leaves half of an int32 accumulator to the products."""

BIAS_REACH = 1 << 8
"""A layer whose products alone may exceed 32 bits has biases of up to so many of the largest product: of 16-bit codes
and 8-bit weights still 32 bits, of wide tables of levels 64."""

WIDE_BIAS_LIMIT = 1 << 61
"""Largest magnitude of any bias code; it leaves three quarters of an int64 accumulator to the products."""

ClipSearch = Literal["largest", "squared_error"]

_HALF = np.finfo(np.float16)
_CLIP_STEPS = np.arange(1, 15) / -20
_FINE_CLIP_STEPS = np.array([-4, -3, -2, -1, 1, 2, 3, 4]) / 100


def _rows(array: Array, axis: int | None, block: int = 0) -> FloatArray:
    """[channels, elements of a channel], or [channels times blocks, elements of a block], as float64."""
    wide: FloatArray = np.asarray(array, dtype=np.float64)
    if axis is None:
        return wide.reshape(1, -1)
    channels = np.moveaxis(wide, axis, 0)
    blocks = channels.shape[1] // block if block else 1
    return channels.reshape(wide.shape[axis] * blocks, -1)


def half_scales(scales: npt.ArrayLike, format: Format) -> FloatArray:
    """The smallest scales not below `scales` that a file with half-precision numbers holds.

    A codebook's table is stored as level / 2^e with its largest entry between 1 and 2, and the scale times 2^e;
    integer codes are stored as they are, so that e is 0.
    """
    shift = 0 if isinstance(format, Int | Fixed) else max(map(abs, level_range(format))).bit_length() - 1
    wanted = np.ldexp(np.asarray(scales, dtype=np.float64), shift)
    found = np.clip(wanted, _HALF.smallest_subnormal, float(_HALF.max)).astype(np.float16)
    with np.errstate(over="ignore"):  # beyond the largest, which is taken below
        found = np.where(found < wanted, np.nextafter(found, np.float16(np.inf)), found)
    return np.ldexp(np.minimum(found.astype(np.float64), float(_HALF.max)), -shift)


def check_weight(array: Array, format: Format, where: object) -> None:
    """Raise UnsupportedError, naming `where`, for a weight that `format` cannot hold."""
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


def _shared_exponents(rows: FloatArray, format: Format) -> FloatArray:
    """2^(floor(log2 largest magnitude) - floor(log2 largest level)) per row, as OCP MX 1.0 shares it; 0 for zeros."""
    largest, top = np.abs(rows).max(axis=1, initial=0.0), max(level_range(format))
    exponents = np.frexp(largest)[1] - 1 - (top.bit_length() - 1)
    found: FloatArray = np.where(largest > 0, np.ldexp(1.0, exponents), 0.0)
    return found


def _storable(scales: FloatArray, format: Format, half: bool) -> FloatArray:
    return half_scales(scales, format) if half else _float32(scales)


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
        exact = np.all((_nearest_levels(rows, wide, format) * wide).astype(np.float32) == rows, axis=1)
        found[exact & ~settled] = step[exact & ~settled]
        settled |= exact
    return found.astype(np.float64)


def _nearest_levels(rows: FloatArray, wide: FloatArray, format: Format) -> FloatArray:
    """The levels nearest to `rows` in units of the scales `wide`, one fresh array: most of the time goes there."""
    levels: FloatArray = rows / wide
    if isinstance(format, Int | Fixed):  # whose levels are their codes
        return np.clip(np.rint(levels, out=levels), *code_range(format), out=levels)
    return decode(format, encode(format, levels)).astype(np.float64)


def _squared_errors(rows: FloatArray, scales: FloatArray, format: Format) -> FloatArray:
    wide = scales[:, None]
    errors = _nearest_levels(rows, wide, format)
    errors *= wide
    errors -= rows
    total: FloatArray = np.square(errors, out=errors).sum(axis=1)
    return total


def _clipped(rows: FloatArray, scales: FloatArray, format: Format, half: bool) -> FloatArray:
    """Per channel the scale of least squared error among shrunken ones, sought in steps of 1/20 and then of 1/100.

    `scales` itself wins ties.
    """
    best, least, share = scales.copy(), _squared_errors(rows, scales, format), np.ones(len(scales))
    for steps in (_CLIP_STEPS, _FINE_CLIP_STEPS):
        around = share.copy()
        for step in steps:
            tried = np.minimum(around + step, 1.0)
            candidate = _storable(scales * tried, format, half)
            errors = _squared_errors(rows, candidate, format)
            better = errors < least
            best[better], least[better], share[better] = candidate[better], errors[better], tried[better]
    return best


def weight_type(
    array: Array,
    format: Format,
    axis: int | None,
    *,
    block: int = 0,
    clip: ClipSearch = "largest",
    power_of_two: bool = False,
    half: bool = False,
    where: object = None,
) -> Type:
    """The symmetric type of the weight `array`, one float32 scale per index of `axis` (one in all for None).

    With `block` the scale also changes every so many input channels (see Type); `half` keeps to half_scales.

    `clip` "largest" never clips; "squared_error" takes per channel the clip of least squared error. Scales that are a
    `power_of_two` follow OCP MX, where the largest elements may saturate, and take no clip. A channel of
    zeros takes the largest scale of the tensor. A Fixed format has its own scale. Raises UnsupportedError, which
    names `where`, for NaN, infinity, no elements, or signs that the format cannot hold.
    """
    check_weight(array, format, where)
    if isinstance(format, Fixed):
        return Type(array.shape, format, (2.0**-format.fraction,))
    rows = _rows(array, axis, block)
    largest = _shared_exponents(rows, format) if power_of_two else _largest_scales(rows, format)
    empty = largest == 0
    largest[empty] = largest.max() or (1.0 if power_of_two else 1.0 / _reach(format)[1])
    if power_of_two:
        found = half_scales(largest, format) if half else _float32(largest)
        return Type(array.shape, format, tuple(found.tolist()), axis=axis, block=block)
    scales = half_scales(largest, format) if half else _on_grid(rows, _float32(largest), format)
    if clip == "squared_error":
        scales = _clipped(rows, scales, format, half)
    return Type(array.shape, format, tuple(scales.tolist()), axis=axis, block=block)


def in_powers_of_two(array: Array, type_: Type) -> Type:
    """`type_` with each scale the power of two, next below or above, of less squared error on the weight `array`."""
    if isinstance(type_.format, Fixed):
        return type_
    rows = _rows(array, type_.axis, type_.block)
    below = np.exp2(np.floor(np.log2(np.asarray(type_.scale))))
    low, high = (_squared_errors(rows, scales, type_.format) for scales in (below, 2 * below))
    return replace(type_, scale=tuple(np.where(low <= high, below, 2 * below).tolist()))


def quantize_weight(array: Array, type_: Type) -> IntArray:
    """Codes (int64) of the levels of `type_` nearest to `array`, ties to even, saturating."""
    return encode(type_.format, np.asarray(array, dtype=np.float64) / type_.scales, type_.zero_point)


def dequantize_weight(codes: IntArray, type_: Type) -> npt.NDArray[np.float32]:
    """float32(scale level) of every code."""
    levels = decode(type_.format, codes, type_.zero_point)
    return (levels * type_.scales).astype(np.float32)


def bias_limit(op: o.Conv | o.ConvTranspose | o.Linear, x: Type, weight: Type) -> int:
    """Largest magnitude of a bias code of `op` on codes of types `x` and `weight`.

    BIAS_LIMIT unless sums of products alone may exceed 32 bits, as those of two wide tables of levels do: a unit as
    small as theirs leaves no room for biases in 32 bits, and the accumulator has 64 anyway.
    """
    largest_x, largest_weight = (max(map(abs, level_range(t.format, t.zero_point))) for t in (x, weight))
    largest = largest_x * largest_weight
    if taps(op, weight.shape) * largest < 1 << 31:
        return BIAS_LIMIT
    return min(max(BIAS_LIMIT, BIAS_REACH * largest), WIDE_BIAS_LIMIT)


def bias_codes(
    bias: Array, scale_x: float, weight_scales: tuple[float, ...], *, limit: int = BIAS_LIMIT, half: bool = False
) -> tuple[IntArray, tuple[float, ...]]:
    """Codes round(bias / (scale_x scale_w)) (int64, ties to even), and the weight scales they are in units of.

    `weight_scales` has one entry, or one per output channel. A scale is raised, just enough, where |code| would
    exceed `limit` (a tiny weight scale under a large bias), which is that of bias_limit; elsewhere it comes back as it
    was, so comparing the two tells which channels were widened. With `half`, raised scales are ones that half precision
    holds. Raises UnsupportedError if a bias is not finite.
    """
    real = np.asarray(bias, dtype=np.float64).reshape(-1, len(weight_scales))
    if not np.isfinite(real).all():
        raise UnsupportedError("a bias holds NaN or infinity", next_step="The model file is damaged.")
    needed = np.abs(real).max(axis=0, initial=0.0) / limit / scale_x
    single = needed.astype(np.float32)
    single = np.where(single < needed, np.nextafter(single, np.float32(np.inf)), single)
    raised = half_scales(needed, INT8) if half else single.astype(np.float64)
    scales = np.maximum(weight_scales, raised)
    codes = np.clip(np.rint(real / (scale_x * scales)), -limit, limit)
    return codes.astype(np.int64).reshape(np.shape(bias)), tuple(scales.tolist())
