"""The numbers of Quant and FloatQuant nodes (QONNX 1.0), as the other formats have them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from onnx import NodeProto

from edgeq.lint.net import Net, integer, title
from edgeq.readback.stored import Role, StoredTensor

DOMAIN = "qonnx.custom_op.general"


def is_quant(node: NodeProto | None, kind: str = "Quant") -> bool:
    """Whether `node` is the QONNX operator `kind`."""
    return node is not None and node.domain == DOMAIN and node.op_type == kind


def activations(net: Net) -> Iterator[StoredTensor]:
    """What every Quant node computes that does not stand on a constant."""
    inputs = {port.name for port in net.model.graph.input}
    for node in net.nodes:
        if is_quant(node) and net.constant(node.input[0]) is None:
            operator = net.producer.get(node.input[0])
            role: Role = "input" if node.input[0] in inputs else "activation"
            yield _described(net, node, node.output[0], role, title(operator) if operator is not None else "")


def constant(net: Net, node: NodeProto, role: Role, operator: str) -> StoredTensor | None:
    """The constant that a Quant node, or a Mul behind a FloatQuant node, stands on; None for anything else."""
    if is_quant(node):
        array, scale = net.constant(node.input[0]), net.constant(node.input[1])
        zero = net.constant(node.input[2])
        if array is None or scale is None or zero is None:
            return None
        codes = np.rint(array.astype(np.float64) / scale) + zero
        found = _described(net, node, node.input[0], role, operator)
        return replace(found, array=codes.astype(np.int32), shape=array.shape)
    inner = net.producer.get(node.input[0]) if node.op_type == "Mul" else None
    if inner is None or not is_quant(inner, "FloatQuant"):
        return None
    array, scale = net.constant(inner.input[0]), net.constant(node.input[1])
    if array is None or scale is None:
        return None
    reals = array.astype(np.float32) * scale.astype(np.float32)
    return StoredTensor(inner.input[0], role, "float32", reals.shape, operator=operator, array=reals)


def _described(net: Net, node: NodeProto, name: str, role: Role, operator: str) -> StoredTensor:
    scale, zero, bits = (net.constant(parameter) for parameter in node.input[1:4])
    width = 8 if bits is None or float(bits.reshape(-1)[0]) <= 8 else 16
    axes = [] if scale is None else [axis for axis, size in enumerate(scale.shape) if size > 1]
    return StoredTensor(
        name,
        role,
        f"{'' if integer(node, 'signed') else 'u'}int{width}",
        net.shapes.get(name),
        () if scale is None else tuple(float(s) for s in scale.reshape(-1)),
        () if zero is None else tuple(int(z) for z in zero.reshape(-1)),
        axes[0] if axes else None,
        operator,
    )
