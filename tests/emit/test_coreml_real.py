"""Real models as CoreML packages: sizes as their formats say, every operator within half precision's rounding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeq.datasets.folder import list_images, read_image
from edgeq.datasets.preprocess import preset
from edgeq.emit.coreml import WEIGHTS_FILE, emit
from edgeq.formats import Codebook, Real, bits_of
from edgeq.frontend.onnx import import_onnx
from edgeq.ir import ops as o
from edgeq.ir.graph import Array, Graph
from edgeq.passes.simplify import simplify
from edgeq.quantize.weights import quantize_weights
from edgeq.recipe import Recipe
from edgeq.targets import find_target
from tests.coreml_agreement import compare_locally
from tests.coreml_tools import problems
from tests.lowering import lowered

pytestmark = pytest.mark.real
RECORD = 128
"""Bytes of a record in the weight file, and what aligning it may cost."""


def expected_bytes(graph: Graph) -> tuple[int, int]:
    """Bytes of codes, scales, tables and half-precision numbers that the file must hold, and their number of parts."""
    sizes: list[int] = []
    tables = {op.table for op in graph.ops if isinstance(op, o.Lookup)}  # the file computes the function
    for value, array in graph.constants.items():
        if value in tables:
            continue
        type_ = graph.types[value]
        if type_.scale and bits_of(type_.format) <= 8:
            sizes.append((array.size * bits_of(type_.format) + 7) // 8)
            sizes.append(2 * len(type_.scale))
            if isinstance(type_.format, Codebook):
                sizes.append(2 << bits_of(type_.format))
        elif isinstance(type_.format, Real) or type_.scale:
            sizes.append(2 * array.size)
    return sum(sizes), len(sizes)


@pytest.fixture(scope="module")
def detector(real: Path) -> tuple[Graph, dict[o.Value, Array]]:
    image = read_image(list_images(real / "coco" / "images" / "train2017")[0])
    graph = simplify(import_onnx(real / "models" / "yolox_nano_416.onnx"))
    return graph, {graph.inputs[0]: preset("yolox").apply(image)}


@pytest.mark.parametrize("name", ["coreml-w8a8", "coreml-w8", "coreml-w4", "coreml-post4", "coreml-kmeans6"])
def test_yolox(name: str, detector: tuple[Graph, dict[o.Value, Array]], tmp_path: Path) -> None:
    (graph, inputs), target = detector, find_target(name)
    graph = lowered(graph, target, inputs) if target.is_integer else quantize_weights(graph, target, Recipe())
    shares = [item.share_of_bound for item in compare_locally(graph, target, inputs, tmp_path / "local")]
    assert len(shares) > 200 and 0.1 < max(shares) <= 1.0
    artifact = emit(graph, target, tmp_path / "out", "yolox", {}, {})
    assert problems(artifact.primary) == []
    size, parts = expected_bytes(graph)
    written = (artifact.primary / WEIGHTS_FILE).stat().st_size
    assert 0.97 * size < written < size + RECORD * parts, (size, parts, written)
    assert len(np.unique(inputs[graph.inputs[0]])) > 100
