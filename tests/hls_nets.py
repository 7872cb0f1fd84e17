"""Graphs lowered for FPGA targets, their folders, and every value of a design beside the reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeq.emit.artifact import Artifact, write_files
from edgeq.emit.c_layout import from_memory, to_memory
from edgeq.emit.hls import emit, header_files, sources
from edgeq.emit.hls_build import build
from edgeq.emit.hls_host import BOUNDED, Frame, HostDesign
from edgeq.emit.hls_stage import Design, Fold
from edgeq.formats import Int
from edgeq.ir import ops as o
from edgeq.ir.graph import Array, Graph, Type
from edgeq.runtimes.csim import HlsRuntime
from edgeq.targets import find_target
from tests.c_nets import every_value, extreme_inputs
from tests.lowering import lowered
from tests.quantized import Net, inputs_of

TARGETS = ("fpga-fx8", "fpga-int4", "fpga-e2m3", "fpga-post4")


def residual_network() -> Graph:
    """A convolution whose result a second one and a sum read; then a depthwise one, a pool and a dense layer."""
    n = Net(1, 3, 9, 8)
    x = n.apply(n.conv("x", 4, "first"), "relu", "a")
    y = n.apply(n.add(o.Add(n.conv(x, 4, "second"), x, "sum")), "relu", "b")
    weight = n.reals(4, 1, 3, 3, spread=0.4)
    y = n.add(o.Conv(y, weight, n.reals(4), "depthwise", (2, 2), (1, 1, 1, 1), groups=4))
    y = n.add(o.MaxPool(y, "pooled", (2, 2), (2, 2)))
    flat = n.add(o.Reshape(y, "flat", (1, 16)))
    return n.graph(n.linear(flat, 5, "scores"))


def folder_of(graph: Graph, name: str, folder: Path) -> tuple[Graph, Artifact]:
    """`graph` (real) lowered for a target and written as a design."""
    integer = lowered(graph, find_target(name), inputs_of(graph))
    return integer, emit(integer, find_target(name), folder, "net", {}, {})


def assert_equal_everywhere(graph: Graph, name: str, seed: int, folder: Path) -> int:
    """Every value of the design equals the reference, and it does not get stuck; the number of distinct codes seen."""
    integer, artifact = folder_of(graph, name, folder)
    runtime = HlsRuntime(artifact.primary).watching(artifact.tensors.values())
    distinct = set[int]()
    for inputs in extreme_inputs(graph, seed):
        wanted, found = every_value(integer, inputs), runtime.run(inputs)
        assert found.keys() >= set(integer.outputs)
        for value, codes in found.items():
            np.testing.assert_array_equal(codes, wanted[value], err_msg=value)
            if codes.dtype.kind == "i":
                distinct.update(codes.reshape(-1).tolist())
    frame = runtime.bounded(inputs_of(graph, seed))
    assert not frame.stuck and all(filling.peak <= filling.depth for filling in frame.streams.values())
    assert not any(filling.left for filling in frame.streams.values())
    return len(distinct)


@dataclass(frozen=True)
class Simulation:
    """A design of one input, compiled, that shows all its values; without its test bench and build files."""

    graph: Graph
    design: Design
    host: HostDesign

    def values(self, codes: NDArray[np.int64]) -> dict[str, Array]:
        """Every value on a stream, for codes of the input."""
        watched = dict(enumerate(self.design.made, start=1))
        frame = self.host.run(self._entering(codes), self._sizes(), watched=frozenset(watched))
        shapes, axes = self.design.shapes, self.design.axes
        return {value: from_memory(frame.values[k], shapes[value], axes[value]) for k, value in watched.items()}

    def of_reals(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The same for a real input, quantized by the reference."""
        return self.values(self._codes(inputs))

    def bounded(self, inputs: Mapping[str, Array]) -> Frame:
        """One run with streams as deep as they are declared."""
        return self.host.run(self._entering(self._codes(inputs)), self._sizes(), BOUNDED)

    def _codes(self, inputs: Mapping[str, Array]) -> NDArray[np.int64]:
        seen = every_value(self.graph, inputs)[self.design.inputs[0].value]
        return np.asarray(seen, dtype=np.int64)

    def _entering(self, codes: NDArray[np.int64]) -> list[NDArray[np.int16]]:
        (port,) = self.design.inputs
        return [np.asarray(to_memory(codes, port.axes), dtype=np.int16)]

    def _sizes(self) -> list[int]:
        return [self.design.leaving[port.value].count for port in self.design.outputs]


def simulation(
    integer: Graph, depths: Mapping[str, int], folder: Path, folds: Mapping[o.Value, Fold] | None = None
) -> Simulation:
    """The design of a lowered graph of one input with streams of `depths`, compiled."""
    design = build(integer, folds or {}, "net", "net")
    texts = {name: text.encode() for name, text in sources(design, depths).items()}
    write_files(folder, texts | header_files(design))
    return Simulation(integer, design, HostDesign(folder, "net"))


def with_signs(graph: Graph) -> Graph:
    """`graph` with signed codes in place of unsigned ones: u - 2^(bits - 1) with that zero point, the same level."""
    tables = {op.table for op in graph.ops if isinstance(op, o.Lookup | o.Softmax) and op.table is not None}
    codes = {v: t.format for v, t in graph.types.items() if v not in tables}
    moved = {v: 1 << (f.bits - 1) for v, f in codes.items() if isinstance(f, Int) and _is_moved(f)}
    types = {v: _with_sign(type_, moved[v]) if v in moved else type_ for v, type_ in graph.types.items()}
    constants = {v: array.astype(np.int64) - moved.get(v, 0) for v, array in graph.constants.items()}
    for op in graph.ops:
        if isinstance(op, o.Lookup) and op.out in moved:
            constants[op.table] -= moved[op.out]
            types[op.table] = replace(types[op.table], format=types[op.out].format)
    kept = {v: array.astype(graph.constants[v].dtype) for v, array in constants.items()}
    ops = tuple(_with_clamps(op, moved) for op in graph.ops)
    return replace(graph, ops=ops, types=types, constants=kept)


def _with_clamps(op: o.Op, moved: Mapping[o.Value, int]) -> o.Op:
    if not isinstance(op, o.Requantize) or op.out not in moved:
        return op
    return replace(op, low=op.low - moved[op.out], high=op.high - moved[op.out])


def _is_moved(format_: Int) -> bool:
    return not format_.signed and 1 < format_.bits <= 16


def _with_sign(type_: Type, zero: int) -> Type:
    assert isinstance(type_.format, Int) and not type_.zero_point
    return replace(type_, format=replace(type_.format, signed=True), zero_point=-zero)
