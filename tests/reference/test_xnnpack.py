"""Where XNNPACK rounds otherwise on Arm; what it computes here is compared in tests/emit/test_tflite_agreement.py."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgeq.formats import INT8
from edgeq.ir import ops as o
from edgeq.ir.graph import Editor, Graph, Type
from edgeq.reference import tflite
from edgeq.reference.interpret import run
from edgeq.reference.xnnpack import Processor, as_xnnpack

SHAPE = (1, 1, 256, 256)
ZERO_POINTS = (-5, 17, 3)


def product(scales: tuple[float, float, float]) -> Graph:
    """MUL of two values, every code with every other."""
    a, b, out = (Type(SHAPE, INT8, (s,), z) for s, z in zip(scales, ZERO_POINTS, strict=True))
    editor = Editor("product", ["a", "b"], {"a": a, "b": b})
    op = o.Mul("a", "b", "y")
    tflite.settle(editor, op, tflite.accumulate(editor, op, "y.acc"), out, "y")
    return editor.graph(["y"])


def on_neon(x: int, ratio: float) -> int:
    """A transcription of the vector instructions: a shift to the left, a doubling product's upper half, a rounding shift."""
    mantissa, exponent = math.frexp(ratio)
    multiplier = int(mantissa * (1 << 24)) << 7
    post = max(-exponent, 1)
    high = ((x << (exponent + post)) * multiplier * 2) >> 32
    return (high + (1 << (post - 1))) >> post


@pytest.mark.parametrize("scales", [(0.02, 0.05, 0.04), (2.0**-5, 2.0**-4, 2.0**-3), (0.7, 0.3, 0.6)])
def test_products_are_rounded_once_on_arm(scales: tuple[float, float, float]) -> None:
    scales = tuple(float(np.float32(scale)) for scale in scales)  # type: ignore[assignment]
    codes = np.arange(-128, 128)
    inputs = {"a": np.tile(codes, 256).reshape(SHAPE), "b": np.repeat(codes, 256).reshape(SHAPE)}
    graph = product(scales)
    processors: tuple[Processor, ...] = ("arm", "x86")
    arm, x86 = (run(as_xnnpack(graph, processor), inputs)["y"].numpy().reshape(-1) for processor in processors)
    ratio = float(np.float32(np.float32(scales[0]) * np.float32(scales[1])) / np.float32(scales[2]))
    levels = ((inputs["a"] - ZERO_POINTS[0]) * (inputs["b"] - ZERO_POINTS[1])).reshape(-1).tolist()
    wanted = [min(max(on_neon(level, ratio) + ZERO_POINTS[2], -128), 127) for level in levels]
    assert arm.tolist() == wanted and len(set(wanted)) > 200
    assert np.abs(arm - x86).max() <= 1
    if scales[0] == 2.0**-5:  # whose ties are exact
        assert (arm != x86).sum() > 1000
