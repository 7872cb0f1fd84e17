"""Proof that a written file holds what was meant: every constant and every quantizer is read back and compared.

A converter may silently leave a weight in half precision, pack bits in another order, or give a channel the scale of
its neighbour. Here a stored weight must be a compressed constant of the width of its format, and the reals that it
stands for, computed from the file alone in double precision, must be exactly level times scale of the graph.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgeq.emit.coreml_read import Constant, MilProgram, Operator, read_model
from edgeq.emit.coreml_writer import SMALLEST_CODES, Writer, is_narrow
from edgeq.errors import AgreementError
from edgeq.formats import FloatArray, bits_of, decode
from edgeq.ir import ops as o
from edgeq.ir.graph import Array, Type

WIDTHS = (1, 2, 3, 4, 6, 8)
"""Bits that an element can have in a weight file, without gaps between elements."""


def prove(model: bytes, weights: bytes, w: Writer) -> int:
    """Number of constants and quantizers that were compared. Raises AgreementError, naming the first that differs."""
    program = read_model(model, weights)
    made = {spot.name: operator for operator in program.operators for spot in operator.outputs}
    compared = 0
    for value, tensor in w.views().items():
        if value in w.graph.constants:
            _prove_constant(value, w.graph.constants[value], w.type(value), made[tensor.name], made, w)
            compared += 1
    return compared + _prove_quantizers(program, made, w)


def _prove_constant(
    value: o.Value, codes: Array, type_: Type, operator: Operator, made: Mapping[str, Operator], w: Writer
) -> None:
    real = np.float32 if w.real_dtype == "fp32" else np.float16
    if operator.outputs[0].shape != codes.shape:
        raise AgreementError("a constant of the file has another shape", where=value, value=operator.outputs[0].shape)
    if not type_.scale or codes.size < SMALLEST_CODES or bits_of(type_.format) > 8:
        wanted = decode(type_.format, codes, type_.zero_point) * type_.scales if type_.scale else codes
        stored = _content(operator, "val")
        _compare(value, stored.array, wanted.astype(real) if stored.dtype in ("fp16", "fp32") else wanted)
        return
    if not operator.kind.startswith("constexpr_"):
        raise AgreementError(
            "a weight was left in the file as plain numbers", where=value, value=operator.kind, allowed=type_.format
        )
    width = next(width for width in WIDTHS if width >= bits_of(type_.format))
    found = _stored_bits(operator, made)
    if found > (4 if width == 3 and w.ios < 18 else width):
        raise AgreementError("a weight takes more bits than its format", where=value, value=found, allowed=width)
    wanted = decode(type_.format, codes, type_.zero_point) * type_.scales
    exact = decompressed(operator, made)
    _compare(value, exact, wanted.astype(real).astype(np.float64) if _has_rounded_table(operator) else wanted)


def _compare(value: o.Value, found: Array, wanted: Array) -> None:
    differs = found != wanted
    if differs.any():
        first = tuple(int(index[0]) for index in np.nonzero(differs))
        raise AgreementError(
            "a constant of the file is not what was meant",
            where=value,
            value=f"{found[first]} at {list(first)}, {int(differs.sum())} of {found.size} elements differ",
            allowed=str(wanted[first]),
        )


def _content(operator: Operator, key: str) -> Constant:
    """A constant part of an operator: an input in iOS 18, an attribute before."""
    part = operator.inputs.get(key, operator.attributes.get(key))
    if not isinstance(part, Constant):
        raise AgreementError("a part of a constant is missing", where=operator.outputs[0].name, value=key)
    return part


def _has_rounded_table(operator: Operator) -> bool:
    """Whether the table holds products of level and scale, rounded, which is all that systems before iOS 18 know."""
    return operator.kind == "constexpr_lut_to_dense" and "shape" in operator.attributes


def _stored_bits(operator: Operator, made: Mapping[str, Operator]) -> int:
    """Bits of one stored element."""
    match operator.kind:
        case "constexpr_affine_dequantize":
            return _width(_content(operator, "quantized_data").dtype)
        case "constexpr_lut_to_dense" if _has_rounded_table(operator):
            return int(_content(operator, "lut").array.size).bit_length() - 1
        case "constexpr_lut_to_dense":
            return _width(_content(operator, "indices").dtype)
        case "constexpr_blockwise_shift_scale":
            data = operator.inputs["data"]
            return _width(data.dtype) if isinstance(data, Constant) else _stored_bits(made[data[0]], made)
        case kind:
            raise AgreementError("a constant of an unknown kind", where=operator.outputs[0].name, value=kind)


def _width(dtype: str) -> int:
    return int(dtype.lstrip("uintfp"))


def decompressed(operator: Operator, made: Mapping[str, Operator]) -> FloatArray:
    """The reals that a compressed constant stands for, in double precision, before they are rounded."""
    match operator.kind:
        case "constexpr_affine_dequantize":
            codes = _content(operator, "quantized_data").array.astype(np.float64)
            shape = [1] * codes.ndim
            scale = _content(operator, "scale").array.astype(np.float64)
            if scale.ndim:
                shape[int(_content(operator, "axis").array)] = -1
            return (codes - float(_content(operator, "zero_point").array)) * scale.reshape(shape)
        case "constexpr_lut_to_dense" if _has_rounded_table(operator):
            return _old_table(operator)
        case "constexpr_lut_to_dense":
            table = _content(operator, "lut").array.astype(np.float64)
            indices = _content(operator, "indices").array.astype(np.int64)
            if table.size != table.shape[-2]:
                raise AgreementError("one table for the whole constant was meant", value=table.shape)
            return np.asarray(table.reshape(-1)[indices])
        case "constexpr_blockwise_shift_scale":
            part = operator.inputs["data"]
            data = part.array.astype(np.float64) if isinstance(part, Constant) else decompressed(made[part[0]], made)
            if "offset" in operator.inputs:
                data = data - spread(_content(operator, "offset").array.astype(np.float64), data.shape)
            return data * spread(_content(operator, "scale").array.astype(np.float64), data.shape)
        case kind:
            raise AgreementError("a constant of an unknown kind", where=operator.outputs[0].name, value=kind)


def spread(grid: FloatArray, shape: tuple[int, ...]) -> FloatArray:
    """One number per block as one per element."""
    for axis, (blocks, size) in enumerate(zip(grid.shape, shape, strict=True)):
        grid = np.repeat(grid, size // blocks, axis=axis)
    return grid


def _old_table(operator: Operator) -> FloatArray:
    table = _content(operator, "lut").array.astype(np.float64)
    shape = tuple(_content(operator, "shape").array.astype(int).tolist())
    bits = int(table.size).bit_length() - 1
    stream = np.unpackbits(_content(operator, "indices").array.astype(np.uint8), bitorder="little")
    count = int(np.prod(shape))
    indices = stream[: count * bits].reshape(count, bits) @ (1 << np.arange(bits))
    return np.asarray(table[indices.reshape(shape)])


def _prove_quantizers(program: MilProgram, made: Mapping[str, Operator], w: Writer) -> int:
    """Every tensor of codes has one quantizer with the scale and zero point of its value, and so has every reader."""
    types = {w.tensors[v].name: (v, w.type(v)) for v in w.tensors if is_narrow(w.type(v))}
    found = 0
    for operator in program.operators:
        if operator.kind not in ("quantize", "dequantize"):
            continue
        codes = operator.outputs[0].name if operator.kind == "quantize" else _names(operator, "input")[0]
        if codes not in types:
            raise AgreementError("the file quantizes what was meant to be real", where=codes)
        value, type_ = types[codes]
        scale = made[_names(operator, "scale")[0]].attributes["val"].array.astype(np.float64)
        zero = _names(operator, "zero_point")
        zero_point = int(made[zero[0]].attributes["val"].array) if zero else 0
        if scale.size != 1 or (float(scale),) != type_.scale or zero_point != type_.zero_point:
            raise AgreementError(
                "a quantizer of the file is not what was meant", where=value,
                value=f"scale {scale}, zero point {zero_point}",
                allowed=f"scale {type_.scale[0]!r}, zero point {type_.zero_point}",
            )  # fmt: skip
        found += 1
    return found


def _names(operator: Operator, key: str) -> tuple[str, ...]:
    part = operator.inputs.get(key, ())
    return () if isinstance(part, Constant) else part
