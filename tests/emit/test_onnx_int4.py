"""INT4 weights in ONNX files: packed, read back exactly, and run on integer kernels as the reference means them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from edgeq.emit.onnx import build_model, to_bytes
from edgeq.ir import ops as o
from edgeq.ir.graph import Graph
from edgeq.lint import lint
from edgeq.quantize.asked import Asked
from edgeq.readback.compare import compare
from edgeq.readback.onnx import read_stored
from edgeq.reference.interpret import run
from edgeq.runtimes.onnxruntime import OnnxRuntime
from edgeq.targets import find_target
from tests.format_nets import quantized
from tests.onnx_agreement import compare_locally
from tests.quantized import Net, inputs_of

ORT = find_target("onnx-int8")


def net() -> Graph:
    n = Net(1, 8, 9, 9, seed=2)
    hidden = n.apply(n.conv("x", 7, "hidden"), "relu", "active")
    deep = n.apply(n.conv(hidden, 9, "deep", kernel=1), "relu", "deeper")
    mean = n.add(o.Mean(deep, "mean", (2, 3)))
    rows = n.add(o.Reshape(mean, "rows", (1, 9)))
    return n.graph(n.linear(rows, 5, "y"), n.add(o.Reduce(deep, "peak", "max", (1,))))


@pytest.mark.parametrize("formats", ["w4", "w8"])
def test_packed_weights_agree_and_read_back(formats: str) -> None:
    graph = quantized(Asked(rules=(f"*={formats}",)), ORT, net())
    model, tensors = build_model(graph, "onnxruntime")
    packed = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT4]
    assert len(packed) == (3 if formats == "w4" else 0)
    assert model.opset_import[0].version == (21 if packed else 13)
    assert all(len(t.raw_data) == (int(np.prod(t.dims)) + 1) // 2 for t in packed)
    found = compare(graph, read_stored(to_bytes(model)), tensors)
    assert found.differences == () and not [f for f in lint(model, "onnxruntime") if f.severity == "error"]
    distinct = 0
    for _, reference, seen in compare_locally(graph, "onnxruntime", inputs_of(graph)):
        assert np.abs(reference.astype(float) - seen).max() <= 1
        distinct = max(distinct, len(np.unique(reference)))
    assert distinct > 30


def test_packed_weights_become_integer_kernels(tmp_path: Path) -> None:
    model, _ = build_model(quantized(Asked(rules=("*=w4",)), ORT, net()), "onnxruntime")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(to_bytes(model), options, providers=["CPUExecutionProvider"])
    kinds = {node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node}
    assert "QLinearConv" in kinds and not kinds & {"Conv", "FusedConv"}


def test_real_convolutions_between_quantizers_keep_their_weights() -> None:
    """ONNX Runtime would round them to one INT8 scale for all channels."""
    n = Net(1, 8, 9, 9, seed=2)
    hidden = n.apply(n.conv("x", 7, "hidden"), "relu", "active")
    real = n.conv(hidden, 9, "real")
    side = n.conv(hidden, 9, "side")  # for which the operand of `real` is codes
    graph = n.graph(n.conv(n.apply(real, "relu", "behind"), 5, "y"), n.conv(n.apply(side, "relu", "beside"), 5, "z"))
    lowered = quantized(Asked(rules=("real=real", "*=w8")), ORT, graph)
    inputs = inputs_of(graph)
    model, tensors = build_model(lowered, "onnxruntime")
    seen = {}
    run(lowered, inputs, seen.__setitem__)
    (value,) = [name for name, op in lowered.producer.items() if isinstance(op, o.Quantize) and "behind" in name]
    codes = OnnxRuntime(to_bytes(model)).watching([tensors[value]]).run(inputs)[tensors[value]]
    assert np.mean(codes == seen[value].numpy()) > 0.995 and len(np.unique(codes)) > 50
