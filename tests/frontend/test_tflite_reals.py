"""Float .tflite networks: every operator against LiteRT's reference kernels, and no permutation left over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeq.errors import UnsupportedError
from edgeq.frontend.tflite import REALS, import_tflite
from edgeq.frontend.tflite_types import is_channels_last
from edgeq.ir import ops as o
from edgeq.ir.graph import Graph
from edgeq.ir.verify import verify
from edgeq.passes.simplify import simplify
from edgeq.reference.interpret import Interpreter
from tests.tflite_files import File, Numbers, litert

RNG = np.random.default_rng(3)
TOLERANCE = 1e-4


def normal(*shape: int) -> Numbers:
    return RNG.normal(size=shape).astype(np.float32)


def as_ours(array: Numbers) -> Numbers:
    return np.ascontiguousarray(array.transpose(0, 3, 1, 2)) if is_channels_last(array.shape) else array


def run(graph: Graph, inputs: Sequence[Numbers]) -> list[Numbers]:
    found = Interpreter(graph)(dict(zip(graph.inputs, map(as_ours, inputs), strict=True)))
    return [found[name].numpy() for name in graph.outputs]


def compare(content: bytes | Path, inputs: Sequence[Numbers], *, transposes: int = 0) -> Graph:
    """Imported, simplified and run, `content` equals LiteRT."""
    imported = import_tflite(content)
    verify(imported)
    graph = simplify(imported)
    for ours, theirs in zip(run(graph, inputs), litert(content, inputs), strict=True):
        wanted = as_ours(theirs)
        assert ours.shape == wanted.shape
        assert np.unique(wanted).size > 1 or wanted.size == 1
        np.testing.assert_allclose(ours, wanted, rtol=TOLERANCE, atol=TOLERANCE * float(np.abs(wanted).max()))
    assert sum(isinstance(op, o.Transpose) for op in graph.ops) == transposes
    return graph


def unary(kind: str, x: Numbers, options: str | None = None, **fields: Any) -> bytes:
    f = File()
    a, b = f.tensor(x.shape), f.tensor(x.shape)
    f.op(kind, [a], [b], options, **fields)
    return f.content([a], [b])


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("act", [0, 1, 2, 3])
def test_convolutions(stride: int, padding: int, act: int) -> None:
    f = File()
    x, y, z = f.tensor((1, 9, 8, 4)), f.tensor((1, 1, 1, 6)), f.tensor((1, 1, 1, 12))
    w, b = f.constant(normal(6, 3, 2, 4)), f.constant(normal(6))
    d, c = f.constant(normal(1, 3, 3, 12)), f.constant(normal(12))
    same = {"padding": padding, "strideW": stride, "strideH": stride, "fusedActivationFunction": act}
    f.op("CONV_2D", [x, w, b], [y], "Conv2DOptions", **same, dilationWFactor=1, dilationHFactor=1)
    f.op("DEPTHWISE_CONV_2D", [y, d, c], [z], "DepthwiseConv2DOptions", **same, depthMultiplier=2,
         dilationWFactor=1, dilationHFactor=1)  # fmt: skip
    compare(f.content([x], [z]), [normal(1, 9, 8, 4)])


def test_a_dilated_and_a_grouped_convolution() -> None:
    f = File()
    x, y, z = f.tensor((1, 9, 9, 4)), f.tensor((1, 5, 5, 8)), f.tensor((1, 5, 5, 8))
    w, g = f.constant(normal(8, 3, 3, 4)), f.constant(normal(8, 1, 1, 4))
    zero = f.constant(np.zeros(8, np.float32))
    f.op("CONV_2D", [x, w, zero], [y], "Conv2DOptions", padding=1, strideW=1, strideH=1,
         dilationWFactor=2, dilationHFactor=2)  # fmt: skip
    f.op("CONV_2D", [y, g, zero], [z], "Conv2DOptions", padding=1, strideW=1, strideH=1,
         dilationWFactor=1, dilationHFactor=1)  # fmt: skip
    compare(f.content([x], [z]), [normal(1, 9, 9, 4)])


@pytest.mark.parametrize(("padding", "out"), [(0, 8), (1, 9), (1, 10)])
def test_transposed_convolution(padding: int, out: int) -> None:
    f = File()
    shape = f.constant(np.array([1, out, out, 5], np.int32))
    x, y = f.tensor((1, 4, 4, 3)), f.tensor((1, out, out, 5))
    w, b = f.constant(normal(5, 3, 3, 3)), f.constant(normal(5))
    f.op("TRANSPOSE_CONV", [shape, w, x, b], [y], "TransposeConvOptions", padding=padding, strideW=2, strideH=2,
         version=3)  # fmt: skip
    compare(f.content([x], [y]), [normal(1, 4, 4, 3)])


@pytest.mark.parametrize("kind", ["AVERAGE_POOL_2D", "MAX_POOL_2D"])
@pytest.mark.parametrize("padding", [0, 1])
def test_pooling(kind: str, padding: int) -> None:
    f = File()
    x, y = f.tensor((1, 7, 6, 3)), f.tensor((1, 4, 3, 3))
    f.op(kind, [x], [y], "Pool2DOptions", padding=padding, strideW=2, strideH=2, filterWidth=3, filterHeight=2,
         fusedActivationFunction=1)  # fmt: skip
    compare(f.content([x], [y]), [normal(1, 7, 6, 3)])


@pytest.mark.parametrize("kind", ["RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"])
@pytest.mark.parametrize(("align", "half"), [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("size", [(10, 7), (3, 2)])
def test_resizing(kind: str, align: bool, half: bool, size: tuple[int, int]) -> None:
    f = File()
    x, y, s = f.tensor((1, 5, 4, 3)), f.tensor((1, *size, 3)), f.constant(np.array(size, np.int32))
    options = "ResizeBilinearOptions" if kind == "RESIZE_BILINEAR" else "ResizeNearestNeighborOptions"
    f.op(kind, [x, s], [y], options, alignCorners=align, halfPixelCenters=half)
    compare(f.content([x], [y]), [normal(1, 5, 4, 3)])


@pytest.mark.parametrize("kind", [
    "RELU", "RELU6", "RELU_N1_TO_1", "LOGISTIC", "TANH", "HARD_SWISH", "EXP", "NEG", "ABS", "SIN", "COS", "FLOOR",
    "SQUARE", "LOG_SOFTMAX", "L2_NORMALIZATION", "SIGN",
])  # fmt: skip
@pytest.mark.parametrize("shape", [(1, 3, 5, 7), (2, 6)])
def test_functions(kind: str, shape: tuple[int, ...]) -> None:
    x = 3 * normal(*shape)
    compare(unary(kind, x, "L2NormOptions" if kind == "L2_NORMALIZATION" else None), [x])


@pytest.mark.parametrize("kind", ["LOG", "SQRT", "RSQRT"])
def test_functions_of_positive_numbers(kind: str) -> None:
    x = np.abs(normal(1, 3, 4, 5)) + 0.1
    compare(unary(kind, x), [x])


def test_functions_that_the_reference_kernels_lack() -> None:
    x = normal(1, 3, 5, 7)
    for kind, wanted in (("ELU", np.where(x > 0, x, np.expm1(x))), ("CEIL", np.ceil(x))):
        (found,) = run(import_tflite(unary(kind, x)), [x])
        np.testing.assert_allclose(found, as_ours(wanted), rtol=1e-5, atol=1e-6)


def test_functions_with_parameters() -> None:
    x = normal(1, 3, 5, 7)
    compare(unary("LEAKY_RELU", x, "LeakyReluOptions", alpha=0.2), [x])
    compare(unary("SOFTMAX", x, "SoftmaxOptions", beta=0.5), [x])
    compare(unary("GELU", x, "GeluOptions", approximate=True), [x])
    compare(unary("GELU", x, "GeluOptions", approximate=False), [x])


@pytest.mark.parametrize(("kind", "options"), [
    ("ADD", "AddOptions"), ("SUB", "SubOptions"), ("MUL", "MulOptions"), ("DIV", "DivOptions"), ("MAXIMUM", None),
    ("MINIMUM", None), ("SQUARED_DIFFERENCE", None),
])  # fmt: skip
@pytest.mark.parametrize("other", [(1, 4, 5, 6), (6,), (1, 1, 1, 6), (5, 1), (1,)])
def test_broadcasting_beside_a_convolution(kind: str, options: str | None, other: tuple[int, ...]) -> None:
    """The first operand has its channels first, the second any rank."""
    f = File()
    x, y, z = f.tensor((1, 4, 5, 3)), f.tensor((1, 4, 5, 6)), f.tensor((1, 4, 5, 6))
    w, b, c = f.constant(normal(6, 1, 1, 3)), f.constant(normal(6)), f.constant(np.abs(normal(*other)) + 1)
    f.op("CONV_2D", [x, w, b], [y], "Conv2DOptions", padding=1, strideW=1, strideH=1,
         dilationWFactor=1, dilationHFactor=1)  # fmt: skip
    f.op(kind, [y, c], [z], options)
    compare(f.content([x], [z]), [normal(1, 4, 5, 3)])


@pytest.mark.parametrize("kind", ["MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN"])
@pytest.mark.parametrize(("axes", "keep"), [((1, 2), False), ((1, 2), True), ((-1,), True), ((3,), False)])
def test_reductions(kind: str, axes: tuple[int, ...], keep: bool) -> None:
    f = File()
    x, a = f.tensor((1, 4, 5, 6)), f.constant(np.array(axes, np.int32))
    y = f.tensor((1,))
    f.op(kind, [x, a], [y], "ReducerOptions", keepDims=keep)
    compare(f.content([x], [y]), [normal(1, 4, 5, 6)])


def test_a_flattened_image_needs_no_permutation() -> None:
    f = File()
    x, y, flat, z = f.tensor((1, 4, 5, 3)), f.tensor((1, 4, 5, 6)), f.tensor((1, 120)), f.tensor((1, 7))
    w, b = f.constant(normal(6, 1, 1, 3)), f.constant(normal(6))
    shape, m, n = f.constant(np.array([-1, 120], np.int32)), f.constant(normal(7, 120)), f.constant(normal(7))
    f.op("CONV_2D", [x, w, b], [y], "Conv2DOptions", padding=1, strideW=1, strideH=1,
         dilationWFactor=1, dilationHFactor=1)  # fmt: skip
    f.op("RESHAPE", [y, shape], [flat], "ReshapeOptions", newShape=[1, 120])
    f.op("FULLY_CONNECTED", [flat, m, n], [z], "FullyConnectedOptions", fusedActivationFunction=1)
    compare(f.content([x], [z]), [normal(1, 4, 5, 3)])


def test_a_network_with_channels_first_keeps_its_ports() -> None:
    f = File()
    x, last, y, first = (
        f.tensor((1, 3, 16, 18)),
        f.tensor((1, 16, 18, 3)),
        f.tensor((1, 16, 18, 4)),
        f.tensor((1, 4, 16, 18)),
    )
    to_last, to_first = (f.constant(np.array(p, np.int32)) for p in ((0, 2, 3, 1), (0, 3, 1, 2)))
    w, b = f.constant(normal(4, 3, 3, 3)), f.constant(normal(4))
    f.op("TRANSPOSE", [x, to_last], [last])
    f.op("CONV_2D", [last, w, b], [y], "Conv2DOptions", padding=0, strideW=1, strideH=1,
         dilationWFactor=1, dilationHFactor=1)  # fmt: skip
    f.op("TRANSPOSE", [y, to_first], [first])
    graph = compare(f.content([x], [first]), [normal(1, 3, 16, 18)])
    assert [type(op) for op in graph.ops] == [o.Conv]
    assert graph.types[graph.inputs[0]].shape == (1, 3, 16, 18)


def movement(build: Callable[[File, int], int], *, transposes: int = 0, shape: Sequence[int] = (1, 4, 6, 8)) -> None:
    """A function that moves elements, behind a convolution and in front of a sum."""
    f = File()
    x, y = f.tensor(shape), f.tensor(shape)
    w, b = f.constant(normal(shape[-1], 1, 1, shape[-1])), f.constant(normal(shape[-1]))
    f.op("CONV_2D", [x, w, b], [y], "Conv2DOptions", padding=1, strideW=1, strideH=1,
         dilationWFactor=1, dilationHFactor=1)  # fmt: skip
    z = build(f, y)
    compare(f.content([x], [z]), [normal(*shape)], transposes=transposes)


def ints(f: File, *numbers: int) -> int:
    return f.constant(np.array(numbers, np.int32))


def test_slices() -> None:
    def cut(f: File, y: int) -> int:
        z = f.tensor((1, 2, 6, 3))
        f.op("SLICE", [y, ints(f, 0, 1, 0, 2), ints(f, 1, 2, -1, 3)], [z])
        return z

    def strided(f: File, y: int) -> int:
        z = f.tensor((1, 2, 6, 3))
        f.op("STRIDED_SLICE", [y, ints(f, 0, 3, 0, 1), ints(f, 1, 0, 0, 8), ints(f, 1, -2, 1, 3)], [z],
             "StridedSliceOptions", endMask=0b0110)  # fmt: skip
        return z

    def shrunk(f: File, y: int) -> int:
        z = f.tensor((4, 6, 8))
        f.op("STRIDED_SLICE", [y, ints(f, 0, 0), ints(f, 1, 4), ints(f, 1, 1)], [z],
             "StridedSliceOptions", shrinkAxisMask=1)  # fmt: skip
        return z

    movement(cut)
    movement(strided, transposes=2)
    movement(shrunk, transposes=1)


@pytest.mark.parametrize("axis", [1, 3, -1])
def test_split_and_concatenation(axis: int) -> None:
    def build(f: File, y: int) -> int:
        parts = [f.tensor((1, 1, 1, 1)) for _ in range(2)]
        whole = f.tensor((1, 4, 6, 8))
        f.op("SPLIT", [ints(f, axis), y], parts, "SplitOptions", numSplits=2)
        f.op("CONCATENATION", parts[::-1], [whole], "ConcatenationOptions", axis=axis)
        return whole

    movement(build)


def test_split_by_sizes() -> None:
    def build(f: File, y: int) -> int:
        parts = [f.tensor((1, 1, 1, 1)) for _ in range(3)]
        f.op("SPLIT_V", [y, ints(f, 1, -1, 4), ints(f, 3)], parts, "SplitVOptions", numSplits=3)
        return parts[1]

    movement(build)


def test_padding() -> None:
    def zeros(f: File, y: int) -> int:
        z = f.tensor((1, 7, 8, 8))
        f.op("PAD", [y, f.constant(np.array([[0, 0], [1, 2], [0, 2], [0, 0]], np.int32))], [z])
        return z

    def number(f: File, y: int) -> int:
        z, value = f.tensor((1, 4, 6, 9)), f.constant(np.array(2.5, np.float32))
        f.op("PADV2", [y, f.constant(np.array([[0, 0], [0, 0], [0, 0], [1, 0]], np.int32)), value], [z])
        return z

    def mirror(f: File, y: int) -> int:
        z = f.tensor((1, 7, 6, 8))
        f.op("MIRROR_PAD", [y, f.constant(np.array([[0, 0], [1, 2], [0, 0], [0, 0]], np.int32))], [z],
             "MirrorPadOptions", mode=0)  # fmt: skip
        return z

    for build in (zeros, number, mirror):
        movement(build)


def test_blocks() -> None:
    def deep(f: File, y: int) -> int:
        z = f.tensor((1, 8, 12, 2))
        f.op("DEPTH_TO_SPACE", [y], [z], "DepthToSpaceOptions", blockSize=2)
        return z

    def wide(f: File, y: int) -> int:
        z = f.tensor((1, 2, 3, 32))
        f.op("SPACE_TO_DEPTH", [y], [z], "SpaceToDepthOptions", blockSize=2)
        return z

    movement(deep, transposes=1)
    movement(wide, transposes=1)


def test_shape_arithmetic_disappears() -> None:
    """SHAPE, STRIDED_SLICE, MUL and PACK of integers give a resize its size."""
    f = File()
    x, s, hw, twice, y = f.tensor((1, 4, 5, 3)), f.tensor((4,), "int32"), f.tensor((2,), "int32"), f.tensor(
        (2,), "int32"), f.tensor((1, 8, 10, 3))  # fmt: skip
    f.op("SHAPE", [x], [s], "ShapeOptions")
    f.op("STRIDED_SLICE", [s, ints(f, 1), ints(f, 3), ints(f, 1)], [hw], "StridedSliceOptions")
    f.op("MUL", [hw, ints(f, 2, 2)], [twice], "MulOptions")
    f.op("RESIZE_NEAREST_NEIGHBOR", [x, twice], [y], "ResizeNearestNeighborOptions")
    graph = import_tflite(f.content([x], [y]))
    assert [type(op) for op in graph.ops] == [o.Resize]
    assert graph.types[graph.outputs[0]].shape == (1, 3, 8, 10)


def test_attention_over_tokens() -> None:
    f = File()
    x, q, t, a, p, y = (f.tensor(s) for s in ((1, 5, 8), (1, 5, 8), (1, 8, 5), (1, 5, 5), (1, 5, 5), (1, 5, 8)))
    w, b = f.constant(normal(8, 8)), f.constant(normal(8))
    f.op("FULLY_CONNECTED", [x, w, b], [q], "FullyConnectedOptions", keepNumDims=True)
    f.op("TRANSPOSE", [q, ints(f, 0, 2, 1)], [t])
    f.op("BATCH_MATMUL", [q, t], [a], "BatchMatMulOptions")
    f.op("SOFTMAX", [a], [p], "SoftmaxOptions", beta=1.0)
    f.op("BATCH_MATMUL", [p, q], [y], "BatchMatMulOptions", adjX=True)
    compare(f.content([x], [y]), [normal(1, 5, 8)], transposes=2)


@pytest.mark.parametrize("element", ["float16", "int8", "int4"])
def test_weights_alone_are_quantized(element: str) -> None:
    """The reals that the codes stand for, whatever LiteRT's hybrid kernels make of them."""
    f = File()
    x, y = f.tensor((1, 8)), f.tensor((1, 5))
    codes = RNG.integers(-7, 8, (5, 8)).astype(np.int8)
    scales = np.float32([0.5, 0.25, 1, 2, 0.125])
    if element == "float16":
        halves = normal(5, 8).astype(np.float16)
        w, wanted = f.constant(halves), halves.astype(np.float32)
    else:
        w = f.constant(codes, element, scale=scales, axis=0)
        wanted = codes * scales[:, None]
    f.op("FULLY_CONNECTED", [x, w, -1], [y], "FullyConnectedOptions")
    graph = import_tflite(f.content([x], [y]))
    a = normal(1, 8)
    np.testing.assert_allclose(run(graph, [a])[0], a @ wanted.T, rtol=1e-5, atol=1e-6)


def test_one_error_names_every_unsupported_operator() -> None:
    f = File()
    x, y, z, u = (f.tensor((1, 4)) for _ in range(4))
    f.op("Mine", [x], [y])
    f.op("CUMSUM", [y, ints(f, 1)], [z])
    f.op("WHILE", [z], [u])
    with pytest.raises(UnsupportedError, match=r"unsupported operators: .*CUSTOM:Mine.*CUMSUM.*WHILE"):
        import_tflite(f.content([x], [u]))


def test_many_operators_are_read() -> None:
    assert len(REALS) > 80


@pytest.mark.real
@pytest.mark.parametrize("name", ["ad/ad01_fp32", "ic/pretrainedResnet", "vww/vww_96_float"])
def test_real_networks(real: Path, name: str) -> None:
    path = real / "mlperf_tiny" / f"{name}.tflite"
    shape = (1, 640) if "ad" in name else (1, 32, 32, 3) if "ic" in name else (1, 96, 96, 3)
    compare(path, [normal(*shape)])
