"""Which values of rank 4 lie row by row in memory, and which as images, height before channels.

Convolutions and pools read and write images. Matrix products and normalizations of the last axis want its elements side
by side. Operators that work element by element join their operands and results, which then lie alike; operators that
move elements get from one order to the other, and ports are images.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from edgeq.ir import ops as o
from edgeq.ir.graph import Graph

IMAGE = (0, 2, 3, 1)
_IMAGES = o.Conv | o.ConvTranspose | o.MaxPool | o.AveragePool | o.Resize
_ROWS = o.Linear | o.MatMul | o.LayerNorm
_ALIKE = o.Add | o.Sub | o.Mul | o.Lookup | o.Requantize | o.DivideCodes | o.Softmax


def axes_in_memory(rank: int) -> tuple[int, ...]:
    """The axes of a value in the order in which memory holds them, unless it lies row by row."""
    return IMAGE if rank == 4 else tuple(range(rank))


def _activations(op: o.Op) -> tuple[o.Value, ...]:
    operands = o.operands(op) if isinstance(op, o.MatMul | o.Add | o.Sub | o.Mul) else o.operands(op)[:1]
    return (*operands, *o.results(op))


def _reached(start: Iterable[o.Value], neighbours: Mapping[o.Value, Iterable[o.Value]]) -> set[o.Value]:
    found, waiting = set(start), list(start)
    while waiting:
        for value in neighbours.get(waiting.pop(), ()):
            if value not in found:
                found.add(value)
                waiting.append(value)
    return found


def row_values(graph: Graph, ports: Iterable[o.Value]) -> frozenset[o.Value]:
    """Values of rank 4 that lie row by row: those of matrix products and normalizations, unless images join them."""
    images, rows = set(ports), set[o.Value]()
    neighbours: dict[o.Value, list[o.Value]] = defaultdict(list)
    for op in graph.ops:
        values = [value for value in _activations(op) if len(graph.types[value].shape) == 4]
        if isinstance(op, _IMAGES):
            images.update(values)
        elif isinstance(op, _ROWS):
            rows.update(values)
        elif isinstance(op, _ALIKE):
            for value in values:
                neighbours[value] += values
    found = _reached(rows, neighbours) - _reached(images, neighbours)
    return frozenset(value for value in found if len(graph.types[value].shape) == 4)
