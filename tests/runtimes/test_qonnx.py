"""QONNX files: nodes against a plain transcription of their definition, networks against the reference, refusals."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeq.catalogue import FP8_E4M3, FP8_E5M2
from edgeq.emit.onnx import build_model, to_bytes
from edgeq.emit.onnx_quant import DOMAIN, bias_of, smallest_of
from edgeq.errors import UnsupportedError, UsageError
from edgeq.flow.artifacts import open_runtime
from edgeq.formats import Float, decode, level_range
from edgeq.ir.graph import Graph
from edgeq.passes.held import as_held
from edgeq.quantize.asked import Asked
from edgeq.readback.compare import compare
from edgeq.readback.onnx import read_stored
from edgeq.reference.interpret import run
from edgeq.runtimes.qonnx import QonnxRuntime, float_quant
from edgeq.targets import find_target
from tests.c_nets import small_network
from tests.format_nets import quantized
from tests.quantized import inputs_of

QONNX = find_target("qonnx")
FLOATS = [Float(2, 1), Float(2, 3), Float(3, 2), Float(4, 3), FP8_E4M3, FP8_E5M2]


def one_node(node: onnx.NodeProto, numbers: dict[str, float], size: int) -> bytes:
    tensors = [numpy_helper.from_array(np.float32(number), name) for name, number in numbers.items()]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (size,)) for name in ("x", "y")]
    graph = helper.make_graph([node], "g", ports[:1], ports[1:], tensors)
    opsets = [helper.make_opsetid("", 13), helper.make_opsetid(DOMAIN, 1)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


@pytest.mark.parametrize(
    ("bits", "signed", "narrow"), [(2, 1, 0), (4, 1, 1), (4, 0, 0), (8, 1, 0), (8, 0, 0), (5, 0, 1)]
)
def test_quant_is_what_qonnx_defines(bits: int, signed: int, narrow: int) -> None:
    """Every half step over the range and beyond, with Python's own half-even rounding."""
    scale, zero = 0.25, 1.0 if not signed else 0.0
    x = np.arange(-600, 600, dtype=np.float32) * np.float32(scale / 2)
    node = helper.make_node(
        "Quant", ["x", "s", "z", "b"], ["y"], domain=DOMAIN, signed=signed, narrow=narrow, rounding_mode="ROUND"
    )
    (found,) = (
        QonnxRuntime(one_node(node, {"s": scale, "z": zero, "b": bits}, len(x)), threads=1).run({"x": x}).values()
    )
    low = (-(2 ** (bits - 1)) + narrow) if signed else 0
    high = 2 ** (bits - 1) - 1 if signed else 2**bits - 1 - narrow
    expected = [(round(min(max(v / scale + zero, low), high)) - zero) * scale for v in x.tolist()]
    assert found.tolist() == expected and len(set(expected)) == high - low + 1


@pytest.mark.parametrize("format_", FLOATS, ids=str)
def test_float_quant_is_what_qonnx_defines(format_: Float) -> None:
    bias, smallest = bias_of(format_), smallest_of(format_)
    largest = level_range(format_)[1] * smallest
    rng = np.random.default_rng(1)
    x = np.concatenate(
        [rng.normal(0, largest / 3, 300), rng.normal(0, smallest * 4, 200), [0.0, largest * 2, -largest]]
    )

    def defined(value: float) -> float:
        if value == 0:
            return 0.0
        step = 2.0 ** (max(math.floor(math.log2(abs(value))), 1 - bias) - format_.mantissa)
        return min(max(round(value / step) * step, -largest), largest)

    numbers = (1.0, format_.exponent, format_.mantissa, bias, largest)
    found = float_quant(x, *map(np.array, numbers))
    assert found.tolist() == [defined(value) for value in x.tolist()]
    levels = decode(format_, np.arange(1 << format_.bits)) * smallest
    assert np.isin(found, levels).all() and len(np.unique(found)) > 5
    assert np.array_equal(float_quant(levels, *map(np.array, numbers)), levels)


def network(rule: str) -> Graph:
    return as_held(quantized(Asked(rules=(f"*={rule}",)), QONNX, small_network()), QONNX)


@pytest.mark.parametrize("rule", ["w8a8", "w4a4", "w3a8", "e2m1/int4", "e3m2/int8", "fp8_e4m3/int8", "post4/int8"])
def test_networks_are_the_references(rule: str) -> None:
    graph = network(rule)
    model, tensors = build_model(graph, "qonnx")
    kinds = Counter(node.op_type for node in model.graph.node)
    assert kinds["Quant"] > 15 and kinds["FloatQuant"] == (9 if "e" in rule else 0)
    assert not kinds["QuantizeLinear"] and not kinds["DequantizeLinear"]
    assert compare(graph, read_stored(to_bytes(model)), tensors).differences == ()
    runtime, inputs = QonnxRuntime(to_bytes(model), threads=1), inputs_of(graph)
    seen: dict[str, np.ndarray] = {}
    wanted = run(graph, inputs, lambda name, tensor: seen.__setitem__(name, tensor.numpy()))
    watched = {v: tensors[v] for v in tensors if v in seen and graph.types[v].scale and graph.types[v].format.bits <= 8}  # type: ignore[union-attr]
    found = runtime.watching(watched.values()).run(inputs)
    assert len(watched) > 15
    for value, tensor in watched.items():
        difference = np.abs(found[tensor].astype(int) - seen[value])
        assert difference.max() <= 2 and (difference == 0).mean() > 0.95, value  # near-ties of sums, and what follows
    assert max(len(np.unique(seen[value])) for value in watched) > (
        60 if "int4" not in rule and "a4" not in rule else 14
    )
    for name, tensor in wanted.items():
        assert np.abs(runtime.run(inputs)[name] - tensor.numpy()).max() < 0.05 * np.abs(tensor.numpy()).max()


def test_a_changed_number_is_found() -> None:
    graph = network("e2m1/int4")
    model, tensors = build_model(graph, "qonnx")
    weights = [t for t in model.graph.initializer if numpy_helper.to_array(t).ndim == 4]
    changed = numpy_helper.to_array(weights[0]).copy()
    changed.flat[3] += 1.0
    weights[0].CopyFrom(numpy_helper.from_array(changed, weights[0].name))
    found = compare(graph, read_stored(to_bytes(model)), tensors).differences
    assert len(found) == 1 and "weight 3 of" in str(found[0])


def test_files_declare_what_they_use(tmp_path: Path) -> None:
    """Names and shapes that QONNX tools ask for: the domain, one shape for each tensor, scalars for bit widths."""
    model, _ = build_model(network("e2m1/int4"), "qonnx")
    assert {entry.domain: entry.version for entry in model.opset_import}[DOMAIN] == 1
    named = [v.name for v in (*model.graph.value_info, *model.graph.input, *model.graph.output)]
    assert len(named) == len(set(named))
    arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for node in (node for node in model.graph.node if node.domain):
        assert all(arrays[name].ndim == 0 for name in node.input[3 if node.op_type == "Quant" else 1 :])
        assert node.op_type != "FloatQuant" or arrays[node.input[1]] == 1.0
    path = tmp_path / "net.onnx"
    path.write_bytes(to_bytes(model))
    assert isinstance(open_runtime(path), QonnxRuntime)


def test_what_is_not_evaluated_is_refused(tmp_path: Path) -> None:
    numbers = {"s": 1.0, "z": 0.0, "b": 8.0}
    floor = helper.make_node(
        "Quant", ["x", "s", "z", "b"], ["y"], domain=DOMAIN, signed=1, narrow=0, rounding_mode="FLOOR"
    )
    other = helper.make_node("BipolarQuant", ["x", "s"], ["y"], domain=DOMAIN)
    moving = helper.make_node("Quant", ["x", "x", "z", "b"], ["y"], domain=DOMAIN, signed=1, narrow=0)
    for node, match in ((floor, "half-even"), (other, "not evaluated"), (moving, "not a constant")):
        with pytest.raises(UnsupportedError, match=match):
            QonnxRuntime(one_node(node, numbers, 3), threads=1)
    with pytest.raises(UsageError, match="no such ONNX file"):
        QonnxRuntime(tmp_path / "nothing.onnx")
