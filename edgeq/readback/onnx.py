"""The numbers of an ONNX file with QuantizeLinear and DequantizeLinear, whoever wrote it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from onnx import NodeProto

from edgeq.frontend.onnx_load import load_model
from edgeq.lint.net import DEQUANTIZE, QUANTIZE, Net, Quantizer, integer, title
from edgeq.readback import qonnx
from edgeq.readback.onnx_blocks import blocked_reals, in_blocks
from edgeq.readback.stored import Numbers, Role, Stored, StoredOperator, StoredTensor

_MOVING = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Gather", "Identity", "Expand")


def read_stored(source: str | Path | bytes) -> Stored:
    """Every quantized tensor of a file. Raises UsageError and UnsupportedError as `load_model` does."""
    net = Net(load_model(source))
    weighted = [found for node in net.weighted() if (found := _weighted(net, node)) is not None]
    aliases = {node.output[0]: node.input[0] for node in net.of_type(*_MOVING) if node.input}
    return Stored(
        "onnx",
        (*_activations(net), *qonnx.activations(net)),
        tuple(weighted),
        tuple(_constants(net, {t.name for op in weighted for t in (op.weight, op.bias) if t is not None})),
        Counter(node.op_type for node in net.nodes),
        aliases,
    )


def _activations(net: Net) -> Iterator[StoredTensor]:
    """The codes of every quantizer that does not stand on constants, by the name of the tensor of codes."""
    inputs = {port.name for port in net.model.graph.input}
    seen: set[StoredTensor] = set()
    for quantizer in net.quantizers.values():
        if net.is_weight(quantizer):
            continue
        node = quantizer.node
        name = node.output[0] if node.op_type == QUANTIZE else node.input[0]
        role: Role = "input" if node.input[0] in inputs else "activation"
        operator = net.producer.get(node.input[0])
        found = _codes(net, quantizer, name, role, title(operator) if operator is not None else "")
        if found not in seen:
            seen.add(found)
            yield found


def _codes(net: Net, quantizer: Quantizer, name: str, role: Role, operator: str) -> StoredTensor:
    scale, zeros = quantizer.scale, quantizer.zero_point
    element = "uint8" if zeros is None else str(zeros.dtype)
    axis = 1 if quantizer.axis is None else quantizer.axis
    return StoredTensor(
        name,
        role,
        element,
        net.shapes.get(name),
        () if scale is None else tuple(float(s) for s in scale.reshape(-1)),
        () if zeros is None else _folded(tuple(int(z) for z in zeros.reshape(-1))),
        axis if quantizer.is_per_axis else None,
        operator,
    )


def _folded(zeros: tuple[int, ...]) -> tuple[int, ...]:
    """One entry if all are equal."""
    return zeros[:1] if len(set(zeros)) == 1 else zeros


def _constants(net: Net, known: set[str]) -> Iterator[StoredTensor]:
    for quantizer in net.quantizers.values():
        name = quantizer.node.input[0]
        if net.is_weight(quantizer) and quantizer.node.op_type == DEQUANTIZE and name not in known:
            readers = net.readers.get(quantizer.node.output[0], [])
            found = _codes(net, quantizer, name, "constant", title(readers[0]) if readers else "")
            yield replace(found, array=net.constant(name))


def _weighted(net: Net, node: NodeProto) -> StoredOperator | None:
    weight = _constant(net, node.input[1], "weight", title(node))
    if weight is None or weight.array is None:
        return None
    if node.op_type == "MatMul" or (node.op_type == "Gemm" and not integer(node, "transB")):
        weight = _transposed(weight)
    return StoredOperator(title(node), node.op_type, tuple(node.output), weight, _bias(net, node))


def _bias(net: Net, node: NodeProto) -> StoredTensor | None:
    """The bias of a node: its third operand, or what an Add behind a MatMul adds."""
    if len(node.input) > 2 and node.input[2]:
        return _constant(net, node.input[2], "bias", title(node))
    readers = net.readers.get(node.output[0], [])
    if node.op_type == "MatMul" and len(readers) == 1 and readers[0].op_type == "Add":
        others = [name for name in readers[0].input if name != node.output[0] and net.is_constant(name)]
        found = _constant(net, others[0], "bias", title(node)) if others else None
        return found if found is not None and found.array is not None and found.array.ndim == 1 else None
    return None


def _constant(net: Net, name: str, role: Role, operator: str) -> StoredTensor | None:
    """A constant behind DequantizeLinear, Cast and Mul, a node of QONNX, or Transpose; or as reals."""
    if in_blocks(net, name):
        reals = blocked_reals(net, name)
        return (
            None if reals is None else StoredTensor(name, role, "blocks", reals.shape, operator=operator, array=reals)
        )
    quantizer = net.quantizer(name, DEQUANTIZE)
    if quantizer is not None:
        found = _codes(net, quantizer, quantizer.node.input[0], role, operator)
        array = net.constant(quantizer.node.input[0])
        return None if array is None or not found.scale else replace(found, array=array, shape=array.shape)
    array = net.constant(name)
    if array is not None:
        return StoredTensor(name, role, str(array.dtype), array.shape, operator=operator, array=array)
    node = net.producer.get(name)
    if node is not None and node.op_type == "Transpose" and node.input:
        inner = _constant(net, node.input[0], role, operator)
        return None if inner is None or inner.array is None or inner.array.ndim != 2 else _transposed(inner)
    if node is None:
        return None
    known = qonnx.constant(net, node, role, operator)
    return known or (_scaled(net, node, role, operator) if node.op_type == "Mul" else None)


def _real(found: StoredTensor, element: str) -> StoredTensor:
    """Minifloats times their scales, as reals."""
    assert found.array is not None
    reals = found.array * found.along_axis(np.asarray(found.scale, np.float32))
    return replace(found, array=reals, element=element, scale=(), zero_point=(), axis=None)


def _scaled(net: Net, node: NodeProto, role: Role, operator: str) -> StoredTensor | None:
    """Integers that Cast or a table makes reals, or minifloats that Cast does, and Mul scales."""
    cast, scale = net.producer.get(node.input[0]), net.constant(node.input[1])
    name = "" if cast is None else cast.output[0] if cast.op_type == "Gather" else cast.input[0]
    codes = net.constant(name) if cast is not None and cast.op_type in ("Cast", "Gather") else None
    if cast is None or codes is None or scale is None:
        return None
    axes = [axis for axis, size in enumerate(scale.shape) if size > 1]
    scales = tuple(float(s) for s in scale.reshape(-1))
    axis = axes[0] if axes else None
    found = StoredTensor(cast.input[0], role, str(codes.dtype), codes.shape, scales, (0,), axis, operator, codes)
    is_number = codes.dtype.name.startswith("float8")
    return _real(replace(found, array=codes.astype(np.float32)), codes.dtype.name) if is_number else found


def _transposed(weight: StoredTensor) -> StoredTensor:
    """A matrix [in, out] as [out, in]."""
    array: Numbers = np.asarray(weight.array)
    if array.ndim != 2:
        return weight
    axis = None if weight.axis is None else 1 - weight.axis % 2
    return replace(weight, array=array.T, shape=array.T.shape, axis=axis)
