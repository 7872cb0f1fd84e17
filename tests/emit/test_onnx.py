"""The ONNX file as a file: validity, names, metadata, determinism, size, and what its folder holds."""

from __future__ import annotations

import ast
import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper

from edgeq.emit.onnx import build_model, emit, to_bytes
from edgeq.emit.onnx_writer import Runtime, is_narrow
from edgeq.errors import UnsupportedError
from edgeq.formats import INT8, INT16, UINT8, Float, Format
from edgeq.ir import ops as o
from edgeq.ir.file import digest
from edgeq.ir.graph import Editor, Graph, Type
from edgeq.lint import lint
from edgeq.reference.interpret import run
from edgeq.runtimes.onnxruntime import OnnxRuntime
from edgeq.runtimes.qonnx import DOMAIN, QonnxRuntime
from edgeq.target import Target
from edgeq.targets import TARGETS, find_target
from tests.lowering import lowered
from tests.residual_net import images, residual_net

METADATA = {
    "description": "Ultralytics YOLOv8n model", "author": "Ultralytics", "date": "2026-01-02T03:04:05",
    "version": "8.4.190", "license": "AGPL-3.0", "docs": "docs.example", "stride": 32, "task": "detect",
    "head": "Detect", "batch": 1, "imgsz": [640, 640], "names": {0: "person", 1: "bicycle 'quoted'"},
    "args": {"batch": 1, "half": False}, "channels": 3, "end2end": False, "kpt_shape": [17, 3],
}  # fmt: skip
MANIFEST = {"schema": "edgeq.manifest/1", "images": [{"name": "naïve.jpg", "sha256": "00"}], "seed": 0}


def graph_for(target: Target) -> Graph:
    graph = residual_net()
    return lowered(graph, target, images()) if target.is_integer else graph


@pytest.fixture(params=[target.name for target in TARGETS if target.emitter == "onnx"])
def target(request: pytest.FixtureRequest) -> Target:
    return find_target(request.param)


@pytest.fixture
def model(target: Target) -> ModelProto:
    return build_model(graph_for(target), target.runtime)[0]


def test_every_target_writes_a_valid_file_that_runs(target: Target, model: ModelProto) -> None:
    onnx.checker.check_model(model, full_check=True)
    assert 13 <= model.opset_import[0].version <= 17
    runs_qonnx = target.runtime == "qonnx"
    assert [entry.domain for entry in model.opset_import] == ["", *([DOMAIN] if runs_qonnx else [])]
    assert model.ir_version <= 10
    found = (QonnxRuntime if runs_qonnx else OnnxRuntime)(to_bytes(model), threads=1).run(images())
    wanted = run(residual_net(), images())
    for name, reference in wanted.items():
        noise = np.square(reference.numpy() - found[name]).sum() / np.square(reference.numpy()).sum()
        assert noise < (1e-2 if target.is_integer else 1e-10)
        assert len(np.unique(found[name])) > 200


def test_inputs_and_outputs_are_the_models_own_and_float(model: ModelProto) -> None:
    ports = [*model.graph.input, *model.graph.output]
    assert [port.name for port in ports] == ["images", "boxes", "scores"]
    assert {port.type.tensor_type.elem_type for port in ports} == {onnx.TensorProto.FLOAT}
    shapes = [tuple(size.dim_value for size in port.type.tensor_type.shape.dim) for port in ports]
    assert shapes == [(1, 3, 16, 16), (1, 8, 16, 16), (1, 4, 16, 16)]


def test_names_are_unique_and_initializers_are_stored_once(model: ModelProto) -> None:
    tensors = [name for node in model.graph.node for name in node.output] + [t.name for t in model.graph.initializer]
    assert len(tensors) == len(set(tensors))
    assert len({node.name for node in model.graph.node}) == len(model.graph.node)
    contents = [(t.data_type, tuple(t.dims), t.raw_data) for t in model.graph.initializer]
    assert len(contents) == len(set(contents))
    read = {name for node in model.graph.node for name in node.input}
    assert {tensor.name for tensor in model.graph.initializer} <= read


def test_the_files_own_rules_hold(target: Target, model: ModelProto) -> None:
    assert [f for f in lint(model, target.runtime) if f.severity != "note"] == []


def test_the_same_graph_gives_the_same_bytes(target: Target, tmp_path: Path) -> None:
    first, second = (
        emit(graph_for(target), target, tmp_path / name, "net", METADATA, MANIFEST) for name in ("a", "b b")
    )
    assert first.files == second.files
    for name in first.files:
        assert (first.folder / name).read_bytes() == (second.folder / name).read_bytes()


def test_the_folder_of_each_target(target: Target, tmp_path: Path) -> None:
    artifact = emit(graph_for(target), target, tmp_path / "out", "net", METADATA, MANIFEST)
    suffix = "_qonnx" if target.runtime == "qonnx" else "_int8" if target.is_integer else ""
    jetson = target.runtime == "tensorrt"
    assert artifact.primary == tmp_path / "out" / f"net{suffix}.onnx"
    assert set(artifact.files) == {f"net{suffix}.onnx", "manifest.json", *(["build_engine.sh"] if jetson else [])}
    assert {path.name for path in artifact.folder.iterdir()} == set(artifact.files)
    for entry in artifact.document():
        content = Path(str(entry["path"])).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (entry["bytes"], entry["sha256"])
    written = json.loads((artifact.folder / "manifest.json").read_text())
    assert written["images"] == MANIFEST["images"]
    assert written["files"][artifact.primary.name] == artifact.files[artifact.primary.name]
    assert bool(artifact.next_commands) == jetson


def test_metadata_is_read_back_as_ultralytics_reads_it(tmp_path: Path) -> None:
    target = find_target("onnx-fp32")
    artifact = emit(residual_net(), target, tmp_path / "out", "net", METADATA, MANIFEST)
    entries = {entry.key: entry.value for entry in onnx.load(artifact.primary).metadata_props}
    for key, value in METADATA.items():
        read = entries[key] if isinstance(value, str) else ast.literal_eval(entries[key])
        assert read == value, key
    assert json.loads(entries["edgeq.manifest"]) == MANIFEST
    assert entries["edgeq.target"] == "onnx-fp32"
    assert entries["edgeq.graph_sha256"] == digest(residual_net())


def test_every_tensor_of_the_map_is_in_the_file(target: Target) -> None:
    graph = graph_for(target)
    model, tensors = build_model(graph, target.runtime)
    computed = {name for node in model.graph.node for name in node.output} | set(graph.inputs)
    assert set(tensors.values()) <= computed
    assert set(graph.outputs) <= tensors.keys()
    if target.is_integer:
        codes = [value for value in tensors if is_narrow(graph.types[value])]
        assert len(codes) > 5
        assert all(tensors[value] == value for value in codes)


def nodes(model: ModelProto, kind: str) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == kind]


def test_tensorrt_files_quantize_weights_per_channel_and_leave_biases_alone() -> None:
    target = find_target("jetson-int8")
    model, _ = build_model(graph_for(target), "tensorrt")
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    made = {name: node for node in model.graph.node for name in node.output}
    convolutions = nodes(model, "Conv")
    assert len(convolutions) == 6
    for conv in convolutions:
        x, weight = (made[name] for name in conv.input[:2])
        assert x.op_type == weight.op_type == "DequantizeLinear"
        codes, scale, zero_point = (arrays[name] for name in weight.input)
        assert codes.dtype == zero_point.dtype == np.int8
        assert scale.shape == zero_point.shape == (codes.shape[0],)
        assert onnx.helper.get_attribute_value(weight.attribute[0]) == 0
        assert codes.min() >= -127
        assert len(np.unique(codes)) > 50
        assert arrays[conv.input[2]].dtype == np.float32


def test_tensorrt_files_do_not_quantize_between_convolution_and_activation_or_addition() -> None:
    model, _ = build_model(graph_for(find_target("jetson-int8")), "tensorrt")
    made = {name: node for node in model.graph.node for name in node.output}
    quantized = {node.input[0] for node in nodes(model, "QuantizeLinear")}
    assert not quantized & {conv.output[0] for conv in nodes(model, "Conv")}
    (addition,) = nodes(model, "Add")
    assert sorted(made[name].op_type for name in addition.input) != ["DequantizeLinear", "DequantizeLinear"]


def test_onnx_runtime_fuses_every_quantized_convolution(tmp_path: Path) -> None:
    import onnxruntime

    target = find_target("onnx-int8")
    content = to_bytes(build_model(graph_for(target), "onnxruntime")[0])
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert kinds.count("QLinearConv") == 3
    assert kinds.count("QGemm") == 2
    assert kinds.count("QLinearSigmoid") == kinds.count("QLinearMul") == 2
    assert kinds.count("Conv") == 1, "only the first convolution, of three channels, stays in float"
    assert "Resize" not in kinds


@pytest.mark.parametrize("runtime", ["tensorrt", "onnxruntime"])
@pytest.mark.parametrize("format_", [Float(4, 3), INT16])
def test_formats_without_a_quantizer(runtime: Runtime, format_: Format) -> None:
    """Minifloats are refused by name; 16-bit codes are printed as the reals they stand for."""
    editor = Editor("one", ["x"], {"x": Type((1, 4))})
    codes = editor.append(o.Quantize("x", "codes"), Type((1, 4), format_, (0.5,)))
    editor.append(o.Dequantize(codes, "y"), Type((1, 4)))
    graph = editor.graph(["y"])
    if format_ == INT16:
        model, _ = build_model(graph, runtime)
        assert [node.op_type for node in model.graph.node] == ["Identity"]
    else:
        with pytest.raises(UnsupportedError, match=r"codes.*e4m3"):
            build_model(graph, runtime)


def test_a_wide_input_of_codes_is_refused() -> None:
    graph = Graph("one", ("x",), ("x",), (), {"x": Type((1, 4), INT16, (0.5,))})
    with pytest.raises(UnsupportedError, match="x"):
        build_model(graph, "tensorrt")


def test_narrow_codes_may_go_in_and_out() -> None:
    type_ = Type((1, 4), INT8, (0.5,))
    graph = Graph("one", ("x",), ("y",), (o.Reshape("x", "y", (4, 1)),), {"x": type_, "y": Type((4, 1), INT8, (0.5,))})
    content = to_bytes(build_model(graph, "onnxruntime")[0])
    codes = np.array([[-128, 0, 5, 127]], dtype=np.int8)
    assert OnnxRuntime(content, threads=1).run({"x": codes})["y"].reshape(-1).tolist() == codes.reshape(-1).tolist()


@pytest.mark.parametrize("axis", [2, 3])
@pytest.mark.parametrize("scale", [0.002, 0.1])
def test_a_softmax_between_codes_is_that_of_reals(axis: int, scale: float) -> None:
    """ONNX Runtime's own for codes works from a table and misses many shares by a code, half of those of tame scores."""
    shape = (1, 8, 37, 32)
    rng = np.random.default_rng(0)
    codes = np.clip(rng.normal(128, 60, shape), 0, 255).astype(np.uint8)
    exponentials = np.exp(scale * (codes - 128.0))
    largest = float((exponentials / exponentials.sum(axis, keepdims=True)).max())
    editor = Editor("one", ["x"], {"x": Type(shape, UINT8, (scale,), 128)})
    scores = editor.append(o.Dequantize("x", "scores"), Type(shape))
    shares = editor.append(o.Softmax(scores, "shares", axis), Type(shape))
    step = float(np.float32(largest / 250))
    graph = editor.graph([editor.append(o.Quantize(shares, "codes"), Type(shape, UINT8, (step,)))])
    found = OnnxRuntime(to_bytes(build_model(graph, "onnxruntime")[0]), threads=1).run({"x": codes})["codes"]
    wanted = run(graph, {"x": codes})["codes"].numpy()
    assert len(np.unique(codes)) == 256 and len(np.unique(wanted)) > 100
    assert np.mean(found == wanted) > 0.999
