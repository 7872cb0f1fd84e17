"""From a real graph to a lowered one with ranges seen on given inputs; and the part of a graph between known values."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import torch

from edgeq.formats import code_range, is_table, level_range
from edgeq.ir import ops as o
from edgeq.ir.graph import Array, Graph
from edgeq.ir.verify import verify
from edgeq.passes.decompose import decompose
from edgeq.passes.lower import lower
from edgeq.passes.separate import separate
from edgeq.quantize.assign import Range, assign
from edgeq.quantize.structure import Structure, analyse
from edgeq.recipe import Recipe
from edgeq.reference.interpret import run
from edgeq.target import Target

PLAIN = Recipe("auto", ())


def lowered(graph: Graph, target: Target, inputs: Mapping[o.Value, Array], recipe: Recipe = PLAIN) -> Graph:
    """`graph` lowered for `target` with the ranges that its values have on `inputs`."""
    graph = decompose(graph, target.decomposed)
    graph = separate(graph) if target.separate_layers else graph
    structure = analyse(graph, target, recipe)
    result = lower(graph, assign(structure, ranges_on(structure, target, inputs), target))
    verify(result)
    return result


def ranges_on(structure: Structure, target: Target, inputs: Mapping[o.Value, Array]) -> dict[o.Value, Range]:
    """Scale and zero point of every class of values that is computed from `inputs`."""
    seen: dict[o.Value, torch.Tensor] = {}
    run(structure.graph, inputs, seen.__setitem__)
    ranges: dict[o.Value, Range] = {}
    for key in structure.members:
        values = [seen[value] for value in structure.sources(key) if value in seen]
        if values:
            low_code, high_code = code_range(structure.formats[key])
            low = min(0.0, *(float(value.min()) for value in values))
            high = max(1e-3, *(float(value.max()) for value in values))
            if is_table(structure.formats[key]):
                top = level_range(structure.formats[key])[1]
                ranges[key] = float(np.float32(max(-low, high) / top)), 0
            elif target.symmetric:
                headroom = 2 if high_code > 127 else 1  # wide values must not saturate: files print them as reals
                ranges[key] = float(np.float32(headroom * max(-low, high) / high_code)), 0
            else:
                scale = float(np.float32((high - low) / (high_code - low_code)))
                ranges[key] = scale, int(np.clip(round(low_code - low / scale), low_code, high_code))
    return ranges


def between(graph: Graph, known: Collection[o.Value], value: o.Value) -> Graph:
    """The ops that compute `value` from those of `known` nearest to it (and from graph inputs and constants)."""
    ops: set[int] = set()
    inputs: dict[o.Value, None] = {}
    waiting = [value]
    while waiting:
        name = waiting.pop()
        if name in graph.inputs or (name in known and name != value):
            inputs[name] = None
        elif name in graph.producer and id(graph.producer[name]) not in ops:
            ops.add(id(graph.producer[name]))
            waiting += o.operands(graph.producer[name])
    kept = tuple(op for op in graph.ops if id(op) in ops)
    names = {name for op in kept for name in (*o.operands(op), *o.results(op))} | {*inputs, value}
    return Graph(
        "between", tuple(inputs), (value,), kept,
        {name: type_ for name, type_ in graph.types.items() if name in names},
        {name: array for name, array in graph.constants.items() if name in names},
    )  # fmt: skip
