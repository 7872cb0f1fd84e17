"""What was trained is what is written: `edgeq train` for each kind of file, compared with the reference and measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeq.datasets.scenes import write_dataset
from tests.command_line import edgeq, write_small_classifier

CLASSES, EACH = 5, 16
W8A8 = ("--weights", "int8")
W4A4, POST, W2A4 = (("--weights", weight, "--activations", "int4") for weight in ("int4", "post4", "int2"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small classifier, and images whose class is the place of a bright bar."""
    folder = tmp_path_factory.mktemp("train")
    write_small_classifier(folder / "net.onnx")
    rng = np.random.default_rng(0)
    for label in range(CLASSES):
        (folder / "data" / f"class{label}").mkdir(parents=True)
        for index in range(EACH):
            pixels = rng.integers(0, 120, (32, 32, 3), dtype=np.uint8)
            pixels[:, :, label % 3] //= 1 + label // 3 * 3
            pixels[:, :, label % 3] += 120
            assert cv2.imwrite(str(folder / "data" / f"class{label}" / f"{index}.png"), pixels)
    return folder


@pytest.mark.parametrize(
    ("target", "options", "exact"),
    [
        ("c-w4a8", ("--freeze", "0.02"), True),
        ("onnx-int8", ("--learn", "offsets"), False),
        ("tflite-int8", ("--weights", "int4"), False),
        ("c-int8", ("--weights", "post4"), True),
        ("jetson-int8", (), False),
        ("c-int8", ("--learn", "binary-points"), True),
        *(
            pytest.param(target, options, target != "onnx-int8", marks=() if options is W4A4 else pytest.mark.slow)
            for target in ("c-int8", "tflite-int8", "onnx-int8")
            for options in (W4A4, POST, W2A4, W8A8)
        ),
        *(pytest.param("fpga-int4", options, True, marks=pytest.mark.slow) for options in (W4A4, POST, W2A4, W8A8)),
    ],
)
def test_every_file_holds_the_trained_network(
    target: str, options: tuple[str, ...], exact: bool, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    ran = edgeq(
        "train", place / "net.onnx", "-t", target, "--train-data", place / "data", "--data", place / "data",
        "--calib-images", 8, "--preprocess", "cifar", "--epochs", 12, "--batch", 16, "--rate", "1e-2", "--no-flip",
        "--no-shift", "--device", "cpu", "--threads", 1, "--json", "--out", tmp_path / "out", *options,
    )  # fmt: skip
    assert ran.exit == 0, ran.stderr
    top1 = {row["where"]: row["value"] for row in ran.document["rows"] if row["metric"] == "top1"}
    assert top1["reference"] > top1["before training"] + 0.2
    assert abs(top1["artifact"] - top1["reference"]) <= 1 / (CLASSES * EACH)
    assert (tmp_path / "out" / "training.csv").read_text().startswith("epoch,loss")
    layers = ran.document["agreement"]
    assert sum(item["n"] for item in layers) >= 4 * CLASSES and len(set(top1.values())) > 1
    if exact:
        assert sum(item["n"] for item in layers) > 1000
        assert top1["artifact"] == top1["reference"]
        assert all(item["equal_share"] == 1.0 and item["largest_difference"] == 0.0 for item in layers)


def test_a_detector_for_microcontrollers_is_trained_without_its_decode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_dataset(tmp_path / "scenes", 20, 7, 160, "detect")
    options = (
        "train", "zoo:detector", "-t", "c-int8", "--weights", "int4", "--calib", "scenes:4", "--data", "scenes:4",
        "--train-data", tmp_path / "scenes" / "data.yaml", "--epochs", 1, "--batch", 10, "--rate", "1e-4", "--device", "cpu",
        "--threads", 1, "--json", "--out", tmp_path / "out",
    )  # fmt: skip
    refused = edgeq(*options)
    assert refused.exit == 3 and not (tmp_path / "cache" / "edgeq" / "training").exists()  # said before, not behind it
    assert "integers alone cannot compute this network" in refused.stderr and "--raw-head" in refused.stderr
    ran = edgeq(*options, "--raw-head")
    assert ran.exit == 0, ran.stderr
    assert len(json.loads((tmp_path / "out" / "head.json").read_text())["outputs"]) == 6
    places = {row["where"]: row["value"] for row in ran.document["rows"] if row["metric"] == "map50"}
    assert places.keys() == {"fp32", "before training", "reference", "artifact"}
    assert places["artifact"] == places["reference"] > 0.3
    assert sum(item["n"] for item in ran.document["agreement"]) > 100_000
    assert all(item["equal_share"] == 1.0 for item in ran.document["agreement"])


def test_torchrun_trains_with_two_processes_and_writes_once(place: Path, tmp_path: Path) -> None:
    options = (
        "-t", "c-int8", "--train-data", place / "data", "--calib-images", 8, "--preprocess", "cifar", "--epochs", 2,
        "--batch", 16, "--device", "cpu", "--threads", 1, "--json", "--out", tmp_path / "out",
    )  # fmt: skip
    launch = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, "-m", "edgeq")
    command = [str(part) for part in (*launch, "train", place / "net.onnx", *options)]
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)  # of the first process alone
    assert all(item["equal_share"] == 1.0 for item in document["agreement"])
    assert len((tmp_path / "out" / "training.csv").read_text().splitlines()) == 3


@pytest.mark.real
@pytest.mark.slow
def test_an_ultralytics_checkpoint_learns_from_the_boxes_of_a_data_yaml(
    real: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    ran = edgeq(
        "train", real / "models" / "yolov8n_deq8.pt", "-t", "reference", "--weights", "int4", "--imgsz", 160,
        "--train-data", real / "coco" / "data.yaml", "--calib-images", 16, "--epochs", 2, "--batch", 16, "--device", "cpu",
        "--threads", 1, "--json", "--out", tmp_path / "out",
    )  # fmt: skip
    assert ran.exit == 0, ran.stderr
    losses = [float(row.split(",")[1]) for row in (tmp_path / "out" / "training.csv").read_text().splitlines()[1:]]
    assert losses[1] < losses[0]
    assert any(" falls from " in note for note in ran.document["notes"])
