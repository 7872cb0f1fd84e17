"""TFLite through the whole flow: exact agreement with the reference kernels, accuracy, raw heads, and `validate`."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path

import pytest

from edgeq.flow.check import OUTPUT_IMAGES
from edgeq.runtimes.litert import LiteRtRuntime
from tests.command_line import edgeq


@pytest.mark.parametrize(
    ("model", "target", "file"),
    [
        ("depth", "rpi-int8", "depth_int8"),
        ("classifier", "rpi-w8a16", "classifier_w8a16"),
        ("depth", "mcu-tflite-int8", "depth_int8"),
    ],
)
def test_every_layer_has_the_codes_of_the_reference(model: str, target: str, file: str, tmp_path: Path) -> None:
    ran = edgeq(
        "export", f"zoo:{model}", "-t", target, "--calib", "scenes:6", "--data", "scenes:4", "--threads", 1,
        "--json", "--out", tmp_path / "out",
    )  # fmt: skip
    assert ran.exit == 0, ran.stderr
    assert (tmp_path / "out" / f"{file}.tflite").is_file()
    layers = [item for item in ran.document["agreement"] if item["kind"] == "layer"]
    assert len(layers) > 30 and sum(item["n"] for item in layers) > 100_000
    codes = sum(item["n"] for item in layers)
    assert sum(item["equal_share"] * item["n"] for item in layers) / codes > 0.9999
    assert max(item["largest_code_difference"] for item in layers) <= 1
    runtime = LiteRtRuntime(tmp_path / "out" / f"{file}.tflite", threads=1)
    sizes = {name: prod(shape) for name, shape in runtime.output_shapes.items()}
    outputs = {item["value"]: item["n"] for item in ran.document["agreement"] if item["kind"] == "output"}
    assert outputs == {name: OUTPUT_IMAGES * size for name, size in sizes.items()}
    (default,) = (row for row in ran.document["rows"] if row["metric"] == "equal-codes")
    assert "default kernels" in default["how"] and default["n"] == codes
    assert default["value"] == 1 or (model == "classifier" and default["value"] > 0.9999)  # it normalizes reals


def test_a_raw_head_leaves_codes_and_the_decode_gives_the_same_accuracy(tmp_path: Path) -> None:
    ran = edgeq(
        "export", "zoo:detector", "-t", "mcu-tflite-int8", "--raw-head", "--calib", "scenes:6", "--data", "scenes:4",
        "--threads", 1, "--json", "--out", tmp_path / "raw",
    )  # fmt: skip
    assert ran.exit == 0, ran.stderr
    head = json.loads((tmp_path / "raw" / "head.json").read_text())
    runtime = LiteRtRuntime(tmp_path / "raw" / "detector_int8.tflite", threads=1)
    assert list(runtime.outputs) == [item["name"] for item in head["outputs"]]
    assert [list(shape) for shape in runtime.output_shapes.values()] == [item["shape"] for item in head["outputs"]]
    values = {row["where"]: row["value"] for row in ran.document["rows"] if row["metric"] == "map50"}
    assert values.keys() == {"fp32", "reference", "artifact"}
    assert values["reference"] > 0.5 and abs(values["artifact"] - values["reference"]) < 0.05


def test_a_written_file_is_validated_by_what_it_says_of_itself(tmp_path: Path) -> None:
    made = edgeq("export", "zoo:detector", "-t", "tflite-fp32", "--threads", 1, "--json", "--out", tmp_path / "out")
    assert made.exit == 0, made.stderr
    ran = edgeq("validate", tmp_path / "out" / "detector.tflite", "--data", "scenes:4", "--json", "--threads", 1)
    assert ran.exit == 0, ran.stderr
    metrics = {row["metric"]: row["value"] for row in ran.document["rows"]}
    assert metrics["map50"] > 0.5 and metrics["latency_p50_ms"] > 0
    assert any("declared by the model" in note for note in ran.document["notes"])
