"""ONNX operators whose result is known at import: constants, shapes, and what only acts on them."""

from __future__ import annotations

import math

import numpy as np
import onnx

from edgeq.errors import UnsupportedError
from edgeq.frontend.onnx_build import Builder, Handler, Node, number_kind
from edgeq.frontend.onnx_elementwise import cast
from edgeq.frontend.onnx_layout import expanded
from edgeq.ir import ops as o
from edgeq.ir.graph import Array

MAX_GENERATED = 1 << 24  # elements of a constant that an operator makes out of nothing


def tensor_array(tensor: onnx.TensorProto, where: str) -> Array:
    """The array of a tensor with its data inside; raises UnsupportedError if data and shape disagree."""
    number_kind(tensor.data_type)
    if any(size < 0 for size in tensor.dims) or math.prod(tensor.dims) > onnx.checker.MAXIMUM_PROTOBUF:
        raise UnsupportedError("bad tensor shape", where=where, value=tuple(tensor.dims))
    try:
        array: Array = np.asarray(onnx.numpy_helper.to_array(tensor))
    except (ValueError, TypeError) as error:
        raise UnsupportedError("the data of a tensor does not fit its shape", where=where, value=error) from error
    if array.dtype.kind not in "biu" and np.isnan(array.astype(np.float32, copy=False)).any():
        raise UnsupportedError("a constant contains NaN", where=where, next_step="Check the trained weights.")
    return array


def _constant(b: Builder, n: Node) -> o.Value:
    if len(n.attributes) != 1:
        raise UnsupportedError("a constant needs exactly one value")
    ((name, attribute),) = n.attributes.items()
    match name:
        case "value":
            return b.constant(tensor_array(attribute.t, n.where))
        case "value_float":
            return b.constant(np.float32(attribute.f))
        case "value_floats":
            return b.constant(np.array(attribute.floats, np.float32))
        case "value_int":
            return b.constant(np.int64(attribute.i))
        case "value_ints":
            return b.constant(np.array(attribute.ints, np.int64))
        case _:
            raise UnsupportedError("unsupported kind of constant", value=name, allowed="a dense tensor of numbers")


def _shape(b: Builder, n: Node) -> o.Value:
    shape = b.shape(n.operand(0))
    start, stop, _ = slice(n.integer("start", 0), n.integer("end", len(shape))).indices(len(shape))
    return b.constant(np.array(shape[start:stop], np.int64))


def _size(b: Builder, n: Node) -> o.Value:
    return b.constant(np.int64(math.prod(b.shape(n.operand(0)))))


def _generated(shape: tuple[int, ...]) -> tuple[int, ...]:
    if min(shape, default=0) < 0 or math.prod(shape) > MAX_GENERATED:
        raise UnsupportedError("a generated constant is too large", value=shape, allowed=f"{MAX_GENERATED} elements")
    return shape


def _constant_of_shape(b: Builder, n: Node) -> o.Value:
    shape = _generated(b.integers(n.operand(0), "the shape"))
    fill = tensor_array(n.attributes["value"].t, n.where) if "value" in n.attributes else np.zeros(1, np.float32)
    return expanded(b, b.constant(fill.reshape((1,) * len(shape))), shape)


def _range(b: Builder, n: Node) -> o.Value:
    dtype = b.known(n.operand(0), "the range").dtype
    start, stop, step = (b.known(n.operand(k), "the range").item() for k in range(3))
    if not step or not all(map(math.isfinite, (start, stop, step))):
        raise UnsupportedError("bad range", value=(start, stop, step))
    count = max(math.ceil((stop - start) / step), 0)
    _generated((count,))
    return b.constant((start + np.arange(count) * step).astype(dtype))


def _non_zero(b: Builder, n: Node) -> o.Value:
    return b.constant(np.stack(np.nonzero(b.known(n.operand(0), "the operand of NonZero"))))


def _one_hot(b: Builder, n: Node) -> o.Value:
    indices, depth = n.operand(0), b.integers(n.operand(1), "the depth")[0]
    rank = len(b.shape(indices))
    axis = n.integer("axis", -1) % (rank + 1)
    shape = (*b.shape(indices)[:axis], 1, *b.shape(indices)[axis:])
    _generated((*shape, depth))
    # A negative index counts from the end.
    steps = np.arange(depth).reshape((-1,) + (1,) * (rank - axis))
    spread = b.reshape(cast(b, indices, "index"), shape)
    wrapped = b.emit(o.Binary(spread, b.constant(np.int64(depth)), "", "mod"))
    inside = b.emit(o.Binary(spread, b.constant(np.int64(-depth)), "", "greater_equal"))
    inside = b.emit(o.Binary(inside, b.emit(o.Binary(spread, b.constant(np.int64(depth)), "", "less")), "", "and"))
    hit = b.emit(o.Binary(b.emit(o.Binary(wrapped, b.constant(steps), "", "equal")), inside, "", "and"))
    off, on = (b.cut(n.operand(2), 0, k, k + 1) for k in (0, 1))
    return b.emit(o.Where(hit, b.reshape(on, ()), b.reshape(off, ()), ""))


def _eye_like(b: Builder, n: Node) -> o.Value:
    x = n.operand(0)
    rows, columns = _generated(b.shape(x))
    eye = b.constant(np.eye(rows, columns, n.integer("k", 0), dtype=np.float32))
    return cast(b, eye, number_kind(n.integer("dtype", 1)) if "dtype" in n.attributes else b.kind(x))


def _cumulative_sum(b: Builder, n: Node) -> o.Value:
    x, axis = b.known(n.operand(0), "the operand of CumSum"), b.integers(n.operand(1), "the axis")[0]
    x = np.flip(x, axis) if n.integer("reverse", 0) else x
    total = np.cumsum(x, axis, dtype=x.dtype)
    total = total - x if n.integer("exclusive", 0) else total
    return b.constant(np.flip(total, axis) if n.integer("reverse", 0) else total)


def _gather_nd(b: Builder, n: Node) -> o.Value:
    x, indices = b.known(n.operand(0), "the operand of GatherND"), b.known(n.operand(1), "the indices")
    if n.integer("batch_dims", 0):
        raise UnsupportedError("batch_dims of GatherND are not supported")
    return b.constant(x[tuple(np.moveaxis(indices, -1, 0))])


def _scatter_nd(b: Builder, n: Node) -> o.Value:
    x, indices, updates = (b.known(n.operand(k), "an operand of ScatterND") for k in range(3))
    if n.text("reduction", "none") != "none":
        raise UnsupportedError("reductions of ScatterND are not supported")
    result = x.copy()
    result[tuple(np.moveaxis(indices, -1, 0))] = updates
    return b.constant(result)


CONSTANT: dict[str, Handler] = {
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "CumSum": _cumulative_sum,
    "EyeLike": _eye_like,
    "GatherND": _gather_nd,
    "NonZero": _non_zero,
    "OneHot": _one_hot,
    "Range": _range,
    "ScatterND": _scatter_nd,
    "Shape": _shape,
    "Size": _size,
}
