"""ONNX operators that move a window, resample or pad."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, TypeVar

import numpy as np

from edgeq.errors import UnsupportedError
from edgeq.frontend.onnx_build import Builder, Handler, Node
from edgeq.frontend.onnx_linear import as_image, like_operand, padding, paired, quad, spatial
from edgeq.ir import ops as o

_Sizes = tuple[int, ...]
_PadMode = Literal["constant", "reflect", "edge"]
_T = TypeVar("_T")


def _window(b: Builder, n: Node, x: o.Value) -> tuple[_Sizes, _Sizes, _Sizes, _Sizes, _Sizes, _Sizes]:
    """kernel, stride, dilation, padding before, padding after, and what ceil_mode adds after that."""
    size = b.shape(x)[2:]
    kernel = spatial(n, "kernel_shape", len(size), 1)
    stride, dilation = (spatial(n, name, len(size), 1) for name in ("strides", "dilations"))
    before, after = padding(n, size, kernel, stride, dilation)
    extra = (0,) * len(size)
    if n.integer("ceil_mode", 0) and n.text("auto_pad", "NOTSET") == "NOTSET":
        extra = tuple(map(_ceil_padding, size, kernel, stride, dilation, before, after))
    return kernel, stride, dilation, before, after, extra


def _ceil_padding(size: int, kernel: int, stride: int, dilation: int, before: int, after: int) -> int:
    """Elements beyond the padding that the last window of ceil_mode reaches."""
    covered = dilation * (kernel - 1) + 1
    count = -(-(size + before + after - covered) // stride) + 1
    # A window must start inside the operand or its leading padding.
    if (count - 1) * stride >= size + before:
        count -= 1
    return max((count - 1) * stride + covered - size - before - after, 0)


def _max_pool(b: Builder, n: Node) -> o.Value:
    if n.uses_output(1):
        raise UnsupportedError("the indices output is not supported", next_step="Export without return_indices.")
    x = n.operand(0)
    kernel, stride, dilation, before, after, extra = _window(b, n, x)
    pads = quad(before, tuple(map(sum, zip(after, extra, strict=True))))
    op = o.MaxPool(as_image(b, x), "", paired(kernel, 1), paired(stride, 1), pads, paired(dilation, 1))
    return like_operand(b, b.emit(op), x)


def _average_pool(b: Builder, n: Node) -> o.Value:
    x = n.operand(0)
    kernel, stride, dilation, before, after, extra = _window(b, n, x)
    if any(step != 1 for step in dilation):
        raise UnsupportedError("dilated average pooling is not supported", value=dilation)
    image, count = as_image(b, x), bool(n.integer("count_include_pad", 0))
    if count and any(extra):
        # Zeros of the padding count, those beyond it do not: make the former part of the operand.
        top, left, bottom, right = quad(before, after)
        image = b.emit(o.Pad(image, "", (0, 0, top, left), (0, 0, bottom, right)))
        before, after, count = (0,) * len(before), (0,) * len(after), False
    pads = quad(before, tuple(map(sum, zip(after, extra, strict=True))))
    op = o.AveragePool(image, "", paired(kernel, 1), paired(stride, 1), pads, count or not any(pads))
    return like_operand(b, b.emit(op), x)


def _global_average_pool(b: Builder, n: Node) -> o.Value:
    return b.emit(o.Mean(n.operand(0), "", tuple(range(2, len(b.shape(n.operand(0)))))))


def _global_max_pool(b: Builder, n: Node) -> o.Value:
    return b.emit(o.Reduce(n.operand(0), "", "max", tuple(range(2, len(b.shape(n.operand(0)))))))


_PAD_MODES: dict[str, _PadMode] = {"constant": "constant", "reflect": "reflect", "edge": "edge"}


def _pad(b: Builder, n: Node) -> o.Value:
    x, mode = n.operand(0), _choice(_PAD_MODES, "padding mode", n.text("mode", "constant"))
    rank = len(b.shape(x))
    pads = list(b.integers(n.operand(1), "the padding"))
    axes_value = n.optional(3)
    axes = [b.axis(x, k) for k in b.integers(axes_value, "the axes")] if axes_value else list(range(rank))
    if len(pads) != 2 * len(axes) or len(set(axes)) != len(axes):
        raise UnsupportedError("bad pads", value=pads, allowed=f"{2 * len(axes)} numbers")
    before, after = [0] * rank, [0] * rank
    for k, axis in enumerate(axes):
        before[axis], after[axis] = pads[k], pads[len(axes) + k]
    fill = n.optional(2)
    value = b.reals(fill, "the padding value")[0] if fill and mode == "constant" else 0.0
    return _padded(b, x, before, after, value, mode)


def _padded(b: Builder, x: o.Value, before: list[int], after: list[int], value: float, mode: _PadMode) -> o.Value:
    if any(min(pair) < 0 for pair in zip(before, after, strict=True)):
        shape = b.shape(x)
        starts = tuple(max(-amount, 0) for amount in before)
        stops = tuple(size + min(amount, 0) for size, amount in zip(shape, after, strict=True))
        x = b.emit(o.Slice(x, "", starts, stops, (1,) * len(shape)))
    low, high = tuple(max(amount, 0) for amount in before), tuple(max(amount, 0) for amount in after)
    return b.emit(o.Pad(x, "", low, high, value, mode)) if any(low) or any(high) else x


_COORDINATES: dict[str, o.Coordinates] = {
    "half_pixel": "half_pixel",
    "half_pixel_symmetric": "half_pixel",  # equal while the output is exactly scale times the input
    "pytorch_half_pixel": "pytorch_half_pixel",
    "align_corners": "align_corners",
    "asymmetric": "asymmetric",
}
_MODES: dict[str, o.ResizeMode] = {"nearest": "nearest", "linear": "linear", "cubic": "cubic"}
_NEAREST: dict[str, o.NearestRounding] = {
    "floor": "floor",
    "ceil": "ceil",
    "round_prefer_floor": "round_prefer_floor",
    "round_prefer_ceil": "round_prefer_ceil",
}


def _choice(table: Mapping[str, _T], what: str, name: str) -> _T:
    if name not in table:
        raise UnsupportedError(f"unsupported {what}", value=name, allowed=", ".join(table))
    return table[name]


def _resize(b: Builder, n: Node) -> o.Value:
    x = n.operand(0)
    size, scale = _resize_target(b, n, x)
    mode = _choice(_MODES, "resize mode", n.text("mode", "nearest"))
    name = n.text("coordinate_transformation_mode", "half_pixel")
    coordinates = _choice(_COORDINATES, "coordinate transformation", name)
    nearest = _choice(_NEAREST, "nearest mode", n.text("nearest_mode", "round_prefer_floor"))
    exact = all(out == length * s for out, length, s in zip(size, b.shape(x), scale, strict=True))
    if name == "half_pixel_symmetric" and not exact:
        raise UnsupportedError("half_pixel_symmetric with a fractional size", value=size)
    if n.integer("antialias", 0) and mode != "nearest" and any(s < 1 for s in scale):
        raise UnsupportedError("antialiased downsampling is not supported", next_step="Export with antialias=False.")
    if mode == "cubic" and (n.real("cubic_coeff_a", -0.75) != -0.75 or n.integer("exclude_outside", 0)):
        raise UnsupportedError("this cubic kernel is not supported", allowed="a = -0.75 without exclude_outside")
    moving = [k for k, length in enumerate(b.shape(x)) if size[k] != length or scale[k] != 1]
    # Resampling is separable: two axes at a time.
    for first in range(0, len(moving), 2):
        targets = {axis: (size[axis], scale[axis]) for axis in moving[first : first + 2]}
        x = _resize_axes(b, x, targets, o.Resize("", "", (1, 1), (1, 1), mode, coordinates, nearest))
    return x


def _resize_axes(b: Builder, x: o.Value, targets: Mapping[int, tuple[int, float]], how: o.Resize) -> o.Value:
    """x with one or two axes resampled to (size, scale), by way of [image, channel, axis, axis]."""
    rank = len(b.shape(x))
    axes = [2, 3] if rank == 4 and set(targets) <= {2, 3} else sorted(targets)
    order = [k for k in range(rank) if k not in axes] + axes
    x = b.transpose(x, order)
    kept, plane = b.shape(x)[: rank - len(axes)], b.shape(x)[rank - len(axes) :]
    goals = [targets.get(axis, (length, 1.0)) for axis, length in zip(axes, plane, strict=True)]
    outer, wide = (kept if len(kept) == 2 else (1, math.prod(kept))), [(1, 1.0)] * (2 - len(axes)) + goals
    image = b.reshape(x, (*outer, *(1,) * (2 - len(axes)), *plane))
    (height, vertical), (width, horizontal) = wide
    y = b.emit(replace(how, x=image, size=(height, width), scale=(vertical, horizontal)))
    y = b.reshape(y, (*kept, *(goal[0] for goal in goals)))
    return b.transpose(y, [order.index(k) for k in range(rank)])


def _resize_target(b: Builder, n: Node, x: o.Value) -> tuple[_Sizes, tuple[float, ...]]:
    """Size of the result and scale for every axis."""
    shape = b.shape(x)
    chosen = n.integers("axes")
    axes = [b.axis(x, k) for k in chosen] if chosen is not None else list(range(len(shape)))
    scales_value, sizes_value = n.optional(2), n.optional(3)
    scales = b.reals(scales_value, "the scale") if scales_value else ()
    size, scale = list(shape), [1.0] * len(shape)
    if sizes_value and not scales:
        sizes = b.integers(sizes_value, "the size")
        _check_count(sizes, axes)
        ratios = _ratios(n.text("keep_aspect_ratio_policy", "stretch"), sizes, [shape[k] for k in axes])
        for axis, wanted, ratio in zip(axes, sizes, ratios, strict=True):
            stretched = n.text("keep_aspect_ratio_policy", "stretch") == "stretch"
            size[axis] = wanted if stretched else math.floor(shape[axis] * ratio + 0.5)
            scale[axis] = ratio
        return tuple(size), tuple(scale)
    _check_count(scales, axes)
    for axis, factor in zip(axes, scales, strict=True):
        if not 0 < factor < 1 << 20:
            raise UnsupportedError("bad scale", value=factor)
        # In float32, as runtimes do: 3 * 0.3333333 must not become 0.99.
        size[axis], scale[axis] = int(np.float32(shape[axis]) * np.float32(factor)), factor
    return tuple(size), tuple(scale)


def _check_count(numbers: tuple[int, ...] | tuple[float, ...], axes: list[int]) -> None:
    if len(numbers) != len(axes):
        raise UnsupportedError("scales or sizes do not fit the operand", value=numbers, allowed=f"{len(axes)} numbers")


def _ratios(policy: str, sizes: tuple[int, ...], shape: list[int]) -> list[float]:
    ratios = [wanted / length for wanted, length in zip(sizes, shape, strict=True)]
    match policy:
        case "stretch":
            return ratios
        case "not_larger":
            return [min(ratios)] * len(ratios)
        case "not_smaller":
            return [max(ratios)] * len(ratios)
        case _:
            raise UnsupportedError("unsupported keep_aspect_ratio_policy", value=policy)


WINDOW: dict[str, Handler] = {
    "AveragePool": _average_pool,
    "GlobalAveragePool": _global_average_pool,
    "GlobalMaxPool": _global_max_pool,
    "MaxPool": _max_pool,
    "Pad": _pad,
    "Resize": _resize,
}
