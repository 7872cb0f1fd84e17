"""The weight file of an ML program: arrays one after another, each behind a record that says what it is.

    bytes 0..63     number of arrays, 2 (the version), zeros
    record, 64      0xDEADBEEF, element type, size in bytes, where the data begin, unused bits of the last byte, zeros
    data            little endian; elements narrower than a byte are packed from the lowest bit up

Everything begins at a multiple of 64. The program refers to an array by the offset of its record.
"""

from __future__ import annotations

import struct

import numpy as np

from edgeq.emit.coreml_schema import BLOB_TYPES
from edgeq.ir.graph import Array

ALIGNMENT = 64
SENTINEL = 0xDEADBEEF
VERSION = 2
_NUMPY = {
    "fp16": "<f2", "fp32": "<f4", "int8": "i1", "uint8": "u1", "int16": "<i2", "uint16": "<u2", "int32": "<i4",
    "uint32": "<u4",
}  # fmt: skip


def element_bits(dtype: str) -> int:
    """Bits of one element of an element type such as `int4` or `fp16`.

    >>> element_bits("uint6"), element_bits("fp16")
    (6, 16)
    """
    return int(dtype.lstrip("uintfp"))


def pack(array: Array, dtype: str) -> bytes:
    """The elements of `array` in row-major order as the weight file stores them.

    >>> pack(np.array([1, 2, 3]), "uint4").hex()
    '2103'
    """
    if dtype in _NUMPY:
        return np.ascontiguousarray(array).astype(_NUMPY[dtype]).tobytes()
    bits = element_bits(dtype)
    codes = np.ascontiguousarray(array).reshape(-1, 1).astype(np.int16)
    return np.packbits(((codes >> np.arange(bits, dtype=np.int16)) & 1).astype(np.uint8), bitorder="little").tobytes()


class WeightFile:
    """The weight file under construction; equal arrays are stored once."""

    def __init__(self) -> None:
        self._content = bytearray(ALIGNMENT)
        self._offsets: dict[tuple[str, int, bytes], int] = {}

    def add(self, array: Array, dtype: str) -> int:
        """Offset of the record of `array` as elements of `dtype`."""
        data = pack(array, dtype)
        key = (dtype, array.size, data)
        if key not in self._offsets:
            self._align()
            offset = len(self._content)
            unused = 8 * len(data) - array.size * element_bits(dtype)
            record = (SENTINEL, BLOB_TYPES[dtype], len(data), offset + ALIGNMENT, unused)
            self._content += struct.pack("<IIQQQ", *record).ljust(ALIGNMENT, b"\0") + data
            self._offsets[key] = offset
        return self._offsets[key]

    def _align(self) -> None:
        self._content += bytes(-len(self._content) % ALIGNMENT)

    def content(self) -> bytes:
        """The whole file."""
        self._content[:8] = struct.pack("<II", len(self._offsets), VERSION)
        return bytes(self._content)
