"""What the compressed constants of an ML program stand for, from their parts alone, in double precision."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np

from edgeq.emit.coreml_read import Constant, Operator
from edgeq.errors import UnsupportedError
from edgeq.formats import FloatArray

_DAMAGE = (KeyError, IndexError, ValueError, TypeError, ZeroDivisionError)


def part_of(operator: Operator, key: str) -> Constant:
    """A constant part of an operator: an input in iOS 18, an attribute before. Raises UnsupportedError."""
    part = operator.inputs.get(key, operator.attributes.get(key))
    if not isinstance(part, Constant):
        raise UnsupportedError("a part of a constant is missing", where=operator.outputs[0].name, value=key)
    return part


def has_rounded_table(operator: Operator) -> bool:
    """Whether the table holds products of level and scale, rounded, which is all that systems before iOS 18 know."""
    return operator.kind == "constexpr_lut_to_dense" and "shape" in operator.attributes


def _table_behind(operator: Operator, made: Mapping[str, Operator]) -> Operator | None:
    """The table whose result `operator` scales, if it scales one."""
    data = operator.inputs.get("data")
    if data is None or isinstance(data, Constant):
        return None
    found = made.get(data[0]) if len(data) == 1 else None
    if found is None or found.kind != "constexpr_lut_to_dense":
        raise UnsupportedError("a constant is made of something else", where=operator.outputs[0].name, value=data)
    return found


def stored_bits(operator: Operator, made: Mapping[str, Operator]) -> int:
    """Bits of one stored element of a compressed constant. Raises UnsupportedError."""
    match operator.kind:
        case "constexpr_affine_dequantize":
            return _width(part_of(operator, "quantized_data").dtype)
        case "constexpr_lut_to_dense" if has_rounded_table(operator):
            return int(part_of(operator, "lut").array.size).bit_length() - 1
        case "constexpr_lut_to_dense":
            return _width(part_of(operator, "indices").dtype)
        case "constexpr_blockwise_shift_scale":
            table = _table_behind(operator, made)
            return _width(part_of(operator, "data").dtype) if table is None else stored_bits(table, made)
        case kind:
            raise UnsupportedError("a constant of an unknown kind", where=operator.outputs[0].name, value=kind)


def _width(dtype: str) -> int:
    return int(dtype.lstrip("uintfp"))


def decompressed(operator: Operator, made: Mapping[str, Operator]) -> FloatArray:
    """The reals that a compressed constant stands for, in double precision, before they are rounded.

    `made` finds the operator of every tensor. Raises UnsupportedError for parts that do not fit each other.
    """
    try:
        return _decompressed(operator, made)
    except _DAMAGE as error:
        raise UnsupportedError(
            "a compressed constant is damaged", where=operator.outputs[0].name, value=error
        ) from error


def _decompressed(operator: Operator, made: Mapping[str, Operator]) -> FloatArray:
    match operator.kind:
        case "constexpr_affine_dequantize":
            codes = part_of(operator, "quantized_data").array.astype(np.float64)
            shape = [1] * codes.ndim
            scale = part_of(operator, "scale").array.astype(np.float64)
            if scale.ndim:
                shape[int(part_of(operator, "axis").array)] = -1
            return (codes - float(part_of(operator, "zero_point").array)) * scale.reshape(shape)
        case "constexpr_lut_to_dense" if has_rounded_table(operator):
            return _packed_table(operator)
        case "constexpr_lut_to_dense":
            table = part_of(operator, "lut").array.astype(np.float64)
            if table.size != table.shape[-2]:
                raise ValueError(f"tables {table.shape}, where one for the whole constant is known")
            return np.asarray(table.reshape(-1)[part_of(operator, "indices").array.astype(np.int64)])
        case "constexpr_blockwise_shift_scale":
            behind = _table_behind(operator, made)
            data = part_of(operator, "data").array.astype(np.float64) if behind is None else decompressed(behind, made)
            if "offset" in operator.inputs:
                data = data - _spread(part_of(operator, "offset").array.astype(np.float64), data.shape)
            return data * _spread(part_of(operator, "scale").array.astype(np.float64), data.shape)
        case kind:
            raise UnsupportedError("a constant of an unknown kind", where=operator.outputs[0].name, value=kind)


def _spread(grid: FloatArray, shape: tuple[int, ...]) -> FloatArray:
    """One number per block as one per element."""
    for axis, (blocks, size) in enumerate(zip(grid.shape, shape, strict=True)):
        grid = np.repeat(grid, size // blocks, axis=axis)
    return grid


def _packed_table(operator: Operator) -> FloatArray:
    table = part_of(operator, "lut").array.astype(np.float64)
    shape = tuple(part_of(operator, "shape").array.astype(int).tolist())
    bits, count = int(table.size).bit_length() - 1, prod(shape)
    stream = np.unpackbits(part_of(operator, "indices").array.astype(np.uint8), bitorder="little")
    indices = stream[: count * bits].reshape(count, bits) @ (1 << np.arange(bits))
    return np.asarray(table[indices.reshape(shape)])
