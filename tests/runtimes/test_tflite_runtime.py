"""tflite-runtime 2.14 in a Python of its own: today's files load there, and compute the same up to its rounding."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgeq.emit.tflite import build_model
from edgeq.errors import MissingDependencyError, UnsupportedError, UsageError
from edgeq.frontend.model import open_model
from edgeq.passes.simplify import simplify
from edgeq.reference.interpret import run
from edgeq.runtimes.tflite_runtime import PYTHON_VARIABLE, TfliteRuntime, legacy_python
from edgeq.targets import find_target
from tests.lowering import lowered
from tests.quantized import inputs_of
from tests.residual_net import images, residual_net

needs_runtime = pytest.mark.skipif(
    PYTHON_VARIABLE not in os.environ, reason=f"set {PYTHON_VARIABLE} to a Python that has tflite-runtime"
)


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    file = tmp_path / "net.tflite"
    file.write_bytes(build_model(lowered(residual_net(), find_target("tflite-int8"), images()))[0])
    yield file


@pytest.mark.parametrize("python", [None, "/no/such/python", sys.executable])
def test_without_the_runtime_the_missing_package_is_named(
    python: str | None, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(PYTHON_VARIABLE, raising=False)
    with pytest.raises(MissingDependencyError, match=r"edgeq\[tflite-legacy\]"):
        TfliteRuntime(path, python=python)
    with pytest.raises(MissingDependencyError, match=PYTHON_VARIABLE):
        legacy_python(python)


def within_noise(wanted: np.typing.NDArray[np.float64], found: np.typing.NDArray[np.float64], db: float) -> bool:
    noise = float(((wanted - found) ** 2).sum())
    return 10 * np.log10(float((wanted**2).sum()) / max(noise, 1e-30)) > db


@needs_runtime
@pytest.mark.parametrize("name", ["tflite-int8", "rpi-w8a16", "mcu-tflite-int8", "tflite-fp32"])
@pytest.mark.parametrize("model", ["zoo:detector", "zoo:classifier", "zoo:depth"])
def test_todays_files_run_in_the_old_runtime(name: str, model: str, tmp_path: Path) -> None:
    target, graph = find_target(name), simplify(open_model(model).graph)
    fed = inputs_of(graph)
    graph = lowered(graph, target, fed) if target.is_integer else graph
    file = tmp_path / "net.tflite"
    file.write_bytes(build_model(graph, target.ports)[0])
    with TfliteRuntime(file) as runtime:
        found = runtime.run(fed)
    for value, wanted in run(graph, fed).items():
        assert found[value].shape == tuple(wanted.shape)
        assert len(np.unique(wanted.numpy())) > 5
        # Single codes of inner layers round differently there, which a whole network carries to its end.
        assert within_noise(
            wanted.double().numpy(), found[value].astype(np.float64), 15 if name != "tflite-fp32" else 80
        )


@needs_runtime
def test_wrong_inputs_and_broken_files(path: Path, tmp_path: Path) -> None:
    with TfliteRuntime(path) as runtime:
        with pytest.raises(UsageError, match="allowed: images"):
            runtime.run({})
        first, second = runtime.run(images()), runtime.run(images())
        assert all(np.array_equal(first[name], second[name]) for name in first)
    broken = tmp_path / "broken.tflite"
    broken.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UnsupportedError):
        TfliteRuntime(broken)
