"""Designs compiled by this machine's C++ compiler: one frame from arrays to arrays, and how deep streams must be."""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeq.emit.host_compiler import compile_here, host_compiler

FLAGS = ("-std=c++14", "-O1", "-fPIC", "-shared", "-DEDGEQ_HOST", "-Wno-unknown-pragmas")
PLAIN, BOUNDED, GROWING = 0, 1, 2

Tokens = NDArray[np.int64]
Codes = NDArray[np.int16]
_Watch = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.POINTER(ctypes.c_longlong), ctypes.c_size_t)
_Tell = ctypes.CFUNCTYPE(None, ctypes.c_char_p)


@dataclass(frozen=True)
class Filling:
    """Of one stream in one bounded run: its depth, the most tokens at once, and what was left."""

    depth: int
    peak: int
    left: int


@dataclass(frozen=True)
class Frame:
    """What a run gave: outputs (flat), watched values by number, streams; `stuck` is the cycle of waits, or ""."""

    outputs: tuple[Codes, ...]
    values: Mapping[int, Tokens]
    streams: Mapping[str, Filling]
    stuck: str


class HostDesign:
    """The design in `folder`, whose files are <prefix>.cpp and host/<prefix>_host.cpp, compiled and loaded."""

    def __init__(self, folder: Path, prefix: str, flags: Sequence[str] = FLAGS) -> None:
        own = folder.absolute()
        with tempfile.TemporaryDirectory(prefix="edgeq-hls-") as temporary:  # a loaded library needs its file no more
            library = Path(temporary) / "design.so"
            sources = [own / f"{prefix}.cpp", own / "host" / f"{prefix}_host.cpp"]
            includes = ["-I", str(own / "host"), "-I", str(own)]
            compile_here([host_compiler("C++"), *flags, *includes, "-o", str(library), *map(str, sources)], own)
            self._library = ctypes.CDLL(str(library))

    def run(
        self, inputs: Sequence[Codes], sizes: Sequence[int], mode: int = PLAIN, watched: frozenset[int] = frozenset()
    ) -> Frame:
        """One frame of flat codes; `sizes` are those of the outputs."""
        given = [np.ascontiguousarray(codes, dtype=np.int16) for codes in inputs]
        outputs = tuple(np.zeros(size, dtype=np.int16) for size in sizes)
        values: dict[int, Tokens] = {}
        lines: list[str] = []

        def watch(number: int, tokens: Any, count: int) -> None:
            if number in watched:
                values[number] = np.ctypeslib.as_array(tokens, (count,)).copy()

        stuck = self._library.edgeq_frame(
            _pointers(given), _pointers(outputs), _Watch(watch) if watched else None, mode,
            _telling(lines.append),
        )  # fmt: skip
        cycle = lines.pop() if stuck else ""
        streams = {line.split()[0]: Filling(*map(int, line.split()[1:])) for line in lines}
        return Frame(outputs, values, streams, cycle.strip())


def _telling(tell: Callable[[str], None]) -> Any:
    return _Tell(lambda line: tell(line.decode()))


def _pointers(arrays: Sequence[Codes]) -> Any:
    kind = ctypes.POINTER(ctypes.c_short) * max(len(arrays), 1)
    return kind(*(array.ctypes.data_as(ctypes.POINTER(ctypes.c_short)) for array in arrays))
