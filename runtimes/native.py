"""A folder of generated C, built by this machine's compiler and called in this process.

Reals that enter are quantized and codes that leave are dequantized exactly as the reference does, so that a comparison
judges the C alone.
"""

from __future__ import annotations

import ctypes
import hashlib
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from edgeq.emit.c_files import HOST_FLAGS
from edgeq.emit.c_layout import from_memory, to_memory
from edgeq.emit.host_compiler import compile_here, host_compiler
from edgeq.errors import UsageError
from edgeq.runtimes.folder import Array, Codes, FolderRuntime, Port, code_of, code_type, read_folder, value_of
from edgeq.runtimes.latency import MEASURED_RUNS, WARM_UP_RUNS, Latency, measure_latency

FLAGS = ("-std=c99", "-O2", "-fPIC", "-shared", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror")
_HOOK = """#include <stdint.h>
extern void (*edgeq_watch)(int32_t number, const int8_t *codes, int32_t count);
#define EDGEQ_LAYER_DONE(number, codes, count) (edgeq_watch ? edgeq_watch(number, codes, count) : (void)0)
"""
_HOOK_DEFINITION = '#include "edgeq_hook.h"\nvoid (*edgeq_watch)(int32_t, const int8_t *, int32_t);\n'
_Watch = ctypes.CFUNCTYPE(None, ctypes.c_int32, ctypes.POINTER(ctypes.c_int8), ctypes.c_int32)


def _instructions(document: Mapping[str, Any]) -> list[str]:
    """What tells the compiler that this machine has the instructions that a folder's kernels are written for."""
    cpu = Path("/proc/cpuinfo")
    own = document.get("instructions", "")
    known = own in HOST_FLAGS and cpu.exists() and own in cpu.read_text()
    return [HOST_FLAGS[own]] if known else []


def _state(folder: Path) -> str:
    """What tells one content of the sources in `folder` from another."""
    sources = sorted(path for path in folder.iterdir() if path.suffix in (".c", ".h"))
    return hashlib.sha256(b"".join(path.name.encode() + path.read_bytes() for path in sources)).hexdigest()


@lru_cache(maxsize=16)
def _library(own: Path, prefix: str, command: tuple[str, ...], state: str) -> ctypes.CDLL:
    """The sources in the folder `own`, built and loaded; each `state` of them once, since nothing is kept in it."""
    with tempfile.TemporaryDirectory(prefix="edgeq-c-") as temporary:  # a loaded library needs its file no more
        folder = Path(temporary)
        (folder / "edgeq_hook.h").write_text(_HOOK)
        (folder / "edgeq_hook.c").write_text(_HOOK_DEFINITION)
        library = folder / "model.so"
        sources = [own / f"{prefix}_model.c", own / f"{prefix}_weights.c", folder / "edgeq_hook.c"]
        hook = ["-include", str(folder / "edgeq_hook.h")]
        compile_here([*command, *hook, "-o", str(library), *map(str, sources)], folder)
        return ctypes.CDLL(str(library))


class NativeRuntime(FolderRuntime):
    """The model of a folder of generated C; `path` is its <name>_model.c. Runs are single-threaded."""

    name = "generated C"
    is_timed = True
    threads = 1

    def __init__(self, path: str | Path, watched: Iterable[str] = (), flags: Sequence[str] = FLAGS) -> None:
        self.path = Path(path)
        self._document = read_folder(self.path.parent)
        self._code = code_type(self._document["code_bits"] // 8)
        self._layers = {layer["value"]: layer for layer in self._document["layers"]}
        self._numbers = {layer["value"]: n for n, layer in enumerate(self._document["layers"], start=1)}
        self._watched = tuple(dict.fromkeys(watched))
        if unknown := [name for name in self._watched if name not in self._layers]:
            raise UsageError("the generated C does not store this value", value=unknown[0])
        command = (host_compiler("C"), *flags, *_instructions(self._document))
        self._library = _library(
            self.path.parent.absolute(), self._document["prefix"], command, _state(self.path.parent)
        )
        # 16 spare bytes to align the arena as a C compiler aligns it at least.
        self._memory = np.zeros(self._document["arena_bytes"] + 16, dtype=np.int8)
        start = -self._memory.ctypes.data % 16
        self._arena = self._memory[start : start + self._document["arena_bytes"]]

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name. Raises UsageError if an input is missing, unknown, or has the wrong shape."""
        seen: dict[int, Codes] = {}
        wanted = {self._numbers[name] for name in self._watched}

        def watch(number: int, codes: Any, count: int) -> None:
            if number in wanted:
                seen[number] = np.ctypeslib.as_array(codes, (count,)).copy()

        callback = _Watch(watch)
        address = ctypes.cast(callback, ctypes.c_void_p).value if wanted else None
        ctypes.c_void_p.in_dll(self._library, "edgeq_watch").value = address
        self._fill(self._checked(inputs))
        self._run()
        ctypes.c_void_p.in_dll(self._library, "edgeq_watch").value = None  # others run this library, too
        found = {port["name"]: value_of(self._codes(port), port) for port in self._document["outputs"]}
        for name in self._watched:
            number, layer = self._numbers[name], self._layers[name]
            if name not in found:
                flat = seen[number].view(code_type(layer["bits"] // 8))
                found[name] = from_memory(flat, tuple(layer["shape"]), tuple(layer["axes"]))
        return found

    def _run(self) -> None:
        getattr(self._library, f"{self._document['prefix']}_run")(ctypes.c_void_p(self._arena.ctypes.data))

    def _fill(self, codes: Mapping[str, Array]) -> None:
        for port in self._document["inputs"]:
            flat = np.ascontiguousarray(to_memory(codes[port["name"]]), dtype=self._code)
            self._arena[port["offset"] : port["offset"] + port["bytes"]] = flat.view(np.int8)

    def _codes(self, port: Port) -> Codes:
        flat = self._arena[port["offset"] : port["offset"] + port["bytes"]].copy().view(self._code)
        return np.asarray(from_memory(flat, tuple(port["shape"])), dtype=self._code)

    def _checked(self, inputs: Mapping[str, Array]) -> dict[str, Codes]:
        self._check(inputs)
        return {port["name"]: code_of(inputs[port["name"]], port) for port in self._document["inputs"]}

    def watching(self, tensors: Iterable[str]) -> NativeRuntime:
        """The same folder, which also puts out the codes of `tensors` (values that it stores)."""
        return NativeRuntime(self.path, tensors)

    def latency(
        self, inputs: Mapping[str, Array], *, runs: int = MEASURED_RUNS, warm_up: int = WARM_UP_RUNS
    ) -> Latency:
        """Wall-clock latency of one run, quantizing the input included."""
        return measure_latency(self.call(inputs), threads=self.threads, runs=runs, warm_up=warm_up)

    def call(self, inputs: Mapping[str, Array]) -> Callable[[], object]:
        """One run on `inputs`, checked and quantized beforehand, as a function to be timed."""
        codes = self._checked(inputs)

        def run() -> None:
            self._fill(codes)
            self._run()

        return run
