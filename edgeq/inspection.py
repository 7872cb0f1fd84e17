"""What is inside a model: sizes, operators, attention, and how much of it a target would run on integers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from edgeq.frontend.model import open_model
from edgeq.ir.cost import parameters, total_macs
from edgeq.ir.graph import Graph
from edgeq.ir.text import to_text
from edgeq.passes.attention import find_attention
from edgeq.passes.simplify import simplify
from edgeq.quantize.coverage import Coverage, coverage, kind_of
from edgeq.recipe import Recipe
from edgeq.target import find_target


@dataclass(frozen=True)
class Inspection:
    """The findings of `inspect_model`."""

    name: str
    graph: Graph
    metadata: dict[str, str]
    attention_blocks: int
    coverage: Coverage | None = None
    notes: list[str] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "schema": "edgeq.inspect/1",
            "command": "inspect",
            "name": self.name,
            "inputs": {value: list(self.graph.types[value].shape) for value in self.graph.inputs},
            "outputs": {value: list(self.graph.types[value].shape) for value in self.graph.outputs},
            "operators": dict(_operator_counts(self.graph)),
            "parameters": parameters(self.graph),
            "macs": total_macs(self.graph),
            "attention_blocks": self.attention_blocks,
            "metadata": self.metadata,
            "coverage": vars(self.coverage) if self.coverage else None,
            "exit": 0,
        }


def _operator_counts(graph: Graph) -> Counter[str]:
    return Counter(kind_of(op) for op in graph.ops)


def inspect_model(
    model: str,
    *,
    target: str | None = None,
    imgsz: str | None = None,
    arch: str | None = None,
    trust_pickle: bool = False,
) -> Inspection:
    """Open and simplify `model`, and measure it; raises as `open_model` and `find_target` do."""
    row = find_target(target) if target else None
    opened = open_model(model, imgsz=imgsz, arch=arch, trust_pickle=trust_pickle)
    graph = simplify(opened.graph)
    found = coverage(graph, row, Recipe()) if row and row.is_integer else None
    return Inspection(opened.name, graph, dict(opened.metadata), len(find_attention(graph)), found)


def print_inspection(found: Inspection, *, text: bool) -> None:
    """A table of operators and the headline figures; or the graph itself when `text`."""
    console = Console()
    if text:
        console.print(to_text(found.graph), highlight=False, markup=False, soft_wrap=True)
        return
    graph = found.graph
    for role, values in (("input", graph.inputs), ("output", graph.outputs)):
        for value in values:
            console.print(f"{role:9} {value} {list(graph.types[value].shape)}", highlight=False, markup=False)
    console.print(f"weights   {parameters(graph):,} parameters", highlight=False)
    console.print(f"work      {total_macs(graph) / 1e6:,.1f} million multiply-accumulates", highlight=False)
    if found.attention_blocks:
        console.print(f"attention {found.attention_blocks} blocks", highlight=False)
    table = Table("operator", "count")
    for kind, count in _operator_counts(graph).most_common():
        table.add_row(kind, str(count))
    console.print(table)
    if found.coverage:
        _print_coverage(found.coverage, console)


def _print_coverage(found: Coverage, console: Console) -> None:
    share = found.integer_macs / max(found.all_macs, 1)
    console.print(
        f"{found.target}: {found.integer_ops} of {found.all_ops} operators and {share:.1%} of the"
        " multiply-accumulates run on integers",
        highlight=False,
    )
    if found.real:
        rest = ", ".join(f"{count} {kind}" for kind, count in found.real.items())
        console.print(f"in float: {rest}", highlight=False)
