"""What formats cost: bytes of weights, multiply-accumulates times bits, and milliseconds from a table of a board.

A table of latencies is a JSON file with one entry for each operator, by the name of its result or by its kind and
shapes (`layer_key`), and in each the milliseconds by formats:

    {"schema": "edgeq.latency/1", "rest_ms": 0.4, "layers": {"/conv1/Conv_output_0": {"w8a8": 0.81, "w4a8": 0.93}}}

`rest_ms`, 0 where it is not said, is what everything else takes; edgeq profile-ops measures such a table.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgeq.errors import UsageError
from edgeq.formats import bits_of
from edgeq.ir import ops as o
from edgeq.ir.cost import macs
from edgeq.ir.graph import Graph
from edgeq.quantize.operators import weight_of
from edgeq.recipe import Formats

SCHEMA = "edgeq.latency/1"
BYTES, WEIGHT_BITS, ACTIVATION_BITS, WORK, MILLISECONDS = (
    "weight bytes",
    "weight bits",
    "activation bits",
    "MAC bits",
    "ms",
)


@dataclass(frozen=True)
class LatencyTable:
    """Milliseconds by operator and formats; see the module's text."""

    path: Path
    layers: Mapping[str, Mapping[str, float]]
    rest_ms: float = 0.0

    def milliseconds(self, op: o.Op, graph: Graph, formats: Formats) -> float:
        """Raises UsageError for what the table does not know."""
        result, key = o.results(op)[0], layer_key(op, graph)
        entry = self.layers.get(result) or self.layers.get(key)
        if entry is None:
            raise UsageError(
                "the latency table does not know this operator", where=self.path, value=f"{result} ({key})"
            )
        if str(formats) not in entry:
            raise UsageError(
                "the latency table does not know these formats",
                where=f"{self.path}, {result}", value=formats, allowed=", ".join(entry),
            )  # fmt: skip
        return entry[str(formats)]


def read_latency_table(path: Path) -> LatencyTable:
    """The table in a JSON file. Raises UsageError for anything else."""
    try:
        document = json.loads(path.read_text("utf-8"))
        layers = {
            str(name): {str(formats): float(number) for formats, number in entry.items()}
            for name, entry in document["layers"].items()
        }
        rest_ms = float(document.get("rest_ms", 0))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(
            "the latency table cannot be read", where=path, value=repr(error)[:120], allowed=SCHEMA
        ) from error
    numbers = [rest_ms, *(number for entry in layers.values() for number in entry.values())]
    if any(not 0 <= number < float("inf") for number in numbers):
        raise UsageError("latencies are milliseconds, 0 or more", where=path)
    return LatencyTable(path, layers, rest_ms)


def layer_key(op: o.Op, graph: Graph) -> str:
    """What a weighted operator costs the same for, whatever its name: kind, kernel, stride, groups, shapes.

    Such as "Conv 3x3 s1 g1 16x32x32 16x32x32".
    """
    shapes = ["x".join(map(str, graph.types[value].shape[1:])) for value in (o.operands(op)[0], o.results(op)[0])]
    if not isinstance(op, o.Conv | o.ConvTranspose):
        return " ".join((type(op).__name__, *shapes))
    kernel = "x".join(map(str, graph.types[op.weight].shape[2:]))
    return " ".join((type(op).__name__, kernel, f"s{op.stride[0]}", f"g{op.groups}", *shapes))


def costs_of(
    op: o.Op, graph: Graph, formats: Formats, read: Iterable[o.Value], latency: LatencyTable | None = None
) -> dict[str, float]:
    """Every kind of cost of `op` in `formats`; `read` are the values whose codes are counted here."""
    weight, activation = formats.weight, formats.activation
    weight_bits, activation_bits = (bits_of(part) if part is not None else 32 for part in (weight, activation))
    elements = graph.types[name].size if (name := weight_of(op)) else 0
    found = {
        BYTES: float((elements * weight_bits + 7) // 8),
        WEIGHT_BITS: float(elements * weight_bits),
        ACTIVATION_BITS: float(sum(graph.types[value].size for value in read) * activation_bits),
        WORK: float(macs(op, graph) * (weight_bits if elements else activation_bits) * activation_bits),
    }
    if latency is not None:
        found[MILLISECONDS] = latency.milliseconds(op, graph, formats)
    return found


def weight_elements(graph: Graph, results: Iterable[o.Value]) -> int:
    """Elements of the weights of operators."""
    names = (weight_of(graph.producer[result]) for result in results)
    return sum(graph.types[name].size for name in names if name is not None)
