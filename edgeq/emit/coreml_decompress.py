"""What the compressed constants of an ML program stand for, from their parts alone, in double precision."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgeq.emit.coreml_read import Constant, Operator
from edgeq.errors import UnsupportedError
from edgeq.formats import FloatArray


def part_of(operator: Operator, key: str) -> Constant:
    """A constant part of an operator: an input in iOS 18, an attribute before."""
    part = operator.inputs.get(key, operator.attributes.get(key))
    if not isinstance(part, Constant):
        raise UnsupportedError("a part of a constant is missing", where=operator.outputs[0].name, value=key)
    return part


def has_rounded_table(operator: Operator) -> bool:
    """Whether the table holds products of level and scale, rounded, which is all that systems before iOS 18 know."""
    return operator.kind == "constexpr_lut_to_dense" and "shape" in operator.attributes


def stored_bits(operator: Operator, made: Mapping[str, Operator]) -> int:
    """Bits of one stored element."""
    match operator.kind:
        case "constexpr_affine_dequantize":
            return width_of(part_of(operator, "quantized_data").dtype)
        case "constexpr_lut_to_dense" if has_rounded_table(operator):
            return int(part_of(operator, "lut").array.size).bit_length() - 1
        case "constexpr_lut_to_dense":
            return width_of(part_of(operator, "indices").dtype)
        case "constexpr_blockwise_shift_scale":
            data = operator.inputs["data"]
            return width_of(data.dtype) if isinstance(data, Constant) else stored_bits(made[data[0]], made)
        case kind:
            raise UnsupportedError("a constant of an unknown kind", where=operator.outputs[0].name, value=kind)


def width_of(dtype: str) -> int:
    return int(dtype.lstrip("uintfp"))


def decompressed(operator: Operator, made: Mapping[str, Operator]) -> FloatArray:
    """The reals that a compressed constant stands for, in double precision, before they are rounded."""
    match operator.kind:
        case "constexpr_affine_dequantize":
            codes = part_of(operator, "quantized_data").array.astype(np.float64)
            shape = [1] * codes.ndim
            scale = part_of(operator, "scale").array.astype(np.float64)
            if scale.ndim:
                shape[int(part_of(operator, "axis").array)] = -1
            return (codes - float(part_of(operator, "zero_point").array)) * scale.reshape(shape)
        case "constexpr_lut_to_dense" if has_rounded_table(operator):
            return _old_table(operator)
        case "constexpr_lut_to_dense":
            table = part_of(operator, "lut").array.astype(np.float64)
            indices = part_of(operator, "indices").array.astype(np.int64)
            if table.size != table.shape[-2]:
                raise UnsupportedError("one table for the whole constant was meant", value=table.shape)
            return np.asarray(table.reshape(-1)[indices])
        case "constexpr_blockwise_shift_scale":
            part = operator.inputs["data"]
            data = part.array.astype(np.float64) if isinstance(part, Constant) else decompressed(made[part[0]], made)
            if "offset" in operator.inputs:
                data = data - spread(part_of(operator, "offset").array.astype(np.float64), data.shape)
            return data * spread(part_of(operator, "scale").array.astype(np.float64), data.shape)
        case kind:
            raise UnsupportedError("a constant of an unknown kind", where=operator.outputs[0].name, value=kind)


def spread(grid: FloatArray, shape: tuple[int, ...]) -> FloatArray:
    """One number per block as one per element."""
    for axis, (blocks, size) in enumerate(zip(grid.shape, shape, strict=True)):
        grid = np.repeat(grid, size // blocks, axis=axis)
    return grid


def _old_table(operator: Operator) -> FloatArray:
    table = part_of(operator, "lut").array.astype(np.float64)
    shape = tuple(part_of(operator, "shape").array.astype(int).tolist())
    bits = int(table.size).bit_length() - 1
    stream = np.unpackbits(part_of(operator, "indices").array.astype(np.uint8), bitorder="little")
    count = int(np.prod(shape))
    indices = stream[: count * bits].reshape(count, bits) @ (1 << np.arange(bits))
    return np.asarray(table[indices.reshape(shape)])
