"""ONNX operators that reduce, normalize or rank along axes."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from edgeq.errors import UnsupportedError
from edgeq.frontend.onnx_build import Builder, Handler, Node
from edgeq.frontend.onnx_layout import given_axes
from edgeq.ir import ops as o

_Reduction = Callable[[Builder, o.Value, o.Ints], o.Value]


def _reduction(reduce: _Reduction) -> Handler:
    """The handler of a Reduce… operator; `reduce` keeps the axes as size 1."""

    def handle(b: Builder, n: Node) -> o.Value:
        x, given = n.operand(0), given_axes(b, n, 1)
        if not given and n.integer("noop_with_empty_axes", 0):
            return reduce(b, x, ())
        axes = tuple(sorted(b.axis(x, k) for k in given)) if given else tuple(range(len(b.shape(x))))
        y = reduce(b, x, axes) if axes else x
        return y if n.integer("keepdims", 1) else without(b, y, axes)

    return handle


def without(b: Builder, x: o.Value, axes: o.Ints) -> o.Value:
    """x without `axes`, which have size 1."""
    return b.reshape(x, (size for k, size in enumerate(b.shape(x)) if k not in axes))


def _reduced(function: o.ReduceName) -> _Reduction:
    return lambda b, x, axes: b.emit(o.Reduce(x, "", function, axes)) if axes else x


def _mean(b: Builder, x: o.Value, axes: o.Ints) -> o.Value:
    return b.emit(o.Mean(x, "", axes)) if axes else x


def _sum(b: Builder, x: o.Value, axes: o.Ints) -> o.Value:
    return _reduced("sum")(b, x, axes)


def _l1(b: Builder, x: o.Value, axes: o.Ints) -> o.Value:
    return _sum(b, b.apply(x, "abs"), axes)


def _l2(b: Builder, x: o.Value, axes: o.Ints) -> o.Value:
    return _reduced("l2")(b, x, axes) if axes else b.apply(x, "abs")


def _sum_square(b: Builder, x: o.Value, axes: o.Ints) -> o.Value:
    return _sum(b, b.emit(o.Mul(x, x, "")), axes)


def _log_sum(b: Builder, x: o.Value, axes: o.Ints) -> o.Value:
    return b.apply(_sum(b, x, axes), "log")


def _log_sum_exp(b: Builder, x: o.Value, axes: o.Ints) -> o.Value:
    if not axes:
        return x
    largest = b.emit(o.Reduce(x, "", "max", axes))
    total = _sum(b, b.apply(b.emit(o.Sub(x, largest, "")), "exp"), axes)
    return b.emit(o.Add(largest, b.apply(total, "log"), ""))


def _product(b: Builder, x: o.Value, axes: o.Ints) -> o.Value:
    return b.constant(np.prod(b.known(x, "the operand of ReduceProd"), axis=axes, keepdims=True))


def _softmax(b: Builder, n: Node) -> o.Value:
    return _rowwise(b, n, lambda b, x, axis: b.emit(o.Softmax(x, "", axis)))


def _log_softmax(b: Builder, n: Node) -> o.Value:
    return _rowwise(b, n, lambda b, x, axis: b.emit(o.Sub(x, _log_sum_exp(b, x, (axis,)), "")))


def _rowwise(b: Builder, n: Node, function: Callable[[Builder, o.Value, int], o.Value]) -> o.Value:
    """Before opset 13 a softmax ran over `axis` and all axes after it, flattened."""
    x = n.operand(0)
    axis, shape = b.axis(x, n.integer("axis", -1 if n.opset >= 13 else 1)), b.shape(x)
    if n.opset >= 13 or math.prod(shape[axis + 1 :]) == 1:
        return function(b, x, axis)
    rows = b.reshape(x, (math.prod(shape[:axis]), math.prod(shape[axis:])))
    return b.reshape(function(b, rows, 1), shape)


def _arg_max(b: Builder, n: Node) -> o.Value:
    x = n.operand(0)
    axis, size = b.axis(x, n.integer("axis", 0)), b.shape(x)[b.axis(x, n.integer("axis", 0))]
    last = bool(n.integer("select_last_index", 0))
    y = b.emit(o.ArgMax(_reversed(b, x, axis) if last else x, "", axis))
    y = b.emit(o.Sub(b.constant(size - 1), y, "")) if last else y
    return y if n.integer("keepdims", 1) else without(b, y, (axis,))


def _reversed(b: Builder, x: o.Value, axis: int) -> o.Value:
    shape = b.shape(x)
    starts = tuple(size - 1 if k == axis else 0 for k, size in enumerate(shape))
    stops = tuple(-1 if k == axis else size for k, size in enumerate(shape))
    return b.emit(o.Slice(x, "", starts, stops, tuple(-1 if k == axis else 1 for k in range(len(shape)))))


def _arg_min(b: Builder, n: Node) -> o.Value:
    negated = Node(n.op_type, n.name, (b.apply(n.operand(0), "neg"),), n.outputs, n.attributes, n.opset)
    return _arg_max(b, negated)


def _top_k(b: Builder, n: Node) -> tuple[o.Value, ...]:
    x, count = n.operand(0), b.integers(n.operand(1), "k")[0]
    axis = b.axis(x, n.integer("axis", -1))
    if not 0 < count <= b.shape(x)[axis]:
        raise UnsupportedError("k is out of range", value=count, allowed=f"1…{b.shape(x)[axis]}")
    return b.emit_all(o.TopK(x, "", "", count, axis, bool(n.integer("largest", 1))))


def _batch_normalization(b: Builder, n: Node) -> o.Value:
    if n.integer("training_mode", 0) or n.uses_output(1):
        return _standardized(b, n)
    x, gamma, beta, mean, variance = (n.operand(k) for k in range(5))
    deviation = b.apply(b.emit(o.Add(variance, b.constant(np.float32(n.real("epsilon", 1e-5))), "")), "sqrt")
    scale = b.emit(o.Binary(gamma, deviation, "", "div"))
    shift = b.emit(o.Sub(beta, b.emit(o.Mul(mean, scale, "")), ""))
    return b.emit(o.ChannelAffine(x, scale, shift, ""))


def _standardized(b: Builder, n: Node) -> o.Value:
    """Normalization in training mode, which standardizes the weights of convolutions (Qiao et al., 2019); not values."""
    x = n.operand(0)
    if b.array(x) is None or b.shape(x)[0] != 1:
        raise UnsupportedError("batch normalization in training mode", next_step="Export in eval mode.")
    return _instance_normalization(b, n)


def _instance_normalization(b: Builder, n: Node) -> o.Value:
    x = n.operand(0)
    return b.emit(o.GroupNorm(x, n.operand(1), n.operand(2), "", b.shape(x)[1], n.real("epsilon", 1e-5)))


def _group_normalization(b: Builder, n: Node) -> o.Value:
    x, groups = n.operand(0), n.integer("num_groups", 1)
    channels = b.shape(x)[1]
    if groups < 1 or channels % groups:
        raise UnsupportedError("groups do not divide the channels", value=groups, allowed=f"divisors of {channels}")
    gamma, beta = (_per_channel(b, n.operand(k), channels) for k in (1, 2))
    return b.emit(o.GroupNorm(x, gamma, beta, "", groups, n.real("epsilon", 1e-5)))


def _per_channel(b: Builder, vector: o.Value, channels: int) -> o.Value:
    """Before opset 21 there was one entry per group."""
    count = b.shape(vector)[0]
    if count == channels:
        return vector
    wide = b.emit(o.Expand(b.reshape(vector, (count, 1)), "", (count, channels // count)))
    return b.reshape(wide, (channels,))


def _layer_normalization(b: Builder, n: Node) -> o.Value:
    if n.uses_output(1) or n.uses_output(2):
        raise UnsupportedError("only the first output of LayerNormalization is supported")
    x = n.operand(0)
    axis = b.axis(x, n.integer("axis", -1))
    return b.emit(o.LayerNorm(x, n.operand(1), n.optional(2), "", axis, n.real("epsilon", 1e-5)))


def _lp_normalization(b: Builder, n: Node) -> o.Value:
    x = n.operand(0)
    axes = (b.axis(x, n.integer("axis", -1)),)
    norm = _l1(b, x, axes) if n.integer("p", 2) == 1 else _l2(b, x, axes)
    # A zero vector stays zero.
    return b.emit(o.Binary(x, b.apply(norm, "clip", float(np.finfo(np.float32).tiny), float("inf")), "", "div"))


REDUCE: dict[str, Handler] = {
    "ArgMax": _arg_max,
    "ArgMin": _arg_min,
    "BatchNormalization": _batch_normalization,
    "GroupNormalization": _group_normalization,
    "InstanceNormalization": _instance_normalization,
    "LayerNormalization": _layer_normalization,
    "LogSoftmax": _log_softmax,
    "LpNormalization": _lp_normalization,
    "ReduceL1": _reduction(_l1),
    "ReduceL2": _reduction(_l2),
    "ReduceLogSum": _reduction(_log_sum),
    "ReduceLogSumExp": _reduction(_log_sum_exp),
    "ReduceMax": _reduction(_reduced("max")),
    "ReduceMean": _reduction(_mean),
    "ReduceMin": _reduction(_reduced("min")),
    "ReduceProd": _reduction(_product),
    "ReduceSum": _reduction(_sum),
    "ReduceSumSquare": _reduction(_sum_square),
    "Softmax": _softmax,
    "TopK": _top_k,
}
