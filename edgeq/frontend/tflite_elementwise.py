"""TFLite operators that work element by element, and reductions, on reals, indices and truth values.

Where an operand of rank 4 has its channels first already, the operator works on that form: axes are mapped.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgeq.errors import UnsupportedError
from edgeq.frontend.tflite_build import Handler, Importer
from edgeq.frontend.tflite_file import FileOperator, FileTensor
from edgeq.frontend.tflite_types import TO_FIRST, TO_LAST
from edgeq.ir import ops as o

_ACTIVATIONS: dict[int, o.Function] = {
    1: o.Function("relu"), 2: o.Function("clip", -1.0, 1.0), 3: o.Function("clip", 0.0, 6.0), 4: o.Function("tanh"),
}  # fmt: skip


def fused_function(code: int) -> o.Function | None:
    """The activation of an operator's options; None for none."""
    if code and code not in _ACTIVATIONS:
        raise UnsupportedError("unknown fused activation", value=code)
    return _ACTIVATIONS.get(code)


def activation(i: Importer, value: o.Value, op: FileOperator, slot: int) -> o.Value:
    """`value` after the activation that the options of `op` name in `slot`."""
    function = fused_function(op.options.integer(slot, "<b") if op.options else 0)
    return value if function is None else i.emit(o.Apply(value, "", function))


def _unary(name: o.FunctionName, a: float = 0.0, b: float = 0.0) -> Handler:
    def handle(i: Importer, op: FileOperator) -> None:
        apply(i, op, o.Function(name, a, b))

    return handle


def apply(i: Importer, op: FileOperator, function: o.Function) -> None:
    """A scalar function of the only operand."""
    x = i.tensor(op, 0)
    first = i.is_first(x)
    i.give(i.result(op), i.emit(o.Apply(i.form(x, first), "", function)), first=first)


def _leaky_relu(i: Importer, op: FileOperator) -> None:
    apply(i, op, o.Function("leaky_relu", op.options.real(0) if op.options else 0.0))


def _gelu(i: Importer, op: FileOperator) -> None:
    apply(i, op, o.Function("gelu_tanh" if op.options and op.options.flag(0) else "gelu"))


def _square(i: Importer, op: FileOperator) -> None:
    _of_one(i, op, lambda x: i.emit(o.Mul(x, x, "")))


def rsqrt(i: Importer, x: o.Value) -> o.Value:
    """1 / sqrt(x)."""
    return i.emit(o.Apply(i.emit(o.Apply(x, "", o.Function("sqrt"))), "", o.Function("reciprocal")))


def _rsqrt(i: Importer, op: FileOperator) -> None:
    _of_one(i, op, lambda x: rsqrt(i, x))


def _of_one(i: Importer, op: FileOperator, build: Callable[[o.Value], o.Value]) -> None:
    x = i.tensor(op, 0)
    first = i.is_first(x)
    i.give(i.result(op), build(i.form(x, first)), first=first)


def operands_in_one_form(i: Importer, tensors: list[FileTensor]) -> tuple[list[o.Value], bool]:
    """Values of operands that broadcast against each other, all in one form, and whether that is channels first."""
    ready = [i.is_first(tensor) for tensor in tensors]
    if not any(ready):
        return [i.plain(tensor) for tensor in tensors], False
    ranks = [4 if now else len(i.shape(i.plain(tensor))) for tensor, now in zip(tensors, ready, strict=True)]
    if max(ranks) > 4:
        return [i.plain(tensor) for tensor in tensors], False
    values = [
        i.first(tensor) if rank == 4 else _widened(i, tensor, rank) for tensor, rank in zip(tensors, ranks, strict=True)
    ]
    return values, True


def _widened(i: Importer, tensor: FileTensor, rank: int) -> o.Value:
    """A value of a lower rank as it broadcasts against channels-first ones."""
    x = i.plain(tensor)
    if rank == 0:
        return x
    shape = (1,) * (4 - rank) + i.shape(x)
    return i.transpose(i.reshape(x, shape), TO_FIRST)


def _binary(build: Callable[[o.Value, o.Value], o.Op], slot: int | None = None) -> Handler:
    def handle(i: Importer, op: FileOperator) -> None:
        (a, b), first = operands_in_one_form(i, [i.tensor(op, 0), i.tensor(op, 1)])
        value = i.emit(build(a, b))
        i.give(i.result(op), value if slot is None else activation(i, value, op, slot), first=first)

    return handle


def _named(function: o.BinaryName) -> Callable[[o.Value, o.Value], o.Op]:
    return lambda a, b: o.Binary(a, b, "", function)


def _squared_difference(i: Importer, op: FileOperator) -> None:
    (a, b), first = operands_in_one_form(i, [i.tensor(op, 0), i.tensor(op, 1)])
    difference = i.emit(o.Sub(a, b, ""))
    i.give(i.result(op), i.emit(o.Mul(difference, difference, "")), first=first)


def _not_equal(i: Importer, op: FileOperator) -> None:
    (a, b), first = operands_in_one_form(i, [i.tensor(op, 0), i.tensor(op, 1)])
    equal = i.emit(o.Binary(a, b, "", "equal"))
    i.give(i.result(op), i.emit(o.Apply(equal, "", o.Function("not"))), first=first)


def _floor_div(i: Importer, op: FileOperator) -> None:
    (a, b), first = operands_in_one_form(i, [i.tensor(op, 0), i.tensor(op, 1)])
    quotient = i.emit(o.Binary(a, b, "", "div"))
    if i.type(quotient).is_real:
        quotient = i.emit(o.Apply(quotient, "", o.Function("floor")))
    elif min(_least(i, a), _least(i, b)) < 0:
        raise UnsupportedError("division of negative integers is not supported")
    i.give(i.result(op), quotient, first=first)


def _least(i: Importer, value: o.Value) -> int:
    array = i.builder.array(value)
    return -1 if array is None or not array.size else int(array.min())


def _add_n(i: Importer, op: FileOperator) -> None:
    values, first = operands_in_one_form(i, [i.tensor(op, k) for k in range(len(op.inputs))])
    total = values[0]
    for value in values[1:]:
        total = i.emit(o.Add(total, value, ""))
    i.give(i.result(op), total, first=first)


def _prelu(i: Importer, op: FileOperator) -> None:
    """x where it is positive, else alpha x: relu(x) - alpha relu(-x)."""
    (x, alpha), first = operands_in_one_form(i, [i.tensor(op, 0), i.tensor(op, 1)])
    positive = i.emit(o.Apply(x, "", o.Function("relu")))
    negative = i.emit(o.Apply(i.emit(o.Apply(x, "", o.Function("neg"))), "", o.Function("relu")))
    i.give(i.result(op), i.emit(o.Sub(positive, i.emit(o.Mul(alpha, negative, "")), "")), first=first)


def _select(i: Importer, op: FileOperator) -> None:
    (condition, a, b), first = operands_in_one_form(i, [i.tensor(op, k) for k in range(3)])
    i.give(i.result(op), i.emit(o.Where(condition, a, b, "")), first=first)


def _cast(i: Importer, op: FileOperator) -> None:
    element = i.result(op).element
    if i.tensor(op, 0).is_quantized:
        raise UnsupportedError("a cast of codes, without their scale, is not supported")
    to: o.NumberKind = "bool" if element == "bool" else "real" if "float" in element else "index"
    _of_one(i, op, lambda x: i.emit(o.Cast(x, "", to)))


def known_axes(i: Importer, x: FileTensor, axes: tuple[int, ...], first: bool) -> tuple[int, ...]:
    """`axes` of the file as axes of the value that stands for `x`."""
    rank = 4 if first else len(i.shape(i.plain(x)))
    if any(not -rank <= axis < rank for axis in axes):
        raise UnsupportedError("no such axis", value=axes, allowed=f"{-rank}…{rank - 1}")
    counted = [axis % rank for axis in axes]
    return tuple(TO_FIRST.index(axis) if first else axis for axis in counted)


def without_axes(i: Importer, value: o.Value, axes: tuple[int, ...], first: bool) -> o.Value:
    """`value`, whose `axes` have size 1, in the file's order of axes and without these."""
    removed = {TO_FIRST[axis] if first else axis for axis in axes}
    plain = i.transpose(value, TO_LAST) if first else value
    return i.reshape(plain, [size for axis, size in enumerate(i.shape(plain)) if axis not in removed])


def reduced(i: Importer, op: FileOperator, build: Callable[[o.Value, tuple[int, ...]], o.Value]) -> None:
    """A reduction over axes that the second operand holds."""
    x = i.tensor(op, 0)
    first = i.is_first(x)
    axes = tuple(dict.fromkeys(known_axes(i, x, i.integers(i.tensor(op, 1), "the axes"), first)))
    value = build(i.form(x, first), tuple(sorted(axes)))
    if op.options and op.options.flag(0):
        i.give(i.result(op), value, first=first)
    else:
        i.give(i.result(op), without_axes(i, value, axes, first))


def _mean(i: Importer, op: FileOperator) -> None:
    reduced(i, op, lambda x, axes: i.emit(o.Mean(x, "", axes)))


def _reduce(function: o.ReduceName) -> Handler:
    def handle(i: Importer, op: FileOperator) -> None:
        reduced(i, op, lambda x, axes: i.emit(o.Reduce(x, "", function, axes)))

    return handle


def _arg_max(i: Importer, op: FileOperator) -> None:
    x = i.tensor(op, 0)
    first = i.is_first(x)
    axes = known_axes(i, x, i.integers(i.tensor(op, 1), "the axis")[:1], first)
    value = i.emit(o.ArgMax(i.form(x, first), "", axes[0]))
    i.give(i.result(op), without_axes(i, value, axes, first))


def _softmax(i: Importer, op: FileOperator) -> None:
    beta = op.options.real(0) if op.options else 1.0

    def shares(x: o.Value, axis: int) -> o.Value:
        if beta != 1.0:
            x = i.emit(o.Mul(x, i.builder.constant(np.float32(beta)), ""))
        return i.emit(o.Softmax(x, "", axis))

    along_last(i, op, shares)


def log_softmax(i: Importer, x: o.Value, axis: int) -> o.Value:
    """x - max - log sum e^(x - max) along `axis`."""
    centred = i.emit(o.Sub(x, i.emit(o.Reduce(x, "", "max", (axis,))), ""))
    total = i.emit(o.Reduce(i.emit(o.Apply(centred, "", o.Function("exp"))), "", "sum", (axis,)))
    return i.emit(o.Sub(centred, i.emit(o.Apply(total, "", o.Function("log"))), ""))


def normalized(i: Importer, x: o.Value, axis: int, least: float) -> o.Value:
    """x over its norm along `axis`, which is kept above `least`."""
    norm = i.emit(o.Reduce(x, "", "l2", (axis,)))
    norm = i.emit(o.Binary(norm, i.builder.constant(np.float32(least)), "", "maximum"))
    return i.emit(o.Binary(x, norm, "", "div"))


def along_last(i: Importer, op: FileOperator, build: Callable[[o.Value, int], o.Value]) -> None:
    """A function of the rows of the only operand: `build` is given a value and which of its axes is the file's last."""
    x = i.tensor(op, 0)
    first = i.is_first(x)
    (axis,) = known_axes(i, x, (-1,), first)
    i.give(i.result(op), build(i.form(x, first), axis), first=first)


def _log_softmax(i: Importer, op: FileOperator) -> None:
    along_last(i, op, lambda x, axis: log_softmax(i, x, axis))


def _l2_normalization(i: Importer, op: FileOperator) -> None:
    # Squares are kept above 1e-6.
    along_last(i, op, lambda x, axis: activation(i, normalized(i, x, axis, 1e-3), op, 0))


ELEMENTWISE: dict[str, Handler] = {
    "ADD": _binary(lambda a, b: o.Add(a, b, ""), 0), "SUB": _binary(lambda a, b: o.Sub(a, b, ""), 0),
    "MUL": _binary(lambda a, b: o.Mul(a, b, ""), 0), "DIV": _binary(_named("div"), 0),
    "MAXIMUM": _binary(_named("maximum")), "MINIMUM": _binary(_named("minimum")), "POW": _binary(_named("pow")),
    "EQUAL": _binary(_named("equal")), "NOT_EQUAL": _not_equal, "LESS": _binary(_named("less")),
    "LESS_EQUAL": _binary(_named("less_equal")), "GREATER": _binary(_named("greater")),
    "GREATER_EQUAL": _binary(_named("greater_equal")), "LOGICAL_AND": _binary(_named("and")),
    "LOGICAL_OR": _binary(_named("or")), "LOGICAL_NOT": _unary("not"), "SQUARED_DIFFERENCE": _squared_difference,
    "FLOOR_DIV": _floor_div, "ADD_N": _add_n, "PRELU": _prelu, "SELECT": _select, "SELECT_V2": _select, "CAST": _cast,
    "RELU": _unary("relu"), "RELU6": _unary("clip", 0.0, 6.0), "RELU_N1_TO_1": _unary("clip", -1.0, 1.0),
    "RELU_0_TO_1": _unary("clip", 0.0, 1.0), "LEAKY_RELU": _leaky_relu, "ELU": _unary("elu", 1.0),
    "LOGISTIC": _unary("sigmoid"), "TANH": _unary("tanh"), "HARD_SWISH": _unary("hardswish"), "GELU": _gelu,
    "EXP": _unary("exp"), "LOG": _unary("log"), "SQRT": _unary("sqrt"), "RSQRT": _rsqrt, "SQUARE": _square,
    "NEG": _unary("neg"), "ABS": _unary("abs"), "SIN": _unary("sin"), "COS": _unary("cos"), "FLOOR": _unary("floor"),
    "CEIL": _unary("ceil"), "ROUND": _unary("round"), "SIGN": _unary("sign"),
    "MEAN": _mean, "SUM": _reduce("sum"), "REDUCE_MAX": _reduce("max"), "REDUCE_MIN": _reduce("min"),
    "ARG_MAX": _arg_max, "SOFTMAX": _softmax, "LOG_SOFTMAX": _log_softmax, "L2_NORMALIZATION": _l2_normalization,
}  # fmt: skip
