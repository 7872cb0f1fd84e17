"""CoreML packages: what is written reads back and runs, and a changed number is caught where it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeq.emit.artifact import GRAPH_FILE
from edgeq.emit.coreml import MODEL_FILE, WEIGHTS_FILE
from edgeq.emit.coreml_schema import Model
from edgeq.errors import UsageError
from edgeq.flow.artifacts import emitter_of
from edgeq.flow.verify import VerifyRequest, verify_artifact
from edgeq.inspection import inspect_model
from edgeq.ir.file import digest, to_bytes
from edgeq.ir.graph import Graph
from edgeq.lint import COREML_RULES, lint_file
from edgeq.quantize.weights import quantize_weights
from edgeq.readback.stored import Stored, StoredOperator, StoredTensor
from edgeq.recipe import Recipe
from edgeq.report import Report
from edgeq.target import Target
from edgeq.targets import TARGETS, describe, find_target
from tests.lowering import lowered
from tests.quantized import Net, inputs_of

COREML = [target for target in TARGETS if target.emitter == "coreml"]


def network() -> Graph:
    net = Net(1, 8, 8, 8, seed=3)
    y = net.apply(net.conv("x", 16, "a"), "relu", "b")
    return net.graph(net.conv(net.conv(y, 12, "c"), 6, "boxes"))


def written(folder: Path, target: Target) -> Path:
    graph = network()
    if target.is_integer:
        graph = lowered(graph, target, inputs_of(graph))
    elif target.stored_weights:
        graph = quantize_weights(graph, target, Recipe("auto", ()))
    manifest = {"target": describe(target), "graph_sha256": digest(graph)}
    emit = emitter_of(target)
    return emit(graph, target, folder / "run", "net", {}, manifest, {GRAPH_FILE: to_bytes(graph)}).primary


def verified(path: Path) -> Report:
    return verify_artifact(VerifyRequest(str(path), images=2))


@pytest.mark.parametrize("target", COREML, ids=lambda target: target.name)
def test_a_whole_package(tmp_path: Path, target: Target) -> None:
    report = verified(written(tmp_path, target))
    assert report.exit == 0
    assert report.value("differences", "artifact") == 0
    assert (report.value("numbers_compared", "artifact") or 0) > 3500


@pytest.mark.parametrize("name", ["coreml-w8a8", "coreml-w8", "coreml-w4", "coreml-post4", "coreml-fp16"])
def test_a_weight_byte_that_changed(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, find_target(name))
    file = path / WEIGHTS_FILE
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x10
    file.write_bytes(content)
    report = verified(path)
    assert report.exit == 5
    assert (report.value("differences", "artifact") or 0) >= 1
    assert any(note.startswith(("differs at a", "differs at c", "differs at boxes")) for note in report.notes)


def test_a_scale_that_changed(tmp_path: Path) -> None:
    path = written(tmp_path, find_target("coreml-w8a8"))
    file = path / MODEL_FILE
    model = Model.FromString(file.read_bytes())
    function = model.mlProgram.functions["main"]
    (operation,) = (
        op for op in function.block_specializations[function.opset].operations if op.outputs[0].name == "b_scale"
    )
    tensor = operation.attributes["val"].immediateValue.tensor
    half = np.frombuffer(tensor.bytes.values, np.float16)
    tensor.bytes.values = np.nextafter(half, np.float16(1)).tobytes()
    file.write_bytes(model.SerializeToString())
    report = verified(path)
    assert report.exit == 5
    assert any(note.startswith("differs at b: scale") for note in report.notes)


@pytest.mark.parametrize("target", COREML, ids=lambda target: target.name)
def test_a_package_is_listed_and_judged(tmp_path: Path, target: Target) -> None:
    path = written(tmp_path, target)
    found = inspect_model(str(path))
    quantized = target.is_integer or target.stored_weights is not None
    assert bool(found.quantized) == quantized
    assert len([t for t in found.quantized if t.role == "weight"]) == (3 if quantized else 0)
    assert [finding for finding in lint_file(path) if finding.severity != "note"] == []


def stored(weights: list[StoredTensor], activations: tuple[StoredTensor, ...] = (), **operators: int) -> Stored:
    ops = tuple(StoredOperator(f"op{k}", "conv", (f"op{k}",), weight) for k, weight in enumerate(weights))
    return Stored("mlpackage", activations, ops, (), operators)


def codes(*scales: float) -> StoredTensor:
    return StoredTensor("w", "weight", "int8", (4, 600), scales, (0,), 0, array=np.zeros((4, 600), np.int8))


def activation(zero: int) -> StoredTensor:
    return StoredTensor("x", "activation", "int8", (1, 4), (0.1,), (zero,))


HALF = StoredTensor("w", "weight", "fp16", (4, 600), array=np.zeros((4, 600), np.float16))
GOOD = stored([codes(0.1, 0.2, 0.3, 0.4)] * 2, (activation(0),), quantize=1)
CASES: dict[str, Callable[[], Stored]] = {
    "cml-scale-not-positive": lambda: stored([codes(0.1, 0.0, float("nan"), 0.4)]),
    "cml-weight-uncompressed": lambda: stored([codes(0.1, 0.2, 0.3, 0.4), HALF]),
    "cml-per-tensor-weights": lambda: stored([codes(0.1)]),
    "cml-activation-zero-point": lambda: stored([codes(0.1, 0.2, 0.3, 0.4)], (activation(3),), quantize=1),
    "cml-mixed-activations": lambda: stored([codes(0.1, 0.2, 0.3, 0.4)] * 4, (activation(0),), quantize=1),
}


def test_every_rule_has_a_case() -> None:
    assert set(CASES) == {rule.id for rule in COREML_RULES}


@pytest.mark.parametrize("rule", COREML_RULES, ids=lambda rule: rule.id)
def test_a_rule(rule: Any) -> None:
    assert list(rule.check(CASES[rule.id]()))
    assert not list(rule.check(GOOD))


def test_a_folder_that_is_no_package(tmp_path: Path) -> None:
    folder = tmp_path / "net.mlpackage"
    folder.mkdir()
    with pytest.raises(UsageError, match="not a CoreML package"):
        lint_file(folder)
    with pytest.raises(UsageError, match="tensorrt does not read this kind of file"):
        lint_file(written(tmp_path, find_target("coreml-w8")), "tensorrt")
