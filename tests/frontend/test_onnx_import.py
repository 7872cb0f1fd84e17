"""What the importer makes of shapes, names, opsets, constants, functions and rewrites, against ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from edgeq.errors import UnsupportedError, UsageError
from edgeq.formats import BOOL, INDEX
from edgeq.frontend.onnx import import_onnx
from edgeq.ir import ops as o
from edgeq.ir.verify import verify
from tests.onnx_text import graph_outputs, largest_difference, model, random_reals, runtime_outputs

RNG = np.random.default_rng(1)


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(0, 1, shape).astype(np.float32)


def agree(proto: onnx.ModelProto, **options: dict[str, tuple[int, ...]]) -> list[str]:
    """Import, compare with ONNX Runtime, and return the operators' names."""
    graph = import_onnx(proto, **options)
    verify(graph)
    inputs = random_reals(graph)
    expected = runtime_outputs(proto, inputs)
    found = graph_outputs(graph, inputs)
    assert all(len(np.unique(array)) > 3 for array in expected.values())
    assert largest_difference(found, expected) < 1e-5
    return [type(op).__name__ for op in graph.ops]


# One model per rewrite: (body, weights, opset, operators of the graph).
REWRITES = {
    "gemm": (
        "(float[4,3] x) => (float[4,5] y) { y = Gemm<transB = 1, alpha = 0.5, beta = 2.0>(x, w, c) }",
        {"w": normal(5, 3), "c": normal(5)},
        ["Linear"],
    ),
    "weights standardized by a normalization in training mode": (
        """(float[2,3,6,6] x) => (float[2,5,4,4] y) {
            n, running_m, running_v = BatchNormalization<training_mode = 1, epsilon = 1.0e-4>(r, s, z, z, s)
            w = Reshape(n, shape)
            y = Conv(x, w)
        }""",
        {"r": normal(1, 5, 27), "s": np.abs(normal(5)), "z": np.zeros(5, np.float32), "shape": np.array([5, 3, 3, 3])},
        ["Conv"],
    ),
    "gemm with a row per sample": (
        "(float[4,3] x) => (float[4,5] y) { y = Gemm(x, w, c) }",
        {"w": normal(3, 5), "c": normal(4, 5)},
        ["Linear", "Add"],
    ),
    "gemm with transposed input": (
        "(float[3,4] x) => (float[4,5] y) { y = Gemm<transA = 1>(x, w) }",
        {"w": normal(3, 5)},
        ["Transpose", "Linear"],
    ),
    "matmul by a constant": (
        "(float[2,4,3] x) => (float[2,4,5] y) { y = MatMul(x, w) }",
        {"w": normal(3, 5)},
        ["Linear"],
    ),
    "matmul by constant matrices": (
        "(float[2,4,3] x) => (float[2,4,5] y) { y = MatMul(x, w) }",
        {"w": normal(2, 3, 5)},
        ["MatMul"],
    ),
    "matmul with a vector": (
        "(float[4,3] x) => (float[4] y) { y = MatMul(x, w) }",
        {"w": normal(3)},
        ["Linear", "Reshape"],
    ),
    "one-dimensional convolution": (
        "(float[1,4,9] x) => (float[1,6,5] y) { y = Conv<strides = [2], pads = [1,1], group = 2>(x, w, c) }",
        {"w": normal(6, 2, 3), "c": normal(6)},
        ["Reshape", "Conv", "Reshape"],
    ),
    "same padding": (
        '(float[1,4,9,8] x) => (float[1,6,5,3] y) { y = Conv<strides = [2,3], auto_pad = "SAME_LOWER">(x, w) }',
        {"w": normal(6, 4, 4, 3)},
        ["Conv"],
    ),
    "uneven transposed convolution": (
        "(float[1,4,5,6] x) => (float[1,6,10,12] y) "
        "{ y = ConvTranspose<strides = [2,2], pads = [0,1,1,0], output_padding = [0,0], group = 2>(x, w, c) }",
        {"w": normal(4, 3, 3, 3), "c": normal(6)},
        ["ConvTranspose"],
    ),
    "ceil mode": (
        "(float[1,2,8,7] x) => (float[1,2,4,4] y) "
        "{ y = MaxPool<kernel_shape = [3,3], strides = [2,2], ceil_mode = 1>(x) }",
        {},
        ["MaxPool"],
    ),
    "average pool, ceil mode, counting padding": (
        "(float[1,2,8,7] x) => (float[1,2,5,4] y) { y = AveragePool"
        "<kernel_shape = [3,3], strides = [2,2], pads = [1,1,1,1], ceil_mode = 1, count_include_pad = 1>(x) }",
        {},
        ["Pad", "AveragePool"],
    ),
    "average pool, ceil mode, not counting padding": (
        "(float[1,2,8,7] x) => (float[1,2,5,4] y) { y = AveragePool"
        "<kernel_shape = [3,3], strides = [2,2], pads = [1,1,1,1], ceil_mode = 1>(x) }",
        {},
        ["AveragePool"],
    ),
    "batch normalization": (
        "(float[2,3,4,4] x) => (float[2,3,4,4] y) { y = BatchNormalization(x, s, b, m, v) }",
        {"s": normal(3), "b": normal(3), "m": normal(3), "v": np.abs(normal(3)) + 0.1},
        ["ChannelAffine"],
    ),
    "einsum with a constant": (
        '(float[2,4,3] x) => (float[2,4,2,5] y) { y = Einsum<equation = "bnc,chd->bnhd">(x, w) }',
        {"w": normal(3, 2, 5)},
        ["Linear", "Reshape"],
    ),
    "einsum of two values": (
        '(float[2,4,3] x, float[2,5,3] z) => (float[4,2,5] y) { y = Einsum<equation = "bic,bjc->ibj">(x, z) }',
        {},
        ["Transpose", "MatMul", "Transpose"],
    ),
    "einsum with an ellipsis": (
        '(float[2,2,4,3] x, float[2,2,3,5] z) => (float[2,2,4,5] y) { y = Einsum<equation = "...ij,...jk">(x, z) }',
        {},
        ["MatMul"],
    ),
    "prelu per channel": (
        "(float[2,3,4,4] x) => (float[2,3,4,4] y) { y = PRelu(x, w) }",
        {"w": normal(3, 1, 1)},
        ["Apply", "Mul", "Apply", "Add"],
    ),
    "prelu with one slope": (
        "(float[2,3,4,4] x) => (float[2,3,4,4] y) { y = PRelu(x, w) }",
        {"w": np.full((3, 1, 1), 0.25, np.float32)},
        ["Apply"],
    ),
    "global average without kept axes": (
        "(float[2,3,4,4] x) => (float[2,3] y) { y = ReduceMean<axes = [2,3], keepdims = 0>(x) }",
        {},
        ["Mean", "Reshape"],
    ),
    "space to depth": (
        "(float[1,3,4,6] x) => (float[1,12,2,3] y) { y = SpaceToDepth<blocksize = 2>(x) }",
        {},
        ["Reshape", "Transpose", "Reshape"],
    ),
    "division by a power of two": (
        "(float[2,3] x) => (float[2,3] y) { y = Div(x, w) }",
        {"w": np.float32([4.0])},
        ["Mul"],
    ),
    "square": ("(float[2,3] x) => (float[2,3] y) { y = Pow(x, w) }", {"w": np.int64(2)}, ["Mul"]),
    "a run of indices": (
        "(float[2,6] x) => (float[2,3] y) { y = Gather<axis = 1>(x, w) }",
        {"w": np.int64([-4, -3, -2])},
        ["Slice"],
    ),
    "negative padding": (
        "(float[1,1,6,6] x) => (float[1,1,4,9] y) { y = Pad(x, w) }",
        {"w": np.int64([0, 0, -1, 2, 0, 0, -1, 1])},
        ["Slice", "Pad"],
    ),
    "log-softmax over flattened axes": (
        "(float[2,3,4] x) => (float[2,3,4] y) { y = Softmax<axis = 1>(x) }",
        {},
        ["Reshape", "Softmax", "Reshape"],
    ),
    "tile": (
        "(float[2,3] x) => (float[4,3] y) { y = Tile(x, w) }",
        {"w": np.int64([2, 1])},
        ["Reshape", "Expand", "Reshape"],
    ),
    "a mean of three": (
        "(float[2,3] x, float[2,3] z) => (float[2,3] y) { y = Mean(x, z, x) }",
        {},
        ["Add", "Add", "Mul"],
    ),
    "channels last resampling": (
        '(float[1,4,5,3] x) => (float[1,8,10,3] y) { y = Resize<mode = "linear">(x, , w) }',
        {"w": np.float32([1, 2, 2, 1])},
        ["Transpose", "Resize", "Transpose"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REWRITES)
def test_rewrites(name: str) -> None:
    body, weights, expected = REWRITES[name]
    assert agree(model(body, weights, opset=12 if "flattened" in name else 17)) == expected


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("coordinates", ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"])
@pytest.mark.parametrize("size", [(11, 4), (3, 14)])
def test_resize(mode: str, coordinates: str, size: tuple[int, int]) -> None:
    nearest = "floor" if coordinates == "asymmetric" else "round_prefer_floor"
    body = (
        f"(float[1,2,5,7] x) => (float[1,2,{size[0]},{size[1]}] y) {{ y = Resize<"
        f'mode = "{mode}", coordinate_transformation_mode = "{coordinates}", nearest_mode = "{nearest}">(x, , , w) }}'
    )
    assert agree(model(body, {"w": np.int64([1, 2, *size])})) == ["Resize"]


# The same network in the spelling of each generation of opsets.
GENERATIONS = {
    11: "a = Clip(x, low, high)  b = Unsqueeze<axes = [0]>(a)  c = ReduceSum<axes = [3], keepdims = 0>(b)"
    "  d, e = Split<axis = 2, split = [1, 3]>(c)  y = Squeeze<axes = [0]>(e)",
    13: "a = Clip(x, low, high)  b = Unsqueeze(a, zero)  c = ReduceSum<keepdims = 0>(b, three)"
    "  d, e = Split<axis = 2>(c, parts)  y = Squeeze(e, zero)",
    18: "a = Clip(x, low, high)  b = Unsqueeze(a, zero)  c = ReduceSum<keepdims = 0>(b, three)"
    "  d, e = Split<axis = 2>(c, parts)  y = Squeeze(e, zero)",
    23: "a = Clip(x, low, high)  b = Unsqueeze(a, zero)  c = ReduceSum<keepdims = 0>(b, three)"
    "  d, e = Split<axis = 2>(c, parts)  y = Squeeze(e, zero)",
}


@pytest.mark.parametrize("opset", GENERATIONS)
def test_opset_generations(opset: int) -> None:
    weights = {"low": np.float32(-0.5), "high": np.float32(0.4)}
    if opset > 11:
        weights |= {"zero": np.int64([0]), "three": np.int64([3]), "parts": np.int64([1, 3])}
    proto = model(f"(float[3,4,5] x) => (float[3,3] y) {{ {GENERATIONS[opset]} }}", weights, opset=opset)
    assert agree(proto) == ["Apply", "Reshape", "Reduce", "Reshape", "Slice", "Reshape"]


@pytest.mark.parametrize("opset", [9, 10, 28, 99])
def test_other_opsets_are_refused(opset: int) -> None:
    proto = model("(float[1] x) => (float[1] y) { y = Relu(x) }")
    proto.opset_import[0].version = opset
    with pytest.raises(UnsupportedError):
        import_onnx(proto)


def test_shape_arithmetic_disappears() -> None:
    body = """(float[2,3,4,4] x) => (float[2,12,4] y) {
        s = Shape(x)  n = Gather(s, i0)  c = Gather(s, i1)  h = Gather(s, i2)
        m = Mul(c, h)  a = Unsqueeze(n, i0v)  b = Unsqueeze(m, i0v)
        t = Concat<axis = 0>(a, b, minus)  y = Reshape(x, t) }"""
    indices = {"i0": np.int64(0), "i1": np.int64(1), "i2": np.int64(2), "i0v": np.int64([0]), "minus": np.int64([-1])}
    assert agree(model(body, indices)) == ["Reshape"]


def test_values_keep_their_names() -> None:
    body = "(float[1,3] x) => (float[1,2] second, float[1,3] first) { first = Relu(x)  second = MatMul(first, w) }"
    graph = import_onnx(model(body, {"w": normal(3, 2)}))
    assert graph.inputs == ("x",)
    assert graph.outputs == ("second", "first")
    assert [o.results(op) for op in graph.ops] == [("first",), ("second",)]
    assert set(graph.constants) == {"w"}


def test_outputs_that_are_inputs_constants_and_copies() -> None:
    body = """(float[2,3] x) => (float[2,3] x2, float[2,3] r, float[2,3] r2, float[2,3] c, float[2,3] c2)
        { x2 = Identity(x)  r = Relu(x)  r2 = Identity(r)  c = Identity(w)  c2 = Identity(w) }"""
    proto = model(body, {"w": normal(2, 3)})
    graph = import_onnx(proto)
    assert graph.outputs == ("x2", "r", "r2", "c", "c2")
    agree(proto)


def test_an_input_that_is_an_output_itself() -> None:
    proto = model("(float[2,3] x) => (float[2,3] y) { y = Relu(x) }")
    proto.graph.output.append(proto.graph.input[0])
    graph = import_onnx(proto)
    assert graph.outputs == ("y", "x")
    inputs = random_reals(graph)
    assert largest_difference(graph_outputs(graph, inputs), runtime_outputs(proto, inputs)) == 0


def test_provisional_names_do_not_collide() -> None:
    body = """(float[2,3] x) => (float[2,3] y) { y.1 = Relu(x)  y.2 = Neg(y.1)  z = Softsign(y.2)  y = Softsign(z) }"""
    graph = import_onnx(model(body.replace("y.", "y_")))
    renamed = model(body.replace("y.", "y_"))
    for node in renamed.graph.node:
        for names in (node.input, node.output):
            names[:] = [name.replace("y_", "y.") for name in names]
    assert len(import_onnx(renamed).types) == len(graph.types)
    agree(renamed)


def test_dynamic_batch_becomes_one() -> None:
    graph = import_onnx(model('(float["batch",3,4,4] x) => (float["batch",3,4,4] y) { y = Relu(x) }'))
    assert graph.types["x"].shape == (1, 3, 4, 4)


def test_dynamic_size_needs_a_shape() -> None:
    proto = model('(float["n",3,"height",4] x) => (float["n",3,"height",4] y) { y = Relu(x) }')
    with pytest.raises(UsageError, match=r"height.*--imgsz"):
        import_onnx(proto)
    assert import_onnx(proto, input_shapes={"x": (2, 3, 8, 4)}).types["y"].shape == (2, 3, 8, 4)
    assert agree(proto, input_shapes={"x": (2, 3, 8, 4)}) == ["Apply"]


@pytest.mark.parametrize("shape", [(1, 3, 5, 4), (1, 3, 4), (1, 3, 0, 4)])
def test_impossible_shapes(shape: tuple[int, ...]) -> None:
    proto = model(
        '(float[1,3,"h",4] x) => (float[1,3,"h",4] y) { y = Relu(x) }'
        if 0 in shape
        else "(float[1,3,4,4] x) => (float[1,3,4,4] y) { y = Relu(x) }"
    )
    with pytest.raises((UsageError, UnsupportedError)):
        import_onnx(proto, input_shapes={"x": shape})


def test_a_shape_for_an_unknown_input() -> None:
    with pytest.raises(UsageError, match="no such input"):
        import_onnx(model("(float[1] x) => (float[1] y) { y = Relu(x) }"), input_shapes={"images": (1,)})


def test_half_and_double_weights_become_float() -> None:
    body = "(float[2,3] x) => (float[2,2] y) { a = Cast<to = 10>(x)  b = MatMul(a, w)  y = Cast<to = 1>(b) }"
    weight = normal(3, 2).astype(np.float16)
    graph = import_onnx(model(body, {"w": weight}))
    assert [type(op).__name__ for op in graph.ops] == ["Linear"]
    assert graph.constants["w"].dtype == np.float32
    np.testing.assert_array_equal(graph.constants["w"], weight.astype(np.float32).T)


def test_indices_and_truth_values_keep_their_kind() -> None:
    body = """(float[2,6] x) => (float[2,3] values, int64[2,3] places, bool[2,6] mask)
        { values, places = TopK(x, k)  mask = Greater(x, half) }"""
    graph = import_onnx(model(body, {"k": np.int64([3]), "half": np.float32(0.1)}))
    assert (graph.types["places"].format, graph.types["mask"].format) == (INDEX, BOOL)
    verify(graph)


def test_functions_are_inlined() -> None:
    own = '<domain: "own", opset_import: ["" : 17]> Twice (a) => (b) { c = Neg(a)  b = Sub(a, c) }'
    proto = model("(float[2,3] x) => (float[2,3] y) { z = own.Twice(x)  y = own.Twice(z) }", more=own)
    assert agree(proto) == ["Apply", "Sub", "Apply", "Sub"]


def test_operators_defined_by_others_are_spelled_out() -> None:
    body = "(float[1,2,4,8] q, float[1,2,4,8] k, float[1,2,4,8] v) => (float[1,2,4,8] y) { y = Attention(q, k, v) }"
    proto = model(body, opset=23)
    assert agree(proto).count("MatMul") == 2


@pytest.mark.parametrize("truth", [True, False])
def test_a_known_condition_chooses_its_branch(truth: bool) -> None:
    body = """(float[2,3] x) => (float[2,3] y) { y = If (c) <
        then_branch = a () => (float[2,3] p) { p = Relu(x) },
        else_branch = b () => (float[2,3] q) { t = Neg(x)  q = Exp(t) } > }"""
    operators = agree(model(body, {"c": np.array(truth)}))
    assert operators == (["Apply"] if truth else ["Apply", "Apply"])


def test_dead_nodes_do_not_matter() -> None:
    body = "(float[2,3] x) => (float[2,3] y) { unused = NonZero(x)  y = Relu(x) }"
    assert agree(model(body)) == ["Apply"]


def test_all_unsupported_operators_are_listed_at_once() -> None:
    body = """(float[1,4,8,8] x, float[1,8,8,2] g) => (int64["n",3] y, float[1,4,8,8] z) {
        a = GridSample(x, g)  b = GridSample(a, g)  c = own.Strange(b)  z = Relu(c)
        s = Reshape(x, shape)  t = Reshape(x, shape)  y = NonMaxSuppression(s, t) }"""
    with pytest.raises(UnsupportedError) as caught:
        import_onnx(model(body, {"shape": np.int64([1, 64, 4])}))
    message = str(caught.value)
    assert "2 × GridSample such as a" in message
    assert "1 × own:Strange" in message
    assert "NonMaxSuppression" in message
    assert "nms=False" in message
    assert "Relu" not in message
    assert "\n" not in message


def test_a_quantized_model_is_named_as_such() -> None:
    body = "(float[1,3] x) => (float[1,3] y) { q = QuantizeLinear(x, s, z)  y = DequantizeLinear(q, s, z) }"
    with pytest.raises(UnsupportedError, match=r"already quantized.*Give the float model"):
        import_onnx(model(body, {"s": np.float32(0.1), "z": np.uint8(3)}))


def test_a_model_quantized_by_the_runtime_is_named_as_such() -> None:
    proto = model("(float[1,3] x) => (float[1,3] y) { a = Relu(x)  y = own.QLinearSigmoid(a) }")
    with pytest.raises(UnsupportedError, match="already quantized"):
        import_onnx(proto)


def test_external_data_beside_the_model(tmp_path: Path) -> None:
    proto = model("(float[4,3] x) => (float[4,500] y) { y = MatMul(x, w) }", {"w": normal(3, 500)})
    expected = import_onnx(proto)
    onnx.save_model(proto, str(tmp_path / "m.onnx"), save_as_external_data=True, location="m.data")
    assert (tmp_path / "m.data").stat().st_size == 4 * 3 * 500
    graph = import_onnx(tmp_path / "m.onnx")
    np.testing.assert_array_equal(graph.constants["w"], expected.constants["w"])


def test_the_given_model_is_not_changed() -> None:
    proto = model("(float[1,3] x) => (float[1,3] y) { y = Celu(x) }")
    before = proto.SerializeToString()
    import_onnx(proto)
    assert proto.SerializeToString() == before
