"""The TFLite file as a file: names, layouts, versions, metadata, determinism, size, and what its folder holds."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections import Counter
from pathlib import Path

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from edgeq.emit.tflite import build_model, emit
from edgeq.emit.tflite_writer import packed
from edgeq.errors import UnsupportedError
from edgeq.formats import INT8, UINT8, Float, Format
from edgeq.frontend.model import open_model
from edgeq.ir import ops as o
from edgeq.ir.graph import Editor, Graph, Type
from edgeq.passes.simplify import simplify
from edgeq.reference.interpret import run
from edgeq.runtimes.litert import LiteRtRuntime
from edgeq.target import Target
from edgeq.targets import TARGETS, find_target
from tests.lowering import lowered
from tests.quantized import Net
from tests.residual_net import images, residual_net
from tests.tflite_agreement import compare_locally, operators

METADATA = {
    "description": "Ultralytics YOLOv8n model", "author": "Ultralytics", "date": "2026-01-02T03:04:05",
    "version": "8.4.190", "license": "AGPL-3.0", "stride": 32, "task": "detect", "batch": "1", "imgsz": "[16, 16]",
    "names": "{0: 'person', 1: \"bicycle 'quoted'\"}", "channels": 3,
    "edgeq.preprocess": json.dumps({"size": [16, 16], "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2], "pad": None}),
}  # fmt: skip
MANIFEST = {"schema": "edgeq.manifest/1", "images": [{"name": "naïve.jpg", "sha256": "00"}], "seed": 0}


def graph_for(target: Target) -> Graph:
    graph = residual_net()
    return lowered(graph, target, images()) if target.is_integer else graph


@pytest.fixture(params=[target.name for target in TARGETS if target.emitter == "tflite"])
def target(request: pytest.FixtureRequest) -> Target:
    return find_target(request.param)


def test_every_target_writes_a_file_that_runs(target: Target) -> None:
    graph = graph_for(target)
    found = LiteRtRuntime(build_model(graph, target.ports)[0], threads=1, kernels="reference").run(images())
    assert list(found) == ["boxes", "scores"]
    for name, reference in run(graph, images()).items():
        np.testing.assert_allclose(found[name], reference.numpy(), rtol=1e-4, atol=1e-4)
        assert found[name].dtype == np.float32 and len(np.unique(found[name])) > 20


def test_the_same_graph_gives_the_same_bytes(target: Target, tmp_path: Path) -> None:
    graph = graph_for(target)
    for folder in ("one", "two"):
        emit(graph, target, tmp_path / folder, "net", METADATA, MANIFEST)
    files = [sorted((tmp_path / folder).iterdir()) for folder in ("one", "two")]
    assert [path.name for path in files[0]] == [path.name for path in files[1]]
    for one, two in zip(*files, strict=True):
        assert one.read_bytes() == two.read_bytes()


def test_the_folder(target: Target, tmp_path: Path) -> None:
    artifact = emit(graph_for(target), target, tmp_path / "out", "net", METADATA, MANIFEST, {"more.json": b"{}"})
    wanted = f"net_{target.name.rpartition('-')[2]}.tflite" if target.is_integer else "net.tflite"
    assert artifact.primary.name == wanted
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["files"][wanted] == hashlib.sha256(artifact.primary.read_bytes()).hexdigest()
    assert set(artifact.files) == {wanted, "more.json", "manifest.json"}
    assert artifact.code_bits == 16 and {"boxes", "scores"} <= artifact.tensors.keys() | set(graph_for(target).outputs)


def test_integer_files_are_a_quarter_of_the_float_file() -> None:
    sizes = {
        name: len(build_model(graph_for(find_target(name)))[0]) for name in ("tflite-fp32", "tflite-int8", "rpi-w4a8")
    }
    weights = sum(array.size for array in residual_net().constants.values())
    assert sizes["tflite-fp32"] > 4 * weights
    assert sizes["rpi-w4a8"] < sizes["tflite-int8"] < sizes["tflite-fp32"]


def test_images_are_channels_last_and_ports_have_the_models_names() -> None:
    model = schema.ModelT.InitFromPackedBuf(build_model(graph_for(find_target("tflite-int8")))[0], 0)
    (subgraph,) = model.subgraphs
    (image,) = (subgraph.tensors[index] for index in subgraph.inputs)
    assert (image.name, list(image.shape)) == (b"images", [1, 16, 16, 3])
    assert image.type == schema.TensorType.FLOAT32
    assert [subgraph.tensors[index].name for index in subgraph.outputs] == [b"boxes", b"scores"]
    (signature,) = model.signatureDefs
    assert [port.name for port in signature.outputs] == [b"boxes", b"scores"]


def test_microcontrollers_get_codes_at_the_ports() -> None:
    target = find_target("mcu-tflite-int8")
    content, _ = build_model(graph_for(target), target.ports)
    (subgraph,) = schema.ModelT.InitFromPackedBuf(content, 0).subgraphs
    for index in (*subgraph.inputs, *subgraph.outputs):
        assert subgraph.tensors[index].type == schema.TensorType.INT8
        assert len(subgraph.tensors[index].quantization.scale) == 1
    assert not {"QUANTIZE", "DEQUANTIZE"} & set(operators(content))


def test_weights_biases_and_scales_are_those_of_the_graph() -> None:
    graph = graph_for(find_target("tflite-int8"))
    (subgraph,) = (model := schema.ModelT.InitFromPackedBuf(build_model(graph)[0], 0)).subgraphs
    by_name = {tensor.name.decode(): tensor for tensor in subgraph.tensors}
    checked = 0
    for op in graph.ops:
        if not isinstance(op, o.Conv):
            continue
        assert op.bias is not None
        weight, bias = by_name[op.weight], by_name[op.bias]
        stored = model.buffers[weight.buffer].data.view(np.int8).reshape(weight.shape)
        depthwise = op.groups > 1
        assert np.array_equal(stored, graph.constants[op.weight].transpose((1, 2, 3, 0) if depthwise else (0, 2, 3, 1)))
        assert np.array_equal(model.buffers[bias.buffer].data.view(np.int32), graph.constants[op.bias])
        assert tuple(map(float, weight.quantization.scale)) == graph.types[op.weight].scale
        assert weight.quantization.quantizedDimension == (3 if depthwise else 0)
        checked += 1
    assert checked >= 3


def test_four_bit_codes_share_bytes_low_half_first() -> None:
    codes = np.array([1, -2, 7], dtype=np.int8)
    assert packed(codes, "INT4").tolist() == [0xE1, 0x07]


def test_operator_versions_load_in_old_runtimes() -> None:
    content, _ = build_model(graph_for(find_target("tflite-int8")))
    newest = {
        schema.BuiltinOperator.CONV_2D: 3,
        schema.BuiltinOperator.DEPTHWISE_CONV_2D: 3,
        schema.BuiltinOperator.FULLY_CONNECTED: 4,
    }
    codes = schema.ModelT.InitFromPackedBuf(content, 0).operatorCodes
    assert {code.builtinCode for code in codes} & newest.keys()
    for code in codes:
        assert code.version <= newest.get(code.builtinCode, 3)
        assert code.deprecatedBuiltinCode == min(code.builtinCode, 127)


# --- layouts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "transposes", "paddings"),
    [
        ("zoo:detector", 1, 7),  # of [1, C, boxes], in which the output is stored; padding before each stride of two
        ("zoo:classifier", 16, 0),  # four for each of four attentions
        ("zoo:depth", 0, 5),
    ],
)
def test_nothing_is_transposed_without_need(name: str, transposes: int, paddings: int) -> None:
    graph = simplify(open_model(name).graph)
    counts = Counter(operators(build_model(graph)[0]))
    assert counts["TRANSPOSE"] == transposes
    assert counts["PAD"] == paddings


@pytest.mark.parametrize("length", [511, 512])
def test_the_longest_softmax_on_codes_runs(length: int) -> None:
    """Equal scores are the worst case: over one more, LiteRT's reference kernel would end the process."""
    net = Net(1, 1, length)
    graph = net.graph(net.linear(net.add(o.Softmax("x", "shares", 2)), 4, "y"))
    equal, one = np.zeros((1, 1, length), np.float32), np.eye(1, length, dtype=np.float32)[None]
    written = lowered(graph, find_target("tflite-int8"), {"x": 10 * one})
    content, _ = build_model(written)
    on_codes = ["QUANTIZE", "SOFTMAX"] if length == 511 else ["SOFTMAX", "QUANTIZE"]
    assert [name for name in operators(content) if name in on_codes] == on_codes
    for scores in (equal, 10 * one):
        compared = list(compare_locally(written, {"x": scores}))
        assert "y" in {value for value, *_ in compared}
        assert all(np.abs(meant - found).max() <= 1 for _, meant, found in compared)


def test_a_flattened_map_keeps_its_meaning() -> None:
    """[C, H, W] in this order is what a linear layer behind it was trained on: here something has to move."""
    rng = np.random.default_rng(0)
    editor = Editor("flat", ["x"], {"x": Type((1, 3, 6, 5))})
    weight = editor.constant("w", rng.normal(0, 1, (4, 3, 3, 3)).astype(np.float32))
    flat = editor.append(o.Reshape(editor.append(o.Conv("x", weight, None, "c")), "f", (1, 48)))
    matrix = editor.constant("m", rng.normal(0, 1, (7, 48)).astype(np.float32))
    graph = editor.graph([editor.append(o.Linear(flat, matrix, None, "y"))])
    x = rng.normal(0, 1, (1, 3, 6, 5)).astype(np.float32)
    content, _ = build_model(graph)
    np.testing.assert_allclose(
        LiteRtRuntime(content, threads=1).run({"x": x})["y"], run(graph, {"x": x})["y"].numpy(), rtol=1e-4, atol=1e-4
    )
    assert operators(content).count("TRANSPOSE") == 1


# --- metadata -------------------------------------------------------------------------------------------------------


@pytest.fixture
def content(tmp_path: Path) -> bytes:
    target = find_target("tflite-int8")
    return emit(graph_for(target), target, tmp_path / "out", "net", METADATA, MANIFEST).primary.read_bytes()


def test_ultralytics_reads_json_from_the_archive_behind_the_file(content: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(content)) as files:
        assert files.testzip() is None
        found = json.loads(files.read("metadata.json"))
        labels = files.read("labels.txt").decode()
    assert found["names"] == {"0": "person", "1": "bicycle 'quoted'"}
    assert (found["stride"], found["imgsz"], found["batch"], found["task"]) == (32, [16, 16], 1, "detect")
    assert json.loads(found["edgeq.preprocess"])["size"] == [16, 16]
    assert labels == "person\nbicycle 'quoted'\n"
    assert LiteRtRuntime(content, threads=1).metadata["edgeq.target"] == "tflite-int8"


class Table:
    """A table of any flatbuffer, read by the numbers of its fields."""

    def __init__(self, content: bytes, position: int) -> None:
        self._table = flatbuffers.table.Table(bytearray(content), position)

    def _at(self, slot: int) -> int:
        offset = self._table.Offset(4 + 2 * slot)
        return offset and offset + self._table.Pos

    def text(self, slot: int) -> str:
        return self._table.String(self._at(slot)).decode()

    def byte(self, slot: int) -> int:
        return int(self._table.Get(flatbuffers.number_types.Uint8Flags, self._at(slot)))

    def table(self, slot: int) -> Table:
        return Table(bytes(self._table.Bytes), self._table.Indirect(self._at(slot)))

    def tables(self, slot: int) -> list[Table]:
        offset = self._table.Offset(4 + 2 * slot)
        start = self._table.Vector(offset)
        return [
            Table(bytes(self._table.Bytes), self._table.Indirect(start + 4 * k))
            for k in range(self._table.VectorLen(offset))
        ]

    def floats(self, slot: int) -> list[float]:
        offset = self._table.Offset(4 + 2 * slot)
        start = self._table.Vector(offset)
        return [
            float(self._table.Get(flatbuffers.number_types.Float32Flags, start + 4 * k))
            for k in range(self._table.VectorLen(offset))
        ]


def test_the_task_library_finds_names_normalization_and_labels(content: bytes) -> None:
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    (entry,) = (entry for entry in model.metadata if entry.name == b"TFLITE_METADATA")
    raw = bytes(model.buffers[entry.buffer].data)
    assert raw[4:8] == b"M001"
    root = Table(raw, int.from_bytes(raw[:4], "little"))
    assert (root.text(1), root.text(4), root.text(5), root.text(7)) == (
        "Ultralytics YOLOv8n model", "Ultralytics", "AGPL-3.0", "1.0.0",
    )  # fmt: skip
    (subgraph,) = root.tables(3)
    (image,), outputs = subgraph.tables(2), subgraph.tables(3)
    assert image.text(0) == "images" and [output.text(0) for output in outputs] == ["boxes", "scores"]
    assert (image.table(3).byte(0), image.table(3).table(1).byte(0)) == (2, 1)  # image properties, RGB
    (unit,) = image.tables(4)
    assert unit.byte(0) == 1
    np.testing.assert_allclose(unit.table(1).floats(0), [127.5, 102.0, 76.5])
    np.testing.assert_allclose(unit.table(1).floats(1), [51.0] * 3)
    assert outputs[1].tables(6)[0].text(0) == "labels.txt"


@pytest.mark.parametrize("names", ["", "no names here", "{0: __import__('os')}", None])
def test_names_that_cannot_be_read_give_no_labels(names: object, tmp_path: Path) -> None:
    target = find_target("tflite-fp32")
    artifact = emit(residual_net(), target, tmp_path / "out", "net", {"names": names}, MANIFEST)
    with zipfile.ZipFile(artifact.primary) as files:
        assert "labels.txt" not in files.namelist()


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format_", [UINT8, Float(2, 3)])
def test_formats_without_tensors_are_refused_by_name(format_: Format) -> None:
    editor = Editor("odd", ["x"], {"x": Type((1, 2, 3, 4), format_, (0.5,))})
    with pytest.raises(UnsupportedError, match="int8, int16") as caught:
        build_model(editor.graph([editor.append(o.Reshape("x", "y", (1, 24)), Type((1, 24), format_, (0.5,)))]))
    assert caught.value.where == "x"


def test_other_roundings_are_no_kernel() -> None:
    editor = Editor("even", ["x"], {"x": Type((1, 2, 3, 4), INT8, (0.5,))})
    to = Type((1, 2, 3, 4), INT8, (1.0,))
    requantize = o.Requantize("x", "y", (1 << 30,), (0,), "single", -128, 127)
    with pytest.raises(UnsupportedError, match="no TFLite kernel computes this") as caught:
        build_model(editor.graph([editor.append(requantize, to)]))
    assert caught.value.where == "y"


def test_graphs_for_other_targets_are_refused() -> None:
    for name in ("jetson-int8", "onnx-int8"):
        with pytest.raises(UnsupportedError):
            build_model(lowered(residual_net(), find_target(name), images()))
