"""`--raw-head`: integer outputs, and the decode as data that turns them into the model's own output."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import torch

from edgeq.flow.check import decoded_run, interpreter_run, runtime_run
from edgeq.formats import parse_format
from edgeq.frontend.model import open_model
from edgeq.ir.file import load
from edgeq.ir.graph import Type
from edgeq.passes.simplify import simplify
from edgeq.runtimes.onnxruntime import OnnxRuntime
from tests.command_line import edgeq


def test_raw_outputs_are_codes_and_the_decode_is_data(tmp_path: Path) -> None:
    ran = edgeq(
        "export", "zoo:detector", "-t", "onnx-int8", "--raw-head", "--calib", "scenes:6", "--data", "scenes:4",
        "--threads", 1, "--json", "--out", tmp_path / "raw",
    )  # fmt: skip
    assert ran.exit == 0, ran.stderr
    head = json.loads((tmp_path / "raw" / "head.json").read_text())
    assert {item["role"] for item in head["outputs"]} == {"distribution", "scores"}
    assert sorted({item["stride"] for item in head["outputs"]}) == [8, 16, 32]
    proto = onnx.load(tmp_path / "raw" / "detector_int8.onnx")
    assert [port.name for port in proto.graph.output] == [item["name"] for item in head["outputs"]]
    assert {port.type.tensor_type.elem_type for port in proto.graph.output} == {onnx.TensorProto.UINT8}
    places = {row["where"] for row in ran.document["rows"] if row["metric"] == "map50"}
    assert places == {"fp32", "reference", "artifact"}

    types = [
        Type(tuple(item["shape"]), parse_format(item["format"]), tuple(item["scale"]), item["zero_point"])
        for item in head["outputs"]
    ]
    runtime = OnnxRuntime(tmp_path / "raw" / "detector_int8.onnx", threads=1)
    decoded = decoded_run(runtime_run(runtime), load(tmp_path / "raw" / "decode.edgeq"), types)
    image = np.random.default_rng(0).random((1, 3, 160, 160), dtype=np.float32)
    (found,) = decoded(image)
    with torch.no_grad():
        (wanted,) = interpreter_run(simplify(open_model("zoo:detector").graph))(image)
    assert found.shape == wanted.shape == (1, 12, 525)
    assert len(np.unique(found)) > 1000
    error = float(np.sum((found - wanted) ** 2) / np.sum(wanted**2))
    assert error < 10 ** (-20 / 10)  # 8-bit outputs, on an image unlike any that calibrated
