"""What is inside a model: sizes, operators, attention, and how much of it a target would run on integers.

Of a quantized file, whoever wrote it: the table of its quantized tensors, and what lint finds in them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from edgeq.errors import UnsupportedError
from edgeq.frontend.model import open_model
from edgeq.ir.cost import parameters, total_macs
from edgeq.ir.graph import Graph
from edgeq.ir.text import to_text
from edgeq.lint import Finding, lint_file, usual_runtime
from edgeq.passes.attention import find_attention
from edgeq.passes.simplify import simplify
from edgeq.quantize.coverage import Coverage, coverage, kind_of
from edgeq.readback import SUFFIXES as READABLE
from edgeq.readback import Stored, StoredTensor, read_stored
from edgeq.recipe import Recipe
from edgeq.targets import find_target


@dataclass(frozen=True)
class Inspection:
    """The findings of `inspect_model`."""

    name: str
    graph: Graph | None
    metadata: dict[str, str]
    attention_blocks: int
    coverage: Coverage | None = None
    notes: list[str] = field(default_factory=list)
    stored: Stored | None = None
    findings: list[Finding] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "schema": "edgeq.inspect/1",
            "command": "inspect",
            "name": self.name,
            **(
                _network(self.graph)
                if self.graph
                else {"operators": dict(self.stored.operators if self.stored else {})}
            ),
            "attention_blocks": self.attention_blocks,
            "quantization": [quantization_row(tensor) for tensor in self.quantized],
            "lint": self.runtime,
            "findings": [vars(finding) for finding in self.findings],
            "metadata": self.metadata,
            "coverage": vars(self.coverage) if self.coverage else None,
            "exit": 0,
        }

    @property
    def runtime(self) -> str:
        """Whose rules `findings` are about."""
        return usual_runtime(Path(f"model.{self.stored.format}")) if self.stored else ""

    @property
    def quantized(self) -> list[StoredTensor]:
        """The quantized tensors of the file, as it stores them."""
        return [tensor for tensor in self.stored.tensors if tensor.is_quantized] if self.stored else []


def _network(graph: Graph) -> dict[str, Any]:
    return {
        "inputs": {value: list(graph.types[value].shape) for value in graph.inputs},
        "outputs": {value: list(graph.types[value].shape) for value in graph.outputs},
        "operators": dict(_operator_counts(graph)),
        "parameters": parameters(graph),
        "macs": total_macs(graph),
    }


def quantization_row(tensor: StoredTensor) -> dict[str, Any]:
    """One line of the quantization table as plain JSON values."""
    return {
        "tensor": tensor.name,
        "role": tensor.role,
        "operator": tensor.operator,
        "type": tensor.element,
        "shape": None if tensor.shape is None else list(tensor.shape),
        "scales": list(tensor.scale),
        "zero_points": list(tensor.zero_point),
        "axis": tensor.axis,
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
    stored, findings = _stored(model)
    if stored is not None and stored.format == "mlpackage":
        notes = ["a CoreML package is listed, not read as a network"]
        return Inspection(Path(model).stem, None, {}, 0, notes=notes, stored=stored, findings=findings)
    try:
        opened = open_model(model, imgsz=imgsz, arch=arch, trust_pickle=trust_pickle)
    except UnsupportedError as error:
        if stored is None or not any(tensor.is_quantized for tensor in stored.tensors):
            raise
        return Inspection(Path(model).stem, None, {}, 0, notes=[str(error)], stored=stored, findings=findings)
    graph = simplify(opened.graph)
    found = coverage(graph, row, Recipe()) if row and row.is_integer else None
    return Inspection(
        opened.name, graph, dict(opened.metadata), len(find_attention(graph)), found, stored=stored, findings=findings
    )


def _stored(model: str) -> tuple[Stored | None, list[Finding]]:
    """The numbers of a file that holds some, and what lint finds; nothing of models of other kinds."""
    path = Path(model)
    if path.suffix not in READABLE or not path.exists():
        return None, []
    stored = read_stored(path)
    return stored, lint_file(path) if any(tensor.is_quantized for tensor in stored.tensors) else []


def print_inspection(found: Inspection, *, text: bool) -> None:
    """A table of operators and the headline figures; or the graph itself when `text`."""
    console = Console()
    if text and found.graph is not None:
        console.print(to_text(found.graph), highlight=False, markup=False, soft_wrap=True)
        return
    if found.graph is not None:
        _print_network(found, found.graph, console)
    if found.quantized:
        _print_quantization(found, console)
    for note in found.notes:
        console.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)


def _print_network(found: Inspection, graph: Graph, console: Console) -> None:
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


def _print_quantization(found: Inspection, console: Console) -> None:
    table = Table("tensor", "role", "type", "shape", "scale", "zero point", "operator", title="quantization")
    for tensor in found.quantized:
        shape = "" if tensor.shape is None else "x".join(map(str, tensor.shape))
        cells = (tensor.name, tensor.role, tensor.element, shape, _scales(tensor), _zeros(tensor), tensor.operator)
        table.add_row(*(Text(cell, overflow="ellipsis", no_wrap=index in (0, 6)) for index, cell in enumerate(cells)))
    console.print(table)
    for rule, count in Counter((finding.severity, finding.rule) for finding in found.findings).items():
        console.print(f"{rule[0]}: {rule[1]} ({count})", highlight=False)
    if found.findings:
        console.print(f"edgeq lint says where, and what to do for {found.runtime} or others", highlight=False)


def _scales(tensor: StoredTensor) -> str:
    if len(tensor.scale) <= 1:
        return f"{tensor.scale[0]:.6g}" if tensor.scale else ""
    return f"{min(tensor.scale):.3g} … {max(tensor.scale):.3g} ({len(tensor.scale)}, axis {tensor.axis})"


def _zeros(tensor: StoredTensor) -> str:
    zeros = tensor.zero_point or (0,)
    return str(zeros[0]) if len(zeros) == 1 else f"{min(zeros)} … {max(zeros)}"


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
