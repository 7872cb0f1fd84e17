"""`edgeq verify` on .tflite files: edgeq's own beside its run folder, and anyone's by its own integers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeq.emit.artifact import GRAPH_FILE
from edgeq.emit.tflite import build_model
from edgeq.emit.tflite_boxes import box_scales, divided
from edgeq.emit.tflite_metadata import archive
from edgeq.errors import UsageError
from edgeq.flow.artifacts import emitter_of
from edgeq.flow.verify import VerifyRequest, verify_artifact
from edgeq.ir.file import digest, to_bytes
from edgeq.ir.graph import Graph
from edgeq.report import Report
from edgeq.target import Target
from edgeq.targets import TARGETS, describe, find_target
from tests.emit.test_tflite_boxes import DETECTOR, detector, without_record
from tests.lowering import lowered
from tests.quantized import Net, inputs_of
from tests.tflite_files import File, packed, schema
from tests.tflite_nets import float_net, integer_net

TARGET = find_target("tflite-int8")
Break = Callable[[Any], None]


def network() -> Graph:
    net = Net(1, 8, 8, 8, seed=3)
    y = net.apply(net.conv("x", 16, "a"), "relu", "b")
    z = net.apply(net.conv(y, 12, "c"), "sigmoid", "d")
    return net.graph(net.conv(z, 6, "boxes"), net.conv(z, 6, "scores"))


def written(folder: Path, target: Target = TARGET) -> Path:
    graph = lowered(network(), target, inputs_of(network())) if target.is_integer else network()
    manifest = {"target": describe(target), "graph_sha256": digest(graph)}
    emit = emitter_of(target)
    return emit(graph, target, folder / "run", "net", {}, manifest, {GRAPH_FILE: to_bytes(graph)}).primary


def verified(path: Path, **options: Any) -> Report:
    return verify_artifact(VerifyRequest(str(path), **options))


def broken(path: Path, change: Break) -> Report:
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(path.read_bytes()))
    change(model)
    path.write_bytes(packed(model))
    return verified(path)


@pytest.mark.parametrize("target", [t for t in TARGETS if t.emitter == "tflite"], ids=lambda target: target.name)
def test_a_whole_file(tmp_path: Path, target: Target) -> None:
    report = verified(written(tmp_path, target))
    assert report.exit == 0
    assert report.value("differences", "artifact") == 0
    assert report.value("equal_codes", "LiteRT reference") == 1.0
    default = report.value("equal_codes", "LiteRT default")
    assert default is not None and default > 0.99
    assert (report.value("numbers_compared", "artifact") or 0) > 3000
    assert {item.where for item in report.agreement} == {"LiteRT reference", "LiteRT default"}


def test_an_own_file_alone_needs_its_run_folder(tmp_path: Path) -> None:
    path = tmp_path / "net.tflite"
    path.write_bytes(written(tmp_path).read_bytes())
    with pytest.raises(UsageError, match="edgeq wrote this file"):
        verified(path)
    assert verified(path, against=str(tmp_path / "run")).exit == 0


def _tensor(model: Any, name: str) -> Any:
    return next(t for t in model.subgraphs[0].tensors if t.name in (name, name.encode()))


def _operand(model: Any, output: str, position: int) -> Any:
    graph = model.subgraphs[0]
    (op,) = (op for op in graph.operators if graph.tensors[op.outputs[0]] is _tensor(model, output))
    return graph.tensors[op.inputs[position]]


def _changed(model: Any, tensor: Any, index: int, by: int) -> None:
    data = np.array(model.buffers[tensor.buffer].data, dtype=np.uint8)
    data[index] ^= by
    model.buffers[tensor.buffer].data = data


def weight_byte(model: Any) -> None:
    _changed(model, _operand(model, "c", 1), 700, 1)


def one_bias(model: Any) -> None:
    _changed(model, _operand(model, "c", 2), 3 * 4, 1)


def one_weight_scale(model: Any) -> None:
    quantization = _operand(model, "c", 1).quantization
    quantization.scale = np.array(quantization.scale, np.float32)
    quantization.scale[5] *= 1.5


def one_scale(model: Any) -> None:
    quantization = _tensor(model, "b").quantization
    quantization.scale = [float(quantization.scale[0]) * 1.01]


def one_zero_point(model: Any) -> None:
    quantization = _tensor(model, "x.q").quantization
    quantization.zeroPoint = [int(quantization.zeroPoint[0]) + 1]


@pytest.mark.parametrize(("change", "where", "what"), [
    (weight_byte, "c", "weight level"), (one_bias, "c", "bias level 3 of 12"), (one_weight_scale, "c", "weight scale 5"),
    (one_scale, "b", "scale"), (one_zero_point, "x.q", "zero point"),
])  # fmt: skip
def test_one_number_that_changed(tmp_path: Path, change: Break, where: str, what: str) -> None:
    report = broken(written(tmp_path), change)
    assert report.exit == 5
    notes = [note for note in report.notes if note.startswith("differs at")]
    assert len(notes) == report.value("differences", "artifact") == 1
    assert notes[0].startswith(f"differs at {where}") and f": {what}" in notes[0]


def test_outputs_that_changed_places(tmp_path: Path) -> None:
    def swap(model: Any) -> None:
        first, second = model.signatureDefs[0].outputs
        first.tensorIndex, second.tensorIndex = second.tensorIndex, first.tensorIndex
        model.subgraphs[0].outputs = model.subgraphs[0].outputs[::-1]

    report = broken(written(tmp_path), swap)
    assert report.exit == 5
    assert any("promise broken at boxes" in note for note in report.notes)


def test_an_operator_that_changed(tmp_path: Path) -> None:
    """The numbers are all there, but one kernel keeps its result below zero: running finds it."""

    def other_activation(model: Any) -> None:
        graph = model.subgraphs[0]
        (op,) = (op for op in graph.operators if graph.tensors[op.outputs[0]] is _tensor(model, "c"))
        op.builtinOptions.fusedActivationFunction = 1

    report = broken(written(tmp_path), other_activation)
    assert report.exit == 5
    assert report.value("differences", "artifact") == 0
    assert any("LiteRT reference and the reference first part at c (Requantize)" in note for note in report.notes)


@pytest.mark.parametrize("element", ["int8", "int16"])
def test_anyones_integers(tmp_path: Path, element: str) -> None:
    path = tmp_path / "net.tflite"
    path.write_bytes(integer_net(element))
    report = verified(path, images=6)
    assert report.exit == 0
    equal = report.value("equal_codes", "LiteRT reference")
    assert equal == 1.0 if element == "int8" else equal is not None and equal > 0.99


def test_boxes_that_ultralytics_divides(tmp_path: Path) -> None:
    """The runtime gives them in pixels, and so does the graph."""
    graph = lowered(detector(6), TARGET, {"images": np.random.default_rng(1).random((1, 3, 8, 16), dtype=np.float32)})
    path = tmp_path / "net.tflite"
    path.write_bytes(without_record(build_model(divided(graph, box_scales(graph, DETECTOR)))[0]) + archive(DETECTOR))
    report = verified(path)
    assert report.exit == 0 and report.value("equal_codes", "LiteRT reference") == 1.0
    outputs = [item for item in report.agreement if item.kind == "output" and item.where == "LiteRT reference"]
    assert [item.equal_share for item in outputs] == [1.0]


def test_anyones_reals(tmp_path: Path) -> None:
    path = tmp_path / "net.tflite"
    path.write_bytes(float_net())
    report = verified(path)
    assert report.exit == 0
    assert all(item.signal_to_noise_db > 100 for item in report.agreement)


def test_a_file_with_channels_first(tmp_path: Path) -> None:
    f = File()
    shapes = ((1, 3, 16, 18), (1, 16, 18, 3), (1, 16, 18, 4), (1, 4, 16, 18))
    x, last, y, first = (f.tensor(shape, "int8", scale=0.1) for shape in shapes)
    to_last, to_first = (f.constant(np.array(p, np.int32)) for p in ((0, 2, 3, 1), (0, 3, 1, 2)))
    w = f.constant(np.random.default_rng(0).integers(-127, 128, (4, 3, 3, 3)).astype(np.int8), scale=[0.01] * 4)
    b = f.constant(np.arange(4, dtype=np.int32), scale=[0.001] * 4)
    f.op("TRANSPOSE", [x, to_last], [last], version=2)
    f.op("CONV_2D", [last, w, b], [y], "Conv2DOptions", padding=0, strideW=1, strideH=1, dilationWFactor=1,
         dilationHFactor=1, version=3)  # fmt: skip
    f.op("TRANSPOSE", [y, to_first], [first], version=2)
    path = tmp_path / "net.tflite"
    path.write_bytes(f.content([x], [first]))
    report = verified(path)
    assert report.exit == 0
    assert report.value("equal_codes", "LiteRT reference") == 1.0


@pytest.mark.real
@pytest.mark.parametrize("name", [
    "ic/pretrainedResnet_quant", "vww/vww_96_int8", "kws/kws_ref_model", "ad/ad01_int8", "ic/pretrainedResnet",
])  # fmt: skip
def test_mlperf_tiny(real: Path, name: str) -> None:
    report = verified(real / "mlperf_tiny" / f"{name}.tflite", images=2)
    assert report.exit == 0
    assert report.value("equal_codes", "LiteRT reference") == 1.0
