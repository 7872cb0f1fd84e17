"""Whether the operands and attributes of an operator fit together, whatever numbers they hold.

Every problem is one short phrase without the operator's name; edgeq/ir/verify.py says which operator has it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod
from typing import assert_never

import numpy as np

from edgeq.ir import ops as o
from edgeq.ir.infer import Shape

Problems = Iterator[str]


def _rank(name: str, shape: Shape, rank: int) -> Problems:
    if len(shape) != rank:
        yield f"{name} has shape {shape} but must have {rank} axes"


def _axes(axes: o.Ints, shape: Shape) -> Problems:
    if len(set(axes)) != len(axes) or not all(0 <= axis < len(shape) for axis in axes):
        yield f"axes {axes} do not belong to shape {shape}"


def _window(stride: o.Pair, padding: o.Quad, dilation: o.Pair, kernel: o.Pair) -> Problems:
    if min(*stride, *dilation, *kernel) < 1 or min(padding) < 0:
        yield f"stride {stride}, dilation {dilation}, kernel {kernel} or padding {padding} is too small"


def _vector(name: str, shape: Shape | None, size: int) -> Problems:
    if shape is not None and shape != (size,):
        yield f"{name} has shape {shape} but must have ({size},)"


def _conv(op: o.Conv, x: Shape, weight: Shape, bias: Shape | None) -> Problems:
    yield from _rank("x", x, 4)
    yield from _rank("weight", weight, 4)
    if len(x) == len(weight) == 4:
        yield from _window(op.stride, op.padding, op.dilation, (weight[2], weight[3]))
        yield from _vector("bias", bias, weight[0])
        if op.groups < 1 or x[1] != weight[1] * op.groups or weight[0] % op.groups:
            yield f"x {x}, weight {weight} and {op.groups} groups do not fit together"


def _conv_transpose(op: o.ConvTranspose, x: Shape, weight: Shape, bias: Shape | None) -> Problems:
    yield from _rank("x", x, 4)
    yield from _rank("weight", weight, 4)
    if len(x) == len(weight) == 4:
        yield from _window(op.stride, op.padding, op.dilation, (weight[2], weight[3]))
        yield from _vector("bias", bias, weight[1] * op.groups)
        if op.groups < 1 or x[1] != weight[0] or x[1] % op.groups:
            yield f"x {x}, weight {weight} and {op.groups} groups do not fit together"
        limits = [max(pair) for pair in zip(op.stride, op.dilation, strict=True)]
        if not all(0 <= extra < limit for extra, limit in zip(op.output_padding, limits, strict=True)):
            yield f"output padding {op.output_padding} must be below the stride or dilation"


def _linear(x: Shape, weight: Shape, bias: Shape | None) -> Problems:
    yield from _rank("weight", weight, 2)
    if len(weight) == 2:
        yield from _vector("bias", bias, weight[0])
        if not x or x[-1] != weight[1]:
            yield f"x {x} and weight {weight} do not fit together"


def _pool(op: o.MaxPool | o.AveragePool, x: Shape) -> Problems:
    yield from _rank("x", x, 4)
    dilation = op.dilation if isinstance(op, o.MaxPool) else (1, 1)
    yield from _window(op.stride, op.padding, dilation, op.kernel)
    reach = [dilation[k % 2] * max(op.kernel[k % 2] - 1, 0) for k in range(4)]
    if any(pad > extent for pad, extent in zip(op.padding, reach, strict=True)):
        yield f"padding {op.padding} gives windows of padding alone"


def _broadcasts(name: str, shape: Shape | None, to: Shape) -> Problems:
    if shape is None:
        return
    try:
        fits = np.broadcast_shapes(shape, to) == to
    except ValueError:
        fits = False
    if not fits:
        yield f"{name} {shape} does not broadcast to {to}"


def _concat(op: o.Concat, shapes: list[Shape]) -> Problems:
    if not shapes:
        yield "there is nothing to concatenate"
        return
    yield from _axes((op.axis,), shapes[0])
    rest = {(*shape[: op.axis], *shape[op.axis + 1 :]) for shape in shapes}
    if len(rest) > 1 or len({len(shape) for shape in shapes}) > 1:
        yield f"shapes {shapes} differ outside axis {op.axis}"


def _slice(op: o.Slice, x: Shape) -> Problems:
    if not len(op.starts) == len(op.stops) == len(op.steps) == len(x):
        yield f"starts, stops and steps must have one entry per axis of {x}"
    elif any(step == 0 for step in op.steps):
        yield "a step is 0"
    elif any(not 0 <= start <= size for start, size in zip(op.starts, x, strict=True)):
        yield f"starts {op.starts} lie outside {x}"
    elif any(stop < (0 if step > 0 else -1) for stop, step in zip(op.stops, op.steps, strict=True)):
        yield f"stops {op.stops} are negative"


def _pad(op: o.Pad, x: Shape) -> Problems:
    if not len(op.before) == len(op.after) == len(x):
        yield f"before and after must have one entry per axis of {x}"
    elif min((*op.before, *op.after), default=0) < 0:
        yield f"padding {op.before}, {op.after} is negative"
    elif op.mode == "reflect" and any(max(b, a) >= s for b, a, s in zip(op.before, op.after, x, strict=True)):
        yield f"reflection needs padding {op.before}, {op.after} below {x}"


def _matmul(a: Shape, b: Shape) -> Problems:
    if len(a) < 2 or len(b) < 2 or a[-1] != b[-2]:
        yield f"matrices {a} and {b} do not fit together"


def _resize(op: o.Resize, x: Shape) -> Problems:
    yield from _rank("x", x, 4)
    if min(op.size) < 1 or not all(scale > 0 for scale in op.scale):
        yield f"size {op.size} and scale {op.scale} must be positive"


def _top_k(op: o.TopK, x: Shape) -> Problems:
    yield from _axes((op.axis,), x)
    if 0 <= op.axis < len(x) and not 0 <= op.k <= x[op.axis]:
        yield f"k = {op.k} of {x[op.axis]} elements"


def _group_norm(op: o.GroupNorm, x: Shape, vectors: tuple[Shape | None, Shape | None]) -> Problems:
    if len(x) < 2 or op.groups < 1 or x[1] % op.groups:
        yield f"{op.groups} groups do not divide the channels of {x}"
        return
    for name, vector in zip(("gamma", "beta"), vectors, strict=True):
        yield from _vector(name, vector, x[1])


def _softmax(op: o.Softmax, x: Shape, table: Shape | None) -> Problems:
    yield from _axes((op.axis,), x)
    if table is not None:
        yield from _rank("table", table, 1)


def _layer_norm(op: o.LayerNorm, x: Shape, vectors: tuple[Shape | None, Shape | None]) -> Problems:
    yield from _axes((op.axis,), x)
    for name, vector in zip(("gamma", "beta"), vectors, strict=True):
        yield from _broadcasts(name, vector, x)


def _affine(x: Shape, scale: Shape, shift: Shape) -> Problems:
    if len(x) < 2:
        yield f"x {x} has no channels"
        return
    yield from _vector("scale", scale, x[1])
    yield from _vector("shift", shift, x[1])


def _gather_elements(op: o.GatherElements, x: Shape, indices: Shape) -> Problems:
    yield from _axes((op.axis,), x)
    yield from _rank("indices", indices, len(x))


def _reshape(x: Shape, shape: Shape) -> Problems:
    if prod(shape) != prod(x) or min(shape, default=0) < 0:
        yield f"{x} cannot become {shape}"


def _transpose(x: Shape, permutation: o.Ints) -> Problems:
    if sorted(permutation) != list(range(len(x))):
        yield f"{permutation} does not permute the axes of {x}"


def problems(op: o.Op, shape: Callable[[o.Value], Shape]) -> Problems:
    """What keeps `op` from having a result at all, given the shapes of its operands."""

    def optional(value: o.Value | None) -> Shape | None:
        return None if value is None else shape(value)

    match op:
        case o.Conv():
            return _conv(op, shape(op.x), shape(op.weight), optional(op.bias))
        case o.ConvTranspose():
            return _conv_transpose(op, shape(op.x), shape(op.weight), optional(op.bias))
        case o.Linear():
            return _linear(shape(op.x), shape(op.weight), optional(op.bias))
        case o.MatMul():
            return _matmul(shape(op.a), shape(op.b))
        case o.MaxPool() | o.AveragePool():
            return _pool(op, shape(op.x))
        case o.Mean() | o.Reduce():
            return _axes(op.axes, shape(op.x))
        case o.Softmax():
            return _softmax(op, shape(op.x), optional(op.table))
        case o.ArgMax() | o.Gather():
            return _axes((op.axis,), shape(op.x))
        case o.GatherElements():
            return _gather_elements(op, shape(op.x), shape(op.indices))
        case o.TopK():
            return _top_k(op, shape(op.x))
        case o.LayerNorm():
            return _layer_norm(op, shape(op.x), (optional(op.gamma), optional(op.beta)))
        case o.GroupNorm():
            return _group_norm(op, shape(op.x), (optional(op.gamma), optional(op.beta)))
        case o.ChannelAffine():
            return _affine(shape(op.x), shape(op.scale), shape(op.shift))
        case o.Resize():
            return _resize(op, shape(op.x))
        case o.Concat():
            return _concat(op, [shape(x) for x in op.xs])
        case o.Slice():
            return _slice(op, shape(op.x))
        case o.Pad():
            return _pad(op, shape(op.x))
        case o.Reshape():
            return _reshape(shape(op.x), op.shape)
        case o.Expand():
            return _broadcasts("x", shape(op.x), op.shape)
        case o.Transpose():
            return _transpose(shape(op.x), op.permutation)
        case o.DivideCodes():
            return iter([] if op.divisor >= 1 else [f"divisor {op.divisor} is not positive"])
        case o.Lookup():
            return _rank("table", shape(op.table), 1)
        case (
            o.Add() | o.Sub() | o.Mul() | o.Binary() | o.Where() | o.Apply() | o.Cast()
            | o.Quantize() | o.Dequantize() | o.Requantize()
        ):  # fmt: skip
            return iter(())
        case _:
            assert_never(op)
