"""`edgeq robustness` end to end: cells are what a plain run gives, are kept, and losses are against FP32 on clean images."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeq.calibrate.degrade import parse_degradation
from edgeq.datasets.folder import read_image
from edgeq.datasets.imagenet import ranking
from edgeq.datasets.outcomes import ClassOutcomes
from edgeq.datasets.preprocess import preset
from edgeq.flow.cells import cells_folder
from edgeq.flow.robustness import RobustnessRequest, compare, conditions_of
from edgeq.runtimes.onnxruntime import OnnxRuntime
from tests.command_line import edgeq, write_noise_images, write_small_classifier

COUNT = 12


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier, its artifact, and images labelled with what it answers, a third of them wrongly."""
    folder = tmp_path_factory.mktemp("made")
    write_small_classifier(folder / "net.onnx")
    images = write_noise_images(folder / "images", COUNT)
    options = (
        "-t",
        "onnx-int8",
        "--float-share",
        0,
        "--calib",
        images,
        "--preprocess",
        "cifar",
        "--out",
        folder / "int8",
        "--no-cache",
    )
    ran = edgeq("export", folder / "net.onnx", *options)
    assert ran.exit == 0, ran.stderr
    answers = [answer(images / f"{k}.png", str(folder / "net.onnx"), None) for k in range(COUNT)]
    lines = [f"{k}.png,{(a + (k % 3 == 0)) % 5}" for k, a in enumerate(answers)]
    (images / "labels.csv").write_text("\n".join(lines))
    return folder


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it to work in, with a cache of its own."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def answer(path: Path, model: str, degradation: str | None) -> int:
    image = read_image(path)
    if degradation is not None:
        image = parse_degradation(degradation).apply(image, path.name, 42)
    runtime = OnnxRuntime(Path(model))
    return ranking(list(runtime.run({runtime.inputs[0]: preset("cifar").apply(image)}).values()))[0]


def measured(*arguments: object) -> dict[str, Any]:
    command = ("robustness", "net.onnx", "q=int8", "--data", "images", "--workers", 1, "--json", *arguments)
    ran = edgeq(*command)
    assert ran.exit == 0, ran.stderr
    return ran.document


def cell(document: dict[str, Any], runner: str, condition: str, metric: str = "top1") -> dict[str, Any]:
    wanted = (runner, condition, metric)
    (found,) = [c for c in document["cells"] if (c["runner"], c["condition"], c["metric"]) == wanted]
    return dict(found)


def test_cells_are_what_a_plain_run_gives(place: Path) -> None:
    document = measured("--degrade", "contrast:5,noise-low,mixed", "--out", "run")
    labels = dict(line.split(",") for line in (place / "images" / "labels.csv").read_text().splitlines())
    for runner, model in (("fp32", "net.onnx"), ("q", "int8/net_int8.onnx")):
        for condition, name in (("clean", None), ("contrast:5", "contrast:5"), ("noise-low", "noise-low")):
            right = [answer(place / "images" / file, model, name) == int(label) for file, label in labels.items()]
            assert cell(document, runner, condition)["value"] == pytest.approx(np.mean(right))
    assert cell(document, "fp32", "clean")["value"] == pytest.approx(2 / 3)
    assert cell(document, "fp32", "clean")["lost"] == 0
    worse = cell(document, "q", "contrast:5")
    assert worse["lost"] == pytest.approx(100 * (2 / 3 - worse["value"]))
    assert worse["low"] <= worse["value"] <= worse["high"] and 0 <= worse["agreement"] <= 1
    assert len({c["value"] for c in document["cells"]}) > 3
    degraded = [cell(document, "q", condition)["value"] for condition in ("contrast:5", "noise-low", "mixed")]
    assert cell(document, "q", "mean of degraded")["value"] == pytest.approx(np.mean(degraded))
    stored = json.loads(Path("run/report.json").read_text())
    assert stored["cells"] == document["cells"]
    rows = list(csv.DictReader(Path("run/report.csv").read_text().splitlines()))
    assert len(rows) == len(document["cells"]) == 2 * 5 * 2 and float(rows[0]["value"]) == document["cells"][0]["value"]


def test_an_interrupted_table_goes_on_and_a_changed_label_is_seen(place: Path) -> None:
    first = measured("--degrade", "blur:2")
    times = {path: path.stat().st_mtime_ns for path in cells_folder().iterdir()}
    assert len(times) == 4
    lost = sorted(times)[0]
    lost.unlink()
    sorted(times)[1].write_bytes(b"damaged")
    again = measured("--degrade", "blur:2")
    assert again["cells"] == first["cells"]
    kept = [path for path in times if path.stat().st_mtime_ns == times[path]]
    assert len(kept) == 2 and lost.is_file()
    measured("--degrade", "blur:2,blur:3")
    assert len(list(cells_folder().iterdir())) == 6
    labels = place / "images" / "labels.csv"
    name, label = labels.read_text().splitlines()[0].split(",")
    labels.write_text(labels.read_text().replace(f"{name},{label}", f"{name},{(int(label) + 1) % 5}"))
    measured("--degrade", "blur:2")
    assert len(list(cells_folder().iterdir())) == 10


def test_workers_find_the_same(place: Path) -> None:
    one = measured("--degrade", "shot:3", "--no-cache")
    assert not cells_folder().exists()
    two = measured("--degrade", "shot:3", "--no-cache", "--workers", 2)
    assert one["cells"] == two["cells"]


def test_the_studys_preset_prints_its_table(place: Path) -> None:
    ran = edgeq("robustness", "net.onnx", "int8", "--data", "images", "--preset", "study", "--workers", 1)
    assert ran.exit == 0, ran.stderr
    assert "relative drop" in ran.stdout and "jpeg-moderate" in ran.stdout and "mixed" in ran.stdout
    assert Path("runs/edgeq/net-robustness/report.csv").is_file()


def test_conditions_are_listed_once_and_clean_comes_first() -> None:
    def names(**options: str) -> list[str]:
        return [condition.name for condition in conditions_of(RobustnessRequest("m", (), "d", **options))]

    assert names(degrade="blur,blur:2, mixed")[:3] == ["clean", "blur:1", "blur:2"]
    assert len(names(degrade="blur,blur:2,mixed")) == 7
    assert len(names(preset="study")) == 9 and len(names()) == 1 + 17 * 3


def test_differences_are_paired() -> None:
    """A runner that is wrong on one more image differs by that image in every resample where it is drawn."""
    rng = np.random.default_rng(0)
    ranks = (rng.random(200) < 0.5).astype(np.int64)
    worse = ranks.copy()
    worse[:10] = 3
    cells = {
        (name, "clean"): ClassOutcomes(x, x, np.zeros(200)) for name, x in (("fp32", ranks), ("q", worse), ("r", ranks))
    }
    figures = {(f.runner, f.metric): f for f in compare(cells, ["fp32", "q", "r"], ["clean"], 500)}
    right = float((ranks[:10] < 1).sum()) / 2
    found = figures["q", "top1"]
    assert found.lost[0] == pytest.approx(right) and 0 < found.lost[1] < right < found.lost[2]
    assert found.lost[2] - found.lost[1] < 0.5 * 100 * (found.high - found.low), "pairing narrows the interval"
    assert figures["r", "top1"].gained == pytest.approx(found.lost_beside) and found.gained == (0, 0, 0)


def test_a_detector_is_measured_with_its_boxes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The built-in detector on rendered rooms: darkness costs accuracy, and its page shows boxes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    options = (
        "--data",
        "scenes:6",
        "--degrade",
        "dim:5,blur:5",
        "--workers",
        1,
        "--resamples",
        50,
        "--out",
        "run",
        "--json",
    )
    ran = edgeq("robustness", "zoo:detector", *options)
    assert ran.exit == 0, ran.stderr
    clean, dark = (cell(ran.document, "fp32", name, "map50-95") for name in ("clean", "dim:5"))
    assert clean["value"] > 0.3 and clean["low"] < clean["value"] < clean["high"]
    assert dark["value"] < clean["value"] and dark["lost"] == pytest.approx(100 * (clean["value"] - dark["value"]))
    assert Path("run/report.html").read_text("utf-8").count("<rect x=") >= 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("net.onnx", "int9", "--data", "images"), "int9"),
        (("net.onnx", "images", "--data", "images"), "one artifact"),
        (("net.onnx", "int8", "int8", "--data", "images"), "same name"),
        (("net.onnx", "int8", "--data", "images", "--preset", "studi"), "severity, study"),
        (("net.onnx", "int8", "--data", "images", "--degrade", "blurr"), "Did you mean"),
        (("net.onnx", "int8", "--data", "images/1.png"), "labelled"),
    ],
)
def test_mistakes_are_told(place: Path, arguments: tuple[str, ...], words: str) -> None:
    ran = edgeq("robustness", *arguments, "--workers", 1)
    assert ran.exit == 2 and words in ran.stderr, ran.stderr
    assert not Path("runs").exists()
