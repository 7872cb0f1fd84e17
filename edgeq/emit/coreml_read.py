"""Reads a CoreML package back: operators and constants as plain data, from the bytes alone.

Nothing here is shared with the code that writes such files except the numbers of the format's fields and types, so that
what is read is evidence of what was written. Reading trusts nothing: sizes, offsets and paths are checked.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # it ships no types

from edgeq.emit.coreml_schema import BLOB_TYPES, Model, data_type_name
from edgeq.errors import UnsupportedError, UntrustedInputError
from edgeq.ir.graph import Array

Shape = tuple[int, ...]
LARGEST_ELEMENTS = 1 << 28
_RECORD = struct.Struct("<IIQQQ")
_BYTES = {"bool": "u1", "int8": "i1", "uint8": "u1", "int16": "<i2", "uint16": "<u2", "int32": "<i4", "uint32": "<u4"}
_FIELD_OF = {"string": "strings", "bool": "bools", "int32": "ints", "fp32": "floats"}
_FLOATS = {"fp16": "<f2", "fp32": "<f4"}


@dataclass(frozen=True)
class Spot:
    """A named tensor of the program."""

    name: str
    shape: Shape
    dtype: str


@dataclass(frozen=True, eq=False)
class Constant:
    """Content of a constant; integers narrower than a byte are spread out, `dtype` tells how they are stored."""

    array: Array
    dtype: str


@dataclass(frozen=True, eq=False)
class Operator:
    """One operator; an input is the names of other results, or a constant in place."""

    kind: str
    inputs: Mapping[str, tuple[str, ...] | Constant]
    outputs: tuple[Spot, ...]
    attributes: Mapping[str, Constant]


@dataclass(frozen=True, eq=False)
class MilProgram:
    """A program in execution order; `images` are the inputs declared as images, with their colour order."""

    opset: str
    inputs: tuple[Spot, ...]
    outputs: tuple[str, ...]
    operators: tuple[Operator, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)
    images: Mapping[str, int] = field(default_factory=dict)


def read_package(path: Path) -> MilProgram:
    """The program of an `.mlpackage` folder.

    Raises UnsupportedError for what is damaged or is no ML program, UntrustedInputError for a path out of the folder.
    """
    try:
        listed = json.loads((path / "Manifest.json").read_bytes())
        item = str(listed["itemInfoEntries"][listed["rootModelIdentifier"]]["path"])
        model_file = _inside(path / "Data", item)
        weight_file = model_file.parent / "weights" / "weight.bin"
        weights = weight_file.read_bytes() if weight_file.is_file() else b""
        return read_model(model_file.read_bytes(), weights)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UnsupportedError("not a CoreML package", where=path, value=error) from error


def _inside(folder: Path, name: str) -> Path:
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise UntrustedInputError("a package names a file outside itself", value=name)
    return folder / name


def read_model(model: bytes, weights: bytes) -> MilProgram:
    """The program in the bytes of the model file and the weight file. Raises UnsupportedError."""
    try:
        message = Model.FromString(model)
    except DecodeError as error:
        raise UnsupportedError("the CoreML model file is damaged", value=error) from error
    if "main" not in message.mlProgram.functions:
        raise UnsupportedError("the CoreML file holds no ML program", next_step="Convert it for iOS 15 or later.")
    function = message.mlProgram.functions["main"]
    if function.opset not in function.block_specializations:
        raise UnsupportedError("the program has no operators", value=function.opset)
    block = function.block_specializations[function.opset]
    description = message.description
    return MilProgram(
        function.opset,
        tuple(_spot(port) for port in function.inputs),
        tuple(block.outputs),
        tuple(_operator(operation, weights) for operation in block.operations),
        dict(description.metadata.userDefined),
        {p.name: p.type.imageType.colorSpace for p in description.input if p.type.WhichOneof("choice") == "imageType"},
    )


def _spot(named: Any) -> Spot:
    shape, dtype = _shape_and_type(named.type, named.name)
    return Spot(named.name, shape, dtype)


def _shape_and_type(type_: Any, where: str) -> tuple[Shape, str]:
    tensor = type_.tensorType
    shape = tuple(dimension.constant.size for dimension in tensor.dimensions)
    if prod(shape) > LARGEST_ELEMENTS or len(shape) != tensor.rank:
        raise UnsupportedError("a tensor of impossible shape", where=where, value=shape)
    return shape, data_type_name(tensor.dataType, where)


def _operator(operation: Any, weights: bytes) -> Operator:
    if not operation.outputs:
        raise UnsupportedError("an operator without results", value=operation.type)
    where = operation.outputs[0].name
    if operation.blocks:
        raise UnsupportedError("control flow is not read", where=where, value=operation.type)
    inputs: dict[str, tuple[str, ...] | Constant] = {}
    for key, argument in operation.inputs.items():
        bindings = list(argument.arguments)
        if len(bindings) == 1 and bindings[0].WhichOneof("choice") == "value":
            inputs[key] = _constant(bindings[0].value, weights, f"{where}.{key}")
        else:
            inputs[key] = tuple(binding.name for binding in bindings)
    attributes = {
        key: _constant(value, weights, f"{where}.{key}")
        for key, value in operation.attributes.items()
        if value.type.WhichOneof("choice") == "tensorType"
    }
    return Operator(operation.type, inputs, tuple(map(_spot, operation.outputs)), attributes)


def _constant(value: Any, weights: bytes, where: str) -> Constant:
    shape, dtype = _shape_and_type(value.type, where)
    if value.WhichOneof("choice") == "blobFileValue":
        flat = _from_weights(weights, value.blobFileValue.offset, dtype, prod(shape), where)
    else:
        flat = _in_place(value.immediateValue.tensor, dtype, prod(shape), where)
    if flat.size != prod(shape):
        raise UnsupportedError("a constant of the wrong size", where=where, value=flat.size, allowed=prod(shape))
    return Constant(flat.reshape(shape), dtype)


def _in_place(tensor: Any, dtype: str, count: int, where: str) -> Array:
    kind = tensor.WhichOneof("choice")
    if kind is not None and kind != _FIELD_OF.get(dtype, "bytes"):
        raise UnsupportedError("a constant of the wrong kind", where=where, value=kind, allowed=dtype)
    match kind:
        case "strings":
            return np.array(list(tensor.strings.values))
        case "bools":
            return np.array(list(tensor.bools.values), dtype=bool)
        case "ints":
            return np.array(list(tensor.ints.values), dtype=np.int64)
        case "floats":
            return np.array(list(tensor.floats.values), dtype=np.float32)
        case "bytes":
            return _unpacked(tensor.bytes.values, dtype, count, where)
        case _:
            if count == 0:
                return np.zeros(0, dtype=np.float32)
            raise UnsupportedError("a constant without content", where=where, value=kind)


def _from_weights(weights: bytes, offset: int, dtype: str, count: int, where: str) -> Array:
    if offset % 64 or offset + _RECORD.size > len(weights):
        raise UnsupportedError("a constant lies outside the weight file", where=where, value=offset)
    sentinel, kind, size, start, unused = _RECORD.unpack_from(weights, offset)
    if sentinel != 0xDEADBEEF or kind != BLOB_TYPES.get(dtype):
        raise UnsupportedError("the weight file holds something else", where=where, value=kind, allowed=dtype)
    if start % 64 or start + size > len(weights) or not 0 <= unused < 8:
        raise UnsupportedError("a constant lies outside the weight file", where=where, value=(start, size))
    return _unpacked(weights[start : start + size], dtype, count, where)


def _unpacked(content: bytes, dtype: str, count: int, where: str) -> Array:
    """`count` elements from bytes: whole bytes little endian, narrower ones from the lowest bit up."""
    layout = _BYTES.get(dtype) or _FLOATS.get(dtype)
    bits = int(dtype.lstrip("uint")) if layout is None else 8 * np.dtype(layout).itemsize
    if len(content) != -(-count * bits // 8):
        raise UnsupportedError("a constant of the wrong size", where=where, value=len(content))
    if layout is not None:
        return np.frombuffer(content, layout)
    stream = np.unpackbits(np.frombuffer(content, np.uint8), bitorder="little")[: count * bits]
    codes = np.asarray(stream.reshape(count, bits) @ (1 << np.arange(bits)), dtype=np.int64)
    return codes - ((codes >> (bits - 1)) << bits) if dtype.startswith("int") else codes
