"""How much of a graph a target runs on codes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from edgeq.ir import ops as o
from edgeq.ir.cost import macs, total_macs
from edgeq.ir.graph import Graph
from edgeq.quantize.structure import analyse
from edgeq.recipe import Recipe
from edgeq.target import Target


@dataclass(frozen=True)
class Coverage:
    """How much of a graph runs on codes: operators, and multiply-accumulates; `real` lists the rest by kind."""

    target: str
    integer_ops: int
    all_ops: int
    integer_macs: int
    all_macs: int
    real: dict[str, int]


def kind_of(op: o.Op) -> str:
    """The operator's name for people: that of its function where it applies one."""
    return op.function.name if isinstance(op, o.Apply) else type(op).__name__


def coverage(graph: Graph, target: Target, recipe: Recipe) -> Coverage:
    """Which share of a simplified real graph `target` runs on codes."""
    structure = analyse(graph, target, recipe)
    integer = [op for op in graph.ops if structure.runs_on_codes(op)]
    real = Counter(kind_of(op) for op in graph.ops if not structure.runs_on_codes(op))
    return Coverage(
        target.name,
        len(integer),
        len(graph.ops),
        sum(macs(op, graph) for op in integer),
        total_macs(graph),
        dict(real.most_common()),
    )
