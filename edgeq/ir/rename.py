"""Other names for the values of a graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import chain, count

from edgeq.ir.graph import Graph
from edgeq.ir.ops import Value, rename


def renamed(graph: Graph, names: Mapping[Value, Value]) -> Graph:
    """`graph` with the values that `names` lists called what it says; the new names must be free."""

    def new(value: Value) -> Value:
        return names.get(value, value)

    return replace(
        graph,
        inputs=tuple(map(new, graph.inputs)),
        outputs=tuple(map(new, graph.outputs)),
        ops=tuple(rename(op, new) for op in graph.ops),
        types={new(value): type_ for value, type_ in graph.types.items()},
        constants={new(value): array for value, array in graph.constants.items()},
    )


def with_output_names(graph: Graph, names: tuple[Value, ...]) -> Graph:
    """`graph` with its outputs called `names`; another value that has such a name becomes `name.q`."""
    changed: dict[Value, Value] = {}
    for found, name in zip(graph.outputs, names, strict=True):
        if found == name or found in changed:
            continue
        changed[found] = name
        if name in graph.types:
            candidates = chain([f"{name}.q"], (f"{name}.q.{k}" for k in count(1)))
            changed[name] = next(c for c in candidates if c not in graph.types and c not in changed.values())
    return renamed(graph, changed) if changed else graph
