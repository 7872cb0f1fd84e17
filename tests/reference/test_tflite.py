"""TFLite's kernels as our operators: each beside LiteRT's reference kernel, on ties, extremes and random codes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from edgeq.formats import INT8, INT16, INT32, Int, code_range
from edgeq.ir import ops as o
from edgeq.ir.bounds import is_codes
from edgeq.ir.graph import Array, Editor, Graph, Type
from edgeq.ir.verify import verify
from edgeq.reference import tflite, tflite_compound, tflite_tables
from edgeq.reference.interpret import run
from edgeq.reference.meaning import apply_function
from edgeq.targets import find_target
from tests.tflite_agreement import compare_locally

TIES, ODD = "ties", "odd"
SCALES = {
    TIES: {"x": (0.5, 3), "y": (0.25, -5), "out": (4.0, 7), "weight": 0.125},
    ODD: {"x": (0.0371, -128), "y": (0.0113, 20), "out": (0.093, -20), "weight": 0.0217},
}


class Bench:
    """One kernel under test: an editor with inputs x and y of codes, in 8 or 16 bits."""

    def __init__(self, scales: str, bits: int, *shapes: tuple[int, ...]) -> None:
        self.format = INT8 if bits == 8 else INT16
        self.scales = scales
        self.rng = np.random.default_rng(bits)
        types = {name: self.type(name, shape) for name, shape in zip("xy", shapes, strict=False)}
        self.editor = Editor("kernel", types, types)

    def type(self, name: str, shape: tuple[int, ...] = ()) -> Type:
        scale, zero_point = SCALES[self.scales][name]  # type: ignore[misc]
        if self.format == INT16:
            scale, zero_point = scale / 256, 0
        return Type(shape, self.format, (float(np.float32(scale)),), zero_point)

    def weight(self, *shape: int, axis: int | None = 0, bits: int = 8) -> o.Value:
        codes = self.rng.integers(-(1 << (bits - 1)) + 1, 1 << (bits - 1), shape)
        factors = (
            np.exp2(self.rng.integers(-3, 1, shape[axis]))
            if self.scales == TIES
            else self.rng.uniform(0.3, 1, shape[axis])
        )
        scale = tuple(float(np.float32(SCALES[self.scales]["weight"] * f)) for f in factors)  # type: ignore[operator]
        return self.editor.constant(
            "weight", codes.astype(np.int8), Type(shape, Int(bits, narrow=True), scale, axis=axis)
        )

    def bias(self, weight: o.Value, channels: int) -> o.Value:
        scale = tuple(self.editor.types["x"].scale[0] * s for s in self.editor.types[weight].scale)
        codes = self.rng.integers(-900, 900, channels).astype(np.int32)
        return self.editor.constant("bias", codes, Type((channels,), INT32, scale, axis=0))

    def kernel(self, op: tflite.Accumulating, *, activation: tflite.Activation = "NONE", keep: bool = False) -> Graph:
        """The graph of one kernel; with `keep` its result has the type of x."""
        to = self.editor.types["x"] if keep else self.type("out")
        acc = tflite.accumulate(self.editor, op, "acc")
        out = tflite.settle(self.editor, op, acc, to, "out", *tflite.activation_range(activation, to))
        return self.editor.graph([out])

    def inputs(self, graph: Graph) -> list[dict[o.Value, Array]]:
        """Random codes, small ones, and all-extreme ones."""
        low, high = code_range(self.format)
        draws: list[Callable[[tuple[int, ...]], Array]] = [
            lambda shape: self.rng.integers(low, high + 1, shape),
            lambda shape: self.rng.integers(-9, 10, shape),
            lambda shape: self.rng.choice([low, high], shape),
            lambda shape: np.full(shape, low),
        ]
        dtype = np.int8 if self.format == INT8 else np.int16
        return [{name: draw(graph.types[name].shape).astype(dtype) for name in graph.inputs} for draw in draws]

    def check(self, graph: Graph, least_distinct: int = 30) -> None:
        """LiteRT computes every code of the graph, and the inputs reach many of them."""
        verify(graph)
        codes: set[int] = set()
        for fed in self.inputs(graph):
            for value, reference, found in compare_locally(graph, fed):
                if is_codes(graph.types[value]):
                    assert np.array_equal(reference, found), value
                    codes.update(reference.reshape(-1).astype(int).tolist())
        assert len(codes) >= least_distinct


both_widths = pytest.mark.parametrize("bits", [8, 16])
both_scales = pytest.mark.parametrize("scales", [TIES, ODD])
PADDINGS = [(0, 0, 0, 0), (1, 1, 1, 1), (0, 0, 1, 1), (2, 1, 0, 1)]


@both_scales
@both_widths
@pytest.mark.parametrize("stride", [(1, 1), (2, 2)])
@pytest.mark.parametrize("padding", PADDINGS)
def test_convolution(scales: str, bits: int, stride: o.Pair, padding: o.Quad) -> None:
    b = Bench(scales, bits, (1, 5, 9, 10))
    weight = b.weight(8, 5, 3, 3)
    b.check(b.kernel(o.Conv("x", weight, b.bias(weight, 8), "y", stride, padding)))


@both_scales
@both_widths
@pytest.mark.parametrize("multiplier", [1, 2])
def test_depthwise_convolution(scales: str, bits: int, multiplier: int) -> None:
    b = Bench(scales, bits, (1, 6, 8, 8))
    weight = b.weight(6 * multiplier, 1, 3, 3)
    op = o.Conv("x", weight, b.bias(weight, 6 * multiplier), "y", (1, 1), (1, 1, 1, 1), (1, 1), 6)
    b.check(b.kernel(op))


@both_scales
def test_convolution_in_groups_dilated_and_without_bias(scales: str) -> None:
    b = Bench(scales, 8, (1, 6, 8, 8))
    b.check(b.kernel(o.Conv("x", b.weight(8, 3, 3, 3), None, "y", (1, 1), (2, 2, 2, 2), (2, 2), 2)))


@both_scales
def test_four_bit_weights(scales: str) -> None:
    b = Bench(scales, 8, (1, 5, 6, 7))
    weight = b.weight(7, 5, 3, 3, bits=4)
    b.check(b.kernel(o.Conv("x", weight, b.bias(weight, 7), "y")), 20)
    b = Bench(scales, 8, (11, 5))
    weight = b.weight(7, 5, bits=4)
    b.check(b.kernel(o.Linear("x", weight, b.bias(weight, 7), "y")), 20)


@both_scales
@both_widths
@pytest.mark.parametrize(("kernel", "padding", "extra"), [(2, 0, 0), (4, 1, 0), (3, 1, 1), (3, 0, 0)])
def test_transposed_convolution(scales: str, bits: int, kernel: int, padding: int, extra: int) -> None:
    b = Bench(scales, bits, (1, 5, 6, 5))
    weight = b.weight(5, 7, kernel, kernel, axis=1)
    op = o.ConvTranspose("x", weight, b.bias(weight, 7), "y", (2, 2), (padding,) * 4, (extra, extra))  # type: ignore[arg-type]
    b.check(b.kernel(op))


@both_scales
@both_widths
@pytest.mark.parametrize("shape", [(13, 24), (1, 7, 24)])
def test_fully_connected(scales: str, bits: int, shape: tuple[int, ...]) -> None:
    b = Bench(scales, bits, shape)
    weight = b.weight(9, 24)
    b.check(b.kernel(o.Linear("x", weight, b.bias(weight, 9), "y")))


@both_scales
@both_widths
def test_matrix_product(scales: str, bits: int) -> None:
    b = Bench(scales, bits, (1, 2, 7, 12), (1, 2, 12, 9))
    b.check(b.kernel(o.MatMul("x", "y", "z")))


@both_scales
@both_widths
@pytest.mark.parametrize("kind", [o.Add, o.Sub, o.Mul])
@pytest.mark.parametrize("shape", [(1, 4, 20, 20), (1, 4, 1, 1)])
def test_arithmetic(scales: str, bits: int, kind: type[o.Add | o.Sub | o.Mul], shape: tuple[int, ...]) -> None:
    b = Bench(scales, bits, (1, 4, 20, 20), shape)
    b.check(b.kernel(kind("x", "y", "z")))


@pytest.mark.parametrize("activation", ["RELU", "RELU6", "RELU_N1_TO_1"])
@pytest.mark.parametrize("kind", [o.Add, o.Mul])
def test_fused_activations(activation: tflite.Activation, kind: type[o.Add | o.Mul]) -> None:
    b = Bench(ODD, 8, (1, 4, 20, 20), (1, 4, 20, 20))
    b.check(b.kernel(kind("x", "y", "z"), activation=activation), 15)


def test_any_other_clamp_is_written_as_minimum_and_maximum() -> None:
    b = Bench(ODD, 8, (1, 4, 20, 20), (1, 4, 20, 20))
    op = o.Add("x", "y", "z")
    acc = tflite.accumulate(b.editor, op, "acc")
    out = tflite.settle(b.editor, op, acc, b.type("out"), "out", -30, 61)
    b.check(b.editor.graph([out]), 80)


@both_widths
@pytest.mark.parametrize("kernel", [2, 3, 6])
@pytest.mark.parametrize("padding", [(0, 0, 0, 0), (1, 0, 1, 1)])
def test_average_pool(bits: int, kernel: int, padding: o.Quad) -> None:
    b = Bench(ODD, bits, (1, 4, 12, 13))
    b.check(b.kernel(o.AveragePool("x", "y", (kernel, kernel), (2, 1), padding), keep=True))


@both_scales
@both_widths
@pytest.mark.parametrize("axes", [(2, 3), (1,), (1, 2, 3), (3,)])
def test_mean(scales: str, bits: int, axes: o.Ints) -> None:
    b = Bench(scales, bits, (1, 30, 7, 6))
    b.check(b.kernel(o.Mean("x", "y", axes)), 1 if axes == (1, 2, 3) else 6)


@both_widths
@pytest.mark.parametrize("coordinates", ["half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel"])
@pytest.mark.parametrize("size", [(12, 10), (13, 7), (5, 3)])
def test_bilinear_resize(bits: int, coordinates: o.Coordinates, size: o.Pair) -> None:
    b = Bench(ODD, bits, (1, 6, 6, 5))
    b.check(b.kernel(o.Resize("x", "y", size, (size[0] / 6, size[1] / 5), "linear", coordinates), keep=True))


@both_scales
@both_widths
def test_recoding(scales: str, bits: int) -> None:
    b = Bench(scales, bits, (1, 4, 20, 20))
    b.check(b.editor.graph([tflite.recode(b.editor, "x", b.type("out"), "out")]), 15)
    b = Bench(scales, bits, (1, 4, 20, 20))
    finer = replace(b.type("out"), scale=(float(np.float32(b.type("x").scale[0] / 3.7)),))
    b.check(b.editor.graph([tflite.recode(b.editor, "x", finer, "out")]))


@pytest.mark.parametrize("axis", [1, 3])
def test_softmax(axis: int) -> None:
    b = Bench(ODD, 8, (1, 9, 10, 11))
    out = tflite_compound.softmax(b.editor, "x", axis, Type((), INT8, (1 / 256,), -128), "out")
    b.check(b.editor.graph([out]))


FUNCTIONS = ("sigmoid", "tanh", "gelu", "gelu_tanh", "hardswish", "leaky_relu", "mish", "exp")


@both_widths
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("scale", [0.0623, 0.011, 0.0031])
def test_functions(bits: int, name: o.FunctionName, scale: float) -> None:
    function = o.Function(name, 0.1 if name == "leaky_relu" else 0.0)
    b = Bench(ODD, bits, (1, 1, 16, 16 if bits == 8 else 4096))
    x = Type(
        b.editor.types["x"].shape,
        b.format,
        (float(np.float32(scale if bits == 8 else scale / 100)),),
        -7 if bits == 8 else 0,
    )
    b.editor.types["x"] = x
    low, high = code_range(b.format)
    reals = apply_function(function, torch.arange(low, high + 1) * x.scale[0]).numpy()
    bottom = min(float(reals.min()), 0.0)
    reach = (max(float(reals.max()), 0.0) - bottom) / (high - low)
    free = (reach, low - round(bottom / reach)) if bits == 8 else (2 * reach, 0)
    scale_out, zero_point = tflite.fixed_range(o.Apply("x", "y", function), b.format) or free
    to = Type((), b.format, (float(np.float32(scale_out)),), zero_point)
    entries = tflite_tables.tabulate(function, x, to)
    table = b.editor.constant("table", entries.astype(np.int16), replace(to, shape=entries.shape))
    graph = b.editor.graph([b.editor.append(o.Lookup("x", table, "out", function), replace(to, shape=x.shape))])
    every = np.arange(low, high + 1).astype(np.int8 if bits == 8 else np.int16).reshape(x.shape)
    for value, reference, found in compare_locally(graph, {"x": every}):
        assert np.array_equal(reference, found), value
    assert len(np.unique(entries)) > 30


def test_reals_are_quantized_with_ties_away_from_zero() -> None:
    editor = Editor("quantize", ["x"], {"x": Type((1, 1, 1, 1200))})
    graph = editor.graph([tflite.quantize(editor, "x", Type((), INT8, (0.25,), 3), "out")])
    fed = (np.arange(-600, 600) * 0.125).astype(np.float32).reshape(1, 1, 1, 1200)
    ((_, reference, found),) = compare_locally(graph, {"x": fed})
    assert np.array_equal(reference, found)
    assert len(np.unique(reference)) == 256
    even = editor.graph([editor.append(o.Quantize("x", "even"), graph.types["out"])])
    assert not np.array_equal(reference, run(even, {"x": fed})["even"].numpy())


def test_the_activation_range_is_found_in_the_codes_of_the_result() -> None:
    type_ = Type((), INT8, (0.05,), -128)
    assert tflite.activation_range("NONE", type_) == (-128, 127)
    assert tflite.activation_range("RELU", replace(type_, zero_point=-3)) == (-3, 127)
    assert tflite.activation_range("RELU6", type_) == (-128, -8)
    assert tflite.clamp_codes(o.Function("clip", -1.0, 2.0), replace(type_, zero_point=0)) == (-20, 40)


def test_targets_prescribe_scales_where_tflite_does() -> None:
    assert tflite.fixed_range(o.Apply("x", "y", o.Function("sigmoid")), INT8) == (1 / 256, -128)
    assert tflite.fixed_range(o.Softmax("x", "y", 1), INT16) is None
    assert tflite.fixed_range(o.Apply("x", "y", o.Function("relu")), INT8) is None
    assert find_target("tflite-int8").kernels == "tflite"
