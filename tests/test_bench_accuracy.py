"""scripts/bench-accuracy: rows that survive interruptions, the ranking, and one whole row on a built-in model."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    """scripts/bench_accuracy.py with its neighbours on the path."""
    sys.path.insert(0, str(SCRIPTS))
    try:
        spec = importlib.util.spec_from_file_location("bench_accuracy", SCRIPTS / "bench_accuracy.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["bench_accuracy"] = module
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(SCRIPTS))
    return module


def test_rows_are_read_back_and_a_torn_line_is_left_out(bench: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    assert bench.read_rows(path) == []
    rows = [bench.Row("m", "w8a8", "edgeq", "fast", 8, 10, {"top1": 0.5}), bench.Row("m", "w4a8", "nncf", "", 8, 10)]
    for row in rows:
        bench.append_row(path, row)
    with path.open("a") as file:
        file.write('{"model": "m", "cell"')
    assert bench.read_rows(path) == rows and rows[0].key != rows[1].key


def test_errors_rank_upside_down(bench: ModuleType) -> None:
    rows = [bench.Row("m", "w8a8", tool, "", 8, 10, {"top1": v, "absrel": v}) for tool, v in (("a", 0.2), ("b", 0.1))]
    assert bench.best_of(rows, "top1").tool == "a" and bench.best_of(rows, "absrel").tool == "b"
    assert bench.best_of(rows, "rmse") is None


def test_stored_outputs_come_back_in_order(bench: ModuleType, tmp_path: Path) -> None:
    arrays = [np.random.default_rng(k).random((4, 2, 3), dtype=np.float32) for k in range(11)]
    for k, array in enumerate(arrays):
        np.save(tmp_path / f"{k}.npy", array)
    run = bench.stored_run(tmp_path)
    for place in range(4):
        found = run(np.zeros(1, np.float32))
        assert all(np.array_equal(a, b[place]) for a, b in zip(found, arrays, strict=True))


def run_script(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPTS / "bench-accuracy"), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_row_is_measured_once(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    options = (
        "--models",
        "zoo_classifier",
        "--cells",
        "w4a8",
        "--efforts",
        "fast",
        "--images",
        "8",
        "--calib-images",
        "4",
    )
    options += ("--tools", "edgeq,nncf", "--rows", str(rows), "--work", str(tmp_path / "work"))
    first = run_script(*options)
    assert first.returncode == 0, first.stderr
    found = {row["tool"]: row for row in map(json.loads, rows.read_text().splitlines())}
    assert found["edgeq"]["metrics"]["sqnr"] > 5 and found["edgeq"]["seconds"] > 0
    assert found["nncf"]["problem"] and not found["nncf"]["metrics"]
    assert "zoo_classifier: top1" in first.stdout and "edgeq" in first.stdout
    second = run_script(*options)
    assert len(rows.read_text().splitlines()) == 2 and second.stdout == first.stdout


def test_names_and_models_that_are_not_there(tmp_path: Path) -> None:
    found = run_script("--models", "resnet21")
    assert found.returncode == 2 and "resnet20" in found.stderr
    found = run_script("--models", "yolov5n,zoo_depth", "--real", str(tmp_path))
    assert found.returncode == 2 and "yolov5n" in found.stderr and "zoo_depth" not in found.stderr
