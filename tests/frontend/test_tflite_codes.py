"""Full-integer .tflite networks: the file's integers, and every code equal to that of LiteRT's reference kernels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeq.errors import UnsupportedError
from edgeq.formats import Int
from edgeq.frontend.tflite import import_tflite, import_with_tensors
from edgeq.frontend.tflite_file import read_tflite
from edgeq.frontend.tflite_types import is_channels_last
from edgeq.ir import ops as o
from edgeq.ir.graph import Graph
from edgeq.ir.verify import verify
from edgeq.reference.interpret import Interpreter
from tests.tflite_files import File, Numbers, litert, litert_tensors
from tests.tflite_nets import CONV, float_net, functions_net, integer_net, ints

RNG = np.random.default_rng(5)


def codes(*shape: int) -> Numbers:
    return RNG.integers(-128, 128, shape).astype(np.int8)


def inputs_like(shape: tuple[int, ...], count: int) -> Iterator[Numbers]:
    """Noise, smooth images, and the extremes of every code."""
    yield np.full(shape, -128, np.int8)
    yield np.full(shape, 127, np.int8)
    yield np.where(np.indices(shape).sum(0) % 2, 127, -128).astype(np.int8)
    for k in range(count):
        spread = (10, 40, 128)[k % 3]
        yield np.clip(RNG.normal(RNG.integers(-60, 60), spread, shape), -128, 127).astype(np.int8)


def ours(interpreter: Interpreter, x: Numbers) -> Numbers:
    graph = interpreter.graph
    x = np.ascontiguousarray(x.transpose(0, 3, 1, 2)) if is_channels_last(x.shape) else x
    y = interpreter({graph.inputs[0]: x})[graph.outputs[0]].numpy()
    return y.transpose(0, 2, 3, 1) if is_channels_last((y.shape[0], *y.shape[2:], y.shape[1])) and y.ndim == 4 else y


def equal(content: bytes | Path, shape: tuple[int, ...], count: int = 24, distinct: int = 12) -> Graph:
    """Every output code of `content` equals LiteRT's; the outputs differ enough to prove something."""
    graph = import_tflite(content)
    verify(graph)
    interpreter = Interpreter(graph)
    seen: list[Numbers] = []
    for x in inputs_like(shape, count):
        (wanted,) = litert(content, [x])
        np.testing.assert_array_equal(ours(interpreter, x), wanted.astype(np.float32))
        seen.append(wanted.reshape(-1))
    every = np.concatenate(seen)
    assert np.unique(every).size >= distinct
    assert np.isin(every, (-128, 127)).mean() < 0.8
    return graph


@pytest.mark.parametrize("seed", range(4))
def test_a_network_as_the_converter_writes_it(seed: int) -> None:
    equal(integer_net(seed=seed), (1, 8, 8, 3))


def test_four_bit_weights() -> None:
    graph = equal(integer_net(weight="int4"), (1, 8, 8, 3))
    assert any(graph.types[value].format == Int(4) for value in graph.constants)


def test_sixteen_bit_activations() -> None:
    """Every layer but the softmax, which is computed in single precision, to the last bit."""
    content = integer_net("int16")
    found, rng = import_with_tensors(content), np.random.default_rng(0)
    verify(found.graph)
    interpreter = Interpreter(found.graph)
    for k in range(6):
        low = rng.integers(-32768, 32768, (1, 8, 8, 3)).astype(np.int16)
        x = np.full_like(low, -32768 if k else 32767) if k < 2 else low
        seen: dict[str, Numbers] = {}
        interpreter(
            {found.graph.inputs[0]: np.ascontiguousarray(x.transpose(0, 3, 1, 2))},
            lambda value, tensor, seen=seen: seen.__setitem__(value, tensor.numpy().copy()),  # type: ignore[misc]
        )
        wanted = litert_tensors(content, x)
        compared = [value for value in found.tensors if value in seen]
        assert len(compared) >= 7
        for value in compared:
            exact = wanted[found.tensors[value]].transpose(found.axes[value])
            allowed = 1 if value in found.graph.outputs else 0
            assert np.abs(seen[value] - exact).max() <= allowed, value


def test_unsigned_codes_with_zero_points_of_weights() -> None:
    """The scheme before 2019: uint8 throughout, one scale per tensor, weights with a zero point."""
    f, bytes_ = File(), lambda *shape: RNG.integers(0, 256, shape).astype(np.uint8)
    x, y, z, u = (
        f.tensor(shape, "uint8", scale=scale, zero_point=zero)
        for shape, scale, zero in (((1, 6, 6, 3), 0.02, 120), ((1, 6, 6, 4), 0.05, 131), ((1, 144), 0.05, 131),
                                   ((1, 5), 0.2, 100))
    )  # fmt: skip
    w = f.constant(bytes_(4, 3, 3, 3), scale=0.01, zero_point=127)
    b = f.constant(RNG.integers(-500, 500, 4).astype(np.int32), scale=0.0002)
    f.op("CONV_2D", [x, w, b], [y], "Conv2DOptions", **CONV, fusedActivationFunction=1)
    f.op("RESHAPE", [y, ints(f, 1, 144)], [z], "ReshapeOptions")
    f.op("FULLY_CONNECTED", [z, f.constant(bytes_(5, 144), scale=0.01, zero_point=127), -1], [u],
         "FullyConnectedOptions")  # fmt: skip
    content = f.content([x], [u])
    interpreter, seen = Interpreter(import_tflite(content)), []
    for _ in range(20):
        image = bytes_(1, 6, 6, 3)
        (wanted,) = litert(content, [image])
        np.testing.assert_array_equal(ours(interpreter, image), wanted.astype(np.float32))
        seen.append(wanted)
    assert np.unique(np.concatenate(seen)).size > 20


def test_the_integers_are_those_of_the_file() -> None:
    content = integer_net()
    file, graph = read_tflite(content), import_tflite(content)
    conv = next(op for op in graph.ops if isinstance(op, o.Conv))
    x, weight, bias = (file.tensors[index] for index in file.operators[0].inputs)
    assert graph.types[conv.x].scale == x.scale == (float(np.float32(0.02)),)
    assert graph.types[conv.x].zero_point == x.zero_point[0] != 0
    assert graph.types[conv.weight].scale == weight.scale
    assert graph.types[conv.weight].axis == 0
    np.testing.assert_array_equal(graph.constants[conv.weight], weight.array().transpose(0, 3, 1, 2))
    assert conv.bias is not None
    np.testing.assert_array_equal(graph.constants[conv.bias], bias.array())


def one_op(
    kind: str, shapes: list[tuple[int, ...]], out: tuple[int, ...], options: str | None = None,
    scales: tuple[float, float, float] = (0.05, 0.03, 0.04), zeros: tuple[int, int, int] = (3, -7, 5),
    more: Any = (), **fields: Any,
) -> bytes:  # fmt: skip
    """A network of one operator on codes; operands but the first are constants."""
    f = File()
    x = f.tensor(shapes[0], "int8", scale=scales[0], zero_point=zeros[0])
    others = [f.constant(codes(*shape), scale=scales[1], zero_point=zeros[1]) for shape in shapes[1:]]
    y = f.tensor(out, "int8", scale=scales[2], zero_point=zeros[2])
    f.op(kind, [x, *others, *(ints(f, *numbers) for numbers in more)], [y], options, **fields)
    return f.content([x], [y])


@pytest.mark.parametrize(("kind", "options"), [("ADD", "AddOptions"), ("SUB", "SubOptions"), ("MUL", "MulOptions")])
@pytest.mark.parametrize("act", [0, 1, 3])
@pytest.mark.parametrize("other", [(1, 4, 5, 6), (1, 1, 1, 6)])
def test_arithmetic(kind: str, options: str, act: int, other: tuple[int, ...]) -> None:
    version = 2
    content = one_op(kind, [(1, 4, 5, 6), other], (1, 4, 5, 6), options, fusedActivationFunction=act, version=version)
    equal(content, (1, 4, 5, 6))


@pytest.mark.parametrize("kind", ["LOGISTIC", "TANH"])
def test_functions_with_a_prescribed_scale(kind: str) -> None:
    scale, zero = (1 / 256, -128) if kind == "LOGISTIC" else (1 / 128, 0)
    content = one_op(kind, [(1, 4, 5, 6)], (1, 4, 5, 6), scales=(0.05, 1, scale), zeros=(3, 0, zero), version=2)
    equal(content, (1, 4, 5, 6))


@pytest.mark.parametrize(("kind", "options", "fields"), [
    ("HARD_SWISH", None, {}), ("RELU", None, {"version": 2}), ("RELU6", None, {"version": 2}),
    ("LEAKY_RELU", "LeakyReluOptions", {"version": 2, "alpha": 0.1}),
])  # fmt: skip
def test_functions(kind: str, options: str | None, fields: dict[str, Any]) -> None:
    equal(one_op(kind, [(1, 4, 5, 6)], (1, 4, 5, 6), options, **fields), (1, 4, 5, 6))


@pytest.mark.parametrize("kind", ["EXP", "LOG", "ABS", "PRELU", "SQUARED_DIFFERENCE"])
@pytest.mark.parametrize("scales", [(0.02, 0.03, 0.04), (0.0313, 0.0127, 0.071), (2**-6, 2**-5, 2**-2)])
def test_functions_that_only_other_writers_use(kind: str, scales: tuple[float, float, float]) -> None:
    """With scales that make ties, and with others; slopes by channel, and an operand of the same shape."""
    other = {"PRELU": [(1, 1, 6)], "SQUARED_DIFFERENCE": [(1, 4, 5, 6)]}.get(kind, [])
    zeros = (-128, 0, -100) if kind == "LOG" else (3, -7, 5)
    equal(one_op(kind, [(1, 4, 5, 6), *other], (1, 4, 5, 6), scales=scales, zeros=zeros), (1, 4, 5, 6), distinct=8)


@pytest.mark.parametrize("kind", ["SQRT", "RSQRT"])
def test_roots(kind: str) -> None:
    """Of codes that are not negative: the kernels refuse others. RSQRT's integer steps may be one code off."""
    scale = 0.05 if kind == "SQRT" else 0.01
    content = one_op(kind, [(1, 4, 8, 8)], (1, 4, 8, 8), scales=(0.31, 1, scale), zeros=(-128, 0, -128))
    x = np.arange(-128, 128).astype(np.int8).reshape(1, 4, 8, 8)
    (wanted,) = litert(content, [x])
    found = ours(Interpreter(import_tflite(content)), x)
    assert np.unique(wanted).size > 20
    assert np.abs(found - wanted).max() <= (kind == "RSQRT")
    assert (found == wanted).mean() > 0.98


def test_negated_codes() -> None:
    same: dict[str, Any] = {"scales": (0.037,) * 3, "zeros": (0,) * 3}
    equal(one_op("NEG", [(1, 4, 5, 6)], (1, 4, 5, 6), **same), (1, 4, 5, 6))
    with pytest.raises(UnsupportedError, match="zero point 0"):
        import_tflite(one_op("NEG", [(1, 4, 5, 6)], (1, 4, 5, 6), scales=(0.037,) * 3, zeros=(1,) * 3))


@pytest.mark.parametrize("axes", [(1, 2), (3,)])
@pytest.mark.parametrize(("scale", "to"), [(2**-4, 2**-1), (0.05, 0.61)])
def test_sums(axes: tuple[int, ...], scale: float, to: float) -> None:
    """As the default kernel: the reference kernel takes int8 for uint8. Within the range of the result, where it wraps."""
    out = tuple(1 if k in axes else size for k, size in enumerate((1, 4, 5, 6)))
    content = one_op("SUM", [(1, 4, 5, 6)], out, "ReducerOptions", keepDims=True, more=[axes], scales=(scale, 1, to))
    interpreter, seen = Interpreter(import_tflite(content)), []
    verify(interpreter.graph)
    for x in inputs_like((1, 4, 5, 6), 24):
        (wanted,) = litert(content, [x], default=True)
        exact = (x.astype(np.float64) - 3).sum(axes, keepdims=True) * scale / to + 5
        inside = (exact > -128) & (exact < 127)
        np.testing.assert_array_equal(ours(interpreter, x)[inside], wanted[inside])
        seen.append(wanted[inside])
    assert np.unique(np.concatenate(seen)).size > 40


def test_quotients() -> None:
    """The kernel divides by a reciprocal of 31 bits; a ratio far below one step of the result it cannot shift."""
    f, rng = File(), np.random.default_rng(3)
    x, d, y = (f.tensor((1, 600), "int8", scale=s, zero_point=z) for s, z in ((0.05, 3), (0.03, -128), (0.02, 5)))
    f.op("DIV", [x, d], [y], "DivOptions", version=2)
    content = f.content([x, d], [y])
    graph = import_tflite(content)
    a, b = rng.integers(-128, 128, (1, 600)).astype(np.int8), rng.integers(-60, 128, (1, 600)).astype(np.int8)
    a[np.abs(a.astype(int) - 3) < 4] = 90
    (wanted,) = litert(content, [a, b])
    found = Interpreter(graph)(dict(zip(graph.inputs, (a, b), strict=True)))[graph.outputs[0]].numpy()
    assert np.unique(wanted).size > 100
    assert np.abs(found - wanted).max() <= 1
    assert (found == wanted).mean() > 0.99


@pytest.mark.parametrize(("kind", "options", "prescribed"), [
    ("LOG_SOFTMAX", "LogSoftmaxOptions", (16 / 256, 127)), ("L2_NORMALIZATION", "L2NormOptions", (1 / 128, 0)),
])  # fmt: skip
def test_rows_with_a_prescribed_scale(kind: str, options: str, prescribed: tuple[float, int]) -> None:
    """Floating point inside: all but a few in ten thousand are equal, and those by one code."""
    scale, zero = prescribed
    content = one_op(kind, [(1, 6, 5, 16)], (1, 6, 5, 16), options, scales=(0.05, 1, scale), zeros=(3, 0, zero))
    interpreter, found, expected = Interpreter(import_tflite(content)), [], []
    for x in inputs_like((1, 6, 5, 16), 24):
        x[0, 0, 0] = 3  # a row of zeros
        expected.append(litert(content, [x])[0].astype(int))
        found.append(ours(interpreter, x).astype(int))
    difference = np.abs(np.concatenate(found) - np.concatenate(expected))
    assert difference.max() <= 1
    assert (difference == 0).mean() > 0.999
    assert np.unique(np.concatenate(expected)).size > 40


def test_a_network_of_functions() -> None:
    """SUM apart, whose reference kernel is no guide, and what reads it, every layer is that of the kernels."""
    content = functions_net()
    found = import_with_tensors(content)
    verify(found.graph)
    interpreter, distinct = Interpreter(found.graph), 0
    for x in inputs_like((1, 4, 5, 6), 9):
        seen: dict[str, Numbers] = {}
        interpreter(
            {found.graph.inputs[0]: np.ascontiguousarray(x.transpose(0, 3, 1, 2))},
            lambda value, tensor, seen=seen: seen.__setitem__(value, tensor.numpy().copy()),  # type: ignore[misc]
        )
        wanted = litert_tensors(content, x)
        compared = [value for value, name in found.tensors.items() if value in seen and name in FUNCTIONS_BEFORE_SUM]
        assert len(compared) == len(FUNCTIONS_BEFORE_SUM)
        for value in compared:
            np.testing.assert_array_equal(seen[value], wanted[found.tensors[value]].transpose(found.axes[value]), value)
            distinct = max(distinct, np.unique(seen[value]).size)
    assert distinct > 60


FUNCTIONS_BEFORE_SUM = ("t1", "t2", "t3", "t4", "t5")


def test_selection_keeps_codes() -> None:
    f = File()
    same: dict[str, Any] = {"scale": 0.05, "zero_point": 7}
    x, y, other = (f.tensor((1, 4, 5, 6), "int8", **same) for _ in range(3))
    f.op("RESIZE_NEAREST_NEIGHBOR", [x, ints(f, 4, 5)], [other], "ResizeNearestNeighborOptions", version=2)
    where = f.constant(RNG.integers(0, 2, (1, 4, 5, 6)).astype(bool))
    f.op("SELECT_V2", [where, other, f.constant(codes(1, 4, 5, 6), **same)], [y], "SelectV2Options")
    equal(f.content([x], [y]), (1, 4, 5, 6))


@pytest.mark.parametrize("kind", ["ARG_MAX", "GREATER"])
def test_codes_that_are_compared(kind: str) -> None:
    """The result is no code: a position, or a truth value."""
    f = File()
    x = f.tensor((1, 4, 5, 6), "int8", scale=0.05, zero_point=7)
    if kind == "ARG_MAX":
        y = f.tensor((1, 4, 5), "int32")
        f.op(kind, [x, ints(f, 3)], [y], "ArgMaxOptions", outputType=2, version=2)
    else:
        y = f.tensor((1, 4, 5, 6), "bool")
        f.op(kind, [x, f.constant(codes(1, 4, 5, 6), scale=0.05, zero_point=7)], [y], "GreaterOptions", version=2)
    content = f.content([x], [y])
    graph = import_tflite(content)
    verify(graph)
    for image in inputs_like((1, 4, 5, 6), 6):
        (wanted,) = litert(content, [image])
        np.testing.assert_array_equal(ours(Interpreter(graph), image).reshape(wanted.shape), wanted)


@pytest.mark.parametrize("axes", [(1, 2), (3,), (1, 2, 3)])
def test_means(axes: tuple[int, ...]) -> None:
    out = tuple(1 if k in axes else size for k, size in enumerate((1, 4, 5, 6)))
    equal(one_op("MEAN", [(1, 4, 5, 6)], out, "ReducerOptions", keepDims=True, version=2, more=[axes]), (1, 4, 5, 6),
          distinct=5)  # fmt: skip


@pytest.mark.parametrize("kind", ["MAXIMUM", "MINIMUM"])
@pytest.mark.parametrize("other", [(1, 4, 5, 6), (1, 1, 1, 6), (6,)])
def test_extremes(kind: str, other: tuple[int, ...]) -> None:
    same = {"scales": (0.037,) * 3, "zeros": (-7,) * 3}
    content = one_op(kind, [(1, 4, 5, 6), other], (1, 4, 5, 6), "MaximumMinimumOptions", version=2, **same)
    equal(content, (1, 4, 5, 6))
    different = one_op(kind, [(1, 4, 5, 6), other], (1, 4, 5, 6), "MaximumMinimumOptions", version=2)
    with pytest.raises(UnsupportedError, match="operands and result have other scales"):
        import_tflite(different)


@pytest.mark.parametrize("kind", ["REDUCE_MAX", "REDUCE_MIN"])
@pytest.mark.parametrize("axes", [(1, 2), (3,)])
def test_reduced_extremes(kind: str, axes: tuple[int, ...]) -> None:
    out = tuple(1 if k in axes else size for k, size in enumerate((1, 4, 5, 6)))
    same = {"scales": (0.037,) * 3, "zeros": (-7,) * 3}
    equal(one_op(kind, [(1, 4, 5, 6)], out, "ReducerOptions", keepDims=True, version=2, more=[axes], **same),
          (1, 4, 5, 6))  # fmt: skip


@pytest.mark.parametrize("kind", ["AVERAGE_POOL_2D", "MAX_POOL_2D"])
@pytest.mark.parametrize("act", [0, 1])
def test_pooling(kind: str, act: int) -> None:
    same = {"scales": (0.05, 1, 0.05), "zeros": (-9, 0, -9)}
    content = one_op(kind, [(1, 7, 6, 3)], (1, 3, 2, 3), "Pool2DOptions", padding=1, strideW=2, strideH=2,
                     filterWidth=3, filterHeight=2, fusedActivationFunction=act, version=2, **same)  # fmt: skip
    equal(content, (1, 7, 6, 3))


@pytest.mark.parametrize(("size", "kernel", "stride"), [((7, 6), 3, 1), ((8, 5), 3, 2), ((6, 9), 5, 1), ((3, 4), 3, 2)])
def test_average_pooling_with_padding(size: tuple[int, int], kernel: int, stride: int) -> None:
    """Windows that the padding cuts are means of fewer codes."""
    out = tuple(-(-side // stride) for side in size)
    content = one_op("AVERAGE_POOL_2D", [(1, *size, 3)], (1, *out, 3), "Pool2DOptions", padding=0, strideW=stride,
                     strideH=stride, filterWidth=kernel, filterHeight=kernel, version=2, scales=(0.05, 1, 0.05),
                     zeros=(-9, 0, -9))  # fmt: skip
    equal(content, (1, *size, 3))


@pytest.mark.parametrize("kind", ["RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"])
@pytest.mark.parametrize("half", [False, True])
def test_resizing(kind: str, half: bool) -> None:
    same = {"scales": (0.05, 1, 0.05), "zeros": (-9, 0, -9)}
    options = "ResizeBilinearOptions" if kind == "RESIZE_BILINEAR" else "ResizeNearestNeighborOptions"
    content = one_op(kind, [(1, 5, 4, 3)], (1, 9, 8, 3), options, halfPixelCenters=half, more=[(9, 8)], version=2,
                     **same)  # fmt: skip
    equal(content, (1, 5, 4, 3))


def test_movements_keep_codes() -> None:
    f = File()
    same: dict[str, Any] = {"scale": 0.05, "zero_point": 7}
    x, p, a, b, c, t, y = (
        f.tensor(shape, "int8", **same)
        for shape in ((1, 4, 6, 4), (1, 6, 6, 4), (1, 6, 3, 4), (1, 6, 3, 4), (1, 6, 6, 4), (1, 6, 6, 4), (1, 144))
    )
    f.op("PAD", [x, f.constant(np.array([[0, 0], [1, 1], [0, 0], [0, 0]], np.int32))], [p], version=2)
    f.op("SPLIT", [ints(f, 2), p], [a, b], "SplitOptions", numSplits=2, version=2)
    f.op("CONCATENATION", [b, a], [c], "ConcatenationOptions", axis=2, version=2)
    f.op("TRANSPOSE", [c, ints(f, 0, 2, 1, 3)], [t], version=2)
    f.op("RESHAPE", [t, ints(f, 1, 144)], [y], "ReshapeOptions")
    equal(f.content([x], [y]), (1, 4, 6, 4))


def test_float_ports() -> None:
    """QUANTIZE rounds ties away from zero, DEQUANTIZE gives reals."""
    f = File()
    x, q, y, z = f.tensor((1, 64)), *(f.tensor((1, 64), "int8", scale=s, zero_point=3) for s in (0.5, 0.25)), f.tensor(
        (1, 64))  # fmt: skip
    f.op("QUANTIZE", [x], [q])
    f.op("QUANTIZE", [q], [y], version=2)
    f.op("DEQUANTIZE", [y], [z], version=2)
    content = f.content([x], [z])
    graph = import_tflite(content)
    reals = (np.arange(64, dtype=np.float32) - 32).reshape(1, 64) / 4
    (wanted,) = litert(content, [reals])
    np.testing.assert_array_equal(Interpreter(graph)({graph.inputs[0]: reals})[graph.outputs[0]].numpy(), wanted)
    assert np.unique(wanted).size > 20


def test_a_flattened_image_needs_no_permutation() -> None:
    f = File()
    x, a, r, y = (
        f.tensor(shape, "int8", scale=0.05, zero_point=z)
        for shape, z in (((1, 4, 5, 3), 2), ((1, 4, 5, 6), -5), ((1, 120), -5), ((1, 7), 1))
    )
    scale = np.float32(0.05) * np.float32(0.01)
    f.op("CONV_2D", [x, f.constant(codes(6, 1, 1, 3), scale=0.01), f.constant(np.zeros(6, np.int32), scale=scale)],
         [a], "Conv2DOptions", **CONV, version=3)  # fmt: skip
    f.op("RESHAPE", [a, ints(f, 1, 120)], [r], "ReshapeOptions")
    f.op("FULLY_CONNECTED", [r, f.constant(codes(7, 120), scale=0.002), -1], [y], "FullyConnectedOptions", version=4)
    graph = equal(f.content([x], [y]), (1, 4, 5, 3))
    assert not any(isinstance(op, o.Transpose) for op in graph.ops)


def test_what_has_no_integer_meaning_is_named() -> None:
    f = File()
    x, y, z = (f.tensor((1, 4), "int8", scale=0.1) for _ in range(3))
    f.op("CUMSUM", [x, ints(f, 1)], [y])
    f.op("SIN", [y], [z])
    with pytest.raises(UnsupportedError, match=r"CUMSUM.*SIN.*on codes"):
        import_tflite(f.content([x], [z]))


@pytest.mark.parametrize("kind", ["ADD", "MUL", "MAXIMUM", "BATCH_MATMUL"])
def test_an_operand_with_scales_by_channel_is_refused(kind: str) -> None:
    f = File()
    x, y, z = (f.tensor((1, 5, 6, 4), "int8", scale=0.1) for _ in range(3))
    w = f.constant(codes(4, 1, 1, 4), scale=[0.01] * 4)
    f.op("CONV_2D", [x, w, f.constant(np.zeros(4, np.int32), scale=[0.001] * 4)], [y], "Conv2DOptions", **CONV)
    f.op(kind, [y, f.constant(codes(4, 4) if kind == "BATCH_MATMUL" else codes(4), scale=[0.1, 0.2, 0.3, 0.4])], [z])
    with pytest.raises(UnsupportedError, match="no scale, or several"):
        import_tflite(f.content([x], [z]))


def test_a_movement_to_another_scale_is_refused() -> None:
    f = File()
    x, y = f.tensor((1, 4), "int8", scale=0.1), f.tensor((2, 2), "int8", scale=0.2)
    f.op("RESHAPE", [x, ints(f, 2, 2)], [y], "ReshapeOptions")
    with pytest.raises(UnsupportedError, match="other numbers than the file says"):
        import_tflite(f.content([x], [y]))


def test_dynamic_range_weights_stay_what_they_stand_for() -> None:
    graph = import_tflite(float_net("int8"))
    assert not any(type_.scale for type_ in graph.types.values())


@pytest.mark.real
@pytest.mark.parametrize(("name", "shape", "count"), [
    ("ic/pretrainedResnet_quant", (1, 32, 32, 3), 12), ("vww/vww_96_int8", (1, 96, 96, 3), 4),
    ("kws/kws_ref_model", (1, 49, 10, 1), 20), ("ad/ad01_int8", (1, 640), 40),
])  # fmt: skip
def test_mlperf_tiny_layer_by_layer(real: Path, name: str, shape: tuple[int, ...], count: int) -> None:
    """Every code of every layer, not only the outputs, which a softmax saturates."""
    path = real / "mlperf_tiny" / f"{name}.tflite"
    graph, file = import_tflite(path), read_tflite(path)
    verify(graph)
    interpreter = Interpreter(graph)
    layers = {tensor.name for op in file.operators for tensor in [file.tensors[op.outputs[0]]]} & set(graph.types)
    assert len(layers) >= len(file.operators) - 1
    distinct = dict.fromkeys(layers, 0)
    for x in inputs_like(shape, count):
        found: dict[str, Numbers] = {}
        interpreter(
            {graph.inputs[0]: np.ascontiguousarray(x.transpose(0, 3, 1, 2)) if x.ndim == 4 else x},
            lambda value, tensor, found=found: found.__setitem__(value, tensor.numpy().copy()),  # type: ignore[misc]
        )
        wanted = litert_tensors(path, x)
        for layer in layers:
            ours = found[layer].transpose(0, 2, 3, 1) if found[layer].ndim == 4 else found[layer]
            np.testing.assert_array_equal(ours.reshape(-1), wanted[layer].reshape(-1).astype(np.float32), layer)
            distinct[layer] = max(distinct[layer], np.unique(ours).size)
    assert sum(count >= 20 for count in distinct.values()) >= 0.8 * len(layers)
