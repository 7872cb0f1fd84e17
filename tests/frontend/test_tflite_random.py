"""Random operators on codes, as any converter could write them: every code equal to LiteRT's reference kernels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from edgeq.errors import UnsupportedError
from edgeq.frontend.tflite import import_tflite
from edgeq.ir.verify import verify
from edgeq.reference.interpret import Interpreter
from tests.tflite_files import File, Numbers, litert
from tests.tflite_nets import ints

EXAMPLES = settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
SCALES = st.floats(-7, 1).map(lambda exponent: float(np.float32(2.0**exponent)))
ZEROS = st.integers(-128, 127)
SIDES = st.integers(3, 7)


class Drawn:
    """A file with one operator and the shape of its input."""

    def __init__(self, draw: st.DrawFn, element: str) -> None:
        self.draw, self.file, self.element = draw, File(), element
        self.rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
        self.low, self.high = (-128, 127) if element == "int8" else (0, 255)

    def zero(self) -> int:
        return self.draw(ZEROS) + (0 if self.element == "int8" else 128)

    def value(self, shape: tuple[int, ...], scale: float | None = None) -> int:
        scale = self.draw(SCALES) if scale is None else scale
        return self.file.tensor(shape, self.element, scale=scale, zero_point=self.zero())

    def scale(self, index: int) -> float:
        return float(self.file.tensors[index].quantization.scale[0])

    def weight(self, shape: tuple[int, ...], axis: int, x: int) -> list[int]:
        """A weight with one scale or one per channel, and a bias in its units."""
        channels = shape[axis]
        count = channels if self.draw(st.booleans()) and self.element == "int8" else 1
        spread = 2.0 ** self.rng.uniform(-3, 0, count) / np.sqrt(np.prod(shape) / channels) / 64
        scales = spread.astype(np.float32)
        codes = self.rng.integers(self.low if self.element == "uint8" else -127, self.high + 1, shape)
        zero = 0 if self.element == "int8" else int(self.rng.integers(100, 156))
        w = self.file.constant(codes.astype(self.element), scale=scales, zero_point=zero, axis=axis)
        biases = self.rng.integers(-4000, 4000, channels).astype(np.int32)
        return [w, self.file.constant(biases, scale=scales * np.float32(self.scale(x)), axis=0)]


def convolution(d: Drawn, depthwise: bool) -> tuple[int, int]:
    height, width, inputs = d.draw(SIDES), d.draw(SIDES), d.draw(st.integers(1, 5))
    kernel = (d.draw(st.integers(1, 3)), d.draw(st.integers(1, 3)))
    stride, dilation = d.draw(st.integers(1, 2)), d.draw(st.integers(1, 2))
    dilation = 1 if stride > 1 else dilation
    padding, act = d.draw(st.integers(0, 1)), d.draw(st.sampled_from([0, 1, 2, 3]))
    if padding == 1:
        assume(all(dilation * (k - 1) < side for k, side in zip(kernel, (height, width), strict=True)))
    x = d.value((1, height, width, inputs))
    multiplier = d.draw(st.integers(1, 3))
    outputs = inputs * multiplier if depthwise else d.draw(st.integers(1, 6))
    shape = (1, *kernel, outputs) if depthwise else (outputs, *kernel, inputs)
    y = d.value((1, 1, 1, outputs), d.draw(st.floats(0.2, 4)) * d.scale(x) / 8)
    fields = {"padding": padding, "strideW": stride, "strideH": stride, "dilationWFactor": dilation,
              "dilationHFactor": dilation, "fusedActivationFunction": act}  # fmt: skip
    if depthwise:
        d.file.op("DEPTHWISE_CONV_2D", [x, *d.weight(shape, 3, x)], [y], "DepthwiseConv2DOptions", **fields,
                  depthMultiplier=multiplier, version=3)  # fmt: skip
    else:
        d.file.op("CONV_2D", [x, *d.weight(shape, 0, x)], [y], "Conv2DOptions", **fields, version=3)
    return x, y


def fully_connected(d: Drawn) -> tuple[int, int]:
    rows, columns, outputs = d.draw(st.integers(1, 3)), d.draw(st.integers(1, 40)), d.draw(st.integers(1, 9))
    x = d.value((rows, columns))
    y = d.value((rows, outputs), d.draw(st.floats(0.2, 4)) * d.scale(x) / 8)
    d.file.op("FULLY_CONNECTED", [x, *d.weight((outputs, columns), 0, x)], [y], "FullyConnectedOptions",
              fusedActivationFunction=d.draw(st.integers(0, 3)), version=4)  # fmt: skip
    return x, y


def arithmetic(d: Drawn) -> tuple[int, int]:
    shape = (1, d.draw(SIDES), d.draw(SIDES), d.draw(st.integers(1, 5)))
    other = d.draw(st.sampled_from([shape, (1, 1, 1, shape[3])]))
    x = d.value(shape)
    kind = d.draw(st.sampled_from(["ADD", "SUB", "MUL"]))
    c = d.file.constant(d.rng.integers(d.low, d.high + 1, other).astype(d.element), scale=d.draw(SCALES),
                        zero_point=d.zero())  # fmt: skip
    y = d.value(shape)
    operands = [x, c] if d.draw(st.booleans()) else [c, x]
    d.file.op(
        kind, operands, [y], f"{kind.title()}Options", fusedActivationFunction=d.draw(st.integers(0, 3)), version=2
    )
    return x, y


def mean(d: Drawn) -> tuple[int, int]:
    shape = (1, d.draw(SIDES), d.draw(SIDES), d.draw(st.integers(1, 5)))
    axes = d.draw(st.sampled_from([(1, 2), (3,), (1,), (1, 2, 3)]))
    x = d.value(shape)
    y = d.value(tuple(1 if k in axes else size for k, size in enumerate(shape)), d.scale(x) * d.draw(st.floats(0.3, 2)))
    d.file.op("MEAN", [x, ints(d.file, *axes)], [y], "ReducerOptions", keepDims=True, version=2)
    return x, y


KINDS = ("conv", "depthwise", "fully connected", "arithmetic", "mean")


@st.composite
def operators(draw: st.DrawFn, kind: str) -> tuple[bytes, tuple[int, ...], str]:
    element = draw(st.sampled_from(["int8", "int8", "int8", "uint8"])) if kind != "mean" else "int8"
    d = Drawn(draw, element)
    match kind:
        case "conv" | "depthwise":
            x, y = convolution(d, kind == "depthwise")
        case "fully connected":
            x, y = fully_connected(d)
        case "arithmetic":
            x, y = arithmetic(d)
        case _:
            x, y = mean(d)
    return d.file.content([x], [y]), tuple(d.file.tensors[x].shape), element


def images(shape: tuple[int, ...], element: str) -> list[Numbers]:
    limits = np.iinfo(element)
    rng = np.random.default_rng(0)
    extremes = [np.full(shape, end, element) for end in (limits.min, limits.max)]
    return [*extremes, *(rng.integers(limits.min, limits.max + 1, shape).astype(element) for _ in range(3))]


@pytest.mark.parametrize("kind", KINDS)
def test_random_operators(kind: str) -> None:
    drawn_results: list[int] = []

    @EXAMPLES
    @given(operators(kind))
    def check(drawn: tuple[bytes, tuple[int, ...], str]) -> None:
        content, shape, element = drawn
        try:
            graph = import_tflite(content)
            verify(graph)
        except UnsupportedError as error:
            assert "32 bits" in str(error) or "too large" in str(error) or "shifted left" in str(error), error
            assume(False)
        interpreter, wanted = Interpreter(graph), []
        for x in images(shape, element):
            given_ = np.ascontiguousarray(x.transpose(0, 3, 1, 2)) if x.ndim == 4 else x
            found = interpreter({graph.inputs[0]: given_})[graph.outputs[0]].numpy()
            (exact,) = litert(content, [x])
            ours = found.transpose(0, 2, 3, 1) if found.ndim == 4 else found
            np.testing.assert_array_equal(ours.reshape(-1), exact.reshape(-1).astype(np.float32))
            wanted.append(exact.reshape(-1))
        drawn_results.append(np.unique(np.concatenate(wanted)).size)

    check()
    lively = sum(different >= 6 for different in drawn_results)  # the draws favour tiny operators, of few results
    assert len(drawn_results) >= 15 and lively >= 3, drawn_results
