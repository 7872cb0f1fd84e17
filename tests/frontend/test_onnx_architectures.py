"""Whole networks: the imported and the simplified graph compute what ONNX Runtime computes.

Detectors that end in TopK may order equal scores differently: their rows are compared as a set.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from edgeq.frontend.onnx import import_onnx
from edgeq.ir import ops as o
from edgeq.ir.graph import Graph
from edgeq.ir.verify import verify
from edgeq.passes.simplify import simplify
from tests.architectures import ARCHITECTURES
from tests.onnx_text import Arrays, graph_outputs, largest_difference, runtime_outputs

QUICK = ("yolo26n", "resnet20", "deit_tiny")
AGREEMENT = 1e-4


def images(graph: Graph, largest: float = 1.0) -> Arrays:
    """Random images in [0, largest)."""
    rng = np.random.default_rng(0)
    return {name: rng.random(graph.types[name].shape, dtype=np.float32) * np.float32(largest) for name in graph.inputs}


def unmatched_rows(found: np.ndarray, expected: np.ndarray, tolerance: float) -> float:
    """The share of rows [box, score, class …] of a ranking that the other ranking does not hold."""
    size = np.abs(expected).max(axis=(0, 1)) + 1e-9
    distances = np.abs(found[0][:, None] - expected[0][None]) / size
    return float((distances.max(axis=2).min(axis=0) > tolerance).mean())


def assert_agreement(graph: Graph, found: Arrays, expected: Arrays, tolerance: float) -> None:
    ranked = {name for name, array in expected.items() if array.ndim == 3} if has_ranking(graph) else set()
    for name in ranked:
        assert unmatched_rows(found[name], expected[name], tolerance) < 0.02
    rest = [name for name in expected if name not in ranked]
    assert largest_difference({n: found[n] for n in rest}, {n: expected[n] for n in rest}) < tolerance


def has_ranking(graph: Graph) -> bool:
    return any(isinstance(op, o.TopK) for op in graph.ops)


def check(source: onnx.ModelProto | str, largest: float = 1.0) -> None:
    graph = import_onnx(source)
    small = simplify(graph)
    inputs = images(graph, largest)
    expected = runtime_outputs(source, inputs)
    assert all(len(np.unique(array)) > 5 for array in expected.values())
    # Networks with random weights magnify float32 rounding: the runtime's own two ways of computing them show how much,
    # and inputs moved by the least that they can be.
    rounding = 0.0
    if not has_ranking(graph):
        moved = {name: np.nextafter(x, x.dtype.type(2)) if x.dtype.kind == "f" else x for name, x in inputs.items()}
        ways = runtime_outputs(source, inputs, optimize=True), runtime_outputs(source, moved)
        rounding = max(largest_difference(way, expected) for way in ways)
    tolerance = max(AGREEMENT, 4 * rounding)
    for candidate in (graph, small):
        verify(candidate)
        assert candidate.outputs == graph.outputs
        assert_agreement(graph, graph_outputs(candidate, inputs), expected, tolerance)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in ARCHITECTURES]
)
def test_architectures(name: str) -> None:
    from edgeq.frontend import ultralytics
    from edgeq.frontend.torch_export import to_onnx

    module, example = ARCHITECTURES[name].build()
    if hasattr(module, "yaml"):  # exported as `edgeq export` does it: their heads have a form for deployment
        # With random weights the ranking of a one-to-one head is a matter of rounding; plain yolo26n keeps it.
        check(ultralytics.export(module, example.shape[-1], end2end=name == "yolo26n").proto)
    else:
        check(to_onnx(module, (example,)).proto)


@pytest.mark.real
@pytest.mark.parametrize(("name", "largest"), [("yolov5n", 1.0), ("yolox_nano_416", 255.0)])
def test_real_models(real: Path, name: str, largest: float) -> None:
    check(str(real / "models" / f"{name}.onnx"), largest)
