"""A graph in one file: a zip archive of its text, its constants and a digest over both.

    edgeq.json            {"edgeq graph": 1, "sha256": digest, "constants": [names]}
    graph.txt             the text (edgeq/ir/text.py)
    constants/0.npy ...   the arrays, in the order of the names

The same graph always gives the same bytes: entries are stored uncompressed, in this order and without times.
Reading trusts nothing: no pickle, no entry that is larger than the file, no digest that does not match, and no
graph that verify refuses.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import struct
import zipfile
from collections.abc import Iterator
from math import prod
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np

from edgeq.errors import EdgeqError, OutputError, UntrustedInputError, UsageError
from edgeq.ir.graph import Array, Graph
from edgeq.ir.parse import from_text
from edgeq.ir.text import sha256, to_text
from edgeq.ir.verify import verify

VERSION = 1
_LABEL, _TEXT = "edgeq.json", "graph.txt"
_EARLIEST_TIME = (1980, 1, 1, 0, 0, 0)
_DAMAGED = (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, struct.error, ValueError, KeyError)
_NPY = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '(<f4|\|b1|\|[iu]1|<[iu][248])', 'fortran_order': False, "
    rb"'shape': \(([0-9, ]{0,400})\), \} *\n",
    re.DOTALL,
)


_DIGESTS: WeakKeyDictionary[Graph, str] = WeakKeyDictionary()
"""Of graphs that are still there: several files of an artifact name the digest of the same one."""


def digest(graph: Graph) -> str:
    """SHA-256 (hexadecimal) of all that `graph` is: its text and its constants.

    It does not depend on the order of constants, on the width in which integers are stored, or on the machine.
    """
    if graph not in _DIGESTS:
        found = hashlib.sha256(to_text(graph).encode())
        for value in sorted(graph.constants):
            found.update(bytes.fromhex(sha256(graph.constants[value])))
        _DIGESTS[graph] = found.hexdigest()
    return _DIGESTS[graph]


def _entry_name(index: int) -> str:
    return f"constants/{index}.npy"


def _npy(array: Array) -> bytes:
    stream = io.BytesIO()
    little = np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")
    np.lib.format.write_array(stream, little, version=(1, 0), allow_pickle=False)
    return stream.getvalue()


def _array(content: bytes) -> Array:
    """The inverse of _npy, for exactly what _npy writes."""
    header = _NPY.match(content)
    if header is None:
        raise ValueError("an array is not stored as edgeq stores it")
    dtype = np.dtype(header[1].decode())
    shape = tuple(int(size) for size in re.findall(rb"[0-9]+", header[2]))
    if prod(shape) * dtype.itemsize != len(content) - header.end():
        raise ValueError(f"an array of shape {shape} has {len(content) - header.end()} bytes")
    return np.frombuffer(content, dtype, offset=header.end()).reshape(shape).astype(dtype.newbyteorder("="))


def _entries(graph: Graph) -> Iterator[tuple[str, bytes]]:
    names = sorted(graph.constants)
    label = {"edgeq graph": VERSION, "sha256": digest(graph), "constants": names}
    yield _LABEL, json.dumps(label).encode()
    yield _TEXT, to_text(graph).encode()
    for index, value in enumerate(names):
        yield _entry_name(index), _npy(graph.constants[value])


def to_bytes(graph: Graph) -> bytes:
    """The file of `graph`, the same bytes for the same graph. Raises what verify raises for an illegal one."""
    verify(graph)
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        for name, entry in _entries(graph):
            archive.writestr(zipfile.ZipInfo(name, _EARLIEST_TIME), entry)
    return content.getvalue()


def save(graph: Graph, path: str | os.PathLike[str]) -> None:
    """Write `graph` to `path`; what is there is replaced once the new file is complete.

    Raises EdgeqError or UnsupportedError for a graph that verify refuses, OutputError if it cannot be written.
    """
    content, path = to_bytes(graph), Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        try:
            partial.write_bytes(content)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError("the graph cannot be written", where=path, value=error.strerror) from error


def _contents(path: Path) -> dict[str, bytes]:
    """Every entry of the archive, which may not unpack to more than the file holds."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        unpacked = sum(entry.file_size for entry in entries)
        packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
        if packed or unpacked > path.stat().st_size or len(set(archive.namelist())) < len(entries):
            raise UntrustedInputError(
                "the archive has compressed, overlapping or repeated entries",
                where=path,
                next_step="edgeq writes none of these; save the graph again.",
            )
        return {entry.filename: archive.read(entry) for entry in entries}


def _parts(contents: dict[str, bytes]) -> tuple[str, Graph]:
    """The digest that the file claims, and its graph."""
    label = json.loads(contents.pop(_LABEL))
    if not isinstance(label, dict) or label.get("edgeq graph") != VERSION:
        raise ValueError(f"it is of another version; this edgeq reads version {VERSION}")
    names = label["constants"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("the names of its constants are not strings")
    text = contents.pop(_TEXT).decode()
    constants = {name: _array(contents.pop(_entry_name(index))) for index, name in enumerate(names)}
    if contents:
        raise ValueError(f"it has other entries: {', '.join(sorted(contents))}")
    return str(label["sha256"]), from_text(text, constants)


def load(path: str | os.PathLike[str]) -> Graph:
    """The graph that was saved to `path`, verified.

    Raises UsageError if it cannot be read, is damaged or is of another version, and UntrustedInputError if its
    archive is built to harm.
    """
    path = Path(path)
    try:
        claimed, graph = _parts(_contents(path))
        if digest(graph) != claimed:
            raise ValueError("its content does not match its digest")
        verify(graph)
    except UntrustedInputError:
        raise
    except OSError as error:
        raise UsageError("the graph file cannot be read", where=path, value=error.strerror) from error
    except (EdgeqError, *_DAMAGED) as error:
        raise UsageError(
            "the file is damaged or no edgeq graph", where=path, value=str(error), next_step="Save it again."
        ) from error
    return graph
