"""Minifloats and codebooks in ONNX files: stored as their own codes, run as the reference means them, read back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto

from edgeq.catalogue import FAMILIES, short_name
from edgeq.emit.onnx import build_model, to_bytes
from edgeq.formats import Format, bits_of, fits_in_bytes
from edgeq.ir import ops as o
from edgeq.ir.graph import Graph
from edgeq.lint import lint
from edgeq.passes.held import as_held
from edgeq.quantize.asked import Asked
from edgeq.quantize.weights import quantize_weights
from edgeq.readback.compare import compare
from edgeq.readback.onnx import read_stored
from edgeq.recipe import Recipe
from edgeq.reference.interpret import run
from edgeq.runtimes.onnxruntime import OnnxRuntime
from edgeq.target import StoredWeights
from edgeq.targets import ONNX_TABLES, find_target
from tests.emit.test_onnx_int4 import net
from tests.format_nets import quantized
from tests.onnx_agreement import compare_locally
from tests.quantized import Net, inputs_of

ORT = find_target("onnx-int8")


def graph_in(format_: Format) -> Graph:
    rule = f"*={short_name(format_)}/int8"
    return as_held(quantized(Asked(rules=(rule,)), ORT, net()), ORT)


def element_of(format_: Format) -> int:
    """What the weights of a format are stored as."""
    if short_name(format_) == "fp8_e4m3":
        return TensorProto.FLOAT8E4M3FN
    if short_name(format_) == "fp8_e5m2":
        return TensorProto.FLOAT8E5M2
    packs = bits_of(format_) <= 4 and fits_in_bytes(format_)
    return TensorProto.UINT4 if packs else TensorProto.UINT8


@pytest.mark.parametrize("format_", ONNX_TABLES, ids=short_name)
def test_own_codes_agree_and_read_back(format_: Format) -> None:
    graph = graph_in(format_)
    model, tensors = build_model(graph, "onnxruntime")
    stored = [t for t in model.graph.initializer if t.data_type == element_of(format_) and len(t.dims) > 1]
    assert len(stored) == 3
    if element_of(format_) == TensorProto.UINT4:
        assert all(len(t.raw_data) == (int(np.prod(t.dims)) + 1) // 2 for t in stored)
    found = compare(graph, read_stored(to_bytes(model)), tensors)
    assert found.differences == () and not [f for f in lint(model, "onnxruntime") if f.severity == "error"]
    distinct = 0
    for value, reference, seen in compare_locally(graph, "onnxruntime", inputs_of(graph)):
        real = graph.types[value].is_real
        assert np.abs(reference - seen).max() <= (1e-4 * np.abs(reference).max() if real else 1), value
        distinct = max(distinct, len(np.unique(reference)))
    assert distinct > 30


@pytest.mark.parametrize("name", ["int4g32", "bfp6", "mxint8", "mxfp4", "mxfp6_e2m3", "mxfp8_e4m3"])
def test_blocks_run_and_read_back(name: str) -> None:
    """Scales per block survive: outputs equal the reference's to single precision, and every real reads back."""
    n = Net(1, 24, 7, 7, seed=4)
    deep = n.conv(n.apply(n.conv("x", 64, "wide"), "relu", "a"), 40, "point", kernel=1)
    rows = n.add(o.Reshape(n.add(o.Mean(deep, "mean", (2, 3))), "rows", (1, 40)))
    real = n.graph(n.linear(rows, 9, "y"))
    rule = StoredWeights(FAMILIES[name], smallest=1, shortest_row=1)
    graph = quantize_weights(real, replace(find_target("onnx-w4"), stored_weights=rule), Recipe())
    assert sum(bool(t.block) for t in graph.types.values()) == 3
    model, tensors = build_model(graph, "onnxruntime")
    assert compare(graph, read_stored(to_bytes(model)), tensors).differences == ()
    kinds = {node.op_type for node in model.graph.node}
    assert ("DequantizeLinear" in kinds) != ("Gather" in kinds)
    inputs = inputs_of(graph)
    wanted, found = run(graph, inputs)["y"].numpy(), OnnxRuntime(to_bytes(model), threads=1).run(inputs)["y"]
    assert np.allclose(found, wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max()) and len(np.unique(wanted)) == 9
    (reals,) = run(real, inputs).values()
    assert np.abs(reals.numpy() - wanted).max() > 1e-4  # the rounding is there


def test_tables_become_integer_kernels(tmp_path: Path) -> None:
    model, _ = build_model(graph_in(ONNX_TABLES[2]), "onnxruntime")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(to_bytes(model), options, providers=["CPUExecutionProvider"])
    kinds = {node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node}
    assert "QLinearConv" in kinds and "Gather" not in kinds


def test_a_changed_code_is_found() -> None:
    for format_ in (ONNX_TABLES[2], next(f for f in ONNX_TABLES if short_name(f) == "fp8_e4m3")):
        graph = graph_in(format_)
        model, tensors = build_model(graph, "onnxruntime")
        tensor = next(t for t in model.graph.initializer if t.data_type == element_of(format_) and len(t.dims) > 1)
        tensor.raw_data = bytes([tensor.raw_data[0] ^ 1]) + tensor.raw_data[1:]
        found = compare(graph, read_stored(to_bytes(model)), tensors).differences
        assert len(found) == 1 and "weight" in str(found[0])
