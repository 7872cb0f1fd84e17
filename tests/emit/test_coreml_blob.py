"""The weight file against Apple's own library, element type by element type."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from edgeq.emit.coreml_blob import WeightFile, element_bits, pack
from edgeq.emit.coreml_read import _from_weights
from edgeq.emit.coreml_schema import BLOB_TYPES
from edgeq.errors import UnsupportedError
from edgeq.ir.graph import Array

WRITERS = {"fp32": "float"}


def elements(dtype: str, count: int) -> Array:
    rng = np.random.default_rng(count)
    if dtype.startswith("fp"):
        return rng.normal(size=count).astype(np.float16 if dtype == "fp16" else np.float32)
    bits = element_bits(dtype)
    low = 0 if dtype.startswith("u") else -(1 << (bits - 1))
    return rng.integers(low, low + (1 << bits), count)


def as_apple_takes_it(array: Array, dtype: str) -> Array:
    if dtype == "fp16":
        return array.view(np.uint16)
    if dtype == "fp32":
        return array
    width = next(width for width in (8, 16, 32) if width >= element_bits(dtype))
    return array.astype(f"{'u' if dtype.startswith('u') else ''}int{width}")


@pytest.mark.parametrize("dtype", BLOB_TYPES)
def test_files_are_those_of_the_library(dtype: str, tmp_path: Path) -> None:
    from coremltools.libmilstoragepython import _BlobStorageWriter

    ours, theirs = WeightFile(), _BlobStorageWriter(str(tmp_path / "weight.bin"))
    for count in (11, 64, 1003):
        array = elements(dtype, count)
        write = getattr(theirs, f"write_{WRITERS.get(dtype, dtype)}_data")
        assert ours.add(array, dtype) == write(as_apple_takes_it(array, dtype))
    del theirs, write
    assert ours.content() == (tmp_path / "weight.bin").read_bytes()


@pytest.mark.parametrize("dtype", BLOB_TYPES)
@pytest.mark.parametrize("count", [1, 7, 8, 9, 100])
def test_elements_come_back(dtype: str, count: int) -> None:
    file, array = WeightFile(), elements(dtype, count)
    file.add(elements("int8", 5), "int8")
    offset = file.add(array, dtype)
    assert np.array_equal(_from_weights(file.content(), offset, dtype, count, "here"), array)
    assert len(pack(array, dtype)) == -(-count * element_bits(dtype) // 8)


def test_equal_arrays_are_stored_once() -> None:
    file = WeightFile()
    first = file.add(np.arange(10), "int8")
    assert file.add(np.arange(10), "int8") == first != file.add(np.arange(10), "uint8")


@pytest.mark.parametrize(("place", "content"), [(64, 1), (68, 99), (72, 1 << 40), (80, 3), (80, 1 << 40), (88, 200)])
def test_damaged_records_are_refused(place: int, content: int) -> None:
    file = WeightFile()
    offset = file.add(np.arange(20), "int8")
    damaged = bytearray(file.content())
    struct.pack_into("<I" if place < 72 else "<Q", damaged, place, content)
    with pytest.raises(UnsupportedError):
        _from_weights(bytes(damaged), offset, "int8", 20, "here")
