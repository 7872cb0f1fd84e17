"""The table of latencies: every operator by name and by what it costs the same for, and what was measured, kept by content."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from edgeq.errors import OutputError, UsageError
from edgeq.flow.latency_store import known_profile, store_path, store_profile
from edgeq.flow.latency_table import predicted_ms, write_latency_table
from edgeq.flow.op_times import OpTime, Profile, formats_of, result_of, weighted_ops
from edgeq.formats import INT4_NARROW
from edgeq.ir.graph import Graph
from edgeq.quantize.asked import Asked
from edgeq.quantize.costs import layer_key, read_latency_table
from edgeq.recipe import parse_formats
from edgeq.targets import find_target
from tests.format_nets import LAYERS, quantized, residual

C = find_target("c-int8")
W8, W4 = (quantized(Asked(rules=(f"*={name}",)), C) for name in ("w8a8", "w4a8"))


def profile(graph: Graph, each_ms: float, rest_ms: float = 0.5) -> Profile:
    """One that grows from operator to operator."""
    ops = [OpTime(result_of(op), layer_key(op, graph), formats_of(op, graph), each_ms * k)
           for k, op in enumerate(weighted_ops(graph), 1)]  # fmt: skip
    return Profile(tuple(ops), rest_ms, 12.0)


def test_operators_are_found_by_name_and_by_shape(tmp_path: Path) -> None:
    path, real = tmp_path / "board.json", residual()
    write_latency_table(path, [profile(W8, 1.0), profile(W4, 2.0, 0.7)], {"board": "b"})
    table = read_latency_table(path)
    assert set(LAYERS) < set(table.layers) and table.rest_ms == 0.7
    for name, formats, factor in ((n, f, k) for n in LAYERS for f, k in (("w8a8", 1), ("w4a8", 2))):
        place = LAYERS.index(name) + 1
        assert table.milliseconds(real.producer[name], real, parse_formats(formats)) == factor * place
        assert formats in table.layers[layer_key(real.producer[name], real)]
    assert json.loads(path.read_text())["board"] == "b"
    mixed = [profile(W8 if k % 2 else W4, 0.0).ops[k] for k in range(len(LAYERS))]
    assert predicted_ms(mixed, [profile(W8, 1.0), profile(W4, 2.0, 0.7)]) == 0.7 + 2 * 1 + 2 + 2 * 3 + 4


def test_another_file_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "notes.json"
    path.write_text('{"mine": 1}')
    with pytest.raises(UsageError, match="latency table cannot be read"):
        write_latency_table(path, [profile(W8, 1.0)], {})
    assert path.read_text() == '{"mine": 1}'


def test_what_was_measured_is_found_by_content_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    place = {"board": "pi", "governor": "performance"}
    assert known_profile(W8, place) is None and not store_path().exists()
    store_profile(W8, place, profile(W8, 1.0))
    found = known_profile(W8, dict(reversed(place.items())))
    assert found is not None and (found.rest_ms, found.whole_ms) == (0.5, 12.0)
    assert [op.result for op in found.ops] == list(LAYERS) and len({op.ms for op in found.ops}) >= 3
    assert known_profile(W4, place) is None and known_profile(W8, {**place, "governor": "powersave"}) is None
    assert store_profile(W8, place, profile(W8, 3.0)) == found
    again = store_profile(W8, place, profile(W8, 3.0), replace=True)
    assert again == known_profile(W8, place) and again.sum_ms == pytest.approx(3 * found.sum_ms - 1)
    store_path().write_bytes(b"no database" * 100)
    assert known_profile(W8, place) is None
    with pytest.raises(OutputError, match="If the file is damaged, remove it"):
        store_profile(W8, place, profile(W8, 1.0))


def test_keys_do_not_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for graph in (W8, W4):
        store_profile(graph, {"board": "pi"}, profile(graph, 1.0))
    with sqlite3.connect(store_path()) as base:
        rows = base.execute("SELECT key, thing FROM times").fetchall()
    distinct = {op.key for op in profile(W8, 1.0).ops}
    assert len({key for key, _ in rows}) == len(rows) == 2 * len(distinct) + 4 and INT4_NARROW.bits == 4
