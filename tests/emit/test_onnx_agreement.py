"""Emitted files, run by ONNX Runtime, beside the reference: random networks, every operator on its own operands."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from edgeq.emit.onnx import build_model, to_bytes
from edgeq.emit.onnx_writer import Runtime
from edgeq.errors import UnsupportedError
from edgeq.ir import ops as o
from edgeq.ir.graph import Array, Graph
from edgeq.reference.interpret import run
from edgeq.runtimes.onnxruntime import OnnxRuntime
from edgeq.targets import find_target
from tests.code_nets import code_nets
from tests.draws import random_inputs
from tests.lowering import lowered
from tests.nets import integer_graphs
from tests.onnx_agreement import Numbers, compare_locally
from tests.real_nets import real_graphs

RUNTIMES: tuple[Runtime, ...] = ("tensorrt", "onnxruntime")
EXAMPLES = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
EPSILON = 2e-4


def close(reference: Numbers, found: Numbers) -> bool:
    """Whether two results agree as float32 results do: relative to the largest of them."""
    scale = max(1.0, float(np.abs(reference).max(initial=0.0)))
    return reference.shape == found.shape and bool(np.allclose(reference, found, rtol=EPSILON, atol=EPSILON * scale))


def is_tame(graph: Graph, inputs: dict[o.Value, Array]) -> bool:
    """Whether no value is infinite or NaN, whose order and products runtimes define differently."""
    if any(isinstance(op, o.GroupNorm) and _groups_are_single(op, graph) for op in graph.ops):
        return False
    seen: dict[o.Value, np.ndarray[tuple[int, ...], np.dtype[np.generic]]] = {}
    run(graph, inputs, lambda name, tensor: seen.__setitem__(name, tensor.numpy()))
    return all(np.isfinite(array).all() for array in seen.values())


def _groups_are_single(op: o.GroupNorm, graph: Graph) -> bool:
    return graph.types[op.x].size == graph.types[op.x].shape[0] * op.groups


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_real_networks(runtime: Runtime) -> None:
    kinds: Counter[str] = Counter()
    distinct: list[int] = []

    @EXAMPLES
    @given(real_graphs(steps=6), st.integers(0, 99))
    def check(graph: Graph, seed: int) -> None:
        inputs = random_inputs(graph, seed)
        assume(is_tame(graph, inputs))
        for value, reference, found in compare_locally(graph, runtime, inputs):
            assert close(reference, found), value
            distinct.append(len(np.unique(reference)))
        kinds.update(type(op).__name__ for op in graph.ops)

    check()
    assert len(kinds) > 15
    assert max(distinct) > 50


@pytest.mark.parametrize("name", ["onnx-int8", "jetson-int8"])
def test_networks_on_codes(name: str) -> None:
    """One code apart at most; TensorRT files print values of 16 bits as reals, which is worth one code more."""
    target = find_target(name)
    allowed = 2 if target.keeps_wide_values else 1
    equal, count = 0, 0
    kinds: Counter[str] = Counter()
    distinct: list[int] = []

    @EXAMPLES
    @given(code_nets(), st.integers(0, 99))
    def check(graph: Graph, seed: int) -> None:
        nonlocal equal, count
        inputs = random_inputs(graph, seed)
        integers = lowered(graph, target, inputs)
        for value, reference, found in compare_locally(integers, target.runtime, inputs):
            if integers.types[value].is_real:
                assert close(reference, found), value
                continue
            assert np.abs(reference - found).max(initial=0) <= allowed, value
            equal, count = equal + int((reference == found).sum()), count + reference.size
            distinct.append(len(np.unique(reference)))
        kinds.update(type(op).__name__ for op in integers.ops)

    check()
    assert equal / count > 0.99
    assert {"Conv", "Requantize", "Lookup", "Concat", "MaxPool", "Resize", "Pad", "Linear"} <= kinds.keys()
    assert sum(n > 20 for n in distinct) > len(distinct) // 3


def test_the_optimizer_changes_nothing() -> None:
    """What ONNX Runtime fuses computes what the nodes say, whole networks at once."""
    target = find_target("onnx-int8")
    shares: list[float] = []

    @EXAMPLES
    @given(code_nets(), st.integers(0, 99))
    def check(graph: Graph, seed: int) -> None:
        inputs = random_inputs(graph, seed)
        content = to_bytes(build_model(lowered(graph, target, inputs), target.runtime)[0])
        plain, fused = (OnnxRuntime(content, threads=1, optimize=optimize).run(inputs) for optimize in (False, True))
        for name, array in plain.items():
            signal, noise = np.square(array).sum(), np.square(array - fused[name]).sum()
            shares.append(float(noise / max(signal, 1e-6)))

    check()
    assert np.median(shares) < 1e-6
    assert np.mean(np.array(shares) < 1e-2) > 0.97


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_any_lowered_graph_is_written_or_refused_by_name(runtime: Runtime) -> None:
    written: list[bool] = []

    @EXAMPLES
    @given(integer_graphs())
    def check(graph: Graph) -> None:
        try:
            model, _ = build_model(graph, runtime)
        except UnsupportedError as error:
            assert error.where is not None and error.value is not None
            written.append(False)
            return
        OnnxRuntime(to_bytes(model), threads=1)
        written.append(True)

    check()
    assert 3 < sum(written) < len(written)
