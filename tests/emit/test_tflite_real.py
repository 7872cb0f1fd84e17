"""Real detectors as TFLite: nothing moves without need, and every code is the reference's."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from edgeq.emit.tflite import build_model
from edgeq.frontend.model import open_model
from edgeq.ir.bounds import is_codes
from edgeq.ir.graph import Graph
from edgeq.passes.simplify import simplify
from edgeq.reference.xnnpack import as_xnnpack
from edgeq.runtimes.litert import Kernels
from edgeq.targets import find_target
from tests.lowering import lowered
from tests.tflite_agreement import compare_locally, operators


def trunk(real: Path, name: str) -> Graph:
    return simplify(open_model(str(real / "models" / name)).graph)


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "transposes"),
    [
        ("yolov5n.onnx", 3),  # three maps of [1, 3 anchors, height, width, 85], each read in this order
        ("yolox_nano_416.onnx", 0),
    ],
)
def test_transpositions_of_real_detectors(real: Path, name: str, transposes: int) -> None:
    counts = Counter(operators(build_model(trunk(real, name))[0]))
    assert counts["TRANSPOSE"] == transposes
    assert counts["CONV_2D"] + counts["DEPTHWISE_CONV_2D"] >= 60


@pytest.mark.real
@pytest.mark.parametrize("kernels", ["reference", "default"])
def test_every_code_of_a_real_detector(real: Path, kernels: Kernels) -> None:
    graph = trunk(real, "yolox_nano_416.onnx")
    rng = np.random.default_rng(0)
    coarse = rng.random((1, 3, 13, 13)).repeat(32, axis=2).repeat(32, axis=3)
    fed = {graph.inputs[0]: (255 * (0.8 * coarse + 0.2 * rng.random((1, 3, 416, 416)))).astype(np.float32)}
    integers = lowered(graph, find_target("tflite-int8"), fed)
    codes, distinct = 0, []
    meant = as_xnnpack(integers) if kernels == "default" else integers
    for value, reference, found in compare_locally(integers, fed, kernels=kernels, meant=meant):
        if is_codes(integers.types[value]):
            assert np.array_equal(reference, found), value
            codes += reference.size
            distinct.append(len(np.unique(reference)))
    assert codes > 10_000_000
    assert np.median(distinct) > 60
