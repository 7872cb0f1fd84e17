"""TFLite operators on codes that work element by element, or row by row: sums, products, functions, comparisons.

Functions of one operand are tables. What a kernel computes in floating point, or nearly so, is spelled in reals between a
Dequantize and a Quantize.
"""

from __future__ import annotations

from dataclasses import replace

from edgeq.errors import UnsupportedError
from edgeq.formats import bits_of
from edgeq.frontend.tflite_build import Handler, Importer
from edgeq.frontend.tflite_elementwise import (
    activation,
    along_last,
    log_softmax,
    normalized,
    operands_in_one_form,
    rsqrt,
)
from edgeq.frontend.tflite_file import FileOperator
from edgeq.frontend.tflite_kernel import accumulated, codes_of, result_type, two_operands
from edgeq.ir import ops as o
from edgeq.ir.graph import Type
from edgeq.reference import tflite, tflite_compound
from edgeq.reference.tflite_tables import kernel_table


def _elementwise(kind: type[o.Add] | type[o.Sub] | type[o.Mul]) -> Handler:
    def handle(i: Importer, op: FileOperator) -> None:
        (a, b), first = operands_in_one_form(i, two_operands(i, op))
        i.give(i.result(op), accumulated(i, op, kind(a, b, ""), 0), first=first)

    return handle


def _squared_difference(i: Importer, op: FileOperator) -> None:
    (a, b), first = _eight_bits(i, op)
    i.checked(o.Sub(a, b, ""))
    name = i.builder.new(f"{i.builder.hint}.difference")
    value = tflite_compound.squared_difference(i.builder.editor, o.Sub(a, b, name), result_type(i, op), i.builder.new())
    i.give(i.result(op), value, first=first)


def _prelu(i: Importer, op: FileOperator) -> None:
    (x, alpha), first = _eight_bits(i, op)
    if i.checked(o.Mul(x, alpha, "")) != i.shape(x):
        raise UnsupportedError("slopes have the shape of what they multiply", value=i.shape(alpha), allowed=i.shape(x))
    value = tflite_compound.prelu(i.builder.editor, x, alpha, result_type(i, op), i.builder.new())
    i.give(i.result(op), value, first=first)


def _eight_bits(i: Importer, op: FileOperator) -> tuple[list[o.Value], bool]:
    """Both operands of a kernel that works on 8-bit codes only."""
    values, first = operands_in_one_form(i, two_operands(i, op))
    for value in values:
        if bits_of(i.type(codes_of(i, value)).format) != 8:
            raise UnsupportedError("the kernel takes codes of 8 bits", value=i.type(value).format)
    return values, first


def _div(i: Importer, op: FileOperator) -> None:
    """A divisor of zero, where the kernel refuses, gives the largest code or the smallest."""
    values, first = operands_in_one_form(i, two_operands(i, op))
    a, b = (_real(i, value) for value in values)
    quotient = activation(i, i.emit(o.Binary(a, b, "", "div")), op, 0)
    i.give(i.result(op), _rounded(i, op, quotient), first=first)


def _extreme(function: o.BinaryName) -> Handler:
    """The larger or smaller of two codes, which the kernel compares as they are: exact between reals of one scale."""

    def handle(i: Importer, op: FileOperator) -> None:
        values, first = operands_in_one_form(i, two_operands(i, op))
        to = result_type(i, op)
        for value in values:
            _check_keeps(i.type(codes_of(i, value)), to)
        a, b = (i.emit(o.Dequantize(value, ""), Type(())) for value in values)
        larger = i.emit(o.Binary(a, b, "", function))
        i.give(i.result(op), tflite.quantize(i.builder.editor, larger, to, i.builder.new()), first=first)

    return handle


def _check_keeps(type_: Type, to: Type) -> None:
    """Codes that the kernel hands on as they are must mean the same in the result."""
    if (type_.format, type_.scale, type_.zero_point) != (to.format, to.scale, to.zero_point):
        raise UnsupportedError("operands and result have other scales", value=type_.scale, allowed=to.scale)


def _select(i: Importer, op: FileOperator) -> None:
    (condition, a, b), first = operands_in_one_form(i, [i.tensor(op, k) for k in range(3)])
    to = result_type(i, op)
    for value in (a, b):
        _check_keeps(i.type(codes_of(i, value)), to)
    i.give(i.result(op), i.emit(o.Where(condition, a, b, ""), to), first=first)


def _operand(i: Importer, op: FileOperator) -> tuple[o.Value, bool]:
    x = i.tensor(op, 0)
    first = i.is_first(x)
    return codes_of(i, i.form(x, first)), first


def _looked_up(i: Importer, op: FileOperator, function: o.Function) -> None:
    x, first = _operand(i, op)
    to, from_type = result_type(i, op), i.type(x)
    if from_type.format != to.format:
        raise UnsupportedError("operand and result have other formats", value=from_type.format, allowed=to.format)
    entries = kernel_table(function, from_type, to)
    table = i.builder.new(f"{i.builder.hint}.table")
    i.builder.editor.constants[table] = entries
    i.builder.editor.types[table] = replace(to, shape=entries.shape)
    i.give(i.result(op), i.emit(o.Lookup(x, table, "", function), to), first=first)


def _table(name: o.FunctionName) -> Handler:
    return lambda i, op: _looked_up(i, op, o.Function(name))


def _leaky_relu(i: Importer, op: FileOperator) -> None:
    _looked_up(i, op, o.Function("leaky_relu", op.options.real(0) if op.options else 0.0))


def _gelu(i: Importer, op: FileOperator) -> None:
    _looked_up(i, op, o.Function("gelu_tanh" if op.options and op.options.flag(0) else "gelu"))


def _neg(i: Importer, op: FileOperator) -> None:
    """The kernel turns the codes around, whatever their scales."""
    type_, to = i.type(_operand(i, op)[0]), result_type(i, op)
    _check_keeps(type_, to)
    if to.zero_point:
        raise UnsupportedError("codes that are negated have zero point 0", value=to.zero_point)
    _looked_up(i, op, o.Function("neg"))


def _clamped(function: o.Function) -> Handler:
    def handle(i: Importer, op: FileOperator) -> None:
        x, first = _operand(i, op)
        to = result_type(i, op)
        low, high = tflite.clamp_codes(function, to)
        i.give(i.result(op), tflite.recode(i.builder.editor, x, to, i.builder.new(), low, high), first=first)

    return handle


def _real(i: Importer, x: o.Value) -> o.Value:
    return i.emit(o.Dequantize(codes_of(i, x), ""), Type(()))


def _rounded(i: Importer, op: FileOperator, x: o.Value) -> o.Value:
    """The real x as the codes of the result."""
    return tflite.quantize(i.builder.editor, x, result_type(i, op), i.builder.new())


def _rsqrt(i: Importer, op: FileOperator) -> None:
    """A square root of a negative number, where the kernel refuses, is taken as one of zero."""
    x, first = _operand(i, op)
    inside = i.emit(o.Apply(_real(i, x), "", o.Function("relu")))
    i.give(i.result(op), _rounded(i, op, rsqrt(i, inside)), first=first)


def _log_softmax(i: Importer, op: FileOperator) -> None:
    along_last(i, op, lambda x, axis: _rounded(i, op, log_softmax(i, _real(i, x), axis)))


def _l2_normalization(i: Importer, op: FileOperator) -> None:
    """A row of zeros stays one: any other is at least as long as one step of its codes."""
    along_last(i, op, lambda x, axis: _rounded(i, op, normalized(i, _real(i, x), axis, i.type(x).scale[0] / 2)))


def _softmax(i: Importer, op: FileOperator) -> None:
    if op.options and op.options.real(0) != 1.0:
        raise UnsupportedError("a softmax on codes has beta 1", value=op.options.real(0))

    def shares(x: o.Value, axis: int) -> o.Value:
        return tflite_compound.softmax(i.builder.editor, codes_of(i, x), axis, result_type(i, op), i.builder.new())

    along_last(i, op, shares)


ELEMENTWISE_CODES: dict[str, Handler] = {
    "ADD": _elementwise(o.Add), "SUB": _elementwise(o.Sub), "MUL": _elementwise(o.Mul), "DIV": _div,
    "SQUARED_DIFFERENCE": _squared_difference, "PRELU": _prelu, "MAXIMUM": _extreme("maximum"),
    "MINIMUM": _extreme("minimum"), "SELECT": _select, "SELECT_V2": _select,
    "LOGISTIC": _table("sigmoid"), "TANH": _table("tanh"), "HARD_SWISH": _table("hardswish"), "GELU": _gelu,
    "LEAKY_RELU": _leaky_relu, "ABS": _table("abs"), "EXP": _table("exp"), "LOG": _table("log"), "SQRT": _table("sqrt"),
    "RSQRT": _rsqrt, "NEG": _neg, "RELU": _clamped(o.Function("relu")), "RELU6": _clamped(o.Function("clip", 0.0, 6.0)),
    "RELU_N1_TO_1": _clamped(o.Function("clip", -1.0, 1.0)), "RELU_0_TO_1": _clamped(o.Function("clip", 0.0, 1.0)),
    "SOFTMAX": _softmax, "LOG_SOFTMAX": _log_softmax, "L2_NORMALIZATION": _l2_normalization,
}  # fmt: skip
