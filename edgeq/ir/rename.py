"""Other names for the values of a graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

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
