"""The table of latencies: every weighted layer of generated C by its own name, format after format, and what bits it buys."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from edgeq.emit.artifact import GRAPH_FILE
from edgeq.errors import UsageError
from edgeq.flow.latency_table import describe, update_latency_table
from edgeq.formats import INT4_NARROW
from edgeq.ir.file import save
from edgeq.ir.graph import Graph
from edgeq.passes.kernels import program
from edgeq.quantize.asked import Asked
from edgeq.quantize.costs import read_latency_table
from edgeq.recipe import parse_formats
from edgeq.targets import find_target
from tests.format_nets import LAYERS, quantized, residual

C = find_target("c-int8")


def folder(graph: Graph, place: Path) -> Path:
    place.mkdir()
    save(graph, place / GRAPH_FILE)
    return place


def counted(graph: Graph) -> list[dict[str, object]]:
    """One row for each kernel, as a board gives them; instructions by place."""
    return [{"board": "b", "value": k.out, "instructions": 1000 * n} for n, k in enumerate(program(graph).kernels, 1)]


def test_formats_are_added_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "board.json"
    for weight in (C.weight, INT4_NARROW):
        graph = quantized(Asked(), replace(C, weight=weight, more_weights=()))
        update_latency_table(path, folder(graph, tmp_path / str(weight)), counted(graph), mhz=2.0)
    table = read_latency_table(path)
    real = residual()
    assert set(table.layers) == set(LAYERS)
    assert all(set(entry) == {"w8a8", "w4a8"} for entry in table.layers.values())
    spent = [table.milliseconds(real.producer[name], real, parse_formats("w4a8")) for name in LAYERS]
    assert spent == sorted(spent) and len(set(spent)) == 4
    assert spent[0] == pytest.approx(0.5)  # a thousand instructions at two megahertz
    assert "4 layers in w4a8, w8a8" in describe(path) and json.loads(path.read_text())["mhz"] == 2.0


def test_another_file_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "notes.json"
    path.write_text('{"mine": 1}')
    graph = quantized(Asked(), C)
    with pytest.raises(UsageError, match="latency table cannot be read"):
        update_latency_table(path, folder(graph, tmp_path / "c"), counted(graph), mhz=2.0)
    assert path.read_text() == '{"mine": 1}'
