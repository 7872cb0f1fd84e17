"""A real detector written for ONNX Runtime and for TensorRT: operator by operator what the reference computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeq.datasets.folder import list_images, read_image
from edgeq.datasets.preprocess import preset
from edgeq.emit.onnx import build_model, to_bytes
from edgeq.frontend.onnx import import_onnx
from edgeq.lint import lint
from edgeq.passes.simplify import simplify
from edgeq.targets import find_target
from tests.lowering import lowered
from tests.onnx_agreement import compare_locally

pytestmark = pytest.mark.real


@pytest.mark.parametrize("name", ["onnx-int8", "jetson-int8"])
def test_yolov5n(real: Path, name: str) -> None:
    source = real / "models" / "yolov5n.onnx"
    image = read_image(list_images(real / "coco" / "images" / "train2017")[0])
    inputs = {"images": preset("yolo", (640, 640)).apply(image)}
    target = find_target(name)
    graph = lowered(simplify(import_onnx(source)), target, inputs)
    model, _ = build_model(graph, target.runtime)
    assert [finding for finding in lint(model, target.runtime) if finding.severity != "note"] == []
    assert len(to_bytes(model)) < 0.31 * source.stat().st_size

    equal, count, values = 0, 0, 0
    for value, reference, found in compare_locally(graph, target.runtime, inputs):
        if graph.types[value].is_real:
            assert np.abs(reference - found).max() < 1e-2
            continue
        assert np.abs(reference - found).max() <= 1
        equal, count, values = equal + int((reference == found).sum()), count + reference.size, values + 1
        assert len(np.unique(reference)) > 10
    assert values > 40
    assert equal / count > (0.998 if target.keeps_wide_values else 0.99998)
