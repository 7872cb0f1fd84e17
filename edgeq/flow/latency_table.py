"""From the instructions of every layer on a simulated board to the table of latencies that bit allocation reads.

One cycle for each instruction at the clock that is given: what differs between formats is right in proportion, the
milliseconds are not those of a board with caches and wait states. Formats are added one by one: bench the folders of
several exports into the same file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeq.emit.artifact import GRAPH_FILE, to_json, write_files
from edgeq.formats import Int
from edgeq.ir import ops as o
from edgeq.ir.file import load
from edgeq.ir.graph import Graph
from edgeq.passes.kernels import program
from edgeq.quantize.costs import SCHEMA, read_latency_table
from edgeq.quantize.structure import is_weighted
from edgeq.recipe import Formats


def update_latency_table(path: Path, folder: Path, layers: Sequence[Mapping[str, Any]], mhz: float) -> None:
    """Add the weighted operators of the generated C in `folder`, whose `layers` a board counted, to the table at `path`.

    Raises UsageError if `path` is another kind of file, and OutputError if it cannot be written.
    """
    known = {name: dict(entry) for name, entry in read_latency_table(path).layers.items()} if path.exists() else {}
    for name, formats, milliseconds in entries(load(folder / GRAPH_FILE), layers, mhz):
        known.setdefault(name, {})[formats] = milliseconds
    write_files(path.parent, {path.name: to_json({"schema": SCHEMA, "mhz": mhz, "layers": known})})


def entries(graph: Graph, layers: Sequence[Mapping[str, Any]], mhz: float) -> list[tuple[str, str, float]]:
    """(result in the real graph, formats, milliseconds) of every weighted operator of a lowered graph."""
    instructions = {str(layer["value"]): int(layer["instructions"]) for layer in layers}
    found = []
    for kernel in program(graph).kernels:
        result = o.results(kernel.op)[0]
        if is_weighted(kernel.op) and kernel.out in instructions:
            milliseconds = instructions[kernel.out] / (1000 * mhz)
            found.append((result.removesuffix(".acc"), str(_formats(kernel.op, graph)), milliseconds))
    return found


def _formats(op: o.Op, graph: Graph) -> Formats:
    weight = graph.types[op.weight].format if isinstance(op, o.Conv | o.ConvTranspose | o.Linear) else None
    read = graph.types[o.operands(op)[0]].format
    return Formats(weight, read if isinstance(read, Int) else None)


def describe(path: Path) -> str:
    """How many operators and formats a table holds."""
    layers = json.loads(path.read_text("utf-8"))["layers"]
    formats = sorted({name for entry in layers.values() for name in entry})
    return f"{path} holds {len(layers)} layers in {', '.join(formats)}"
