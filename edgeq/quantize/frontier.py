"""All calibration images on their way through the network at once, in float and quantized side by side.

Operators are advanced one after the other; a value is dropped after its last reader, so what is held is what crosses
one cut of the graph. The quantized side always runs on what was decided so far.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from edgeq.ir import ops as o
from edgeq.ir.graph import Array, Graph
from edgeq.quantize.simulate import Simulation
from edgeq.quantize.units import Unit

BATCH = 8
"""Images of a batch on a CPU, and of a set of images wherever positions are drawn."""

BUDGET_BYTES = 3 << 29
"""Memory that the values of all images may take at the widest cut."""

Values = dict[o.Value, Tensor]


@dataclass
class Frontier:
    """`real` and `quantized` values of every batch of images; `sets` says of how many sets of BATCH images each is."""

    simulation: Simulation
    real: list[Values]
    quantized: list[Values] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.quantized = self.quantized or [dict(values) for values in self.real]
        graph = self.simulation.graph
        self._last = {value: op for op in graph.ops for value in o.operands(op)}
        self.sets = [
            max(1, len(v[graph.inputs[0]]) // graph.types[graph.inputs[0]].shape[0] // BATCH) for v in self.real
        ]

    @torch.no_grad()
    def advance(self, op: o.Op) -> None:
        """Compute the results of `op` on both sides."""
        for real, quantized in zip(self.real, self.quantized, strict=True):
            real.update(zip(o.results(op), self.simulation.real(op, real.__getitem__), strict=True))
            quantized.update(zip(o.results(op), self.simulation.quantized(op, quantized.__getitem__), strict=True))

    @torch.no_grad()
    def again(self, unit: Unit) -> None:
        """Compute the exit of `unit` anew on the quantized side, after its weights have changed."""
        for quantized in self.quantized:
            values = {unit.entry: quantized[unit.entry]}
            for op in unit.ops:
                values.update(zip(o.results(op), self.simulation.quantized(op, values.__getitem__), strict=True))
            quantized.update({name: values[name] for name in unit.exits})

    def drop(self, ops: Sequence[o.Op], keep: Collection[o.Value] = ()) -> None:
        """Forget what `ops` read last, except `keep`."""
        keep = {*keep, *self.simulation.graph.outputs}
        for op in ops:
            for name in o.operands(op):
                if self._last[name] is op and name not in keep:
                    for values in (*self.real, *self.quantized):
                        values.pop(name, None)


def widest_cut(graph: Graph) -> int:
    """Elements that cross the widest cut of `graph` for one image."""
    last = {value: index for index, op in enumerate(graph.ops) for value in o.operands(op)}
    live = sum(graph.types[value].size for value in graph.inputs)
    widest = live
    for index, op in enumerate(graph.ops):
        live += sum(graph.types[value].size for value in o.results(op))
        widest = max(widest, live)
        gone = {v for v in o.operands(op) if last[v] == index and v not in graph.constants and v not in graph.outputs}
        live -= sum(graph.types[value].size for value in gone)
    return widest


def images_that_fit(graph: Graph) -> int:
    """How many images stay within the memory budget, both sides in float32."""
    return max(4, BUDGET_BYTES // (8 * widest_cut(graph)))


def batches(
    simulation: Simulation, samples: Sequence[Mapping[o.Value, Array]], *, together: bool = False
) -> list[Values]:
    """The samples in batches of BATCH where the network allows it, else one by one.

    An accelerator may take all whole batches `together`, where values are dropped on the way: it waits for launches.
    """
    tensors = [{name: torch.from_numpy(array).to(simulation.device) for name, array in s.items()} for s in samples]
    if not simulation.batches.axes:
        return tensors
    whole = len(tensors) // BATCH * BATCH
    most = max(whole, BATCH) if together and simulation.device.type != "cpu" else BATCH
    return [_joined(tensors[start : start + most]) for start in range(0, len(tensors), most)]


def _joined(tensors: Sequence[Values]) -> Values:
    return {name: torch.cat([values[name] for values in tensors]) for name in tensors[0]}
