"""The numbers of a .tflite file."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

from edgeq.frontend.tflite_file import ABSENT, FileOperator, FileTensor, TfliteFile, read_tflite
from edgeq.frontend.tflite_window import kernel_order
from edgeq.readback.stored import Role, Stored, StoredOperator, StoredTensor

# Positions of weight and bias among the operands.
_PARAMETERS = {"CONV_2D": (1, 2), "DEPTHWISE_CONV_2D": (1, 2), "FULLY_CONNECTED": (1, 2), "TRANSPOSE_CONV": (1, 3)}
_MOVING = ("RESHAPE", "TRANSPOSE", "SQUEEZE", "EXPAND_DIMS", "SLICE", "STRIDED_SLICE", "GATHER")


def read_stored(source: str | Path | bytes | TfliteFile) -> Stored:
    """Every quantized tensor of a file. Raises UsageError and UnsupportedError as `read_tflite` does."""
    file = source if isinstance(source, TfliteFile) else read_tflite(source)
    weighted = [found for op in file.operators if (found := _weighted(file, op)) is not None]
    parameters = {t.name for op in weighted for t in (op.weight, op.bias) if t is not None}
    constants = [t for t in file.tensors if t.content is not None and t.is_quantized and t.name not in parameters]
    aliases = {
        file.tensors[op.outputs[0]].name: file.tensors[op.inputs[0]].name
        for op in file.operators
        if op.kind in _MOVING and op.inputs and op.outputs and ABSENT not in (op.inputs[0], op.outputs[0])
    }
    return Stored(
        "tflite",
        tuple(_activations(file)),
        tuple(weighted),
        tuple(_stored(file, t, "constant", _reader(file, t)) for t in constants),
        Counter(op.kind for op in file.operators),
        aliases,
    )


def _activations(file: TfliteFile) -> list[StoredTensor]:
    made = {index: op for op in file.operators for index in op.outputs}
    found = []
    for tensor in file.tensors:
        if tensor.content is None and tensor.is_quantized:
            role: Role = "input" if tensor.index in file.inputs else "activation"
            role = "output" if tensor.index in file.outputs else role
            operator = made[tensor.index].kind if tensor.index in made else ""
            found.append(_stored(file, tensor, role, operator))
    return found


def _reader(file: TfliteFile, tensor: FileTensor) -> str:
    return next((op.kind for op in file.operators if tensor.index in op.inputs), "")


def _stored(file: TfliteFile, tensor: FileTensor, role: Role, operator: str) -> StoredTensor:
    array = tensor.array() if tensor.content is not None and not tensor.obstacle else None
    axis = tensor.axis if len(tensor.scale) > 1 else None
    scale, zeros = (tensor.scale, tensor.zero_point) if tensor.is_quantized else ((), ())
    if len(set(zeros)) == 1:
        zeros = zeros[:1]
    return StoredTensor(tensor.name, role, tensor.element, tensor.shape, scale, zeros, axis, operator, array)


def _weighted(file: TfliteFile, op: FileOperator) -> StoredOperator | None:
    positions = _PARAMETERS.get(op.kind)
    if positions is None or len(op.inputs) <= positions[0] or op.inputs[positions[0]] == ABSENT:
        return None
    weight = file.tensors[op.inputs[positions[0]]]
    rank = 2 if op.kind == "FULLY_CONNECTED" else 4
    if weight.content is None or weight.obstacle or len(weight.shape) != rank:
        return None
    outputs = tuple(file.tensors[index].name for index in op.outputs if index != ABSENT)
    name = outputs[0] if outputs else op.kind
    index = op.inputs[positions[1]] if len(op.inputs) > positions[1] else ABSENT
    bias = file.tensors[index] if index != ABSENT and file.tensors[index].content is not None else None
    return StoredOperator(
        name,
        op.kind,
        outputs,
        _turned(op, _stored(file, weight, "weight", name)),
        None if bias is None else _stored(file, bias, "bias", name),
    )


def _turned(op: FileOperator, weight: StoredTensor) -> StoredTensor:
    """A weight with its axes in our order."""
    if op.kind == "FULLY_CONNECTED" or weight.array is None:
        return weight
    order = kernel_order(op)
    array = weight.array.transpose(order)
    return replace(weight, array=array, axis=None if weight.axis is None else order.index(weight.axis))
