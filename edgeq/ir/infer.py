"""Shape and kind of every operator's results, from its operands.

Results are real, index (int64) or truth values here; number formats of codes are chosen later, by lowering.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import assert_never

import numpy as np

from edgeq.errors import UnsupportedError
from edgeq.formats import BOOL, INDEX, REAL, Format
from edgeq.ir import ops as o

Shape = tuple[int, ...]

_KINDS: dict[o.NumberKind, Format] = {"real": REAL, "index": INDEX, "bool": BOOL}
_TRUTH = ("equal", "less", "less_equal", "greater", "greater_equal", "and", "or")


def window_count(size: int, kernel: int, stride: int, pad: int, dilation: int = 1) -> int:
    """Positions of a window of `kernel` taps over `size` elements and `pad` elements of padding in all."""
    return (size + pad - dilation * (kernel - 1) - 1) // stride + 1


def _window(x: Shape, kernel: o.Pair, stride: o.Pair, padding: o.Quad, dilation: o.Pair = (1, 1)) -> o.Pair:
    top, left, bottom, right = padding
    return (
        window_count(x[2], kernel[0], stride[0], top + bottom, dilation[0]),
        window_count(x[3], kernel[1], stride[1], left + right, dilation[1]),
    )


def _transposed(op: o.ConvTranspose, x: Shape, weight: Shape) -> Shape:
    pads = (op.padding[0] + op.padding[2], op.padding[1] + op.padding[3])
    spatial = (
        (x[2 + k] - 1) * op.stride[k] - pads[k] + op.dilation[k] * (weight[2 + k] - 1) + op.output_padding[k] + 1
        for k in (0, 1)
    )
    return (x[0], weight[1] * op.groups, *spatial)


def _broadcast(op: o.Op, *shapes: Shape) -> Shape:
    try:
        return tuple(map(int, np.broadcast_shapes(*shapes)))
    except ValueError as error:
        raise UnsupportedError("operand shapes do not broadcast", where=o.results(op)[0], value=shapes) from error


def _sliced(op: o.Slice, x: Shape) -> Shape:
    return tuple(len(range(*_bounds(*item))) for item in zip(op.starts, op.stops, op.steps, x, strict=True))


def _bounds(start: int, stop: int, step: int, size: int) -> tuple[int, int, int]:
    return start, min(stop, size) if step > 0 else stop, step


def _kept(x: Shape, axes: o.Ints) -> Shape:
    return tuple(1 if axis in axes else size for axis, size in enumerate(x))


def _concatenated(op: o.Concat, shapes: list[Shape]) -> Shape:
    total = sum(shape[op.axis] for shape in shapes)
    return (*shapes[0][: op.axis], total, *shapes[0][op.axis + 1 :])


def result_shapes(op: o.Op, shape: Callable[[o.Value], Shape]) -> tuple[Shape, ...]:
    """Shapes of the results of `op`; `shape` gives those of its operands. Raises UnsupportedError if they cannot fit."""
    match op:
        case o.Conv():
            x, weight = shape(op.x), shape(op.weight)
            kernel = (weight[2], weight[3])
            return ((x[0], weight[0], *_window(x, kernel, op.stride, op.padding, op.dilation)),)
        case o.ConvTranspose():
            return (_transposed(op, shape(op.x), shape(op.weight)),)
        case o.Linear():
            return ((*shape(op.x)[:-1], shape(op.weight)[0]),)
        case o.MatMul():
            a, b = shape(op.a), shape(op.b)
            return ((*_broadcast(op, a[:-2], b[:-2]), a[-2], b[-1]),)
        case o.Add() | o.Sub() | o.Mul() | o.Binary():
            return (_broadcast(op, shape(op.a), shape(op.b)),)
        case o.Where():
            return (_broadcast(op, shape(op.condition), shape(op.a), shape(op.b)),)
        case o.MaxPool():
            x = shape(op.x)
            return ((*x[:2], *_window(x, op.kernel, op.stride, op.padding, op.dilation)),)
        case o.AveragePool():
            x = shape(op.x)
            return ((*x[:2], *_window(x, op.kernel, op.stride, op.padding)),)
        case o.Mean() | o.Reduce():
            return (_kept(shape(op.x), op.axes),)
        case o.ArgMax():
            return (_kept(shape(op.x), (op.axis,)),)
        case o.Resize():
            return ((*shape(op.x)[:2], *op.size),)
        case o.Concat():
            return (_concatenated(op, [shape(x) for x in op.xs]),)
        case o.Slice():
            return (_sliced(op, shape(op.x)),)
        case o.Pad():
            return (tuple(b + s + a for b, s, a in zip(op.before, shape(op.x), op.after, strict=True)),)
        case o.Reshape() | o.Expand():
            return (op.shape,)
        case o.Transpose():
            x = shape(op.x)
            return (tuple(x[axis] for axis in op.permutation),)
        case o.Gather():
            x = shape(op.x)
            return ((*x[: op.axis], *shape(op.indices), *x[op.axis + 1 :]),)
        case o.GatherElements():
            return (shape(op.indices),)
        case o.TopK():
            x = shape(op.x)
            result = (*x[: op.axis], op.k, *x[op.axis + 1 :])
            return result, result
        case (
            o.Apply() | o.ChannelAffine() | o.Softmax() | o.LayerNorm() | o.GroupNorm() | o.Cast()
            | o.Quantize() | o.Dequantize() | o.Requantize() | o.DivideCodes() | o.Lookup()
        ):  # fmt: skip
            return (shape(op.x),)
        case _:
            assert_never(op)


def result_kinds(op: o.Op, kind: Callable[[o.Value], Format]) -> tuple[Format, ...]:
    """Whether each result of `op` is real, an index or a truth value, given the same of its operands."""
    match op:
        case o.Cast():
            return (_KINDS[op.to],)
        case o.ArgMax():
            return (INDEX,)
        case o.TopK():
            return kind(op.x), INDEX
        case o.Binary() if op.function in _TRUTH:
            return (BOOL,)
        case o.Where():
            return (kind(op.a),)
        case _:
            return (kind(o.operands(op)[0]),)
