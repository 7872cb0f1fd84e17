"""scripts/bench-*: the measuring itself, and a whole comparison on a built-in model without other tools."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
OURS = "edgeq tflite-fp32", "edgeq tflite-int8", "edgeq tflite-int8 fast 4", "edgeq tflite-int8 fast 4 from float"
PEERS = ("ai-edge-quantizer 4", "ai-edge-quantizer 4 trunk")


@pytest.fixture(scope="module")
def tools() -> ModuleType:
    """scripts/bench_tools.py, which the scripts import by name."""
    spec = importlib.util.spec_from_file_location("bench_tools", SCRIPTS / "bench_tools.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_tools"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_images_are_stored_one_at_a_time(tools: ModuleType, tmp_path: Path) -> None:
    images = np.random.default_rng(0).random((3, 1, 3, 4, 5), dtype=np.float32)
    tools.store_images(tmp_path / "images.npy", iter(images), 3)
    np.testing.assert_array_equal(np.load(tmp_path / "images.npy", mmap_mode="r"), images[:, 0])


def test_a_conversion_is_timed_and_its_memory_taken(tools: ModuleType, tmp_path: Path) -> None:
    """What it fills on the way counts, whatever it holds at its end."""
    out = tmp_path / "out"
    program = f"b = b'1' * (1 << 30); del b; open({str(out)!r}, 'w'); s = sum(range(3_000_000))"
    found = tools.convert("peer", [sys.executable, "-c", program], out)
    assert found.problem is None
    assert found.seconds > 0 and found.cpu_seconds > 0
    assert found.peak_mb > 1000


def test_medians_are_taken_tool_by_tool_and_a_failure_stays_one(tools: ModuleType) -> None:
    rounds = [[tools.Conversion("a", seconds, 2.0), tools.Conversion("b", problem=problem)]
              for seconds, problem in ((3.0, None), (1.0, "it failed"), (9.0, None))]  # fmt: skip
    assert tools.medians(rounds) == [tools.Conversion("a", 3.0, 2.0), tools.Conversion("b", problem="it failed")]


@pytest.mark.parametrize(
    ("program", "problem"),
    [
        ("import no_such_package", "ModuleNotFoundError: No module named 'no_such_package'"),
        ("import sys; print('ValueError: what it was', 'of no use', sep='\\n', file=sys.stderr); sys.exit(3)", "ValueError: what it was"),
        ("raise SystemExit(3)", "exit 3 without output"),
        ("", "exit 0 without output"),
    ],
)  # fmt: skip
def test_a_failure_is_named(tools: ModuleType, tmp_path: Path, program: str, problem: str) -> None:
    found = tools.peer("peer", program, sys.executable, [], tmp_path / "out")
    assert found == tools.Conversion("peer", problem=problem)


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, Any]]]:
    """The kept files and the results by tool, of a run with few images and rounds."""
    kept = tmp_path_factory.mktemp("bench") / "kept"
    images = ["--calib", "scenes:4", "--images", "4", "--fast-images", "4", "--data", "scenes:6"]
    options = [
        *images,
        "--peer-images",
        "4",
        "--conversions",
        "2",
        "--rounds",
        "2",
        "--threads",
        "1",
        "--json",
        "--out",
        str(kept),
    ]
    command = [sys.executable, str(SCRIPTS / "bench-tflite"), "zoo:detector", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return kept, {result["conversion"]["tool"]: result for result in json.loads(done.stdout)["results"]}


def test_our_files_are_measured(comparison: tuple[Path, dict[str, dict[str, Any]]]) -> None:
    kept, results = comparison
    fp32, int8, fast, from_float = (results[tool] for tool in OURS)
    assert fp32["metrics"]["map50-95"] > 0.5
    assert min(result["metrics"]["sqnr"] for result in (int8, fast, from_float)) > 20
    assert all(0 < r["conversion"]["file_seconds"] < r["conversion"]["seconds"] for r in (fp32, int8, fast))
    assert all(0 < r["conversion"]["file_cpu_seconds"] < r["conversion"]["cpu_seconds"] for r in (fp32, int8, fast))
    assert fp32["file_bytes"] > 2 * int8["file_bytes"] == 2 * (kept / "edgeq-tflite-int8.tflite").stat().st_size
    assert int8["by_edgeq"] == int8["cpu_by_edgeq"] == 1
    assert min(fp32["p50_ms"], int8["p50_ms"], fp32["by_edgeq"]) > 0


def test_other_tools_are_measured_or_named_as_missing(comparison: tuple[Path, dict[str, dict[str, Any]]]) -> None:
    _, results = comparison
    for tool in PEERS:
        found = results[tool]
        if importlib.util.find_spec("ai_edge_quantizer") is None:
            assert found["conversion"]["problem"] == "ModuleNotFoundError: No module named 'ai_edge_quantizer'"
            assert found["p50_ms"] is None and not found["metrics"]
        else:
            assert found["conversion"]["problem"] is None
            assert found["p50_ms"] > 0 and "sqnr" in found["metrics"]


def test_ultralytics_is_left_out_where_it_has_no_checkpoint(comparison: tuple[Path, dict[str, dict[str, Any]]]) -> None:
    assert set(comparison[1]) == {*OURS, *PEERS}
