"""The flow on a device that is not the CPU: everything that is computed on images is computed there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgeq.errors import UsageError
from edgeq.flow import ExportRequest, export_model
from edgeq.flow.accelerator import device_of, exact_arithmetic
from edgeq.flow.calib_mode import ModeRequest
from edgeq.flow.effort import SETTINGS
from edgeq.flow.limits import Budgets
from edgeq.ir.file import load
from edgeq.ir.graph import Graph
from edgeq.quantize.asked import Asked
from tests.another_device import DEVICE, another_device


def exported(folder: Path, device: str, model: str = "zoo:classifier", **options: Any) -> Graph:
    request = ExportRequest(
        model, options.pop("target", "reference"), calib=f"scenes:{IMAGES}", out=folder, no_cache=True, device=device, **options
    )
    report = export_model(request)
    assert report.exit == 0, report.notes
    return load(folder / "graph.edgeq")


CASES: dict[str, dict[str, Any]] = {
    "rounded": {"target": "onnx-int8", "effort": "fast", "data": "scenes", "data_images": 2},
    "learned": {"formats": Asked("int4", "int8"), "effort": "balanced"},
    "descent": {"formats": Asked("int4", "int4"), "effort": "best"},
    "detector": {"model": "zoo:detector", "formats": Asked("int3", "int8"), "effort": "best"},
    "depth": {"model": "zoo:depth", "formats": Asked("post4", "int8"), "effort": "best"},
    "transformer": {"model": "zoo:transformer", "formats": Asked("int4", "int8"), "effort": "best"},
    "tables": {"formats": Asked("post4", "e2m3"), "effort": "balanced"},
    "guarded": {"calibration": ModeRequest("auto"), "effort": "fast"},
    "stored": {"target": "coreml-w8", "effort": "fast"},
    "bits": {"budgets": Budgets(avg_bits=5, choices=("w8a8", "w4a8")), "effort": "fast"},
    "bits one by one": {"budgets": Budgets(avg_bits=5, sensitivity="measured", choices=("w8a8", "w4a8")), "effort": "fast"},
}  # fmt: skip
IMAGES = 4
FEW_STEPS = replace(SETTINGS["best"], steps=2, whole_steps=2)


@pytest.mark.parametrize("case", CASES)
def test_another_device_computes_the_same(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SETTINGS, "best", FEW_STEPS)
    monkeypatch.setattr("edgeq.flow.contest.DRAWS", 1)
    here = exported(tmp_path / "here", "cpu", **CASES[case])
    with another_device() as mode:
        there = exported(tmp_path / "there", DEVICE.type, **CASES[case])
    assert mode.count > 1000
    assert here.types == there.types
    for name, array in here.constants.items():
        assert np.array_equal(array, there.constants[name]), name
