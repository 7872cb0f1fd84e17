"""The package as a whole: its files, its ports, what it says of itself, and what it refuses."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeq.emit.coreml import build_model, emit
from edgeq.emit.coreml_ports import PREPROCESS_KEY
from edgeq.emit.coreml_schema import Model
from edgeq.errors import UnsupportedError
from edgeq.formats import INT8, Codebook, Int
from edgeq.ir import ops as o
from edgeq.ir.graph import Graph, Type
from edgeq.quantize.weights import quantize_weights
from edgeq.recipe import Recipe
from edgeq.runtimes.coreml import CoreMLRuntime
from edgeq.target import StoredWeights, Target
from edgeq.targets import find_target
from tests.coreml_tools import problems
from tests.quantized import Net

FP16 = find_target("coreml-fp16")
DECLARED = {"size": [8, 8], "color": "RGB", "scale": 1 / 255, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.5]}


def net(*, name: str = "out") -> Graph:
    n = Net(1, 3, 8, 8)
    return n.graph(n.conv("x", 5, name))


def described(graph: Graph, metadata: dict[str, object], target: Target = FP16) -> Any:
    return Model.FromString(build_model(graph, target, metadata, {})[0])


def test_files_of_a_package(tmp_path: Path) -> None:
    artifact = emit(net(), FP16, tmp_path / "out", "tiny", {}, {"seed": 1}, {"head.json": b"{}"})
    package = tmp_path / "out" / "tiny.mlpackage"
    assert artifact.primary == package
    assert set(artifact.files) == {
        "tiny.mlpackage/Manifest.json",
        "tiny.mlpackage/Data/com.apple.CoreML/model.mlmodel",
        "tiny.mlpackage/Data/com.apple.CoreML/weights/weight.bin",
        "head.json",
        "manifest.json",
    }
    listed = json.loads((package / "Manifest.json").read_text())
    paths = {entry["path"] for entry in listed["itemInfoEntries"].values()}
    assert paths == {"com.apple.CoreML/model.mlmodel", "com.apple.CoreML/weights"}
    assert listed["itemInfoEntries"][listed["rootModelIdentifier"]]["name"] == "model.mlmodel"
    assert artifact.primary_bytes == sum(path.stat().st_size for path in package.rglob("*") if path.is_file())
    assert problems(package) == []


def test_the_same_graph_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("coreml-fp16", "coreml-w4"):
        target = find_target(name)
        graph = net()
        graph = quantize_weights(graph, target, Recipe()) if target.stored_weights else graph
        first, second = (emit(graph, target, tmp_path / f"{name}{k}", "n", {"a": 1}, {}) for k in (0, 1))
        assert first.files == second.files


@pytest.mark.parametrize(
    ("name", "file", "specification", "opset"),
    [
        ("coreml-fp16", "n.mlpackage", 7, "CoreML6"),
        ("coreml-w8", "n_w8.mlpackage", 7, "CoreML6"),
        ("coreml-w4", "n_w4.mlpackage", 9, "CoreML8"),
    ],
)
def test_versions(name: str, file: str, specification: int, opset: str, tmp_path: Path) -> None:
    target = find_target(name)
    artifact = emit(net(), target, tmp_path / "out", "n", {}, {})
    assert artifact.primary.name == file
    model = Model.FromString((artifact.primary / "Data/com.apple.CoreML/model.mlmodel").read_bytes())
    assert model.specificationVersion == specification and model.mlProgram.functions["main"].opset == opset


def test_an_image_with_its_preprocessing(tmp_path: Path) -> None:
    """Pixels go in, and the program makes of them what the model expects."""
    metadata: dict[str, object] = {PREPROCESS_KEY: json.dumps(DECLARED)}
    (port,) = described(net(), metadata).description.input
    assert (port.name, port.type.WhichOneof("choice")) == ("image", "imageType")
    assert (port.type.imageType.width, port.type.imageType.height, port.type.imageType.colorSpace) == (8, 8, 20)
    fp32 = find_target("coreml-fp32")
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, 8, 8)).astype(np.float32)
    mean, std = (np.reshape(DECLARED[key], (1, 3, 1, 1)) for key in ("mean", "std"))  # type: ignore[arg-type]
    expected = ((pixels / 255 - mean) / std).astype(np.float32)
    with_image = CoreMLRuntime(emit(net(), fp32, tmp_path / "a", "n", metadata, {}).primary, interpret=True)
    without = CoreMLRuntime(emit(net(), fp32, tmp_path / "b", "n", {}, {}).primary, interpret=True)
    assert with_image.inputs == without.inputs == ("x",)
    found = with_image.run({"x": expected})["out"]
    assert np.allclose(found, without.run({"x": expected})["out"], atol=1e-5) and len(np.unique(found)) > 100
    assert problems(tmp_path / "a" / "n.mlpackage") == []


@pytest.mark.parametrize(
    ("declared", "color"),
    [
        ({"size": [8, 8], "color": "BGR", "scale": 1.0}, 30),
        ({"size": [8, 8]}, 20),
        ({"size": [8, 9]}, None),
        ({"size": [8, 8], "layout": "NHWC"}, None),
        ({"size": [8, 8], "color": "GRAY"}, None),
    ],
)
def test_what_cannot_be_an_image_is_an_array(declared: dict[str, object], color: int | None) -> None:
    (port,) = described(net(), {PREPROCESS_KEY: json.dumps(declared)}).description.input
    if color is None:
        assert (port.name, list(port.type.multiArrayType.shape)) == ("x", [1, 3, 8, 8])
    else:
        assert port.type.imageType.colorSpace == color


def test_metadata() -> None:
    model = described(net(), {"description": "tiny", "author": "me", "version": 3, "license": "MIT", "names": {0: "a"}})
    metadata = model.description.metadata
    assert (metadata.shortDescription, metadata.author, metadata.versionString, metadata.license) == (
        "tiny", "me", "3", "MIT",
    )  # fmt: skip
    assert metadata.userDefined["names"] == "{0: 'a'}" and metadata.userDefined["edgeq.target"] == "coreml-fp16"


@pytest.mark.parametrize("name", ["model.0/conv", "2d", "tensor", "ä b"])
def test_any_name_of_an_output(name: str, tmp_path: Path) -> None:
    artifact = emit(net(name=name), FP16, tmp_path / "out", "n", {}, {})
    model = described(net(name=name), {})
    assert re.fullmatch(r"[A-Za-z_]\w*", model.description.output[0].name, re.ASCII)
    assert problems(artifact.primary) == []
    runtime = CoreMLRuntime(artifact.primary, interpret=True)
    assert runtime.outputs == (name,) and runtime.run({"x": np.ones((1, 3, 8, 8), np.float32)})[name].size == 320


def test_an_input_that_is_an_output_and_a_constant_output(tmp_path: Path) -> None:
    n = Net(1, 3, 8, 8)
    out = n.conv("x", 2, "out")
    constant = n.reals(1, 4)
    artifact = emit(n.graph("x", out, constant), FP16, tmp_path / "out", "n", {}, {})
    assert problems(artifact.primary) == []
    found = CoreMLRuntime(artifact.primary, interpret=True).run({"x": np.full((1, 3, 8, 8), 0.5, np.float32)})
    assert (found["x"] == 0.5).all() and found[constant].shape == (1, 4)


def too_many_axes() -> Graph:
    n = Net(1, 4, 8, 8)
    return n.graph(n.add(o.Reshape("x", "six", (1, 2, 2, 2, 4, 8))))


def beyond_half() -> Graph:
    n = Net(1, 3, 8, 8)
    return n.graph(n.add(o.Mul("x", n.constant(1e6), "out")))


def per_channel_table() -> Graph:
    n = Net(1, 3, 8, 8)
    return quantize_weights(
        n.graph(n.conv("x", 8, "out")),
        replace(find_target("coreml-w8"), stored_weights=StoredWeights(Int(3), smallest=1, shortest_row=1)),
        Recipe(),
    )


def inexact_scale() -> Graph:
    graph = net()
    op = graph.ops[0]
    assert isinstance(op, o.Conv)
    codes = Type(graph.types[op.weight].shape, INT8, (0.1,))
    return Graph(
        "net", graph.inputs, graph.outputs, (o.Dequantize("codes", op.weight), op), {**graph.types, "codes": codes},
        {op.bias or "": graph.constants[op.bias or ""], "codes": np.ones(codes.shape, np.int8)},
    )  # fmt: skip


def table_of_many_bits() -> Graph:
    graph = inexact_scale()
    wide = Codebook("wide", tuple(range(300)))
    types = {**graph.types, "codes": replace(graph.types["codes"], format=wide, scale=(0.5,))}
    return replace(graph, types=types)


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        (too_many_axes, "at most five axes; at six"),
        (beyond_half, "beyond half precision"),
        (per_channel_table, "need iOS 18"),
        (inexact_scale, "cannot hold this number exactly"),
        (table_of_many_bits, None),
    ],
)
def test_what_coreml_cannot_hold_is_named(graph: Any, reason: str | None, tmp_path: Path) -> None:
    if reason is None:  # stored as the reals it stands for: no element has more than eight bits
        emit(graph(), FP16, tmp_path / "out", "n", {}, {})
        return
    with pytest.raises(UnsupportedError, match=reason) as caught:
        emit(graph(), FP16, tmp_path / "out", "n", {}, {})
    assert caught.value.where is not None and list(tmp_path.iterdir()) == []


def test_a_package_is_written_over_an_older_one(tmp_path: Path) -> None:
    for seed in (0, 1):
        n = Net(1, 3, 8, 8, seed=seed)
        artifact = emit(n.graph(n.conv("x", 5, "out")), FP16, tmp_path / "out", "n", {}, {})
    assert problems(artifact.primary) == [] and len(list(tmp_path.iterdir())) == 1
