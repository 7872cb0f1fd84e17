"""Whatever the emitters write reads back as the numbers of the graph; any changed number is found, and found there."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, assume, given, settings

from edgeq.emit.onnx import build_model, to_bytes
from edgeq.emit.onnx_writer import Runtime
from edgeq.errors import UnsupportedError
from edgeq.ir import ops as o
from edgeq.ir.bounds import is_codes
from edgeq.ir.graph import Graph
from edgeq.readback.compare import compare, weighted_operators
from edgeq.readback.onnx import read_stored
from tests.code_nets import code_nets
from tests.lowering import lowered
from tests.quantized import ORT, TARGETS, Net, inputs_of
from tests.real_nets import real_graphs

EXAMPLES = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
RUNTIMES: tuple[Runtime, ...] = ("tensorrt", "onnxruntime")


def differences(graph: Graph, runtime: Runtime) -> list[str]:
    model, tensors = build_model(graph, runtime)
    return [str(found) for found in compare(graph, read_stored(to_bytes(model)), tensors).differences]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_random_networks_of_codes_read_back(runtime: Runtime) -> None:
    weighted: Counter[str] = Counter()

    @EXAMPLES
    @given(code_nets(steps=6))
    def check(graph: Graph) -> None:
        assert differences(graph, runtime) == []
        weighted.update(type(op).__name__ for op in weighted_operators(graph))

    check()
    assert {"Conv", "Linear"} <= set(weighted)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_random_networks_of_reals_read_back(runtime: Runtime) -> None:
    @EXAMPLES
    @given(real_graphs(steps=6))
    def check(graph: Graph) -> None:
        try:
            build_model(graph, runtime)
        except UnsupportedError:
            assume(False)
        assert differences(graph, runtime) == []

    check()


def network() -> Graph:
    net = Net(1, 8, 8, 8, seed=3)
    y = net.apply(net.conv("x", 16, "a"), "relu", "b")
    weight, bias = net.reals(16, 12, 2, 2, spread=0.2), net.reals(12, spread=0.1)
    z = net.add(o.ConvTranspose(y, weight, bias, "c", (2, 2)))
    return net.graph(net.conv(z, 6, "y"), net.conv(z, 6, "z", kernel=1))


LOWERED = {target.name: lowered(network(), target, inputs_of(network())) for target in TARGETS}


@pytest.mark.parametrize("name", LOWERED)
def test_everything_is_compared(name: str) -> None:
    graph = LOWERED[name]
    model, tensors = build_model(graph, "onnxruntime" if name == ORT.name else "tensorrt")
    found = compare(graph, read_stored(to_bytes(model)), tensors)
    weights = sum(array.size for array in graph.constants.values())
    assert found.differences == ()
    assert found.tensors >= 4 + sum(is_codes(graph.types[value]) for value in tensors) - 1
    assert found.numbers >= weights


def changed(model: onnx.ModelProto, name: str, index: int) -> onnx.ModelProto:
    """`model` with one number of an initializer one step away."""
    broken = onnx.ModelProto()
    broken.CopyFrom(model)
    (tensor,) = (t for t in broken.graph.initializer if t.name == name)
    array = onnx.numpy_helper.to_array(tensor).copy()
    flat = array.reshape(-1)
    if array.dtype.kind == "f":
        flat[index] = np.nextafter(flat[index], np.float32(np.inf))
    else:
        flat[index] ^= 1
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, name))
    return broken


@pytest.mark.parametrize("name", LOWERED)
def test_any_one_number_that_changes_is_found(name: str) -> None:
    """One step in one number of each initializer in turn: weights, scales, zero points, biases."""
    graph = LOWERED[name]
    model, tensors = build_model(graph, "onnxruntime" if name == ORT.name else "tensorrt")
    tried: Counter[str] = Counter()
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if array.dtype == np.int64 or not array.size:  # shapes and axes
            continue
        index = array.size // 2
        broken = changed(model, tensor.name, index)
        found = compare(graph, read_stored(broken.SerializeToString()), tensors).differences
        assert found, tensor.name
        tried[str(array.dtype)] += 1
        if array.dtype.kind == "f" and "scale" not in tensor.name:
            assert all(difference.where in graph.producer for difference in found)
    assert len(tried) >= 2
    assert sum(tried.values()) >= 8


def test_a_difference_says_where_and_by_how_much() -> None:
    graph = LOWERED[ORT.name]
    model, tensors = build_model(graph, "onnxruntime")
    weight = next(t.name for t in model.graph.initializer if onnx.numpy_helper.to_array(t).size == 16 * 8 * 9)
    (found,) = compare(graph, read_stored(changed(model, weight, 100).SerializeToString()), tensors).differences
    assert found.where.startswith("a")
    assert found.what == "weight level 100 of 1152 (1 differ)"
    assert abs(int(found.expected) - int(found.found)) == 1
