"""TFLite operators on codes: the file's integers as they are, in the arithmetic of the reference kernels.

The arithmetic itself stands in edgeq/reference/tflite.py. Geometry and layout are those of the float operators.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from edgeq.errors import UnsupportedError
from edgeq.formats import INT32, INT64
from edgeq.frontend.tflite_build import Handler, Importer
from edgeq.frontend.tflite_codes_elementwise import ELEMENTWISE_CODES
from edgeq.frontend.tflite_elementwise import reduced
from edgeq.frontend.tflite_file import FileOperator, FileTensor
from edgeq.frontend.tflite_kernel import accumulated, clamp, codes_of, result_type, two_operands
from edgeq.frontend.tflite_types import constant_type, type_of
from edgeq.frontend.tflite_window import (
    convolution,
    kernel_order,
    nearest,
    options,
    pooling,
    resize,
    rows,
    transposed,
    weight_of,
)
from edgeq.ir import ops as o
from edgeq.ir.graph import Type
from edgeq.ir.infer import window_count
from edgeq.reference import tflite

_MOST_PIECES = 100


def _weighted_bias(i: Importer, tensor: FileTensor | None, x: o.Value, weight: o.Value) -> o.Value | None:
    """A bias in the units of its accumulator, whatever scale the file writes beside it; the kernels ignore that."""
    if tensor is None:
        return None
    if tensor.content is None or len(tensor.shape) != 1:
        raise UnsupportedError("a bias must be a constant vector", where=tensor.name)
    units = tuple(i.type(x).scale[0] * scale for scale in i.type(weight).scale)
    if len(units) > 1 and len(units) != tensor.shape[0]:
        raise UnsupportedError("one bias per channel", where=tensor.name, value=tensor.shape, allowed=len(units))
    if tensor.element not in ("int32", "int64"):
        raise UnsupportedError("a bias has 32 or 64 bits", where=tensor.name, value=tensor.element)
    codes, width = tensor.array(), INT32 if tensor.element == "int32" else INT64
    return i.code_constant(codes, Type(codes.shape, width, units, axis=0 if len(units) > 1 else None), tensor)


def _conv(i: Importer, op: FileOperator) -> None:
    geometry, hint = convolution(i, op), i.builder.hint
    x, weight = codes_of(i, geometry.x), weight_of(i, i.tensor(op, 1), kernel_order(op))
    bias = _weighted_bias(i, i.optional(op, 2), x, weight)
    i.builder.hint = hint
    i.give(i.result(op), accumulated(i, op, geometry.op(weight, bias), geometry.activation_slot), first=True)


def _transpose_conv(i: Importer, op: FileOperator) -> None:
    empty, hint = transposed(i, op), i.builder.hint
    weight = weight_of(i, i.tensor(op, 1), kernel_order(op))
    bias = _weighted_bias(i, i.optional(op, 3), codes_of(i, empty.x), weight)
    i.builder.hint = hint
    i.give(i.result(op), accumulated(i, op, replace(empty, weight=weight, bias=bias), 3), first=True)


def _fully_connected(i: Importer, op: FileOperator) -> None:
    found, tensor, hint = rows(i, op), i.tensor(op, 1), i.builder.hint
    x = codes_of(i, found.x)
    if tensor.content is None:
        raise UnsupportedError("the weight is computed at run time", where=tensor.name)
    codes = tensor.array()
    if found.order is not None:
        codes = codes[:, found.order]
        i.columns[i.names[tensor.index]] = found.order
    type_ = constant_type(tensor)
    if type_.axis == 1:
        raise UnsupportedError("scales lie along the columns of a weight", where=tensor.name)
    weight = i.code_constant(codes, type_, tensor)
    bias = _weighted_bias(i, i.optional(op, 2), x, weight)
    i.builder.hint = hint
    value = accumulated(i, op, o.Linear(x, weight, bias, ""), 0)
    i.give(i.result(op), i.reshape(value, (*found.shape, tensor.shape[0])))


def _batch_matmul(i: Importer, op: FileOperator) -> None:
    sides = [i.plain(tensor) for tensor in two_operands(i, op)]
    for k, side in enumerate(sides):
        rank = len(i.shape(side))
        if rank < 2:
            raise UnsupportedError("a matrix has two axes", value=i.shape(side))
        if options(op).flag(k):
            sides[k] = i.transpose(side, (*range(rank - 2), rank - 1, rank - 2))
    i.give(i.result(op), accumulated(i, op, o.MatMul(sides[0], sides[1], ""), None))


@dataclass(frozen=True)
class _Span:
    """Rows (or columns) start … stop of an image, over which a window of `kernel` stays inside."""

    start: int
    stop: int
    kernel: int


def _spans(size: int, kernel: int, stride: int, before: int, after: int) -> list[_Span]:
    """Where a padded window stands along one axis: the full ones together, each cut one by itself.

    >>> _spans(5, 3, 1, 1, 1)
    [_Span(start=0, stop=2, kernel=2), _Span(start=0, stop=5, kernel=3), _Span(start=3, stop=5, kernel=2)]
    """
    found: list[_Span] = []
    full = False
    for position in range(window_count(size, kernel, stride, before + after)):
        first = position * stride - before
        start, stop = max(first, 0), min(first + kernel, size)
        if full and stop - start == kernel:
            found[-1] = replace(found[-1], stop=stop)
        else:
            found.append(_Span(start, stop, stop - start))
        full = stop - start == kernel
    return found


def _average_pool(i: Importer, op: FileOperator) -> None:
    """Padding does not count, so windows that it cuts are means of fewer elements: each is an operator of its own."""
    p = pooling(i, op)
    n, channels, height, width = i.shape(p.x)
    top, left, bottom, right = p.padding
    rows_ = _spans(height, p.kernel[0], p.stride[0], top, bottom)
    columns = _spans(width, p.kernel[1], p.stride[1], left, right)
    if len(rows_) * len(columns) > _MOST_PIECES:
        raise UnsupportedError("average pooling with so much padding is not supported", value=p.padding)

    def piece(row: _Span, column: _Span) -> o.Value:
        starts, stops = (0, 0, row.start, column.start), (n, channels, row.stop, column.stop)
        whole = stops == i.shape(p.x) and not any(starts)
        x = p.x if whole else i.emit(o.Slice(p.x, "", starts, stops, (1, 1, 1, 1)))
        return accumulated(i, op, o.AveragePool(x, "", (row.kernel, column.kernel), p.stride), 5)

    strips = [_joined(i, [piece(row, column) for column in columns], 3) for row in rows_]
    i.give(i.result(op), _joined(i, strips, 2), first=True)


def _joined(i: Importer, parts: list[o.Value], axis: int) -> o.Value:
    return parts[0] if len(parts) == 1 else i.emit(o.Concat(tuple(parts), "", axis))


def _max_pool(i: Importer, op: FileOperator) -> None:
    p, to = pooling(i, op), result_type(i, op)
    value = i.emit(o.MaxPool(codes_of(i, p.x), "", p.kernel, p.stride, p.padding))
    low, high = clamp(op, 5, to)
    if (low, high) != tflite.activation_range("NONE", to):
        value = tflite.recode(i.builder.editor, value, to, i.builder.new(), low, high)
    i.give(i.result(op), value, first=True)


def _mean(i: Importer, op: FileOperator) -> None:
    reduced(i, op, lambda x, axes: accumulated(i, op, o.Mean(x, "", axes), None))


def _sum(i: Importer, op: FileOperator) -> None:
    reduced(i, op, lambda x, axes: accumulated(i, op, o.Reduce(x, "", "sum", axes), None))


def _reduced_extreme(function: o.ReduceName) -> Handler:
    return lambda i, op: reduced(i, op, lambda x, axes: i.emit(o.Reduce(codes_of(i, x), "", function, axes)))


def _resize_bilinear(i: Importer, op: FileOperator) -> None:
    i.give(i.result(op), accumulated(i, op, resize(i, op, (2, 3)), None), first=True)


def _resize_nearest(i: Importer, op: FileOperator) -> None:
    i.give(i.result(op), i.emit(nearest(i, op)), first=True)


def _quantize(i: Importer, op: FileOperator) -> None:
    x = i.tensor(op, 0)
    first, to = i.is_first(x), type_of(i.result(op), ())
    value = i.form(x, first)
    build = tflite.quantize if i.type(value).is_real else tflite.recode
    i.give(i.result(op), build(i.builder.editor, value, to, i.builder.new()), first=first)


def dequantize(i: Importer, op: FileOperator) -> None:
    """DEQUANTIZE: the reals of codes; of halves, which are reals already, nothing."""
    x = i.tensor(op, 0)
    first = i.is_first(x)
    i.give(i.result(op), i.form(x, first), first=first)


CODES: dict[str, Handler] = {
    **ELEMENTWISE_CODES,
    "CONV_2D": _conv, "DEPTHWISE_CONV_2D": _conv, "TRANSPOSE_CONV": _transpose_conv,
    "FULLY_CONNECTED": _fully_connected, "BATCH_MATMUL": _batch_matmul, "AVERAGE_POOL_2D": _average_pool,
    "MAX_POOL_2D": _max_pool, "MEAN": _mean, "SUM": _sum, "REDUCE_MAX": _reduced_extreme("max"),
    "REDUCE_MIN": _reduced_extreme("min"), "RESIZE_BILINEAR": _resize_bilinear,
    "RESIZE_NEAREST_NEIGHBOR": _resize_nearest, "QUANTIZE": _quantize,
}  # fmt: skip
