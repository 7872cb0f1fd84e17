"""Small .tflite networks that tests and the fuzzer start from: float, full-integer, shape arithmetic, odd weights."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.tflite_files import File, Numbers

CONV = {"padding": 0, "strideW": 1, "strideH": 1, "dilationWFactor": 1, "dilationHFactor": 1}


def _normal(seed: int, *shape: int) -> Numbers:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def ints(f: File, *numbers: int) -> int:
    """A constant of indices."""
    return f.constant(np.array(numbers, np.int32))


def float_net(element: str = "float32") -> bytes:
    """Convolution, depthwise convolution, pooling, residual addition, resize, concatenation, head; [1,8,8,3] -> [1,5].

    `element` is the type of the weights of the convolution.
    """
    f = File()
    x, a, d, p, s, u, c, m, y = (
        f.tensor(shape)
        for shape in ((1, 8, 8, 3), (1, 8, 8, 4), (1, 8, 8, 4), (1, 4, 4, 4), (1, 4, 4, 4), (1, 8, 8, 4), (1, 8, 8, 8),
                      (1, 8), (1, 5))
    )  # fmt: skip
    weights = _normal(0, 4, 3, 3, 3)
    if element == "int8":
        w = f.constant(np.rint(weights * 30).astype(np.int8), scale=[1 / 30] * 4)
    else:
        w = f.constant(weights.astype(element))
    f.op("CONV_2D", [x, w, f.constant(_normal(1, 4))], [a], "Conv2DOptions", **CONV, fusedActivationFunction=1)
    f.op("DEPTHWISE_CONV_2D", [a, f.constant(_normal(2, 1, 3, 3, 4)), f.constant(_normal(3, 4))], [d],
         "DepthwiseConv2DOptions", **CONV, depthMultiplier=1)  # fmt: skip
    f.op("MAX_POOL_2D", [d], [p], "Pool2DOptions", padding=1, strideW=2, strideH=2, filterWidth=2, filterHeight=2)
    f.op("ADD", [p, f.constant(_normal(4, 4))], [s], "AddOptions", fusedActivationFunction=3)
    f.op("RESIZE_BILINEAR", [s, ints(f, 8, 8)], [u], "ResizeBilinearOptions", halfPixelCenters=True)
    f.op("CONCATENATION", [u, a], [c], "ConcatenationOptions", axis=3)
    f.op("MEAN", [c, ints(f, 1, 2)], [m], "ReducerOptions", keepDims=False)
    f.op("FULLY_CONNECTED", [m, f.constant(_normal(5, 5, 8)), f.constant(_normal(6, 5))], [y], "FullyConnectedOptions")
    return f.content([x], [y])


def layout_net() -> bytes:
    """Operators that move elements, and a shape that is computed; [1,6,4,8] -> [1,24,8]."""
    f = File()
    x, d, t, p, left, right, j, s, n, r = (
        f.tensor(shape)
        for shape in ((1, 6, 4, 8), (1, 12, 8, 2), (1, 8, 12, 2), (1, 10, 12, 2), (1, 10, 6, 2), (1, 10, 6, 2),
                      (1, 10, 12, 2), (1, 1, 12, 2), (1, 12, 2), (1, 24, 1))
    )  # fmt: skip
    f.op("DEPTH_TO_SPACE", [x], [d], "DepthToSpaceOptions", blockSize=2)
    f.op("TRANSPOSE", [d, ints(f, 0, 2, 1, 3)], [t])
    f.op("PAD", [t, f.constant(np.array([[0, 0], [1, 1], [0, 0], [0, 0]], np.int32))], [p])
    f.op("SPLIT", [ints(f, 2), p], [left, right], "SplitOptions", numSplits=2)
    f.op("CONCATENATION", [right, left], [j], "ConcatenationOptions", axis=2)
    f.op("SLICE", [j, ints(f, 0, 2, 0, 0), ints(f, 1, 1, -1, -1)], [s])
    f.op("SQUEEZE", [s], [n], "SqueezeOptions", squeezeDims=[1])
    shape, one, whole = f.tensor((3,), "int32"), f.tensor((1,), "int32"), f.tensor((3,), "int32")
    f.op("SHAPE", [n], [shape], "ShapeOptions", outType=2)
    f.op("STRIDED_SLICE", [shape, ints(f, 0), ints(f, 1), ints(f, 1)], [one], "StridedSliceOptions")
    f.op("CONCATENATION", [one, ints(f, 24, -1)], [whole], "ConcatenationOptions", axis=0)
    f.op("RESHAPE", [n, whole], [r], "ReshapeOptions")
    return f.content([x], [r])


def integer_net(element: str = "int8", seed: int = 0, weight: str = "int8") -> bytes:
    """A full-integer network of the kind that TensorFlow's converter writes; [1,8,8,3] -> [1,5].

    Convolution, depthwise convolution, residual addition, average pooling, head, softmax.
    """
    f, rng = File(), np.random.default_rng(seed)
    zero = (lambda low, high: int(rng.integers(low, high))) if element == "int8" else (lambda low, high: 0)
    wide = 1.0 if element == "int8" else 1 / 256
    bias = np.int32 if element == "int8" else np.int64
    top = 127 if weight == "int8" else 7

    def value(shape: tuple[int, ...], scale: float, z: int) -> int:
        return f.tensor(shape, element, scale=scale * wide, zero_point=z)

    def weights(shape: tuple[int, ...], axis: int, x: float) -> list[int]:
        count = shape[axis]
        scales = rng.uniform(0.5, 1.5, count).astype(np.float32) / np.float32(top * np.sqrt(np.prod(shape) / count))
        codes = rng.integers(-top, top + 1, shape).astype(np.int8)
        biases = rng.integers(-2000, 2000, count).astype(bias)
        w = f.constant(codes, weight, scale=scales, axis=axis)
        return [w, f.constant(biases, scale=scales * np.float32(x * wide), axis=0)]

    x, a = value((1, 8, 8, 3), 0.02, zero(-20, 20)), value((1, 8, 8, 4), 0.03, zero(-128, -100))
    d, e = value((1, 8, 8, 4), 0.04, zero(-30, 30)), value((1, 8, 8, 4), 0.05, zero(-30, 30))
    f.op("CONV_2D", [x, *weights((4, 3, 3, 3), 0, 0.02)], [a], "Conv2DOptions", **CONV, fusedActivationFunction=1,
         version=3)  # fmt: skip
    depthwise: dict[str, Any] = {**CONV, "depthMultiplier": 1, "version": 3}
    f.op("DEPTHWISE_CONV_2D", [a, *weights((1, 3, 3, 4), 3, 0.03)], [d], "DepthwiseConv2DOptions", **depthwise)
    f.op("ADD", [d, a], [e], "AddOptions", fusedActivationFunction=0, version=2)
    p = f.tensor((1, 2, 2, 4), element, scale=0.05 * wide, zero_point=_zero(f, e))
    f.op("AVERAGE_POOL_2D", [e], [p], "Pool2DOptions", padding=1, strideW=4, strideH=4, filterWidth=4, filterHeight=4,
         version=2)  # fmt: skip
    r = f.tensor((1, 16), element, scale=0.05 * wide, zero_point=_zero(f, e))
    f.op("RESHAPE", [p, ints(f, -1, 16)], [r], "ReshapeOptions")
    y = value((1, 5), 0.05, zero(-20, 20))
    f.op("FULLY_CONNECTED", [r, *weights((5, 16), 0, 0.05)], [y], "FullyConnectedOptions", version=4)
    if element == "int16":
        s = f.tensor((1, 5), element, scale=1 / 32768)
    else:
        s = f.tensor((1, 5), element, scale=1 / 256, zero_point=-128)
    f.op("SOFTMAX", [y], [s], "SoftmaxOptions", beta=1.0, version=2)
    return f.content([x], [s])


def functions_net() -> bytes:
    """Functions and reductions on codes that converters write for decomposed layers; [1,4,5,6] -> [1,4,5,6], [1,4,5]."""
    f, rng, shape = File(), np.random.default_rng(4), (1, 4, 5, 6)

    def value(scale: float, zero: int, *sizes: int) -> int:
        return f.tensor(sizes or shape, "int8", scale=scale, zero_point=zero)

    def constant(*sizes: int) -> int:
        return f.constant(rng.integers(-128, 128, sizes).astype(np.int8), scale=0.03, zero_point=-7)

    x, a, b, c, d, e, r, y = (
        value(scale, zero)
        for scale, zero in (
            (0.05, 3), (0.04, 5), (0.03, -128), (0.02, -128), (0.1, 9), (0.02, -90), (0.05, 0), (1 / 128, 0),
        )
    )  # fmt: skip
    total, best = value(0.4, -128, 1, 4, 5, 1), f.tensor((1, 4, 5), "int32")
    f.op("PRELU", [x, constant(1, 1, 6)], [a])
    f.op("ABS", [a], [b])
    f.op("SQRT", [b], [c])
    f.op("SQUARED_DIFFERENCE", [a, constant(1, 1, 1, 6)], [d])
    f.op("EXP", [c], [e])
    f.op("SUM", [b, ints(f, 3)], [total], "ReducerOptions", keepDims=True)
    f.op("DIV", [d, total], [r], "DivOptions")
    f.op("L2_NORMALIZATION", [r], [y], "L2NormOptions")
    f.op("ARG_MAX", [e, ints(f, 3)], [best], "ArgMaxOptions", outputType=2, version=2)
    return f.content([x], [y, best])


def _zero(f: File, index: int) -> int:
    return int(f.tensors[index].quantization.zeroPoint[0])
