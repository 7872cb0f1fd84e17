"""What every operator means, written once over torch tensors.

The same function serves real values (float32, differentiable) and integer levels (held exactly in a float or int64
tensor). With `exact` the operands are levels: means become sums and interpolation weights integers, whose factors are
in the result's scale (edgeq/ir/ops.py states them).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from edgeq.errors import UnsupportedError
from edgeq.formats import FloatArray, IntArray
from edgeq.ir import ops as o

RESIZE_WEIGHT_BITS = 10
POSITION_ERROR = 1e-6
"""Positions carry rounding errors far below this many units of a weight; ties are recognized within it."""

_FUNCTIONS: dict[o.FunctionName, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "hardswish": F.hardswish,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "tanh": torch.tanh,
    "mish": F.mish,
    "softplus": F.softplus,
    "exp": torch.exp,
    "log": torch.log,
    "sqrt": torch.sqrt,
    "reciprocal": torch.reciprocal,
    "neg": torch.neg,
    "abs": torch.abs,
    "erf": torch.erf,
    "sin": torch.sin,
    "cos": torch.cos,
    "floor": torch.floor,
    "ceil": torch.ceil,
    "round": torch.round,
    "sign": torch.sign,
    "not": torch.logical_not,
}

_BINARY: dict[o.BinaryName, Callable[[Tensor, Tensor], Tensor]] = {
    "pow": torch.pow,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "equal": torch.eq,
    "less": torch.lt,
    "less_equal": torch.le,
    "greater": torch.gt,
    "greater_equal": torch.ge,
    "and": torch.logical_and,
    "or": torch.logical_or,
}


def apply_function(function: o.Function, x: Tensor) -> Tensor:
    """`function` of every element of x (real)."""
    match function.name:
        case "clip":
            return torch.clamp(x, function.a, function.b)
        case "leaky_relu":
            return F.leaky_relu(x, function.a)
        case "elu":
            return F.elu(x, function.a)
        case "hardsigmoid":
            return torch.clamp(function.a * x + function.b, 0.0, 1.0)
        case name:
            return _FUNCTIONS[name](x)


def _binary(function: o.BinaryName, a: Tensor, b: Tensor) -> Tensor:
    if function == "div":
        return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")
    if function == "mod":
        return torch.fmod(a, b) if a.is_floating_point() else torch.remainder(a, b)
    return _BINARY[function](a, b)


def _padded(x: Tensor, padding: o.Quad, value: float = 0.0) -> Tensor:
    top, left, bottom, right = padding
    return F.pad(x, (left, right, top, bottom), value=value) if any(padding) else x


def _symmetric(padding: o.Quad) -> bool:
    return padding[0] == padding[2] and padding[1] == padding[3]


def _conv(op: o.Conv, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if _symmetric(op.padding):
        return F.conv2d(x, weight, bias, op.stride, (op.padding[0], op.padding[1]), op.dilation, op.groups)
    return F.conv2d(_padded(x, op.padding), weight, bias, op.stride, 0, op.dilation, op.groups)


def _conv_transpose(op: o.ConvTranspose, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    top, left, bottom, right = op.padding
    # Unequal padding: pad as little as possible inside torch, crop the rest.
    inner = (min(top, bottom), min(left, right))
    y = F.conv_transpose2d(x, weight, bias, op.stride, inner, op.output_padding, op.groups, op.dilation)
    height, width = y.shape[2], y.shape[3]
    return y[:, :, top - inner[0] : height - (bottom - inner[0]), left - inner[1] : width - (right - inner[1])]


def _average_pool(op: o.AveragePool, x: Tensor, exact: bool) -> Tensor:
    total = F.avg_pool2d(_padded(x, op.padding), op.kernel, op.stride, divisor_override=1)
    if exact:
        return total
    if op.count_padding or not any(op.padding):
        return total / (op.kernel[0] * op.kernel[1])
    ones = _padded(torch.ones_like(x[:1, :1]), op.padding)
    return total / F.avg_pool2d(ones, op.kernel, op.stride, divisor_override=1)


def source_positions(size: int, out: int, scale: float, coordinates: o.Coordinates) -> FloatArray:
    """Position in the input, in pixels, of every output pixel along one axis (ONNX Resize)."""
    index = np.arange(out, dtype=np.float64)
    match coordinates:
        case "half_pixel":
            return (index + 0.5) / scale - 0.5
        case "pytorch_half_pixel":
            return (index + 0.5) / scale - 0.5 if out > 1 else index * 0
        case "align_corners":
            return index * ((size - 1) / (out - 1)) if out > 1 else index * 0
        case "asymmetric":
            return index / scale


_NEAREST: dict[o.NearestRounding, Callable[[FloatArray], FloatArray]] = {
    "floor": np.floor,
    "ceil": np.ceil,
    "round_prefer_floor": lambda p: np.ceil(p - 0.5),
    "round_prefer_ceil": lambda p: np.floor(p + 0.5),
}


def nearest_sources(size: int, out: int, scale: float, op: o.Resize) -> IntArray:
    """Input index that each output index copies along one axis."""
    return _nearest(size, out, scale, op.nearest, op.coordinates)


def _nearest(size: int, out: int, scale: float, rounding: o.NearestRounding, coordinates: o.Coordinates) -> IntArray:
    positions = _NEAREST[rounding](source_positions(size, out, scale, coordinates))
    sources: IntArray = np.clip(positions, 0, size - 1).astype(np.int64)
    return sources


def _cubic_weights(fraction: float, a: float = -0.75) -> list[float]:
    def kernel(t: float) -> float:
        t = abs(t)
        if t <= 1:
            return ((a + 2) * t - (a + 3)) * t * t + 1
        return (((t - 5) * t + 8) * t - 4) * a

    return [kernel(fraction + 1), kernel(fraction), kernel(1 - fraction), kernel(2 - fraction)]


@lru_cache(maxsize=256)
def interpolation_matrix(
    size: int, out: int, scale: float, mode: o.ResizeMode, coordinates: o.Coordinates, exact: bool
) -> Tensor:
    """float64 [out, size]: the linear or cubic resampling along one axis; integers summing to 2**10 if `exact`."""
    matrix = torch.zeros(out, size, dtype=torch.float64)
    positions = source_positions(size, out, scale, coordinates)
    if mode == "linear":
        positions = np.clip(positions, 0.0, size - 1.0)
    for row, position in enumerate(positions.tolist()):
        first = int(np.floor(position))
        fraction = float(position - first)
        taps = [(first, 1 - fraction), (first + 1, fraction)]
        if mode == "cubic":
            taps = [(first - 1 + k, weight) for k, weight in enumerate(_cubic_weights(fraction))]
        if exact:
            upper = int(np.ceil(fraction * (1 << RESIZE_WEIGHT_BITS) - 0.5 - POSITION_ERROR))
            taps = [(first, (1 << RESIZE_WEIGHT_BITS) - upper), (first + 1, upper)]
        for column, weight in taps:
            matrix[row, min(max(column, 0), size - 1)] += weight
    return matrix


def _kept(make: Callable[..., IntArray | Tensor]) -> Callable[..., Tensor]:
    """`make`, with the device and type of its result before its arguments, copied there once: a copy waits for all that
    a GPU has been told."""

    def copied(device: torch.device, dtype: torch.dtype, *rest: float | str | bool) -> Tensor:
        return torch.as_tensor(make(*rest)).to(device, dtype)

    kept = lru_cache(maxsize=256)(copied)

    def found(*args: Any) -> Tensor:
        return copied(*args) if torch.compiler.is_compiling() else kept(*args)

    return found


_REPEATING = {
    ("asymmetric", "floor"), ("half_pixel", "round_prefer_floor"), ("half_pixel", "round_prefer_ceil"),
    ("pytorch_half_pixel", "round_prefer_floor"), ("pytorch_half_pixel", "round_prefer_ceil"),
}  # fmt: skip
"""With these, enlarging by a whole number repeats every row and column so often."""

_nearest_on, _matrix_on = _kept(_nearest), _kept(interpolation_matrix)


def _resize(op: o.Resize, x: Tensor, exact: bool) -> Tensor:
    axes = [(x.shape[2 + k], op.size[k], op.scale[k]) for k in (0, 1)]
    if op.mode == "nearest" and (op.coordinates, op.nearest) in _REPEATING:
        n, c, height, width = x.shape
        down, across = (int(scale) if out == size * int(scale) == size * scale else 0 for size, out, scale in axes)
        if down and across:  # nothing but a copy, and its gradient is a sum
            return x[:, :, :, None, :, None].expand(n, c, height, down, width, across).reshape(n, c, *op.size)
    if op.mode == "nearest":
        rows, columns = (_nearest_on(x.device, torch.int64, *axis, op.nearest, op.coordinates) for axis in axes)
        return x.index_select(2, rows).index_select(3, columns)
    if exact and op.mode == "cubic":
        raise UnsupportedError("cubic resize has no integer meaning", where=op.out, next_step="Use linear or nearest.")
    rows, columns = (_matrix_on(x.device, x.dtype, *axis, op.mode, op.coordinates, exact) for axis in axes)
    return rows @ x @ columns.T


def _slice(op: o.Slice, x: Tensor) -> Tensor:
    for axis, (start, stop, step) in enumerate(zip(op.starts, op.stops, op.steps, strict=True)):
        size = x.shape[axis]
        if step > 0:
            whole = start == 0 and step == 1 and stop >= size
            x = x if whole else x[(slice(None),) * axis + (slice(start, stop, step),)]
        else:
            x = x.index_select(axis, torch.arange(start, stop, step, device=x.device))
    return x


def _pad(op: o.Pad, x: Tensor) -> Tensor:
    pads = [amount for pair in zip(reversed(op.before), reversed(op.after), strict=True) for amount in pair]
    if op.mode == "constant":
        return F.pad(x, pads, value=op.value)
    for axis, (before, after) in enumerate(zip(op.before, op.after, strict=True)):
        x = x.index_select(axis, _padding_on(x.device, torch.int64, x.shape[axis], before, after, op.mode))
    return x


def _padding(size: int, before: int, after: int, mode: Any) -> IntArray:
    """Input index that each index along a padded axis copies."""
    return np.pad(np.arange(size), (before, after), mode=mode)


_padding_on = _kept(_padding)


def _layer_norm(op: o.LayerNorm, x: Tensor, gamma: Tensor | None, beta: Tensor | None) -> Tensor:
    y = F.layer_norm(x, x.shape[op.axis :], None, None, op.epsilon)
    y = y if gamma is None else y * gamma
    return y if beta is None else y + beta


def _reduce(op: o.Reduce, x: Tensor) -> Tensor:
    match op.function:
        case "sum":
            return x.sum(op.axes, keepdim=True)
        case "max":
            return x.amax(op.axes, keepdim=True)
        case "min":
            return x.amin(op.axes, keepdim=True)
        case "l2":
            return x.square().sum(op.axes, keepdim=True).sqrt()


def _top_k(op: o.TopK, x: Tensor) -> tuple[Tensor, Tensor]:
    # torch.topk leaves ties unordered; ONNX wants the lower index first.
    values, indices = torch.sort(x, dim=op.axis, descending=op.largest, stable=True)
    return values.narrow(op.axis, 0, op.k), indices.narrow(op.axis, 0, op.k)


def _cast(to: o.NumberKind, x: Tensor) -> Tensor:
    return x.to({"real": torch.float32, "index": torch.int64, "bool": torch.bool}[to])


def _channels(vector: Tensor, x: Tensor) -> Tensor:
    return vector.reshape(1, -1, *([1] * (x.dim() - 2)))


def _gather(op: o.Gather, x: Tensor, indices: Tensor) -> Tensor:
    flat = torch.where(indices < 0, indices + x.shape[op.axis], indices).reshape(-1)
    taken = x.index_select(op.axis, flat)
    return taken.reshape(*x.shape[: op.axis], *indices.shape, *x.shape[op.axis + 1 :])


def evaluate(op: o.Op, value: Callable[[o.Value], Tensor], *, exact: bool = False) -> tuple[Tensor, ...]:
    """Results of `op` on the tensors that `value` gives for its operands.

    Quantize, Dequantize, Requantize, DivideCodes and Lookup concern codes and live in edgeq/reference/interpret.py.
    """

    def optional(name: o.Value | None) -> Tensor | None:
        return None if name is None else value(name)

    match op:
        case o.Conv():
            return (_conv(op, value(op.x), value(op.weight), optional(op.bias)),)
        case o.ConvTranspose():
            return (_conv_transpose(op, value(op.x), value(op.weight), optional(op.bias)),)
        case o.Linear():
            return (F.linear(value(op.x), value(op.weight), optional(op.bias)),)
        case o.MatMul():
            return (value(op.a) @ value(op.b),)
        case o.Add():
            return (value(op.a) + value(op.b),)
        case o.Sub():
            return (value(op.a) - value(op.b),)
        case o.Mul():
            return (value(op.a) * value(op.b),)
        case o.Binary():
            return (_binary(op.function, value(op.a), value(op.b)),)
        case o.Apply():
            return (apply_function(op.function, value(op.x)),)
        case o.ChannelAffine():
            x = value(op.x)
            return (x * _channels(value(op.scale), x) + _channels(value(op.shift), x),)
        case o.Softmax():
            return (torch.softmax(value(op.x), op.axis),)
        case o.LayerNorm():
            return (_layer_norm(op, value(op.x), optional(op.gamma), optional(op.beta)),)
        case o.GroupNorm():
            x = value(op.x)
            return (torch.group_norm(x, op.groups, optional(op.gamma), optional(op.beta), op.epsilon),)
        case o.MaxPool():
            x = _padded(value(op.x), op.padding, float("-inf")).contiguous(memory_format=torch.channels_last)
            return (F.max_pool2d(x, op.kernel, op.stride, 0, op.dilation).contiguous(),)  # ten times as quick that way
        case o.AveragePool():
            return (_average_pool(op, value(op.x), exact),)
        case o.Mean():
            x = value(op.x)
            return (x.sum(op.axes, keepdim=True) if exact else x.mean(op.axes, keepdim=True),)
        case o.Reduce():
            return (_reduce(op, value(op.x)),)
        case o.Resize():
            return (_resize(op, value(op.x), exact),)
        case o.Concat():
            return (torch.cat([value(x) for x in op.xs], op.axis),)
        case o.Slice():
            return (_slice(op, value(op.x)),)
        case o.Pad():
            return (_pad(op, value(op.x)),)
        case o.Reshape():
            return (value(op.x).reshape(op.shape),)
        case o.Transpose():
            return (value(op.x).permute(op.permutation),)
        case o.Expand():
            return (value(op.x).expand(op.shape),)
        case o.Gather():
            return (_gather(op, value(op.x), value(op.indices)),)
        case o.GatherElements():
            return (torch.gather(value(op.x), op.axis, value(op.indices)),)
        case o.TopK():
            return _top_k(op, value(op.x))
        case o.ArgMax():
            return (torch.argmax(value(op.x), op.axis, keepdim=True),)
        case o.Where():
            return (torch.where(value(op.condition), value(op.a), value(op.b)),)
        case o.Cast():
            return (_cast(op.to, value(op.x)),)
        case o.Quantize() | o.Dequantize() | o.Requantize() | o.DivideCodes() | o.Lookup():
            raise TypeError(f"{type(op).__name__} acts on codes")
