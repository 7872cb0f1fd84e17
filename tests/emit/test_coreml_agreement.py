"""CoreML packages as saved, beside the reference: random networks, every operator on its own operands."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from edgeq.catalogue import FAMILIES, FP8_E4M3, NAMED, Choice, KMeans, Nupes
from edgeq.emit.coreml import emit
from edgeq.errors import UnsupportedError
from edgeq.formats import INT4, POST4, Codebook, Float, Int
from edgeq.ir import ops as o
from edgeq.ir.graph import Array, Graph
from edgeq.quantize.weights import quantize_weights
from edgeq.recipe import Recipe
from edgeq.reference.interpret import run
from edgeq.runtimes.coreml import CoreMLRuntime
from edgeq.target import StoredWeights
from edgeq.targets import find_target
from tests.code_nets import code_nets
from tests.coreml_agreement import compare_locally
from tests.draws import random_inputs
from tests.lowering import lowered
from tests.quantized import Net, inputs_of
from tests.real_nets import real_graphs

EXAMPLES = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
FP32, FP16, W8A8 = find_target("coreml-fp32"), find_target("coreml-fp16"), find_target("coreml-w8a8")
LARGEST = 3e4


def is_tame(graph: Graph, inputs: dict[o.Value, Array]) -> bool:
    """Whether every value is finite in half precision too."""
    seen: list[float] = []
    run(graph, inputs, lambda _, tensor: seen.append(float(tensor.abs().max()) if tensor.is_floating_point() else 0.0))
    return all(peak < LARGEST for peak in seen)


def test_real_networks_in_float(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What the operators mean, without half precision to hide behind: equal to float32's rounding."""
    kinds: Counter[str] = Counter()
    distinct: list[int] = []
    refused: list[str] = []

    @settings(EXAMPLES, max_examples=80)
    @given(real_graphs(steps=6), st.integers(0, 99))
    def check(graph: Graph, seed: int) -> None:
        inputs = random_inputs(graph, seed)
        assume(is_tame(graph, inputs))
        try:
            artifact = emit(graph, FP32, tmp_path_factory.mktemp("net"), "net", {}, {})
        except UnsupportedError as error:
            assert error.where is not None
            return
        found = CoreMLRuntime(artifact.primary, interpret=True).run(inputs)
        for value, tensor in run(graph, inputs).items():
            wanted = tensor.numpy().astype(np.float64)
            scale = max(1.0, float(np.abs(wanted).max(initial=0.0)))
            assert np.allclose(wanted, found[value], rtol=2e-4, atol=2e-4 * scale), value
            distinct.append(len(np.unique(wanted)))
        kinds.update(type(op).__name__ for op in graph.ops)

    check()
    assert len(kinds) > 20 and len(refused) < 8, refused
    assert max(distinct) > 50


def check_bounds(graph: Graph, target: object, inputs: dict[o.Value, Array], folder: Path) -> list[float]:
    shares = []
    for item in compare_locally(graph, target, inputs, folder):  # type: ignore[arg-type]
        assert item.share_of_bound <= 1.0, (item.value, item.share_of_bound)
        shares.append(item.share_of_bound)
    return shares


def test_integer_networks(tmp_path_factory: pytest.TempPathFactory) -> None:
    kinds: Counter[str] = Counter()
    shares: list[float] = []

    @EXAMPLES
    @given(code_nets(), st.integers(0, 99))
    def check(graph: Graph, seed: int) -> None:
        inputs = random_inputs(graph, seed)
        integers = lowered(graph, W8A8, inputs)
        shares.extend(check_bounds(integers, W8A8, inputs, tmp_path_factory.mktemp("net")))
        kinds.update(type(op).__name__ for op in integers.ops)

    check()
    assert {"Conv", "Requantize", "Lookup", "Concat", "MaxPool", "Resize", "Linear"} <= kinds.keys()
    assert len(shares) > 300 and max(shares) > 0.1


FORMATS: tuple[tuple[Choice, int, int], ...] = (
    (Int(8, narrow=True), 0, 16), (Int(8, narrow=True), 0, 18), (INT4, 0, 18), (INT4, 2, 18), (POST4, 0, 18),
    (Int(3), 0, 18), (Float(2, 1), 0, 18), (Codebook("kmeans", (-9, -4, -1, 0, 2, 3, 5, 7)), 2, 18), (KMeans(1), 0, 18),
    (KMeans(2), 0, 18), (KMeans(3), 0, 18), (KMeans(4), 0, 18), (KMeans(6), 0, 18), (KMeans(8), 0, 18),
    (Int(5, narrow=True), 0, 18), (Float(2, 3), 0, 18), (Float(3, 2), 0, 18), (FP8_E4M3, 0, 18), (NAMED["dense3"], 0, 18),
    (NAMED["pot5"], 0, 18), (Nupes(4), 0, 18), (FAMILIES["mxfp4"], 0, 18), (FAMILIES["bfp6"], 0, 18),
)  # fmt: skip


@pytest.mark.parametrize(("format", "block", "ios"), FORMATS, ids=str)
def test_stored_weights(format: Choice, block: int, ios: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    rule = StoredWeights(format, block, smallest=10, shortest_row=1)
    target = replace(find_target("coreml-w8"), stored_weights=rule, ios=ios)
    shares: list[float] = []
    stored: list[int] = []

    @settings(EXAMPLES, max_examples=6)
    @given(code_nets(), st.integers(0, 99))
    def check(graph: Graph, seed: int) -> None:
        inputs = random_inputs(graph, seed)
        quantized = quantize_weights(graph, target, Recipe())
        shares.extend(check_bounds(quantized, target, inputs, tmp_path_factory.mktemp("net")))
        stored.append(sum(isinstance(op, o.Dequantize) for op in quantized.ops))

    check()
    assert sum(stored) > 10
    assert max(shares) > 0.1


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8])
def test_tables_of_older_systems(bits: int, tmp_path: Path) -> None:
    """One table with one scale per weight is what iOS 16 knows."""
    rule = StoredWeights(KMeans(bits), per_channel=False, smallest=10, shortest_row=1)
    target = replace(find_target("coreml-kmeans8"), stored_weights=rule)
    net = Net(1, 3, 8, 8)
    graph = net.graph(net.linear(net.add(o.Reshape(net.conv("x", 8, "c"), "r", (1, 512))), 20, "out"))
    quantized = quantize_weights(graph, target, Recipe())
    assert sum(isinstance(op, o.Dequantize) for op in quantized.ops) == 2
    assert max(check_bounds(quantized, target, inputs_of(graph), tmp_path / "net")) > 0.05
