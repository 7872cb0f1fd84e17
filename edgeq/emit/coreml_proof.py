"""Proof that a written file holds what was meant: every constant and every quantizer is read back and compared.

A converter may silently leave a weight in half precision, pack bits in another order, or give a channel the scale of
its neighbour. Here a stored weight must be a compressed constant of the width of its format, and the reals that it
stands for, computed from the file alone in double precision, must be exactly level times scale of the graph.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from edgeq.emit.coreml_decompress import decompressed, has_rounded_table, part_of, stored_bits
from edgeq.emit.coreml_read import Constant, MilProgram, Operator, read_model
from edgeq.emit.coreml_writer import SMALLEST_CODES, Writer, is_narrow
from edgeq.errors import AgreementError
from edgeq.formats import bits_of, decode
from edgeq.ir import ops as o
from edgeq.ir.graph import Array, Type

WIDTHS = (1, 2, 3, 4, 6, 8)
"""Bits that an element can have in a weight file, without gaps between elements."""


def prove(model: bytes, weights: bytes, w: Writer) -> int:
    """Number of constants and quantizers that were compared.

    Raises AgreementError, naming the first that differs, and UnsupportedError for a file that cannot be read at all.
    """
    program = read_model(model, weights)
    made = {spot.name: operator for operator in program.operators for spot in operator.outputs}
    compared = 0
    for value, tensor in w.views().items():
        if value in w.graph.constants:
            if tensor.name not in made:
                raise AgreementError("a constant is missing in the file", where=value)
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
        stored = part_of(operator, "val")
        if stored.array.shape != codes.shape or stored.dtype == "string":
            raise AgreementError("a constant of the file is something else", where=value, value=stored.dtype)
        _compare(value, stored.array, wanted.astype(real) if stored.dtype in ("fp16", "fp32") else wanted)
        return
    if not operator.kind.startswith("constexpr_"):
        raise AgreementError(
            "a weight was left in the file as plain numbers", where=value, value=operator.kind, allowed=type_.format
        )
    width = next(width for width in WIDTHS if width >= bits_of(type_.format))
    found = stored_bits(operator, made)
    if found > (4 if width == 3 and w.ios < 18 else width):
        raise AgreementError("a weight takes more bits than its format", where=value, value=found, allowed=width)
    wanted = decode(type_.format, codes, type_.zero_point) * type_.scales
    exact = decompressed(operator, made)
    if exact.shape != codes.shape:
        raise AgreementError("a constant of the file has another shape", where=value, value=exact.shape)
    _compare(value, exact, wanted.astype(real).astype(np.float64) if has_rounded_table(operator) else wanted)


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


def _prove_quantizers(program: MilProgram, made: Mapping[str, Operator], w: Writer) -> int:
    """Every tensor of codes has one quantizer with the scale and zero point of its value, and so has every reader."""
    types = {w.tensors[v].name: (v, w.type(v)) for v in w.tensors if is_narrow(w.type(v))}
    found = 0
    for operator in program.operators:
        if operator.kind not in ("quantize", "dequantize"):
            continue
        codes = operator.outputs[0].name if operator.kind == "quantize" else _name(operator, "input")
        if codes not in types:
            raise AgreementError("the file quantizes what was meant to be real", where=codes)
        value, type_ = types[codes]
        scale, zero_point = (_number(operator, key, made) for key in ("scale", "zero_point"))
        if (scale,) != type_.scale or zero_point != type_.zero_point:
            raise AgreementError(
                "a quantizer of the file is not what was meant", where=value,
                value=f"scale {scale}, zero point {zero_point}",
                allowed=f"scale {type_.scale[0]!r}, zero point {type_.zero_point}",
            )  # fmt: skip
        found += 1
    return found


def _name(operator: Operator, key: str) -> str:
    """The one tensor that an operand names; empty where there is none."""
    part = operator.inputs.get(key)
    return "" if part is None or isinstance(part, Constant) or len(part) != 1 else part[0]


def _number(operator: Operator, key: str, made: Mapping[str, Operator]) -> float:
    """A scalar operand: 0 where it is not given, NaN where it is no number."""
    if key not in operator.inputs:
        return 0.0
    constant = made[_name(operator, key)].attributes.get("val") if _name(operator, key) in made else None
    is_number = constant is not None and constant.array.size == 1 and constant.array.dtype.kind in "fiu"
    return float(constant.array.reshape(())) if constant is not None and is_number else math.nan
