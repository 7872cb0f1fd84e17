"""A .tflite file as plain data, checked: the result of reading bytes that nobody vouches for (schema version 3).

Tensors keep exactly what the file says: shape, element type, scales, zero points. Their bytes are decoded on demand.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import numpy as np

from edgeq.errors import UnsupportedError, UsageError
from edgeq.frontend.flatbuffer import Numbers, Table
from edgeq.frontend.tflite_names import OPERATORS

IDENTIFIER = b"TFL3"
MAX_FILE_BYTES = 1 << 32
MAX_RANK = 8
MAX_METADATA_BYTES = 1 << 20
OWN_RECORD = "edgeq"
"""The note that edgeq's own files carry."""
ABSENT = -1
"""The index of an operand that is left out."""

_CUSTOM = 32
_EXPORT_AGAIN = "Convert the model to .tflite again."
_METADATA_NAMES = ("metadata.json", "temp_meta.txt")

ELEMENT_TYPES = {
    0: "float32", 1: "float16", 2: "int32", 3: "uint8", 4: "int64", 5: "string", 6: "bool", 7: "int16",
    8: "complex64", 9: "int8", 10: "float64", 11: "complex128", 12: "uint64", 13: "resource", 14: "variant",
    15: "uint32", 16: "uint16", 17: "int4", 18: "bfloat16", 19: "int2", 20: "uint4",
}  # fmt: skip
PACKED_BITS = {"int4": 4, "uint4": 4, "int2": 2}
_DTYPES = {
    "float32": "<f4", "float16": "<f2", "float64": "<f8", "int8": "i1", "uint8": "u1", "int16": "<i2",
    "uint16": "<u2", "int32": "<i4", "uint32": "<u4", "int64": "<i8", "uint64": "<u8", "bool": "?",
}  # fmt: skip


@dataclass(frozen=True)
class FileTensor:
    """One tensor. `scale` and `zero_point` have one entry, or one per index of `axis`; both are empty for reals.

    `content` holds the bytes of a constant, and is None for a tensor that the network computes.
    """

    index: int
    name: str
    shape: tuple[int, ...]
    element: str
    scale: tuple[float, ...] = ()
    zero_point: tuple[int, ...] = ()
    axis: int = 0
    content: bytes | None = field(default=None, repr=False)
    obstacle: str = ""
    """Why edgeq cannot use this tensor (sparse, block-wise …), if it cannot."""

    @property
    def is_quantized(self) -> bool:
        """Whether the numbers are codes with a scale."""
        return bool(self.scale) and self.element in ("int8", "uint8", "int16", "int32", "int64", *PACKED_BITS)

    def array(self) -> Numbers:
        """The constant in row-major order. Raises UnsupportedError if its bytes are not what its shape needs."""
        content, size = self.content or b"", prod(self.shape)
        if self.obstacle:
            raise UnsupportedError(self.obstacle, where=self.name)
        if self.element in PACKED_BITS:
            return self._unpacked(content, size)
        dtype = "<u2" if self.element == "bfloat16" else _DTYPES.get(self.element)
        if dtype is None:
            raise UnsupportedError("unsupported element type", where=self.name, value=self.element)
        self._check_bytes(len(content), size * np.dtype(dtype).itemsize)
        if self.element == "bool":
            return np.frombuffer(content, "u1").astype(np.bool_).reshape(self.shape)
        array: Numbers = np.frombuffer(content, dtype)
        if self.element == "bfloat16":
            array = (array.astype(np.uint32) << 16).view(np.float32)
        return array.reshape(self.shape)

    def _unpacked(self, content: bytes, size: int) -> Numbers:
        """Packed codes, the first in the low bits of each byte."""
        bits = PACKED_BITS[self.element]
        per_byte = 8 // bits
        self._check_bytes(len(content), -(-size // per_byte))
        packed = np.frombuffer(content, "u1")
        codes = (packed[:, None] >> (bits * np.arange(per_byte, dtype=np.uint8))) & ((1 << bits) - 1)
        flat = codes.reshape(-1)[:size].astype(np.int8)
        if self.element != "uint4":
            flat = np.where(flat >= 1 << (bits - 1), flat - (1 << bits), flat).astype(np.int8)
        return flat.reshape(self.shape)

    def _check_bytes(self, found: int, needed: int) -> None:
        if found != needed:
            raise UnsupportedError(
                "a constant has the wrong number of bytes", where=self.name, value=found, allowed=needed
            )


@dataclass(frozen=True)
class FileOperator:
    """One operator: tensors by index (ABSENT for one left out), and its options, None where it has none."""

    kind: str
    version: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Table | None = field(default=None, repr=False)


@dataclass(frozen=True)
class TfliteFile:
    """The main subgraph of a file; `metadata` is what Ultralytics appends to it, as text.

    `port_names` are the names that the first signature gives to inputs and outputs, by tensor; `notes` the named
    buffers of metadata.
    """

    tensors: tuple[FileTensor, ...]
    operators: tuple[FileOperator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    description: str
    metadata: Mapping[str, str]
    port_names: Mapping[int, str] = field(default_factory=dict)
    notes: Mapping[str, bytes] = field(default_factory=dict, repr=False)


def read_tflite(source: str | Path | bytes) -> TfliteFile:
    """The file at a path, or its bytes.

    Raises UsageError if it cannot be read and UnsupportedError if it is no valid .tflite.
    """
    content = source if isinstance(source, bytes) else _read(Path(source))
    if len(content) < 8 or content[4:8] != IDENTIFIER:
        raise UnsupportedError("not a .tflite file", value=f"{len(content)} bytes", next_step=_EXPORT_AGAIN)
    root = Table.root(content)
    subgraphs = list(root.tables(2))
    if not subgraphs:
        raise UnsupportedError("the file has no network", next_step=_EXPORT_AGAIN)
    buffers = [_content(table, content) for table in root.tables(4)]
    codes = [_operator_kind(table) for table in root.tables(1)]
    main = subgraphs[0]
    tensors = tuple(_tensor(index, table, buffers) for index, table in enumerate(main.tables(0)))
    operators = tuple(_operator(table, codes, len(tensors)) for table in main.tables(3))
    inputs, outputs = (_indices(main, slot, len(tensors)) for slot in (1, 2))
    if not outputs or ABSENT in (*inputs, *outputs):
        raise UnsupportedError("the network has no outputs", next_step=_EXPORT_AGAIN)
    names = _port_names(root, (*inputs, *outputs))
    notes = {table.text(0): _buffer_of(table, buffers) or b"" for table in root.tables(6)}
    return TfliteFile(tensors, operators, inputs, outputs, root.text(3), _appended_metadata(content), names, notes)


def _read(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise UsageError("no such model file", where=path)
        if path.stat().st_size > MAX_FILE_BYTES:
            raise UnsupportedError("the model file is too large", where=path, allowed="4 GiB")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise UsageError("the model file cannot be read", where=path, value=error) from error


def _content(table: Table, content: bytes) -> bytes | None:
    """Bytes of a buffer, which may lie behind the FlatBuffer; None where it is empty."""
    offset, size = table.integer(1, "<Q"), table.integer(2, "<Q")
    if offset > 1:
        if offset + size > len(content):
            raise UnsupportedError("a buffer lies outside the file", value=f"{size} bytes at {offset}")
        return content[offset : offset + size]
    data = table.numbers(0, "u1")
    return None if data is None or not data.size else data.tobytes()


def _buffer_of(note: Table, buffers: list[bytes | None]) -> bytes | None:
    index = note.integer(1, "<I")
    return buffers[index] if index < len(buffers) else None


def _operator_kind(table: Table) -> tuple[str, int]:
    """Name and version of an operator code; custom operators are CUSTOM:name."""
    code = max(table.integer(0, "<b"), table.integer(3))  # the older field ends at 127
    version = table.integer(2, default=1)
    if code == _CUSTOM:
        return f"CUSTOM:{table.text(1)}", version
    return OPERATORS.get(code, f"OPERATOR_{code}"), version


def _tensor(index: int, table: Table, buffers: list[bytes | None]) -> FileTensor:
    name = table.text(3) or f"tensor_{index}"
    shape, buffer = table.integers(0), table.integer(2, "<I")
    if len(shape) > MAX_RANK or any(not 0 <= size < 1 << 31 for size in shape):
        raise UnsupportedError("a tensor has an impossible shape", where=name, value=shape[: MAX_RANK + 1])
    if buffer >= len(buffers) and buffer:
        raise UnsupportedError("a tensor names no buffer", where=name, value=buffer)
    code = table.integer(1, "<b")
    element = ELEMENT_TYPES.get(code, f"type {code}")
    scale, zero_point, axis, obstacle = _quantization(table.table(4), shape, name)
    if table.table(6) is not None:
        obstacle = "sparse tensors are not supported"
    elif table.flag(5):
        obstacle = "variables are not supported"
    content = buffers[buffer] if buffer < len(buffers) else None
    return FileTensor(index, name, shape, element, scale, zero_point, axis, content, obstacle)


_Quantization = tuple[tuple[float, ...], tuple[int, ...], int, str]


def _quantization(table: Table | None, shape: tuple[int, ...], name: str) -> _Quantization:
    if table is None:
        return (), (), 0, ""
    found, zeros = table.numbers(2, "<f4"), table.integers(3, "<i8")
    scale = () if found is None else tuple(float(number) for number in found)
    axis = table.integer(6)
    if not scale:
        return (), (), 0, "block-wise scales are not supported" if table.integer(4, "<B") > 1 else ""
    if len(scale) > 1 and not (0 <= axis < len(shape) and shape[axis] == len(scale)):
        return scale, zeros, axis, f"{len(scale)} scales do not lie along axis {axis} of {shape}"
    if len(zeros) not in (0, 1, len(scale)):
        return scale, zeros, axis, f"{len(zeros)} zero points for {len(scale)} scales"
    zeros = zeros if len(zeros) == len(scale) else (zeros[0] if zeros else 0,) * len(scale)
    return scale, zeros, axis, ""


def _operator(table: Table, codes: list[tuple[str, int]], tensors: int) -> FileOperator:
    code = table.integer(0, "<I")
    if code >= len(codes):
        raise UnsupportedError("an operator has no code", value=code, allowed=f"0…{len(codes) - 1}")
    kind, version = codes[code]
    inputs, outputs = (_indices(table, slot, tensors) for slot in (1, 2))
    return FileOperator(kind, version, inputs, outputs, table.table(4))


def _port_names(root: Table, ports: tuple[int, ...]) -> dict[int, str]:
    """Names of the ports by the first signature of the main subgraph, where there is one."""
    for signature in root.tables(7):
        if signature.integer(4, "<I") == 0:
            maps = [*signature.tables(0), *signature.tables(1)]
            named = {table.integer(1, "<I"): table.text(0) for table in maps}
            return {index: name for index, name in named.items() if index in ports and name}
    return {}


def _indices(table: Table, slot: int, tensors: int) -> tuple[int, ...]:
    found = table.integers(slot)
    for index in found:
        if not ABSENT <= index < tensors:
            raise UnsupportedError("there is no such tensor", value=index, allowed=f"0…{tensors - 1}")
    return found


def _appended_metadata(content: bytes) -> dict[str, str]:
    """The metadata of a zip archive behind the FlatBuffer; empty where there is none that can be read."""
    if b"PK\x05\x06" not in content[-(1 << 16) - 22 :]:
        return {}
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for name in _METADATA_NAMES:
                if name in archive.namelist() and archive.getinfo(name).file_size <= MAX_METADATA_BYTES:
                    with archive.open(name) as entry:
                        found = json.loads(entry.read(MAX_METADATA_BYTES))
                    return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}
    except (zipfile.BadZipFile, OSError, ValueError, RuntimeError, NotImplementedError, RecursionError, EOFError,
            KeyError, OverflowError, struct.error):  # fmt: skip
        return {}
    return {}
