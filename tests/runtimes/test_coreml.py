"""The runtime of CoreML packages: its surface, its refusals, and an interpreter that trusts nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgeq.emit.coreml import MODEL_FILE, emit
from edgeq.errors import EdgeqError, UnsupportedError, UntrustedInputError, UsageError
from edgeq.runtimes.coreml import CoreMLRuntime
from edgeq.targets import find_target
from tests.lowering import lowered
from tests.quantized import Net, inputs_of


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    net = Net(1, 3, 8, 8)
    graph = net.graph(net.conv(net.apply(net.conv("x", 6, "a"), "relu", "r"), 4, "out"))
    target = find_target("coreml-w8a8")
    integers = lowered(graph, target, inputs_of(graph))
    return emit(integers, target, tmp_path_factory.mktemp("package") / "out", "net", {"task": "none"}, {}).primary


X = {"x": inputs_of(Net(1, 3, 8, 8).graph("x"))["x"]}


def test_surface(package: Path) -> None:
    runtime = CoreMLRuntime(package, threads=2, interpret=True)
    assert (runtime.inputs, runtime.outputs, runtime.threads) == (("x",), ("out",), 2)
    assert (runtime.input_shapes, runtime.output_shapes) == ({"x": (1, 3, 8, 8)}, {"out": (1, 4, 8, 8)})
    assert runtime.metadata["task"] == "none" and "interpreter" in runtime.name
    found = runtime.run(X)["out"]
    assert found.dtype == np.float32 and len(np.unique(found)) > 100
    assert runtime.latency(X, runs=2, warm_up=1).p50_ms > 0


def test_watching(package: Path) -> None:
    runtime = CoreMLRuntime(package, interpret=True).watching(["r", "out"])
    found = runtime.run(X)
    assert runtime.outputs == ("out", "r") and found["r"].dtype == np.int8
    assert runtime.output_shapes["r"] == found["r"].shape == (1, 6, 8, 8)
    assert found["r"].min() == 0 and found["r"].max() > 100
    with pytest.raises(UsageError, match="does not compute this tensor; got nowhere"):
        CoreMLRuntime(package, interpret=True).watching(["nowhere"])


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        ({}, "wrong inputs"),
        ({"y": X["x"]}, "wrong inputs; got y; allowed: x"),
        ({"x": np.zeros((1, 3, 8, 9), np.float32)}, "wrong input shape; at x"),
    ],
)
def test_wrong_inputs(package: Path, inputs: dict[str, np.ndarray], reason: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(UsageError, match=reason):
        CoreMLRuntime(package, interpret=True).run(inputs)


def test_no_package(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such CoreML package"):
        CoreMLRuntime(tmp_path / "nothing.mlpackage")
    with pytest.raises(UnsupportedError, match="not a CoreML package"):
        CoreMLRuntime(tmp_path)


def test_a_package_that_points_out_of_itself(package: Path, tmp_path: Path) -> None:
    listed = json.loads((package / "Manifest.json").read_text())
    for entry in listed["itemInfoEntries"].values():
        entry["path"] = f"../../{package.name}/Data/{entry['path']}"
    (tmp_path / "Manifest.json").write_text(json.dumps(listed))
    with pytest.raises(UntrustedInputError):
        CoreMLRuntime(tmp_path)


def copied(package: Path, folder: Path, change: Callable[[str, bytes], bytes]) -> Path:
    for path in package.rglob("*"):
        if path.is_file():
            name = str(path.relative_to(package))
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(change(name, path.read_bytes()))
    return folder


def test_damage_gives_typed_errors_only(package: Path, tmp_path: Path) -> None:
    """Whatever a file says, it runs or is refused."""
    rng = np.random.default_rng(0)
    refused, ran = 0, 0
    copied(package, tmp_path, lambda _, content: content)
    original = (package / MODEL_FILE).read_bytes()
    for _ in range(800):
        damaged = bytearray(original)
        for place in rng.integers(0, len(damaged), rng.integers(1, 3)):
            damaged[place] ^= 1 << int(rng.integers(0, 7))
        (tmp_path / MODEL_FILE).write_bytes(bytes(damaged))
        try:
            CoreMLRuntime(tmp_path, interpret=True).run(X)
            ran += 1
        except EdgeqError as error:
            assert str(error)
            refused += 1
    assert refused > 300 and ran > 50
