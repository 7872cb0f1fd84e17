"""Small ONNX models from ONNX's own text format, and what ONNX Runtime computes with them, optimizations off."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from edgeq.ir.graph import Graph
from edgeq.reference.interpret import run

Arrays = dict[str, npt.NDArray[np.generic]]


def model(
    body: str, weights: Mapping[str, npt.ArrayLike] | None = None, *, opset: int = 17, more: str = ""
) -> onnx.ModelProto:
    """The model `main body`, such as `(float[1,3] x) => (float[1,3] y) { y = Relu(x) }`, with those of `weights`
    that it names."""
    header = f'<ir_version: 8, opset_import: ["" : {opset}, "own" : 1]>\nmain '
    proto = onnx.parser.parse_model(header + body + more)
    used = set(re.findall(r"\w+", body))
    for name, content in (weights or {}).items():
        if name not in used:
            continue
        array = np.asarray(content)
        array = array.astype(np.float32) if array.dtype == np.float64 else array
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return proto


def runtime_outputs(proto: onnx.ModelProto | str, inputs: Arrays, *, optimize: bool = False) -> Arrays:
    """Outputs of ONNX Runtime in float32, one thread, by default without graph optimization."""
    options = onnxruntime.SessionOptions()
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    source = proto if isinstance(proto, str) else proto.SerializeToString()
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def random_reals(graph: Graph, seed: int = 0) -> Arrays:
    """float32 inputs in [-1, 1), as images after normalization; indices 0 or 1."""
    rng = np.random.default_rng(seed)
    return {
        name: rng.uniform(-1, 1, graph.types[name].shape).astype(np.float32)
        if graph.types[name].is_real
        else rng.integers(0, 2, graph.types[name].shape)
        for name in graph.inputs
    }


def graph_outputs(graph: Graph, inputs: Arrays) -> Arrays:
    """Outputs of the reference interpreter."""
    return {name: tensor.numpy() for name, tensor in run(graph, inputs).items()}


def largest_difference(found: Arrays, expected: Arrays) -> float:
    """max |found - expected| / max |expected|, the worst over all outputs."""
    assert found.keys() == expected.keys()
    worst = 0.0
    for name, reference in expected.items():
        assert found[name].shape == reference.shape, name
        difference = np.abs(found[name].astype(np.float64) - reference.astype(np.float64)).max()
        worst = max(worst, float(difference / max(np.abs(reference.astype(np.float64)).max(), 1e-30)))
    return worst
