"""What importing any TFLite kernel on codes needs: the type that the file gives its result, its clamp, its accumulator."""

from __future__ import annotations

from edgeq.errors import UnsupportedError
from edgeq.formats import Int
from edgeq.frontend.tflite_build import Importer
from edgeq.frontend.tflite_file import FileOperator, FileTensor
from edgeq.frontend.tflite_types import constant_type, type_of
from edgeq.ir import ops as o
from edgeq.ir.graph import Type
from edgeq.reference import tflite

_ACTIVATIONS: dict[int, tflite.Activation] = {0: "NONE", 1: "RELU", 2: "RELU_N1_TO_1", 3: "RELU6"}
_BITS = (8, 16)


def result_type(i: Importer, op: FileOperator) -> Type:
    """The type that the file gives the result, without its shape."""
    type_ = type_of(i.result(op), ())
    if not isinstance(type_.format, Int) or type_.format.bits not in _BITS:
        raise UnsupportedError("kernels are known for codes of 8 and 16 bits", value=type_.format)
    return type_


def clamp(op: FileOperator, slot: int, to: Type) -> tuple[int, int]:
    """The codes between which the fused activation keeps the result."""
    code = op.options.integer(slot, "<b") if op.options else 0
    if code not in _ACTIVATIONS:
        raise UnsupportedError("this activation cannot be fused on codes", value=code)
    return tflite.activation_range(_ACTIVATIONS[code], to)


def accumulated(i: Importer, op: FileOperator, kernel: tflite.Accumulating | o.Reduce, slot: int | None) -> o.Value:
    """The codes of an accumulating kernel, whose options name its activation in `slot`."""
    for value in o.operands(kernel):
        if not i.type(value).scale:
            raise UnsupportedError("an operand is not quantized")
    i.checked(kernel)
    to, editor = result_type(i, op), i.builder.editor
    low, high = (None, None) if slot is None else clamp(op, slot, to)
    acc = tflite.accumulate(editor, kernel, i.builder.new(f"{i.builder.hint}.acc"))
    return tflite.settle(editor, kernel, acc, to, i.builder.new(), low, high)


def codes_of(i: Importer, x: o.Value) -> o.Value:
    """x, which must be codes of one scale."""
    type_ = i.type(x)
    if len(type_.scale) != 1:
        raise UnsupportedError("the operand is not quantized")
    return x


def two_operands(i: Importer, op: FileOperator) -> list[FileTensor]:
    """Both operands of an operator without weights, whose constants have one scale each."""
    tensors = [i.tensor(op, 0), i.tensor(op, 1)]
    for tensor in tensors:
        if tensor.content is not None and len(constant_type(tensor).scale) != 1:
            raise UnsupportedError("an operand has no scale, or several", where=tensor.name)
    return tensors
