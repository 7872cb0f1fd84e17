"""The flow on a device that is not the CPU: everything that is computed on images is computed there."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgeq.emit.onnx import build_model, to_bytes
from edgeq.errors import UsageError
from edgeq.flow import ExportRequest, export_model
from edgeq.flow.accelerator import begin, device_of, exact_arithmetic
from edgeq.flow.calib_mode import ModeRequest
from edgeq.flow.effort import SETTINGS
from edgeq.flow.limits import Budgets
from edgeq.ir.file import load
from edgeq.ir.graph import Graph
from edgeq.quantize.asked import Asked
from edgeq.quantize.importance import measure_importance
from edgeq.quantize.sensitivity import Objective
from tests.another_device import DEVICE, another_device
from tests.command_line import write_noise_images, write_small_classifier
from tests.flow.test_banding import uneven
from tests.quantized import inputs_of

W4A8, CHOICES = Asked("int4", "int8"), ("w8a8", "w4a8")
FEW_STEPS = replace(SETTINGS["best"], steps=3)


def write_uneven(path: Path) -> None:
    model, _ = build_model(uneven(), "onnxruntime")
    path.write_bytes(to_bytes(model))


def exported(folder: Path, device: str, *, target: str = "reference", **options: Any) -> Graph:
    request = ExportRequest(
        "net.onnx", target, calib="images", preprocess="cifar", out=folder, no_cache=True, device=device, **options
    )
    report = export_model(request)
    assert report.exit == 0, report.notes
    return load(folder / "graph.edgeq")


CASES: dict[str, tuple[Callable[[Path], None], dict[str, Any]]] = {
    "rounded": (write_small_classifier, {"target": "onnx-int8", "effort": "fast", "data": "images"}),
    "learned": (write_small_classifier, {"formats": W4A8, "effort": "balanced"}),
    "descent": (write_small_classifier, {"formats": W4A8, "effort": "best"}),
    "tables": (write_small_classifier, {"formats": Asked(rules=("*=post4/e2m3",)), "effort": "balanced"}),
    "bands": (write_uneven, {"target": "rpi-int8", "effort": "best", "float_share": 0.0}),
    "lifted": (write_uneven, {"target": "onnx-int8", "effort": "balanced"}),
    "modes": (write_small_classifier, {"calibration": ModeRequest("auto"), "effort": "fast"}),
    "guarded": (write_small_classifier, {"calibration": ModeRequest("robust"), "effort": "fast"}),
    "stored": (write_small_classifier, {"target": "onnx-w4", "effort": "fast"}),
    "bits": (write_small_classifier, {"budgets": Budgets(avg_bits=6, choices=CHOICES)}),
    "bits one at a time": (
        write_small_classifier, {"budgets": Budgets(avg_bits=6, choices=CHOICES, sensitivity="measured")}
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_another_device_computes_the_same(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, options = CASES[case]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(SETTINGS, "best", FEW_STEPS)
    monkeypatch.setattr("edgeq.flow.contest.DRAWS", 2)
    monkeypatch.setattr("edgeq.flow.whole.LEAST_SHOWN", 16)
    monkeypatch.setattr("edgeq.flow.whole.MOST_SHOWN", 16)
    write(tmp_path / "net.onnx")
    write_noise_images(tmp_path / "images", 8)
    here = exported(tmp_path / "here", "cpu", **options)
    with another_device() as mode:
        there = exported(tmp_path / "there", DEVICE.type, **options)
    assert mode.count > 50
    assert here.types == there.types
    assert len(here.constants) > 3
    for name, array in here.constants.items():
        assert np.array_equal(array, there.constants[name]), name


def test_importance_is_measured_on_another_device() -> None:
    graph = uneven()
    samples = [inputs_of(graph, seed) for seed in range(3)]
    here = measure_importance(graph, Objective(graph.outputs), {"stem", "deep"}, samples)
    with another_device() as mode:
        there = measure_importance(graph, Objective(graph.outputs), {"stem", "deep"}, samples, device=DEVICE)
        assert {item.positions.device for item in there.values()} == {DEVICE}
        assert all(bool((there[name].both.cpu() == item.both).all()) for name, item in here.items())
    assert here.keys() == {"stem", "deep"} and mode.count > 50


def test_what_stays_on_the_cpu_is_found_out() -> None:
    """The guard itself: tensors of two devices do not meet."""
    with another_device(), pytest.raises(AssertionError, match="a tensor of the CPU"):
        torch.ones(3).to(DEVICE) + torch.ones(3)
    with another_device(), pytest.raises((TypeError, RuntimeError)):
        torch.ones(3).to(DEVICE).numpy()


def test_a_device_that_is_not_there_is_named() -> None:
    assert device_of(None).type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert device_of("cpu").type == "cpu"
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="this device cannot be used; got cuda; allowed: cpu, or cuda"):
            device_of("cuda")
    with pytest.raises(UsageError, match="this device cannot be used; got toaster"):
        device_of("toaster")


def test_arithmetic_is_exact_inside_alone() -> None:
    torch.set_float32_matmul_precision("high")
    before = torch.backends.cudnn.allow_tf32
    try:
        with exact_arithmetic():
            assert torch.get_float32_matmul_precision() == "highest"
            assert not torch.backends.cudnn.allow_tf32 and torch.backends.cudnn.deterministic
        assert torch.get_float32_matmul_precision() == "high"
        assert torch.backends.cudnn.allow_tf32 == before
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("name", ["cpu", "nonsense"])
def test_nothing_is_loaded_where_no_accelerator_is_named(name: str) -> None:
    before = threading.active_count()
    begin(name)
    assert threading.active_count() == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_what_an_accelerator_needs_is_loaded_beside_other_work() -> None:
    begin("cuda")
    for thread in threading.enumerate():
        if thread.name == "begin":
            thread.join()
    assert torch.cuda.memory_reserved() > 0
