"""The file that `edgeq verify` proves: which graph it holds and where, how it is run, and on what.

Its runtime shows the codes inside it, whatever the order of axes in which the file keeps them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edgeq.errors import UnsupportedError, UsageError
from edgeq.flow.artifacts import open_runtime
from edgeq.flow.inputs import calibration_set, choose_preprocess, task_of
from edgeq.flow.parting import Execution, Inputs
from edgeq.formats import Int, code_range
from edgeq.frontend.model import ports_of
from edgeq.ir.bounds import is_codes
from edgeq.ir.graph import Array, Graph, Type
from edgeq.ir.ops import Value
from edgeq.reference.xnnpack import as_xnnpack
from edgeq.runtimes.litert import DEFAULT_KERNELS, REFERENCE_KERNELS
from edgeq.runtimes.runtime import Runtime
from edgeq.target import Agreement


@dataclass(frozen=True)
class Subject:
    """What is proved: `graph` in the file at `path`, whose `tensors` hold its values; the promise; how it is run."""

    path: Path
    graph: Graph
    tensors: Mapping[Value, str]
    code_bits: int
    promise: Agreement
    axes: Mapping[Value, tuple[int, ...]] = field(default_factory=dict)
    """Where the axes of values lie in their tensors, if the file does not say so itself."""
    stored: Graph | None = None
    """`graph` with its constants in the order of the file, where that is another."""

    @property
    def watched(self) -> dict[Value, str]:
        """The values that can be seen in the file and are compared: codes, and reals if layers of reals are promised."""
        return {value: tensor for value, tensor in self.tensors.items() if self._is_compared(value)}

    def _is_compared(self, value: Value) -> bool:
        type_ = self.graph.types[value]
        if type_.is_real:
            return self.promise.real_layer_db is not None and value in self.graph.producer
        format_ = type_.format
        narrow = isinstance(format_, Int) and format_.bits <= self.code_bits
        return is_codes(type_) and narrow and value not in self.graph.inputs


@dataclass(frozen=True)
class Kernels:
    """One way to run the file, the graph as its kernels round, and the promise; without one it is only reported."""

    label: str
    promise: Agreement | None
    runtime: Runtime
    graph: Graph


def kernels_of(subject: Subject, threads: int | None) -> Iterator[Kernels]:
    """The kernels whose arithmetic the graph spells keep the promise; LiteRT's quicker ones are reported as well."""
    exact = open_runtime(subject.path, threads, exact=True)
    if subject.path.suffix != ".tflite":
        yield Kernels(exact.name, subject.promise, exact, subject.graph)
        return
    yield Kernels(REFERENCE_KERNELS, subject.promise, exact, subject.graph)
    yield Kernels(DEFAULT_KERNELS, None, open_runtime(subject.path, threads), as_xnnpack(subject.graph))


def execution(subject: Subject, runtime: Runtime) -> Execution:
    """One run of the file that shows the codes inside."""
    graph, watched = subject.graph, subject.watched
    if runtime.outputs != graph.outputs or runtime.inputs != graph.inputs:
        raise UnsupportedError(
            "the ports of the file are not those of the graph",
            value=(runtime.inputs, runtime.outputs),
            allowed=(graph.inputs, graph.outputs),
        )
    inside = runtime.watching(watched.values()) if watched else runtime

    def execute(inputs: Inputs) -> tuple[dict[Value, Array], dict[Value, Array]]:
        results = runtime.run(inputs)
        found = inside.run(inputs) if watched else {}
        seen = {value: _turned(subject, value, found[tensor]) for value, tensor in watched.items()}
        return {**results, **{name: seen[name] for name in graph.outputs if name in seen}}, seen

    return execute


def _turned(subject: Subject, value: Value, tensor: Array) -> Array:
    axes = subject.axes.get(value)
    return tensor if axes is None else np.ascontiguousarray(tensor.transpose(axes))


def images(subject: Subject, option: str, count: int, preprocess: str | None) -> Iterator[dict[Value, Array]]:
    """At most `count` images as the file takes them. Raises UsageError unless its one input is a real image."""
    types = [subject.graph.types[name] for name in subject.graph.inputs]
    if len(types) != 1 or is_codes(types[0]):
        raise UsageError("only a model with one real image input takes images", next_step="Leave --data out.")
    runtime = open_runtime(subject.path)
    model = ports_of(subject.path.stem, runtime.input_shapes, runtime.output_shapes, runtime.metadata)
    rule = choose_preprocess(preprocess, model)
    found = calibration_set(option, count, rule, task_of(model))
    return ({subject.graph.inputs[0]: tensor} for tensor in found.tensors())


def noise(graph: Graph, seed: int) -> Iterator[dict[Value, Array]]:
    """Noise without end; the second and third inputs are the extremes of every number."""
    rng = np.random.default_rng(seed)
    yield {name: _noise(graph.types[name], rng) for name in graph.inputs}
    for end in (0, 1):
        yield {name: np.full(graph.types[name].shape, _range(graph.types[name])[end]) for name in graph.inputs}
    while True:
        yield {name: _noise(graph.types[name], rng) for name in graph.inputs}


def _range(type_: Type) -> tuple[float, float]:
    if is_codes(type_):
        return code_range(type_.format)
    return (0.0, 1.0) if type_.is_real else (0, 1)


def _noise(type_: Type, rng: np.random.Generator) -> Array:
    if type_.is_real:
        return rng.random(type_.shape, dtype=np.float32)
    low, high = _range(type_)
    return rng.integers(int(low), int(high) + 1, type_.shape)
