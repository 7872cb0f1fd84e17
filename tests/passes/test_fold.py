"""Affine maps go into weights, movement cancels, and nothing else changes: against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest

from edgeq.frontend.onnx import import_onnx
from edgeq.ir import ops as o
from edgeq.ir.graph import Editor, Graph, Type
from edgeq.ir.verify import verify
from edgeq.passes.simplify import simplify
from tests.onnx_text import graph_outputs, largest_difference, model, random_reals, runtime_outputs

RNG = np.random.default_rng(5)


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(0, 1, shape).astype(np.float32)


NORM = {"s": normal(6), "b": normal(6), "m": normal(6), "v": np.abs(normal(6)) + 0.1}
CONV = {"w": normal(6, 3, 3, 3), "c": normal(6)}
X = "(float[2,3,8,8] x) =>"
Y = "(float[2,6,8,8] y)"

# name: (body, weights, operators after simplification)
CASES: dict[str, tuple[str, dict[str, np.ndarray], list[str]]] = {
    "batch norm after conv": (
        f"{X} {Y} {{ a = Conv<pads = [1,1,1,1]>(x, w, c)  y = BatchNormalization(a, s, b, m, v) }}",
        CONV | NORM,
        ["Conv"],
    ),
    "batch norm after conv without bias": (
        f"{X} {Y} {{ a = Conv<pads = [1,1,1,1]>(x, w)  y = BatchNormalization(a, s, b, m, v) }}",
        CONV | NORM,
        ["Conv"],
    ),
    "batch norm after grouped transposed conv": (
        "(float[2,4,5,5] x) => (float[2,6,11,11] y) "
        "{ a = ConvTranspose<strides = [2,2], group = 2>(x, w)  y = BatchNormalization(a, s, b, m, v) }",
        NORM | {"w": normal(4, 3, 3, 3)},
        ["ConvTranspose"],
    ),
    "batch norm after linear": (
        "(float[4,3] x) => (float[4,6] y) { a = Gemm<transB = 1>(x, w, c)  y = BatchNormalization(a, s, b, m, v) }",
        NORM | {"w": normal(6, 3), "c": normal(6)},
        ["Linear"],
    ),
    "batch norm before grouped conv without padding": (
        "(float[2,6,5,5] x) => (float[2,4,3,3] y) "
        "{ a = BatchNormalization(x, s, b, m, v)  y = Conv<group = 2>(a, w) }",
        NORM | {"w": normal(4, 3, 3, 3)},
        ["Conv"],
    ),
    "batch norm before padded conv stays": (
        "(float[2,6,5,5] x) => (float[2,4,5,5] y) "
        "{ a = BatchNormalization(x, s, b, m, v)  y = Conv<pads = [1,1,1,1]>(a, w) }",
        NORM | {"w": normal(4, 6, 3, 3)},
        ["ChannelAffine", "Conv"],
    ),
    "scale before padded conv": (
        "(float[2,6,5,5] x) => (float[2,4,5,5] y) { a = Mul(x, k)  y = Conv<pads = [1,1,1,1]>(a, w) }",
        {"k": normal(6, 1, 1), "w": normal(4, 6, 3, 3)},
        ["Conv"],
    ),
    "scale before transposed conv": (
        "(float[2,4,5,5] x) => (float[2,6,7,7] y) { a = Mul(x, k)  y = ConvTranspose<group = 2>(a, w) }",
        {"k": normal(4, 1, 1), "w": normal(4, 3, 3, 3)},
        ["ConvTranspose"],
    ),
    "input normalization": (
        f"{X} (float[2,6,6,6] y) {{ a = Sub(x, k)  d = Div(a, e)  y = Conv(d, w, c) }}",
        CONV | {"k": normal(3, 1, 1), "e": np.abs(normal(3, 1, 1)) + 0.5},
        ["Conv"],
    ),
    "normalization of a scaled input": (
        "(float[2,4,3] x) => (float[2,4,5] y) { a = Mul(x, k)  d = Add(a, e)  f = MatMul(d, w)  y = Add(f, g) }",
        {"k": normal(3), "e": normal(3), "w": normal(3, 5), "g": normal(5)},
        ["Linear"],
    ),
    "layer scale": (
        "(float[2,4,3] x) => (float[2,4,5] y) { a = MatMul(x, w)  d = Add(g, a)  e = Mul(k, d)  y = Add(e, x5) }",
        {"k": normal(5), "w": normal(3, 5), "g": normal(5), "x5": normal(2, 4, 5)},
        ["Linear", "Add"],
    ),
    "layer scale after a change of layout": (
        "(float[2,4,4,3] x) => (float[2,5,4,4] y) "
        "{ a = MatMul(x, w)  t = Transpose<perm = [0,3,1,2]>(a)  s = Mul(t, k)  y = Sub(s, k) }",
        {"k": normal(5, 1, 1), "w": normal(3, 5)},
        ["Linear", "Transpose"],
    ),
    "difference from a constant": (
        f"{X} (float[2,6,6,6] y) {{ a = Conv(x, w, c)  n = Neg(a)  y = Sub(k, n) }}",
        CONV | {"k": normal(6, 1, 1)},
        ["Conv"],
    ),
    "a bias per position stays": (
        "(float[2,4,3] x) => (float[2,4,5] y) { a = MatMul(x, w)  y = Add(a, k) }",
        {"k": normal(4, 5), "w": normal(3, 5)},
        ["Linear", "Add"],
    ),
    "a shared convolution stays": (
        f"{X} (float[2,6,6,6] y, float[2,6,6,6] z) {{ a = Conv(x, w, c)  y = Mul(a, k)  z = Relu(a) }}",
        CONV | {"k": normal(6, 1, 1)},
        ["Conv", "Mul", "Apply"],
    ),
    "an output stays": (
        f"{X} (float[2,6,6,6] a, float[2,6,6,6] y) {{ a = Conv(x, w, c)  y = Mul(a, k) }}",
        CONV | {"k": normal(6, 1, 1)},
        ["Conv", "Mul"],
    ),
    "affine maps in a row": (
        f"{X} (float[2,3,8,8] y) {{ a = Mul(x, k)  d = Add(a, e)  f = Mul(d, e)  g = Sub(f, k)  y = Relu(g) }}",
        {"k": normal(3, 1, 1), "e": normal(3, 1, 1)},
        ["ChannelAffine", "Apply"],
    ),
    "scalars in a row": (
        "(float[2,3] x) => (float[2,3] y) { a = Mul(x, k)  d = Div(a, e)  y = Neg(d) }",
        {"k": np.float32(3.0), "e": np.float32(7.0)},
        ["Mul"],
    ),
    "into a layer norm": (
        "(float[2,4,3] x) => (float[2,4,3] y) { a = LayerNormalization(x, k, e)  d = Mul(a, e)  y = Add(d, k) }",
        {"k": normal(3), "e": normal(3)},
        ["LayerNorm"],
    ),
    "into an instance norm": (
        f"{X} (float[2,3,8,8] y) {{ a = InstanceNormalization(x, k, e)  d = Mul(a, f)  y = Add(d, f) }}",
        {"k": normal(3), "e": normal(3), "f": normal(3, 1, 1)},
        ["GroupNorm"],
    ),
    "sum as mean": (
        f"{X} (float[2,3,1,1] y) {{ a = ReduceSum(x, axes)  y = Div(a, n) }}",
        {"axes": np.int64([2, 3]), "n": np.float32(64)},
        ["Mean"],
    ),
    "division that is rounded stays": (
        "(float[2,3] x) => (float[2,3] y) { a = Mul(x, h)  d = Div(a, k)  y = Floor(d) }",
        {"k": np.float32(3.0), "h": normal(2, 3) * 99},
        ["Mul", "Binary", "Apply"],
    ),
    "padding goes into the windows": (
        f"{X} (float[2,6,9,10] y) {{ p = Pad(x, n)  y = Conv<pads = [0,1,0,1]>(p, w, c) }}",
        CONV | {"n": np.int64([0, 0, 1, 1, 0, 0, 2, 1])},
        ["Conv"],
    ),
    "padding of channels stays": (
        "(float[2,2,8,8] x) => (float[2,6,6,6] y) { p = Pad(x, n)  y = Conv(p, w, c) }",
        CONV | {"n": np.int64([0, 0, 0, 0, 0, 1, 0, 0])},
        ["Pad", "Conv"],
    ),
    "padding with another number stays": (
        f"{X} (float[2,6,8,8] y) {{ p = Pad(x, n, one)  y = Conv(p, w, c) }}",
        CONV | {"n": np.int64([0, 0, 1, 1, 0, 0, 1, 1]), "one": np.float32(1)},
        ["Pad", "Conv"],
    ),
    "padding of a maximum": (
        f"{X} (float[2,3,4,4] y) {{ p = Pad(x, n, low)  y = MaxPool<kernel_shape = [3,3], strides = [2,2]>(p) }}",
        {"n": np.int64([0, 0, 0, 0, 0, 0, 1, 1]), "low": np.float32(-np.inf)},
        ["MaxPool"],
    ),
    "padding of an average": (
        f"{X} (float[2,3,4,4] y) {{ p = Pad(x, n)  y = AveragePool<kernel_shape = [3,3], strides = [2,2]>(p) }}",
        {"n": np.int64([0, 0, 0, 0, 0, 0, 1, 1])},
        ["AveragePool"],
    ),
    "paddings in a row": (
        f"{X} (float[2,3,11,12] y) {{ p = Pad(x, n)  y = Pad(p, n) }}",
        {"n": np.int64([0, 0, 1, 0, 0, 0, 0, 2])},
        ["Pad"],
    ),
    "transposes and reshapes cancel": (
        f"{X} (float[2,3,8,8] y) {{ a = Transpose<perm = [0,2,3,1]>(x)  d = Transpose<perm = [0,3,1,2]>(a)"
        "  e = Reshape(d, n)  f = Reshape(e, m)  y = Relu(f) }",
        {"n": np.int64([2, 3, -1]), "m": np.int64([2, 3, 8, 8])},
        ["Apply"],
    ),
    "a transpose of single axes": (
        "(float[2,1,3,1] x) => (float[2,3,1,1] y) { y = Transpose<perm = [0,2,1,3]>(x) }",
        {},
        ["Reshape"],
    ),
    "slices of slices": (
        f"{X} (float[2,2,3,8] y) {{ a = Slice(x, one, far, axes)  y = Slice(a, one, four, axes) }}",
        {"one": np.int64([0, 1]), "far": np.int64([2, 9]), "four": np.int64([9, 4]), "axes": np.int64([1, 2])},
        ["Slice"],
    ),
    "a slice of a concatenation": (
        f"{X} (float[2,2,8,8] y) {{ a = Relu(x)  d = Concat<axis = 1>(x, a)  y = Slice(d, four, six, one) }}",
        {"one": np.int64([1]), "four": np.int64([4]), "six": np.int64([6])},
        ["Apply", "Slice"],
    ),
    "nested concatenations": (
        f"{X} (float[2,9,8,8] y) {{ a = Relu(x)  d = Concat<axis = 1>(x, a)  y = Concat<axis = 1>(d, x) }}",
        {},
        ["Apply", "Concat"],
    ),
    "expansion that broadcasting does": (
        f"{X} (float[2,3,8,8] y) {{ a = Slice(x, zero, one, two)  d = Expand(a, n)  y = Mul(x, d) }}",
        {"zero": np.int64([0]), "one": np.int64([1]), "two": np.int64([2]), "n": np.int64([2, 3, 8, 8])},
        ["Slice", "Mul"],
    ),
    "equal operators": (
        f"{X} (float[2,3,8,8] y) {{ a = Exp(x)  d = Exp(x)  y = Add(a, d) }}",
        {},
        ["Apply", "Add"],
    ),
    "maps that do nothing": (
        f"{X} (float[2,3,8,8] y) {{ a = Mul(x, one)  d = Add(a, zero)  e = Relu(d)  y = Div(e, one) }}",
        {"one": np.ones((3, 1, 1), np.float32), "zero": np.zeros(1, np.float32)},
        ["Apply"],
    ),
    "an identity between input and output": (
        "(float[2,3] x) => (float[2,3] y) { y = Mul(x, one) }",
        {"one": np.ones(1, np.float32)},
        ["Mul"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_folding(name: str) -> None:
    body, weights, expected = CASES[name]
    proto = model(body, weights)
    graph = import_onnx(proto)
    small = simplify(graph)
    verify(small)
    assert [type(op).__name__ for op in small.ops] == expected
    assert (small.inputs, small.outputs) == (graph.inputs, graph.outputs)
    inputs = random_reals(graph)
    reference = runtime_outputs(proto, inputs)
    assert all(len(np.unique(array)) > 3 for array in reference.values())
    assert largest_difference(graph_outputs(small, inputs), reference) < 5e-6


def test_folded_weights_keep_their_names() -> None:
    body, weights, _ = CASES["layer scale"]
    assert set(simplify(import_onnx(model(body, weights))).constants) == {"w", "g", "x5"}


def test_a_folded_batch_norm_is_exact_to_the_last_bit() -> None:
    """Folding happens in float64: the weights are the correctly rounded products."""
    body, weights, _ = CASES["batch norm after conv"]
    graph = import_onnx(model(body, weights))
    affine = next(op for op in graph.ops if isinstance(op, o.ChannelAffine))
    scale, shift = (graph.constants[name].astype(np.float64) for name in (affine.scale, affine.shift))
    small = simplify(graph)
    np.testing.assert_array_equal(
        small.constants["w"], (weights["w"].astype(np.float64) * scale[:, None, None, None]).astype(np.float32)
    )
    np.testing.assert_array_equal(small.constants["c"], (weights["c"] * scale + shift).astype(np.float32))


def test_an_infinite_scale_is_left_alone() -> None:
    body = "(float[2,3] x) => (float[2,5] y) { a = MatMul(x, w)  y = Mul(a, k) }"
    graph = simplify(import_onnx(model(body, {"w": normal(3, 5), "k": np.float32([np.inf, 1, 1, 1, 1])})))
    assert [type(op).__name__ for op in graph.ops] == ["Linear", "Mul"]


def chain_of(count: int) -> Graph:
    """x + c, count times."""
    editor = Editor("chain", ["x"], {"x": Type((2, 3))})
    value = "x"
    for k in range(count):
        value = editor.append(o.Add(value, editor.constant(f"c{k}", np.full(3, 0.5, np.float32)), f"y{k}"))
    return editor.graph([value])


def test_a_long_chain_is_quick() -> None:
    graph = simplify(chain_of(600))
    assert len(graph.ops) == 1
    assert graph.outputs == ("y599",)
    np.testing.assert_allclose(next(iter(graph.constants.values())), 300.0)
