"""`edgeq sweep`: every cell of a plan once, on its board, and on where it stopped."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

from edgeq.boards.entries import FILE_VARIABLE, add_entry
from edgeq.errors import UsageError
from edgeq.flow import sweep_report
from edgeq.flow.jobs import JobStore
from edgeq.flow.results import COLUMNS, GROUP, Results, judged
from edgeq.flow.sweep import Plan, read_plan
from edgeq.report import Row
from tests.board_artifacts import pi
from tests.command_line import edgeq, write_noise_images, write_small_classifier
from tests.ssh_server import SshServer


@pytest.fixture(autouse=True)
def board_list(server: SshServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(FILE_VARIABLE, str(tmp_path / "boards.toml"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    add_entry(pi(server))
    yield
    assert server.is_clean_within(10), (server.left(), server.processes())


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    write_small_classifier(tmp_path / "net.onnx")
    write_noise_images(tmp_path / "images", 4)
    path = tmp_path / "plan.toml"
    path.write_text(
        f"""models = ["{tmp_path}/net.onnx"]
targets = ["onnx-int8", "c-int8"]
boards = ["local", "pi"]
calib = "{tmp_path}/images"
preprocess = "cifar"
estimator = "minmax"
float-share = 0
runs = 3

[recipes.plain]
[recipes.kept]
keep-real = ["logits"]
"""
    )
    return path


def cells(out: Path) -> list[tuple[str, str, str, str, int]]:
    store = JobStore(out / "sweep.sqlite")
    found = [
        (*(json.loads(job.key)[axis] for axis in ("recipe", "target", "board")), job.state, job.attempts)
        for job in store.jobs()
    ]
    store.close()
    return found  # type: ignore[return-value]


def test_every_cell_once_and_on_where_it_stopped(plan: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    store_of_a_dead_sweep(plan, out)
    ran = edgeq("sweep", plan, "--out", out, "--resume", "--threads", 1, "--json")
    found = cells(out)
    done = [cell for cell in found if cell[3] == "done"]
    assert len(found) == 8 and len({cell[:3] for cell in found}) == 8
    assert len(done) == 6, ran.document["notes"]  # C holds no float, so what is kept in float cannot be C
    assert {cell[:2] for cell in found if cell[3] == "failed"} == {("kept", "c-int8")}
    assert ran.exit == 6 and sum("c-int8" in note for note in ran.document["notes"]) == 2
    assert sorted(cell[4] for cell in done) == [1, 1, 1, 1, 1, 2]  # the one that was running has begun again
    assert len(list(out.glob("export-*"))) == 3  # boards share exports
    places = {row["where"] for row in ran.document["rows"] if row["metric"] == "latency_p50_ms"}
    assert len(places) == 6 and any(place.endswith("onnx-int8 on pi") for place in places)
    times = {path: path.stat().st_mtime_ns for path in out.glob("export-*/report.json")}
    assert edgeq("sweep", plan, "--out", out, "--resume", "--json").exit == 6
    assert cells(out) == found and {path: path.stat().st_mtime_ns for path in times} == times
    refused = edgeq("sweep", plan, "--out", out)
    assert refused.exit == 2 and "there is a sweep in this folder" in refused.stderr


def store_of_a_dead_sweep(plan: Path, out: Path) -> None:
    """A sweep that died while its first cell was running."""
    out.mkdir()
    store = JobStore(out / "sweep.sqlite")
    store.add(read_plan(plan).cells(), lambda key: str(json.loads(key)["board"]))
    assert store.claim("local")
    store.close()


CLUSTER = """
import json, os, pathlib, subprocess, sys, time
from ray.cluster_utils import Cluster

dies, out = sys.argv[1] == "dies", pathlib.Path(sys.argv[2])
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 80_000_000})
second = cluster.add_node(num_cpus=1, object_store_memory=80_000_000)
nodes = len(cluster.list_all_nodes())
command = [sys.executable, "-m", "edgeq.cli", "sweep", *sys.argv[3:], "--out", out, "--address", cluster.address]
sweep = subprocess.Popen(command)
while dies and not any(out.glob("export-*/report.json")) and sweep.poll() is None:
    time.sleep(0.05)
if dies:
    cluster.remove_node(second, allow_graceful=False)
print(json.dumps({"nodes": nodes, "left": len(cluster.list_all_nodes()), "code": sweep.wait()}), file=sys.stderr)
cluster.shutdown()
"""


@pytest.mark.slow
def test_a_cluster_of_two_nodes_gives_the_same(plan: Path, tmp_path: Path) -> None:
    """Also if one of them dies when the first export is done."""
    plan.write_text(plan.read_text().replace('["local", "pi"]', '["local"]'))
    here = tmp_path / "here"
    assert edgeq("sweep", plan, "--out", here, "--threads", 1, "--json").exit == 6 and len(cells(here)) == 4
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_DISABLE_IMPORT_WARNING": "1"}
    for there, left in ((tmp_path / "lives", 2), (tmp_path / "dies", 1)):
        command = [sys.executable, "-c", CLUSTER, there.name, there, plan, "--threads", "1", "--json"]
        done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, check=False)
        assert json.loads(done.stderr.splitlines()[-1]) == {"nodes": 2, "left": left, "code": 6}, done.stderr
        assert [cell[:4] for cell in sorted(cells(there))] == [cell[:4] for cell in sorted(cells(here))]
        assert digests(there) == digests(here) and len(digests(here)) > 6


def digests(out: Path) -> dict[str, str]:
    """SHA-256 of every artifact's files; reports hold times."""
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in out.glob("export-*/*")
        if path.suffix in (".onnx", ".c", ".h", ".edgeq")
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("targets = [", 'targets = ["onnx-in8", '), "Did you mean onnx-int8"),
        (("estimator", "estimater"), "Did you mean estimator"),
        (("keep-real", "keep-reel"), "Did you mean keep_real"),
        (('boards = ["local", "pi"]', "boards = []"), "at least one of each axis"),
        (("runs = 3", "runs = 3\nrecipes = 1"), "cannot be read|recipes are tables"),
        (("runs = 3", "runs ="), "the plan cannot be read"),
        (("runs = 3", 'runs = 3\ndegradations = ["blur"]'), "degradations are told by accuracy"),
        (("runs = 3", 'runs = 3\ndegradations = ["blurr:3"]'), "Did you mean blur"),
    ],
)
def test_plans_that_are_refused(plan: Path, change: tuple[str, str], message: str) -> None:
    plan.write_text(plan.read_text().replace(*change))
    with pytest.raises(UsageError, match=message):
        read_plan(plan)


def test_degradations_reports_and_comparisons(plan: Path, tmp_path: Path) -> None:
    """Accuracy is that of the board's outputs on degraded images; the store answers report and compare."""
    images, out = tmp_path / "images", tmp_path / "out"
    (images / "labels.csv").write_text("image,label\n" + "".join(f"{k}.png,{k}\n" for k in range(4)))
    text = plan.read_text().replace("runs = 3", f'runs = 3\ndata = "{images}"\ndegradations = ["clean", "noise:5"]')
    plan.write_text(text[: text.index("[recipes.kept]")])
    ran = edgeq("sweep", plan, "--out", out, "--threads", 1, "--json")
    assert ran.exit == 0, ran.document["notes"]
    assert len(cells(out)) == 8 and len(list(out.glob("export-*"))) == 2
    assert ran.document["next"] == [f"edgeq report {out}"]
    results = Results(out)
    figures = [dict(zip(COLUMNS, line, strict=True)) for line in results.lines({"target": "onnx-int8", "board": "pi"})]
    results.close()
    found = {(row["degradation"], row["place"]): row for row in figures if row["metric"] == "top1"}
    assert found.keys() == {(name, "pi") for name in ("clean", "noise:5")} | {
        ("clean", place) for place in ("fp32", "reference", "artifact")
    }
    assert found["noise:5", "pi"]["how"] == "on labels.csv, noise:5" and found["noise:5", "pi"]["n"] == 4
    (artifact,) = (path for path in out.glob("export-*/*.onnx"))
    wanted = edgeq(
        "robustness", tmp_path / "net.onnx", artifact, "--data", images, "--degrade", "noise:5", "--seed", 0, "--workers", 1,
        "--preprocess", "cifar", "--resamples", 20, "--json", "--out", tmp_path / "table",
    )  # fmt: skip
    by_condition = {
        cell["condition"]: cell["value"]
        for cell in wanted.document["cells"]
        if cell["runner"] == artifact.stem and cell["metric"] == "top1"
    }
    assert {name: found[name, "pi"]["value"] for name in ("clean", "noise:5")} == by_condition
    reported(out, tmp_path)
    compared(out)


def reported(out: Path, tmp_path: Path) -> None:
    ran = edgeq("report", out, "--json")
    assert ran.exit == 0, ran.stderr
    points = ran.document["points"]
    assert len(points) == 8 and ran.document["manifest"]["cost"] == "latency_p50_ms"
    for point in points:
        rivals = [p for p in points if all(p[axis] == point[axis] for axis in GROUP) and p is not point]
        beaten = any(
            r["cost"] <= point["cost"] and r["quality"] >= point["quality"]
            and (r["cost"], r["quality"]) != (point["cost"], point["quality"]) for r in rivals
        )  # fmt: skip
        assert point["on_front"] == (not beaten)
    page = (out / "report.html").read_text()
    assert page.count("<svg") >= 4 and "noise:5" in page and len((out / "report.csv").read_text().splitlines()) == 9
    chosen = ("--where", "board=pi", "--cost", "file_bytes", "--out", tmp_path / "size")
    ran = edgeq("report", out, *chosen, "--json")
    assert ran.exit == 0 and len(ran.document["points"]) == 4
    assert "what no other cell beats" in edgeq("report", out, *chosen).stdout
    for wrong, message in (
        (("--cost", "latency_p5_ms"), "no cell has this cost; got latency_p5_ms"),
        (("--where", "boards=pi"), "Did you mean board"),
    ):
        ran = edgeq("report", out, *wrong)
        assert ran.exit == 2 and message in ran.stderr
    tables(out, tmp_path)
    ran = edgeq("report", tmp_path)
    assert ran.exit == 2 and "there is no sweep in this folder" in ran.stderr


def tables(out: Path, tmp_path: Path) -> None:
    """All figures of chosen cells, the same in both kinds of file."""
    for kind in ("csv", "parquet"):
        assert edgeq("report", out, "--where", "board=p*", "--table", tmp_path / f"all.{kind}", "--json").exit == 0
    with (tmp_path / "all.csv").open() as file:
        lines = list(csv.DictReader(file))
    table = parquet.read_table(tmp_path / "all.parquet")
    assert table.column_names == list(COLUMNS) == list(lines[0])
    found = table.to_pylist()
    assert len(found) == len(lines) > 60 and {row["board"] for row in found} == {"pi"}
    for row, line in zip(found, lines, strict=True):
        assert {name: "" if row[name] is None else str(row[name]) for name in ("target", "metric", "n")} == {
            name: line[name] for name in ("target", "metric", "n")
        }
        assert row["value"] == (float(line["value"]) if line["value"] else None)
    assert len({row["value"] for row in found}) > 30
    ran = edgeq("report", out, "--table", tmp_path / "all.txt")
    assert ran.exit == 2 and "allowed: .csv, .parquet" in ran.stderr


def compared(out: Path) -> None:
    ran = edgeq("compare", out, "--by", "target", "--where", "board=pi", "--json")
    assert ran.exit == 0, ran.stderr
    found = {(row["metric"], row["where"]): row["value"] for row in ran.document["rows"]}
    assert {place for _, place in found} == {"onnx-int8", "c-int8"}
    assert found["top1 board pi noise:5", "c-int8"] in (0, 0.25, 0.5, 0.75, 1)
    assert edgeq("compare", out, "--by", "targets").exit == 2
    assert edgeq("compare", out, "--by", "target", "--where", "board=none").exit == 2
    assert edgeq("compare", out, out, "--by", "target").exit == 2


def test_a_front_is_found_in_one_pass(tmp_path: Path) -> None:
    """Against the plain definition, on many cells of few groups with equal costs among them."""
    rng = np.random.default_rng(0)
    plan = Plan(("m", "n"), tuple(f"t{k}" for k in range(40)), ("a", "b"))
    store = JobStore(tmp_path / "sweep.sqlite")
    store.add(plan.cells())
    while (key := store.claim("any")) is not None:
        board = json.loads(key)["board"]
        cost, quality = int(rng.integers(1, 30)), int(rng.integers(0, 30))
        rows = [
            Row("c", cost, "ms", 1, board, ""),
            Row("q", quality, "", 1, board, ""),
            Row("q", 99, "", 1, "fp32", ""),
        ]
        store.finish(key, {"rows": [vars(row) for row in rows]})
    store.close()
    results = Results(tmp_path)
    for higher, sign in ((True, 1), (False, -1)):
        found = list(judged(results.points("c", "q", {"target": "t*"}, higher=higher), higher=higher))
        assert len(found) == 160 and 8 <= sum(on_front for _, on_front in found) < 80
        for point, on_front in found:
            rivals = [p for p, _ in found if p.group == point.group]
            beaten = any(
                p.cost <= point.cost and sign * p.quality >= sign * point.quality and (p.cost, p.quality) != (point.cost, point.quality)
                for p in rivals
            )  # fmt: skip
            first = next(p for p in rivals if (p.cost, p.quality) == (point.cost, point.quality))
            assert on_front == (not beaten and first is point)
    results.close()


def test_a_plan_of_many_cells_takes_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the plan through the store and the boards to the report: what is held does not grow with the cells."""
    monkeypatch.setattr(sweep_report, "SHOWN_BESIDE", 1)
    monkeypatch.setattr(sweep_report, "SHOWN_GROUPS", 2)
    path = Path(__file__).resolve().parents[2] / "scripts" / "bench_sweep.py"
    spec = importlib.util.spec_from_file_location("bench_sweep", path)
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    peaks: list[float] = []
    for cells in (320, 320, 1600):  # the first is not counted: what is loaded once
        folder = tmp_path / str(len(peaks))
        folder.mkdir()
        tracemalloc.start()
        report = script.streamed(folder, cells, lambda name, seconds: None)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert report.value("cells_done", "sweep") == cells and len(report.points) >= 4
    assert peaks[2] < 1.3 * peaks[1] + 50_000, peaks
