"""`edgeq verify` on written files, whole and broken on purpose: every break is caught, and located."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgeq.datasets.preprocess import preset
from edgeq.emit.artifact import GRAPH_FILE
from edgeq.errors import UsageError
from edgeq.flow.artifacts import emitter_of
from edgeq.flow.manifest import PREPROCESS_KEY
from edgeq.flow.verify import VerifyRequest, verify_artifact
from edgeq.ir.file import digest, to_bytes
from edgeq.ir.graph import Graph
from edgeq.report import Report
from edgeq.target import Target
from edgeq.targets import describe, find_target
from tests.command_line import edgeq, write_noise_images
from tests.lowering import lowered
from tests.quantized import JETSON, ORT, Net, inputs_of

FLOAT = find_target("onnx-fp32")
Break = Callable[[onnx.ModelProto], None]


def network() -> Graph:
    net = Net(1, 8, 8, 8, seed=3)
    y = net.apply(net.conv("x", 16, "a"), "relu", "b")
    z = net.apply(net.conv(y, 12, "c"), "sigmoid", "d")
    return net.graph(net.conv(z, 6, "boxes"), net.conv(z, 6, "scores", kernel=1))


def written(folder: Path, target: Target) -> Path:
    """A run folder with the network for `target`; the file in it."""
    graph = network()
    if target.is_integer:
        graph = lowered(graph, target, inputs_of(graph))
    manifest = {"target": describe(target), "graph_sha256": digest(graph)}
    emit = emitter_of(target)
    return emit(graph, target, folder / "run", "net", {}, manifest, {GRAPH_FILE: to_bytes(graph)}).primary


def verified(path: Path, **options: object) -> Report:
    return verify_artifact(VerifyRequest(str(path), **options))  # type: ignore[arg-type]


def broken(path: Path, change: Break) -> Report:
    model = onnx.load(path)
    change(model)
    path.write_bytes(model.SerializeToString())
    return verified(path)


def constant(model: onnx.ModelProto, wanted: Callable[[str, np.ndarray], bool]) -> onnx.TensorProto:  # type: ignore[type-arg]
    return next(t for t in model.graph.initializer if wanted(t.name, numpy_helper.to_array(t)))


def replaced(tensor: onnx.TensorProto, index: int, change: Callable[[float], float]) -> None:
    array = numpy_helper.to_array(tensor).copy()
    array.reshape(-1)[index] = change(array.reshape(-1)[index])
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


@pytest.mark.parametrize("target", [ORT, JETSON, FLOAT], ids=lambda target: target.name)
def test_a_whole_file(tmp_path: Path, target: Target) -> None:
    report = verified(written(tmp_path, target))
    assert report.exit == 0
    assert report.value("differences", "artifact") == 0
    assert (report.value("numbers_compared", "artifact") or 0) > 3000
    equal = report.value("equal_codes", "ONNX Runtime")
    assert equal is not None and equal > 0.99
    assert len(report.agreement) >= (5 if target.is_integer else 2)


def weight_byte(model: onnx.ModelProto) -> None:
    tensor = constant(model, lambda name, a: a.dtype == np.int8 and a.size == 12 * 16 * 9)
    replaced(tensor, 700, lambda code: int(code) ^ 1)


def one_scale(model: onnx.ModelProto) -> None:
    (node,) = (n for n in model.graph.node if n.op_type == "QuantizeLinear" and n.output[0] == "b")
    tensor = constant(model, lambda name, a: name == node.input[1])
    replaced(tensor, 0, lambda scale: np.nextafter(np.float32(scale), np.float32(1)))


def one_zero_point(model: onnx.ModelProto) -> None:
    own = numpy_helper.from_array(np.array(77, np.uint8), "own")
    model.graph.initializer.append(own)
    for reader in model.graph.node:
        if reader.op_type in ("QuantizeLinear", "DequantizeLinear") and "x.q" in (*reader.input, *reader.output):
            reader.input[2] = "own"


def one_bias(model: onnx.ModelProto) -> None:
    replaced(constant(model, lambda name, a: a.dtype == np.int32 and a.size == 12), 3, lambda level: level + 1)


@pytest.mark.parametrize(("change", "where", "what"), [
    (weight_byte, "c", "weight level 700 of 1728"), (one_scale, "b", "scale"), (one_zero_point, "x.q", "zero point"),
    (one_bias, "c", "bias level 3 of 12"),
])  # fmt: skip
def test_one_number_that_changed(tmp_path: Path, change: Break, where: str, what: str) -> None:
    report = broken(written(tmp_path, ORT), change)
    assert report.exit == 5
    notes = [note for note in report.notes if note.startswith("differs at")]
    assert len(notes) == report.value("differences", "artifact")
    assert len(notes) == (2 if what in ("scale", "zero point") else 1)  # of the quantizer and of its reader
    assert all(note.startswith(f"differs at {where}") and f": {what}" in note for note in notes)


def test_outputs_that_changed_places(tmp_path: Path) -> None:
    def swap(model: onnx.ModelProto) -> None:
        names = {"boxes": "scores", "scores": "boxes"}
        for node in model.graph.node:
            node.output[:] = [names.get(name, name) for name in node.output]

    report = broken(written(tmp_path, ORT), swap)
    assert report.exit == 5
    assert any("promise broken at boxes" in note for note in report.notes)


def test_an_operator_that_changed(tmp_path: Path) -> None:
    """The numbers are all there, but one operator computes something else: running finds it."""

    def other_function(model: onnx.ModelProto) -> None:
        next(node for node in model.graph.node if node.op_type == "Sigmoid").op_type = "Tanh"

    report = broken(written(tmp_path, ORT), other_function)
    assert report.exit == 5
    assert report.value("differences", "artifact") == 0
    (first,) = (note for note in report.notes if "first part at" in note)
    assert "first part at d (Lookup)" in first and "apart" in first


def test_a_graph_that_is_not_the_manifests(tmp_path: Path) -> None:
    path = written(tmp_path, ORT)
    manifest = path.parent / "manifest.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**content, "graph_sha256": "0" * 64}))
    with pytest.raises(UsageError, match="not the one that the manifest names"):
        verified(path)


def test_a_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(written(tmp_path, ORT).read_bytes())
    with pytest.raises(UsageError, match="nothing to verify"):
        verified(path)
    assert verified(path, against=str(tmp_path / "run")).exit == 0


def test_beside_a_float_model(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(written(tmp_path, ORT).read_bytes())
    model = written(tmp_path / "float", FLOAT)
    report = verified(path, against=str(model))
    assert report.exit == 0
    assert {row.metric for row in report.rows} == {"snr_db boxes", "snr_db scores"}
    assert all(15 < row.value < 60 for row in report.rows)


def test_images(tmp_path: Path) -> None:
    """Images enter as the file declares, and every one of them is run."""
    net = Net(1, 3, 16, 16, seed=4)
    graph = net.graph(net.conv(net.apply(net.conv("x", 16, "a"), "relu", "b"), 8, "y"))
    graph = lowered(graph, ORT, inputs_of(graph))
    manifest = {"target": describe(ORT), "graph_sha256": digest(graph)}
    metadata = {PREPROCESS_KEY: json.dumps({**preset("imagenet", (16, 16)).to_dict()})}
    emit = emitter_of(ORT)
    path = emit(graph, ORT, tmp_path / "run", "net", metadata, manifest, {GRAPH_FILE: to_bytes(graph)}).primary
    report = verified(path, calib=str(write_noise_images(tmp_path / "images", 3)), images=8)
    assert report.exit == 0
    (row,) = (row for row in report.rows if row.metric == "equal_codes")
    assert row.n == 3 * (16 * 256 + 8 * 256)  # the codes that the second convolution reads, and the output


def test_the_command(tmp_path: Path) -> None:
    path = written(tmp_path, ORT)
    found = edgeq("verify", str(path), "--json", "-n", "2")
    assert found.exit == 0
    assert found.document["command"] == "verify" and found.document["exit"] == 0
    model = onnx.load(path)
    weight_byte(model)
    path.write_bytes(model.SerializeToString())
    assert edgeq("verify", str(path), "--json").exit == 5
