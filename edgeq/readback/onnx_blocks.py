"""Constants with a scale per block in ONNX files: DequantizeLinear with a block size, or rows of blocks times scales."""

from __future__ import annotations

import numpy as np

from edgeq.lint.net import DEQUANTIZE, Net, integer
from edgeq.readback.stored import Numbers


def in_blocks(net: Net, name: str) -> bool:
    """Whether a tensor is a constant whose scale changes along the dequantized axis."""
    node = net.producer.get(name)
    if node is None or not net.is_constant(name):
        return False
    if node.op_type == DEQUANTIZE:
        return bool(integer(node, "block_size"))
    return node.op_type == "Reshape" and _is_scaled(net, node.input[0])


def _is_scaled(net: Net, name: str) -> bool:
    node = net.producer.get(name)
    return node is not None and node.op_type == "Mul"


def blocked_reals(net: Net, name: str) -> Numbers | None:
    """float32 reals of such a constant; None for what is not understood."""
    node = net.producer[name]
    if node.op_type == DEQUANTIZE:
        codes, scale = net.constant(node.input[0]), net.constant(node.input[1])
        axis, block = integer(node, "axis"), integer(node, "block_size")
        if codes is None or scale is None or not block or len(node.input) > 2:
            return None
        spread = np.repeat(scale, block, axis=1 if axis is None else axis)
        return codes.astype(np.float32) * spread if spread.shape == codes.shape else None
    scaled, shape = net.producer[node.input[0]], net.constant(node.input[1])
    rows, scale = net.producer.get(scaled.input[0]), net.constant(scaled.input[1])
    if rows is None or rows.op_type != "Reshape" or shape is None or scale is None:
        return None
    levels, grid = net.constant(rows.input[0]), net.constant(rows.input[1])
    if levels is None or grid is None:
        return None
    found: Numbers = (levels.astype(np.float32).reshape(grid) * scale).reshape(shape)
    return found
