"""A dataflow design in C++ as this machine's compiler builds it: its C simulation, value by value.

Reals that enter are quantized and codes that leave are dequantized exactly as the reference does, so that a comparison
judges the design alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from edgeq.emit.c_layout import from_memory, to_memory
from edgeq.emit.hls_host import BOUNDED, Codes, Frame, HostDesign
from edgeq.errors import UsageError
from edgeq.runtimes.folder import Array, FolderRuntime, code_of, read_folder, value_of
from edgeq.runtimes.latency import MEASURED_RUNS, WARM_UP_RUNS, Latency, measure_latency


class HlsRuntime(FolderRuntime):
    """The design of a folder; `path` is its <name>.cpp. Runs are single-threaded simulations."""

    name = "C simulation of the design"
    is_timed = False
    threads = 1

    def __init__(self, path: str | Path, watched: Iterable[str] = (), built: HostDesign | None = None) -> None:
        self.path = Path(path)
        self._document = read_folder(self.path.parent, "hls", "design")
        self._layers = {layer["value"]: layer for layer in self._document["layers"]}
        self._watched = tuple(dict.fromkeys(watched))
        if unknown := [name for name in self._watched if name not in self._layers]:
            raise UsageError("the design has no stream of this value", value=unknown[0])
        self._built = built or HostDesign(self.path.parent, self._document["prefix"])

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name. Raises UsageError if an input is missing, unknown, or has the wrong shape."""
        numbers = {name: self._layers[name]["number"] for name in self._watched}
        frame = self._frame(self._checked(inputs), watched=frozenset(numbers.values()))
        found: dict[str, Array] = {}
        for port, flat in zip(self._document["outputs"], frame.outputs, strict=True):
            codes = from_memory(flat, tuple(port["shape"]), tuple(port["axes"]))
            found[port["name"]] = value_of(codes.astype(np.int8 if port["bits"] == 8 else np.int16), port)
        for name, number in numbers.items():
            if name not in found:
                layer = self._layers[name]
                found[name] = from_memory(frame.values[number], tuple(layer["shape"]), tuple(layer["axes"]))
        return found

    def bounded(self, inputs: Mapping[str, Array]) -> Frame:
        """One run with streams as deep as they are declared: how full they became, or the cycle of waits."""
        return self._frame(self._checked(inputs), mode=BOUNDED)

    def _frame(self, codes: list[Codes], **options: object) -> Frame:
        sizes = [int(np.prod(port["shape"])) for port in self._document["outputs"]]
        return self._built.run(codes, sizes, **options)  # type: ignore[arg-type]

    def _checked(self, inputs: Mapping[str, Array]) -> list[Codes]:
        self._check(inputs)
        return [self._entering(inputs[port["name"]], port) for port in self._document["inputs"]]

    @staticmethod
    def _entering(array: Array, port: Mapping[str, object]) -> Codes:
        codes = np.clip(code_of(array, port), *port["range"])  # type: ignore[misc]
        return np.asarray(to_memory(codes, tuple(port["axes"])), dtype=np.int16)  # type: ignore[arg-type]

    def watching(self, tensors: Iterable[str]) -> HlsRuntime:
        """The same design, which also puts out the tokens of `tensors` (values that have a stream)."""
        return HlsRuntime(self.path, tensors, self._built)

    def latency(
        self, inputs: Mapping[str, Array], *, runs: int = MEASURED_RUNS, warm_up: int = WARM_UP_RUNS
    ) -> Latency:
        """Wall-clock latency of the simulation, which says nothing of the design's."""
        return measure_latency(self.call(inputs), threads=self.threads, runs=runs, warm_up=warm_up)

    def call(self, inputs: Mapping[str, Array]) -> Callable[[], object]:
        """One run on `inputs`, checked and quantized beforehand, as a function to be timed."""
        codes = self._checked(inputs)
        return lambda: self._frame(codes)
