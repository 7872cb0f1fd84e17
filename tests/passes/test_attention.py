"""Attention is found in every layout that vision models use, and its scale is moved without changing the result."""

from __future__ import annotations

import numpy as np
import pytest

from edgeq.frontend.onnx import import_onnx
from edgeq.ir import ops as o
from edgeq.ir.graph import Graph
from edgeq.ir.verify import verify
from edgeq.passes.attention import Attention, find_attention
from edgeq.passes.simplify import simplify
from tests.architectures import ARCHITECTURES
from tests.onnx_text import graph_outputs, largest_difference, model, random_reals, runtime_outputs

RNG = np.random.default_rng(7)


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(0, 1, shape).astype(np.float32)


JOINT = """(float[2,9,12] x) => (float[2,9,12] y) {
    w3 = MatMul(x, w)  b3 = Add(w3, b)  r = Reshape(b3, split)  t = Transpose<perm = [2,0,3,1,4]>(r)
    q5, k5, v5 = Split<axis = 0>(t, thirds)  q = Squeeze(q5, zero)  k = Squeeze(k5, zero)  v = Squeeze(v5, zero)
    %s
    o = MatMul(p, v)  f = Transpose<perm = [0,2,1,3]>(o)  y = Reshape(f, whole) }"""
WEIGHTS = {
    "w": normal(12, 36), "b": normal(36), "split": np.int64([2, 9, 3, 3, 4]), "thirds": np.int64([1, 1, 1]),
    "zero": np.int64([0]), "whole": np.int64([2, 9, 12]), "scale": np.float32(0.5), "root": np.float32(0.5**0.5),
    "eight": np.float32(2.0), "bias": normal(1, 3, 9, 9), "mask": normal(1, 2, 1, 9, 9),
    "windows": np.int64([1, 2, 3, 9, 9]), "flat": np.int64([2, 3, 9, 9]), "allowed": np.tri(9, dtype=bool),
    "low": np.float32(-100),
}  # fmt: skip

# spelling between q, k and the probabilities -> number of biases, whether there is a mask
SPELLINGS = {
    "scaled queries": (
        "s = Mul(q, scale)  t2 = Transpose<perm = [0,1,3,2]>(k)  l = MatMul(s, t2)  p = Softmax(l)",
        0,
        False,
    ),
    "both scaled": (
        "s = Mul(q, root)  t2 = Transpose<perm = [0,1,3,2]>(k)  u = Mul(t2, root)  l = MatMul(s, u)  p = Softmax(l)",
        0,
        False,
    ),
    "divided scores": (
        "t2 = Transpose<perm = [0,1,3,2]>(k)  l = MatMul(q, t2)  d = Div(l, eight)  p = Softmax(d)",
        0,
        False,
    ),
    "scaled before a transpose": (
        "s = Mul(k, scale)  t2 = Transpose<perm = [0,1,3,2]>(s)  l = MatMul(q, t2)  p = Softmax(l)",
        0,
        False,
    ),
    "window bias and mask": (
        "s = Mul(q, scale)  t2 = Transpose<perm = [0,1,3,2]>(k)  l = MatMul(s, t2)  a = Add(l, bias)"
        "  r2 = Reshape(a, windows)  m = Add(r2, mask)  d = Reshape(m, flat)  p = Softmax(d)",
        2,
        False,
    ),
    "truth-value mask": (
        "s = Mul(q, scale)  t2 = Transpose<perm = [0,1,3,2]>(k)  l = MatMul(s, t2)  d = Where(allowed, l, low)"
        "  p = Softmax(d)",
        0,
        True,
    ),
}


def parts_compute_the_output(graph: Graph, found: Attention) -> None:
    """softmax(scale scores + biases) v, from the values that `found` names, is the output that it names."""
    names = (found.q, found.k, found.v, found.scores, found.logits, found.probabilities, found.output)
    watched = Graph(graph.name, graph.inputs, tuple(dict.fromkeys(names)), graph.ops, graph.types, graph.constants)
    value = graph_outputs(watched, random_reals(graph))
    q, k = value[found.q], value[found.k]
    rounding = 2.0**-22 * float((np.abs(q) @ np.abs(k)).max())  # of sums that cancel, in single precision
    np.testing.assert_allclose(value[found.scores], q @ k, rtol=1e-4, atol=max(1e-4, rounding))
    if not found.biases and found.mask is None:
        np.testing.assert_allclose(
            value[found.logits].reshape(-1), found.scale * value[found.scores].reshape(-1), rtol=1e-4, atol=1e-4
        )
    p, v = value[found.probabilities], value[found.v]
    rows = p.reshape(*p.shape[-4:]) if p.ndim > 4 else p
    expected = v @ rows.swapaxes(-1, -2) if found.transposed else rows @ v
    np.testing.assert_allclose(value[found.output], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", SPELLINGS)
def test_joint_projection(name: str) -> None:
    spelling, biases, masked = SPELLINGS[name]
    proto = model(JOINT % spelling, WEIGHTS)
    graph = simplify(import_onnx(proto))
    verify(graph)
    (found,) = find_attention(graph)
    assert found.scale == pytest.approx(0.5)
    assert (len(found.biases), found.mask is not None, found.transposed) == (biases, masked, False)
    parts_compute_the_output(graph, found)
    inputs = random_reals(graph)
    assert largest_difference(graph_outputs(graph, inputs), runtime_outputs(proto, inputs)) < 1e-5


def test_the_scale_stays_out_of_a_joint_projection() -> None:
    """The rows of q, k and v share one activation scale: smaller queries would lose bits."""
    graph = simplify(import_onnx(model(JOINT % SPELLINGS["both scaled"][0], WEIGHTS)))
    (linear,) = (op for op in graph.ops if isinstance(op, o.Linear))
    np.testing.assert_array_equal(graph.constants[linear.weight], WEIGHTS["w"].T)
    scores = next(op for op in graph.ops if isinstance(op, o.MatMul))
    reader = graph.sole_consumer(scores.out)
    assert isinstance(reader, o.Mul)


def test_the_scale_goes_into_a_projection_of_its_own() -> None:
    body = """(float[2,9,12] x) => (float[2,9,12] y) { q = MatMul(x, wq)  k = MatMul(x, wk)  v = MatMul(x, wv)
        r = Reshape(q, heads)  rt = Transpose<perm = [0,2,1,3]>(r)  s = Mul(rt, scale)
        u = Reshape(k, heads)  ut = Transpose<perm = [0,2,3,1]>(u)  z = Reshape(v, heads)
        zt = Transpose<perm = [0,2,1,3]>(z)  l = MatMul(s, ut)  p = Softmax(l)  o = MatMul(p, zt)
        f = Transpose<perm = [0,2,1,3]>(o)  y = Reshape(f, whole) }"""
    weights = {name: normal(12, 12) for name in ("wq", "wk", "wv")}
    proto = model(
        body, weights | {"heads": np.int64([2, 9, 3, 4]), "whole": WEIGHTS["whole"], "scale": np.float32(0.5)}
    )
    graph = simplify(import_onnx(proto))
    assert not [op for op in graph.ops if isinstance(op, o.Mul)]
    (found,) = find_attention(graph)
    assert found.scale == 1.0
    np.testing.assert_array_equal(graph.constants["wq"], weights["wq"].T / 2)
    inputs = random_reals(graph)
    assert largest_difference(graph_outputs(graph, inputs), runtime_outputs(proto, inputs)) < 1e-5


def test_columns_as_tokens() -> None:
    """The layout of attention inside convolutional detectors: [batch, head, channel, position]."""
    body = """(float[2,6,3,4] x) => (float[2,8,3,4] y) { c = Conv(x, w)  r = Reshape(c, heads)
        q, k, v = Split<axis = 2>(r, parts)  s = Mul(q, scale)  t = Transpose<perm = [0,1,3,2]>(s)  l = MatMul(t, k)
        p = Softmax(l)  u = Transpose<perm = [0,1,3,2]>(p)  o = MatMul(v, u)  y = Reshape(o, whole) }"""
    weights = {
        "w": normal(16, 6, 1, 1), "heads": np.int64([2, 2, 8, 12]), "parts": np.int64([2, 2, 4]),
        "scale": np.float32(0.5), "whole": np.int64([2, 8, 3, 4]),
    }  # fmt: skip
    proto = model(body, weights)
    graph = simplify(import_onnx(proto))
    (found,) = find_attention(graph)
    assert (found.scale, found.transposed) == (0.5, True)
    parts_compute_the_output(graph, found)
    inputs = random_reals(graph)
    assert largest_difference(graph_outputs(graph, inputs), runtime_outputs(proto, inputs)) < 1e-5


def test_a_distribution_is_not_attention() -> None:
    body = """(float[1,64,20] x) => (float[1,4,20] y) { r = Reshape(x, split)  t = Transpose<perm = [0,3,1,2]>(r)
        p = Softmax(t)  e = MatMul(p, bins)  f = Reshape(e, flat)  y = Transpose<perm = [0,2,1]>(f) }"""
    weights = {
        "split": np.int64([1, 4, 16, 20]),
        "bins": np.arange(16, dtype=np.float32)[:, None],
        "flat": np.int64([1, 20, 4]),
    }
    assert find_attention(simplify(import_onnx(model(body, weights)))) == []


# architecture -> number of attentions, scales, kinds of output
MODELS = {
    "deit_tiny": (12, {0.125}, False),
    "swin_tiny": (12, {0.1768}, False),
    "mobilevit_xs": (9, {0.1667, 0.1826, 0.2041}, False),
    "yolo11n": (1, {0.1768}, True),
    "yolo26n": (2, {0.1768}, True),
    "yolov8n": (0, set(), False),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_architectures(name: str) -> None:
    from edgeq.frontend.torch_export import to_onnx

    count, scales, transposed = MODELS[name]
    module, example = ARCHITECTURES[name].build()
    graph = simplify(import_onnx(to_onnx(module, (example,)).proto))
    found = find_attention(graph)
    assert len(found) == count
    assert {round(attention.scale, 4) for attention in found} == scales
    assert all(attention.transposed == transposed for attention in found)
    for attention in found[:2]:
        parts_compute_the_output(graph, attention)
