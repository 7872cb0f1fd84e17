"""The numbers of a CoreML package: quantizers, and weights as codes or, where tables or blocks make them, as reals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from edgeq.emit.coreml_decompress import decompressed, has_rounded_table, part_of, stored_bits
from edgeq.emit.coreml_read import Constant, MilProgram, Operator, read_package
from edgeq.errors import UnsupportedError
from edgeq.readback.stored import Numbers, Role, Stored, StoredOperator, StoredTensor

# Names of weight and bias among the inputs.
_PARAMETERS = {
    "conv": ("weight", "bias"), "conv_transpose": ("weight", "bias"), "linear": ("weight", "bias"), "matmul": ("y", ""),
}  # fmt: skip
_MOVING = ("reshape", "transpose", "squeeze", "expand_dims", "slice_by_index", "gather", "identity")
_Made = Mapping[str, Operator]


def read_stored(path: str | Path) -> Stored:
    """Every quantized tensor of a package. Raises UnsupportedError and UntrustedInputError as `read_package` does."""
    program = read_package(Path(path))
    made = {spot.name: operator for operator in program.operators for spot in operator.outputs}
    weighted = [found for op in program.operators if (found := _weighted(op, made)) is not None]
    aliases = {op.outputs[0].name: name for op in program.operators if op.kind in _MOVING and (name := _named(op, "x"))}
    kinds = Counter(op.kind for op in program.operators if op.kind != "const" and not op.kind.startswith("constexpr"))
    return Stored("mlpackage", tuple(_activations(program, made)), tuple(weighted), (), kinds, aliases)


def _named(operator: Operator, key: str) -> str:
    """The one tensor that an operand names; empty where there is none."""
    part = operator.inputs.get(key)
    return "" if part is None or isinstance(part, Constant) or len(part) != 1 else part[0]


def _activations(program: MilProgram, made: _Made) -> Iterator[StoredTensor]:
    for operator in program.operators:
        if operator.kind not in ("quantize", "dequantize"):
            continue
        quantizes = operator.kind == "quantize"
        name = operator.outputs[0].name if quantizes else _named(operator, "input")
        before = made.get(_named(operator, "input"))
        scale, zero = _array(operator, "scale", made), _array(operator, "zero_point", made)
        spots = {spot.name: spot for op in program.operators for spot in op.outputs} if not quantizes else {}
        spot = operator.outputs[0] if quantizes else spots.get(name)
        yield StoredTensor(
            name,
            "activation",
            "int8" if spot is None else spot.dtype,
            None if spot is None else spot.shape,
            () if scale is None else tuple(float(s) for s in scale.reshape(-1)),
            (0,) if zero is None else tuple(int(z) for z in zero.reshape(-1)),
            None,
            before.kind if before is not None else "",
        )


def _array(operator: Operator, key: str, made: _Made) -> Numbers | None:
    """A constant operand, in place or made by an operator of its own."""
    part = operator.inputs.get(key, operator.attributes.get(key))
    if isinstance(part, Constant):
        return part.array
    source = made.get(_named(operator, key))
    return part_of(source, "val").array if source is not None and source.kind == "const" else None


def _weighted(operator: Operator, made: _Made) -> StoredOperator | None:
    if operator.kind not in _PARAMETERS:
        return None
    weight_key, bias_key = _PARAMETERS[operator.kind]
    title = operator.outputs[0].name
    weight = _constant(operator, weight_key, "weight", title, made)
    if weight is None:
        return None
    bias = _constant(operator, bias_key, "bias", title, made) if bias_key else None
    return StoredOperator(title, operator.kind, tuple(spot.name for spot in operator.outputs), weight, bias)


def _constant(operator: Operator, key: str, role: Role, title: str, made: _Made) -> StoredTensor | None:
    part = operator.inputs.get(key)
    if isinstance(part, Constant):
        return StoredTensor(f"{title}.{key}", role, part.dtype, part.array.shape, operator=title, array=part.array)
    source = made.get(_named(operator, key))
    if source is None or not (source.kind == "const" or source.kind.startswith("constexpr_")):
        return None
    name, shape = source.outputs[0].name, source.outputs[0].shape
    if source.kind == "const":
        value = part_of(source, "val")
        return StoredTensor(name, role, value.dtype, shape, operator=title, array=value.array)
    if source.kind == "constexpr_affine_dequantize":
        return _affine(source, role, title)
    element = f"{stored_bits(source, made)}-bit {'table' if 'lut' in source.kind else 'blocks or table'}"
    reals = decompressed(source, made)
    return StoredTensor(
        name,
        role,
        element,
        shape,
        operator=title,
        array=reals.astype(np.float16) if has_rounded_table(source) else reals,
    )


def _affine(source: Operator, role: Role, title: str) -> StoredTensor:
    codes, scale = part_of(source, "quantized_data"), part_of(source, "scale").array
    axis = int(part_of(source, "axis").array) if scale.size > 1 else None
    if axis is not None and not -codes.array.ndim <= axis < codes.array.ndim:
        raise UnsupportedError("a compressed constant is damaged", where=title, value=axis)
    zeros = tuple(int(z) for z in part_of(source, "zero_point").array.reshape(-1))
    scales = tuple(float(s) for s in scale.reshape(-1))
    name = source.outputs[0].name
    return StoredTensor(name, role, codes.dtype, codes.array.shape, scales, zeros, axis, title, codes.array)
