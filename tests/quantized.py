"""From a real graph to everything that quantization decides, with plain ranges; and signal over noise."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edgeq.ir import ops as o
from edgeq.ir.graph import Array, Editor, Graph, Type
from edgeq.passes.decompose import decompose
from edgeq.passes.separate import separate
from edgeq.quantize.assign import assign
from edgeq.quantize.plan import Plan
from edgeq.quantize.structure import Structure, analyse
from edgeq.recipe import Recipe, keep_real
from edgeq.reference.interpret import run
from edgeq.target import Target
from edgeq.targets import find_target
from tests.lowering import ranges_on

Reals = NDArray[np.float64]
JETSON, ORT = find_target("jetson-int8"), find_target("onnx-int8")
TARGETS = (JETSON, ORT)


class Net:
    """A hand-made real graph with random weights; every method appends one operator and gives its result."""

    def __init__(self, *shape: int, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.editor = Editor("net", ["x"], {"x": Type(shape)})

    def add(self, op: o.Op) -> o.Value:
        return self.editor.append(op)

    def reals(self, *shape: int, spread: float = 1.0) -> o.Value:
        return self.constant(self.rng.normal(0, spread, shape))

    def constant(self, content: object) -> o.Value:
        return self.editor.constant(self.editor.fresh("constant"), np.asarray(content, np.float32))

    def channels(self, x: o.Value) -> int:
        return self.editor.types[x].shape[1]

    def conv(self, x: o.Value, outputs: int, out: str, kernel: int = 3, stride: int = 1) -> o.Value:
        inputs = self.channels(x)
        weight = self.reals(outputs, inputs, kernel, kernel, spread=(2 / (inputs * kernel**2)) ** 0.5)
        pad = kernel // 2
        bias = self.reals(outputs, spread=0.1)
        return self.add(o.Conv(x, weight, bias, out, (stride, stride), (pad, pad, pad, pad)))

    def apply(self, x: o.Value, name: o.FunctionName, out: str, a: float = 0.0, b: float = 0.0) -> o.Value:
        return self.add(o.Apply(x, out, o.Function(name, a, b)))

    def linear(self, x: o.Value, outputs: int, out: str) -> o.Value:
        size = self.editor.types[x].shape[-1]
        return self.add(o.Linear(x, self.reals(outputs, size, spread=size**-0.5), self.reals(outputs), out))

    def graph(self, *outputs: o.Value) -> Graph:
        return self.editor.graph(outputs)


def recipe(*kept: str) -> Recipe:
    """Keep the operators that match `kept` real."""
    return Recipe("minmax", tuple(map(keep_real, kept)))


def inputs_of(graph: Graph, seed: int = 0) -> dict[o.Value, Array]:
    """Normal input values."""
    rng = np.random.default_rng(seed)
    return {name: rng.normal(0, 1, graph.types[name].shape).astype(np.float32) for name in graph.inputs}


def planned(graph: Graph, target: Target, inputs: Mapping[o.Value, Array], *kept: str) -> tuple[Graph, Structure, Plan]:
    """The decomposed graph, its structure and the plan with the ranges seen on `inputs`."""
    graph = decompose(graph, target.decomposed)
    graph = separate(graph) if target.separate_layers else graph
    structure = analyse(graph, target, recipe(*kept))
    return graph, structure, assign(structure, ranges_on(structure, target, inputs), target)


def outputs_of(graph: Graph, inputs: Mapping[o.Value, Array]) -> list[Reals]:
    """The reference's outputs in order, in double precision."""
    return [tensor.numpy().astype(np.float64) for tensor in run(graph, inputs).values()]


def signal_to_noise_db(wanted: Reals, found: Reals) -> float:
    """10 log10 of signal power over the power of the difference."""
    signal, noise = float((wanted**2).sum()), float(((found - wanted) ** 2).sum())
    return 10 * math.log10(max(signal, 1e-300) / noise) if noise else math.inf
