"""Spelled-out activations, normalizations, softmax and norms become one operator, in every exporter's spelling."""

from __future__ import annotations

import numpy as np
import pytest

from edgeq.frontend.onnx import import_onnx
from edgeq.ir import ops as o
from edgeq.ir.verify import verify
from edgeq.passes.scalar import POINTS, named
from edgeq.passes.simplify import simplify
from edgeq.reference.meaning import apply_function
from tests.onnx_text import Arrays, graph_outputs, largest_difference, model, runtime_outputs

RNG = np.random.default_rng(6)


def f32(number: float) -> np.ndarray:
    return np.float32(number)


CONSTANTS = {
    "half": f32(0.5), "one": f32(1), "two": f32(2), "three": f32(3), "six": f32(6), "zero": f32(0), "sixth": f32(1 / 6),
    "root2": f32(2**0.5), "inverse_root2": f32(0.5**0.5), "cubic": f32(0.044715), "root": f32((2 / np.pi) ** 0.5),
    "root_cubic": f32(0.044715 * (2 / np.pi) ** 0.5), "tenth": f32(0.1), "quick": f32(1.702),
}  # fmt: skip

# name of the function -> spellings of y = function(x)
ACTIVATIONS: dict[str, list[str]] = {
    "silu": [
        "a = Sigmoid(x)  y = Mul(x, a)",
        "a = Sigmoid(x)  y = Mul(a, x)",
        "n = Neg(x)  e = Exp(n)  d = Add(e, one)  y = Div(x, d)",
        "n = Neg(x)  e = Exp(n)  d = Add(one, e)  r = Reciprocal(d)  y = Mul(r, x)",
        "h = Mul(x, half)  t = Tanh(h)  s = Add(t, one)  p = Mul(s, h)  y = Identity(p)",
    ],
    "hardswish": [
        "a = HardSigmoid<alpha = 0.16666667, beta = 0.5>(x)  y = Mul(x, a)",
        "a = Add(x, three)  c = Clip(a, zero, six)  m = Mul(x, c)  y = Div(m, six)",
        "a = Add(x, three)  c = Clip(a, zero, six)  d = Div(c, six)  y = Mul(d, x)",
        "a = Add(three, x)  r = Relu(a)  c = Min(r, six)  d = Mul(c, sixth)  y = Mul(d, x)",
    ],
    "hardsigmoid": [
        "a = Add(x, three)  c = Clip(a, zero, six)  y = Div(c, six)",
        "a = Add(x, three)  c = Clip(a, zero, six)  y = Mul(c, sixth)",
        "a = Mul(x, sixth)  d = Add(a, half)  y = Clip(d, zero, one)",
    ],
    "gelu": [
        "a = Div(x, root2)  e = Erf(a)  d = Add(e, one)  m = Mul(x, d)  y = Mul(m, half)",
        "a = Mul(x, inverse_root2)  e = Erf(a)  d = Add(one, e)  h = Mul(half, x)  y = Mul(h, d)",
        "a = Mul(x, inverse_root2)  e = Erf(a)  d = Add(one, e)  h = Mul(d, half)  y = Mul(h, x)",
        "a = Div(x, root2)  e = Erf(a)  h = Mul(x, half)  m = Mul(h, e)  y = Add(h, m)",
    ],
    "gelu_tanh": [
        "p = Pow(x, three)  c = Mul(p, cubic)  s = Add(x, c)  r = Mul(s, root)  t = Tanh(r)  d = Add(t, one)"
        "  h = Mul(x, half)  y = Mul(h, d)",
        "q = Mul(x, x)  p = Mul(q, x)  c = Mul(cubic, p)  s = Add(c, x)  r = Mul(root, s)  t = Tanh(r)"
        "  d = Add(one, t)  m = Mul(d, x)  y = Mul(half, m)",
        "q = Mul(x, x)  c = Mul(q, root_cubic)  s = Add(c, root)  r = Mul(s, x)  t = Tanh(r)"
        "  d = Add(one, t)  m = Mul(d, half)  y = Mul(m, x)",
    ],
    "mish": [
        "s = Softplus(x)  t = Tanh(s)  y = Mul(x, t)",
        "e = Exp(x)  d = Add(e, one)  l = Log(d)  t = Tanh(l)  y = Mul(t, x)",
    ],
    "clip": ["r = Relu(x)  y = Min(r, six)", "y = Clip(x, zero, six)", "a = Clip(x, zero, ten)  y = Clip(a, zero, six)"],
    "leaky_relu": ["a = Mul(x, tenth)  y = Max(x, a)", "r = Relu(x)  n = Neg(x)  p = Relu(n)  q = Mul(p, tenth)  y = Sub(r, q)"],
    "relu": ["a = Relu(x)  y = Relu(a)", "y = Max(x, zero)", "y = Clip(x, zero)"],
    "sigmoid": ["n = Neg(x)  e = Exp(n)  d = Add(e, one)  y = Reciprocal(d)", "n = Neg(x)  e = Exp(n)  d = Add(e, one)  y = Div(one, d)"],
    "elu": ["r = Relu(x)  n = Min(x, zero)  e = Exp(n)  d = Sub(e, one)  y = Add(r, d)"],
}  # fmt: skip
SPELLINGS = [(name, body) for name, bodies in ACTIVATIONS.items() for body in bodies]
PARAMETERS = {"clip": (0.0, 6.0), "hardsigmoid": (1 / 6, 0.5), "leaky_relu": (0.1, 0.0), "elu": (1.0, 0.0)}


def compare(body: str, weights: dict[str, np.ndarray], inputs: Arrays, opset: int = 17) -> list[o.Op]:
    """The operators of the simplified graph, which agrees with ONNX Runtime."""
    proto = model(body, weights, opset=opset)
    small = simplify(import_onnx(proto))
    verify(small)
    expected = runtime_outputs(proto, inputs)
    assert all(len(np.unique(array)) > 3 for array in expected.values())
    assert largest_difference(graph_outputs(small, inputs), expected) < 1e-5
    return list(small.ops)


def reals(*shape: int, low: float = -8.0, high: float = 8.0) -> np.ndarray:
    return RNG.uniform(low, high, shape).astype(np.float32)


@pytest.mark.parametrize(("name", "spelling"), SPELLINGS)
def test_activations(name: o.FunctionName, spelling: str) -> None:
    body = f"(float[2,64] x) => (float[2,64] y) {{ {spelling} }}"
    ops = compare(body, CONSTANTS | {"ten": f32(10)}, {"x": reals(2, 64)})
    assert len(ops) == 1
    assert isinstance(ops[0], o.Apply)
    assert ops[0].function.name == name
    expected = PARAMETERS.get(name, (0.0, 0.0))
    np.testing.assert_allclose((ops[0].function.a, ops[0].function.b), expected, rtol=1e-6, atol=1e-7)


NEARLY = [
    "a = Mul(x, quick)  s = Sigmoid(a)  y = Mul(x, s)",  # a different gelu
    "a = Sigmoid(x)  y = Mul(z, a)",  # a gate of another value
    "a = Add(x, half)  s = Sigmoid(a)  y = Mul(x, s)",
    "a = Add(x, three)  c = Clip(a, zero, six)  y = Mul(x, c)",  # six times hardswish
    "a = Sigmoid(x)  m = Mul(x, a)  y = Min(m, six)",
    "a = Div(x, root2)  e = Erf(a)  d = Add(e, tenth)  m = Mul(x, d)  y = Mul(m, half)",
]


@pytest.mark.parametrize("spelling", NEARLY)
def test_what_is_only_similar_stays(spelling: str) -> None:
    body = f"(float[2,64] x, float[2,64] z) => (float[2,64] y) {{ {spelling} }}"
    ops = compare(body, CONSTANTS, {"x": reals(2, 64), "z": reals(2, 64)})
    assert len(ops) > 1


def test_the_argument_is_the_nearest_value() -> None:
    """silu(relu(x)) must not become a function of x, and a sigmoid that is read elsewhere stays."""
    body = "(float[2,64] x) => (float[2,64] y, float[2,64] s) { r = Relu(x)  s = Sigmoid(r)  y = Mul(r, s) }"
    ops = compare(body, {}, {"x": reals(2, 64)})
    assert [op.function.name for op in ops if isinstance(op, o.Apply)] == ["relu", "sigmoid", "silu"]


@pytest.mark.parametrize(
    "name", ["relu", "sigmoid", "silu", "hardswish", "gelu", "gelu_tanh", "tanh", "mish", "softplus"]
)
def test_every_known_function_is_told_apart(name: o.FunctionName) -> None:
    import torch

    curve = apply_function(o.Function(name), torch.from_numpy(POINTS)).numpy()
    assert named(curve) == o.Function(name)
    assert named(curve + 1e-3 * np.tanh(POINTS)) is None


# --- normalizations -----------------------------------------------------------------------------------------

LAYER_NORMS = {
    "pow and sqrt": "m = ReduceMean<axes = [-1]>(x)  d = Sub(x, m)  q = Pow(d, two)  v = ReduceMean<axes = [-1]>(q)"
    "  e = Add(v, eps)  r = Sqrt(e)  n = Div(d, r)  g = Mul(n, gamma)  y = Add(g, beta)",
    "two differences": "m = ReduceMean<axes = [2]>(x)  d = Sub(x, m)  d2 = Sub(x, m)  q = Pow(d2, two)"
    "  v = ReduceMean<axes = [2]>(q)  e = Add(v, eps)  r = Sqrt(e)  n = Div(d, r)  g = Mul(n, gamma)  y = Add(beta, g)",
    "square and reciprocal": "m = ReduceMean<axes = [2]>(x)  d = Sub(x, m)  q = Mul(d, d)  v = ReduceMean<axes = [2]>(q)"
    "  e = Add(eps, v)  r = Sqrt(e)  i = Reciprocal(r)  n = Mul(d, i)  g = Mul(gamma, n)  y = Add(g, beta)",
    "power of minus a half": "m = ReduceMean<axes = [2]>(x)  d = Sub(x, m)  q = Mul(d, d)  v = ReduceMean<axes = [2]>(q)"
    "  e = Add(eps, v)  i = Pow(e, minus_half)  n = Mul(i, d)  g = Mul(gamma, n)  y = Add(g, beta)",
    "sums": "s = ReduceSum(x, last)  m = Div(s, count)  d = Sub(x, m)  q = Mul(d, d)  t = ReduceSum(q, last)"
    "  v = Mul(t, inverse)  e = Add(eps, v)  r = Sqrt(e)  n = Div(d, r)  g = Mul(gamma, n)  y = Add(g, beta)",
}
NORM_WEIGHTS = {
    "gamma": reals(16, low=0.5, high=2), "beta": reals(16), "eps": f32(1e-3), "two": f32(2), "minus_half": f32(-0.5),
    "last": np.int64([2]), "count": f32(16), "inverse": f32(1 / 16),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYER_NORMS)
def test_layer_norm(name: str) -> None:
    body = f"(float[2,5,16] x) => (float[2,5,16] y) {{ {LAYER_NORMS[name]} }}"
    ops = compare(body, NORM_WEIGHTS, {"x": reals(2, 5, 16)})
    assert [type(op).__name__ for op in ops] == ["LayerNorm"]
    assert isinstance(ops[0], o.LayerNorm)
    assert ops[0].axis == 2
    assert ops[0].epsilon == pytest.approx(1e-3)
    assert (ops[0].gamma, ops[0].beta) == ("gamma", "beta")


def test_layer_norm_of_channels_first() -> None:
    spelling = LAYER_NORMS["two differences"].replace("[2]", "[1]")
    weights = NORM_WEIGHTS | {"gamma": reals(16, 1, 1), "beta": reals(16, 1, 1)}
    body = f"(float[2,16,4,3] x) => (float[2,16,4,3] y) {{ {spelling} }}"
    ops = compare(body, weights, {"x": reals(2, 16, 4, 3)})
    assert [type(op).__name__ for op in ops] == ["Transpose", "LayerNorm", "Transpose"]


def test_a_deviation_of_something_else_stays() -> None:
    spelling = LAYER_NORMS["square and reciprocal"].replace("q = Mul(d, d)", "q = Mul(x, d)")
    body = f"(float[2,5,16] x) => (float[2,5,16] y) {{ {spelling} }}"
    assert "LayerNorm" not in [type(op).__name__ for op in compare(body, NORM_WEIGHTS, {"x": reals(2, 5, 16)})]


def test_group_norm_of_the_torch_exporter() -> None:
    body = """(float[2,6,4,4] x) => (float[2,6,4,4] y) { a = Reshape(x, groups)  n = InstanceNormalization(a, ones, zeros)
        b = Reshape(n, whole)  g = Mul(b, gamma)  y = Add(g, beta) }"""
    weights = {
        "groups": np.int64([0, 3, -1]), "whole": np.int64([2, 6, 4, 4]), "ones": np.ones(3), "zeros": np.zeros(3),
        "gamma": reals(6, 1, 1), "beta": reals(6, 1, 1),
    }  # fmt: skip
    ops = compare(body, weights, {"x": reals(2, 6, 4, 4)})
    assert [type(op).__name__ for op in ops] == ["GroupNorm"]
    assert isinstance(ops[0], o.GroupNorm)
    assert ops[0].groups == 3


SOFTMAXES = [
    "m = ReduceMax<axes = [1]>(x)  d = Sub(x, m)  e = Exp(d)  s = ReduceSum(e, axis)  y = Div(e, s)",
    "e = Exp(x)  s = ReduceSum(e, axis)  y = Div(e, s)",
    "e = Exp(x)  s = ReduceSum(e, axis)  r = Reciprocal(s)  y = Mul(r, e)",
]


@pytest.mark.parametrize("spelling", SOFTMAXES)
def test_softmax(spelling: str) -> None:
    body = f"(float[2,5,6] x) => (float[2,5,6] y) {{ {spelling} }}"
    ops = compare(body, {"axis": np.int64([1])}, {"x": reals(2, 5, 6)})
    assert [type(op).__name__ for op in ops] == ["Softmax"]
    assert isinstance(ops[0], o.Softmax)
    assert ops[0].axis == 1


def test_l2_norm() -> None:
    body = "(float[2,5,6] x) => (float[2,5,1] y) { q = Pow(x, two)  s = ReduceSum(q, axis)  y = Sqrt(s) }"
    ops = compare(body, {"axis": np.int64([2]), "two": f32(2)}, {"x": reals(2, 5, 6)})
    assert [type(op).__name__ for op in ops] == ["Reduce"]


@pytest.mark.parametrize(
    "spelling", ["GlobalMaxPool(x)", "ReduceMax<axes = [2, 3]>(x)", "ReduceMax<axes = [-1, -2]>(x)"]
)
def test_the_largest_of_an_image_is_a_pool(spelling: str) -> None:
    ops = compare(f"(float[2,5,6,7] x) => (float[2,5,1,1] y) {{ y = {spelling} }}", {}, {"x": reals(2, 5, 6, 7)})
    assert ops == [o.MaxPool("x", "y", (6, 7), (6, 7))]


def test_the_largest_along_one_axis_stays() -> None:
    body = "(float[2,5,6,7] x) => (float[2,5,6,1] y) { y = ReduceMax<axes = [3]>(x) }"
    assert [type(op).__name__ for op in compare(body, {}, {"x": reals(2, 5, 6, 7)})] == ["Reduce"]
