"""scripts/bench_formats.py: fronts, costs that grow with bits, and the table of measured rows."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from edgeq.catalogue import find_choice

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


@pytest.fixture
def bench() -> Iterator[ModuleType]:
    sys.path.insert(0, str(SCRIPTS))
    try:
        import bench_formats

        yield bench_formats
    finally:
        sys.path.remove(str(SCRIPTS))


def test_what_nothing_beats(bench: ModuleType) -> None:
    points = [(1, 5), (2, 4.5), (3, 1), (4, 2), (3, 1)]
    assert bench.front(points) == [True, True, True, False, True]
    assert bench.hull(points) == [True, False, True, False, True]
    assert bench.hull([(1.0, 2.0), (float("inf"), 1.0), (2.0, 1.5)]) == [True, True, True]


def test_more_bits_cost_more_luts(bench: ModuleType) -> None:
    cost = {name: bench.mac_cost(find_choice(name)) for name in ("int4", "int8", "e2m1", "e3m2", "post4", "fp8_e5m2")}
    assert cost["int4"] < cost["e2m1"] < cost["int8"] < cost["e3m2"] < cost["post4"] < cost["fp8_e5m2"]
    assert bench.mac_cost(find_choice("kmeans4")) is None


def test_the_table_joins_tools_and_marks_fronts(bench: ModuleType, tmp_path: Path) -> None:
    rows, ba = tmp_path / "rows.jsonl", bench.ba
    figures = (
        ("int4/int8", 20.0),
        ("e2m1/int8", 19.0),
        ("int8/int8", 30.0),
        ("kmeans4/int8", 21.0),
        ("int4/int4", 9.0),
    )
    for cell, db in figures:
        ba.append_row(
            rows, ba.Row("resnet8", cell, "edgeq", "balanced", 8, 9, {"top1": 0.5, "sqnr": db}, {"top1": 0.6})
        )
    ba.append_row(
        rows, ba.Row("resnet8", "int4/int8", bench.BREVITAS, "", 8, 9, {"top1": 0.4, "sqnr": 18.0}, {"top1": 0.6})
    )
    ba.append_row(rows, ba.Row("resnet8", "post4/int8", "edgeq", "balanced", 8, 9, problem="failed"))
    lines = bench.markdown(rows, "resnet8").splitlines()
    assert len(lines) == 4 + len(figures) and "float 0.6000, 9 images" in lines[0]
    by_name = {line.split("|")[3].strip(): line for line in lines[4:]}
    assert "| LH | 0.4000 | 18.0 |" in by_name["int4"] and "| bLH |" in by_name["int8"]
    assert "| b |" in by_name["kmeans4"] and "| 19.0 |  |  |  |" in by_name["e2m1"]
    assert lines[-1].split("|")[1:4] == [" 4 ", "  ", " int4/int4 "]
