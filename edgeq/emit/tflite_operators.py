"""TFLite operators that compute on reals and on codes alike; where, how versioned, and in which layout.

The same lines write the float baseline, the float islands, and the kernels of integer files: the types of the operands
decide which kernel runs.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgeq.emit.tflite_layout import NHWC, Layout, identity
from edgeq.emit.tflite_movement import common_layout, padded_for
from edgeq.emit.tflite_values import Values
from edgeq.emit.tflite_writer import Index
from edgeq.errors import UnsupportedError
from edgeq.ir import ops as o
from edgeq.reference import tflite

ACTIVATION_CODES: Mapping[tflite.Activation, int] = {"NONE": 0, "RELU": 1, "RELU_N1_TO_1": 2, "RELU6": 3}


def write_conv(op: o.Conv, out: o.Value, activation: int, v: Values) -> None:
    """CONV_2D, or DEPTHWISE_CONV_2D where every group has one channel; reals or codes."""
    shape = v.shape(op.weight)
    layout = _pixel_layout(op, v)
    if layout == NHWC:
        x, padding = padded_for(op.x, out, (shape[2], shape[3]), op.stride, op.padding, op.dilation, v)
    else:
        x, padding = v.read(op.x, layout), 1
    depthwise = op.groups > 1 and shape[1] == 1
    weight = v.constant(op.weight, (1, 2, 3, 0) if depthwise else (0, 2, 3, 1))
    common = {
        "padding": padding, "strideH": op.stride[0], "strideW": op.stride[1],
        "dilationHFactor": op.dilation[0], "dilationWFactor": op.dilation[1], "fusedActivationFunction": activation,
    }  # fmt: skip
    inputs, result = [x, weight, _bias_or_zero(op, shape[0], v)], [v.result(out, layout)]
    if depthwise:
        version = v.version(op.x, 2, 3, 5)
        v.file.operator(
            "DEPTHWISE_CONV_2D", inputs, result, version, "DepthwiseConv2DOptions",
            depthMultiplier=shape[0] // op.groups, **common,
        )  # fmt: skip
    else:
        v.file.operator("CONV_2D", inputs, result, v.version(op.x, 1, 3, 4), "Conv2DOptions", **common)


def _pixel_layout(op: o.Conv, v: Values) -> Layout:
    """NHWC, or where every pixel is alike its own order of the two axes in between."""
    home, kernel = v.layout(op.x), v.shape(op.weight)[2:]
    pointwise = (kernel, op.stride, op.padding, op.groups) == ((1, 1), (1, 1), (0, 0, 0, 0), 1)
    return home if pointwise and home == (0, 3, 2, 1) else NHWC


def _bias_or_zero(op: o.Conv | o.Linear, channels: int, v: Values) -> Index:
    """The bias; old runtimes want one, so a missing one is zero."""
    return v.zero_bias(op.x, op.weight, channels) if op.bias is None else v.bias(op.bias, op.x)


def write_conv_transpose(op: o.ConvTranspose, out: o.Value, v: Values) -> None:
    """TRANSPOSE_CONV, whose padding must be VALID or SAME; a wider result is cut."""
    if op.groups != 1 or op.dilation != (1, 1):
        raise UnsupportedError("TFLite has no grouped or dilated transposed convolution", where=op.out)
    kernel, size, count = v.shape(op.weight)[2:], v.shape(op.x)[2:], v.shape(out)[2:]
    whole = [(size[k] - 1) * op.stride[k] + kernel[k] for k in (0, 1)]
    same = all(
        whole[k] >= count[k] == size[k] * op.stride[k] and op.padding[k] == (whole[k] - count[k]) // 2 for k in (0, 1)
    )
    n, channels = v.shape(out)[:2]
    reach = [count[k] if same else max(whole[k], count[k] + op.padding[k]) for k in (0, 1)]
    cut = reach != list(count)
    result = v.temporary(out, f"{out}.whole", (n, *reach, channels)) if cut else v.result(out, NHWC)
    inputs = [
        v.integers([n, *reach, channels], "shape"),
        v.constant(op.weight, (1, 2, 3, 0), least_bits=8),
        v.read(op.x, NHWC),
    ]
    version = 1 if v.type(op.x).is_real else 2
    if op.bias is not None:
        inputs, version = [*inputs, v.bias(op.bias, op.x)], 3
    v.file.operator(
        "TRANSPOSE_CONV", inputs, [result], version, "TransposeConvOptions",
        padding=0 if same else 1, strideH=op.stride[0], strideW=op.stride[1], fusedActivationFunction=0,
    )  # fmt: skip
    if cut:
        begin = [0, *op.padding[:2], 0]
        sliced = [result, v.integers(begin, "begin"), v.integers([n, *count, channels], "size")]
        v.file.operator("SLICE", sliced, [v.result(out, NHWC)], 2, "SliceOptions")


def write_linear(op: o.Linear, out: o.Value, activation: int, v: Values) -> None:
    """FULLY_CONNECTED over the last axis, whatever the order of the others.

    Old runtimes compute 16-bit codes right for two axes only, so these are seen as rows.
    """
    last = len(v.shape(op.x)) - 1
    home = v.layout(op.x)
    layout = home if home[-1] == last else identity(last + 1)
    x, result = v.read(op.x, layout), v.result(out, layout)
    if last == 1 or v.version(op.x, 0, 0, 1) == 0:
        _fully_connected(op, x, result, activation, v)
        return
    rows, products = (
        v.temporary(value, f"{out}.{name}", (v.type(value).size // v.shape(value)[-1], v.shape(value)[-1]))
        for value, name in ((op.x, "rows"), (out, "products"))
    )
    v.reshape(x, rows)
    _fully_connected(op, rows, products, activation, v)
    v.reshape(products, result)


def _fully_connected(op: o.Linear, x: Index, result: Index, activation: int, v: Values) -> None:
    keeps = len(v.file.shape(x)) != 2
    v.file.operator(
        "FULLY_CONNECTED", [x, v.constant(op.weight), _bias_or_zero(op, v.shape(op.weight)[0], v)], [result],
        max(v.version(op.x, 1, 4, 7), 5 if keeps else 1), "FullyConnectedOptions",
        fusedActivationFunction=activation, weightsFormat=0, keepNumDims=keeps,
    )  # fmt: skip


def write_matmul(op: o.MatMul, out: o.Value, v: Values) -> None:
    """BATCH_MATMUL; a transposed last pair of axes is read as it lies."""
    rank = max(len(v.shape(op.a)), len(v.shape(op.b)))
    (a, a_turned), (b, b_turned) = (_matrix(value, rank, v) for value in (op.a, op.b))
    v.file.operator(
        "BATCH_MATMUL", [a, b], [v.result(out)], v.version(op.a, 1, 2, 2), "BatchMatMulOptions",
        adjX=a_turned, adjY=b_turned, asymmetricQuantizeInputs=False,
    )  # fmt: skip


def _matrix(value: o.Value, rank: int, v: Values) -> tuple[Index, bool]:
    plain = identity(rank)
    turned: Layout = (*plain[:-2], plain[-1], plain[-2])
    if not v.is_constant(value) and len(v.shape(value)) == rank and v.layout(value) == turned:
        return v.read(value, turned), True
    return v.spread(value, rank, plain), False


_ARITHMETIC = {o.Add: ("ADD", "AddOptions"), o.Sub: ("SUB", "SubOptions"), o.Mul: ("MUL", "MulOptions")}


def write_arithmetic(op: o.Add | o.Sub | o.Mul, out: o.Value, activation: int, v: Values) -> None:
    """ADD, SUB or MUL with broadcasting."""
    kind, options = _ARITHMETIC[type(op)]
    layout = common_layout((op.a, op.b), v)
    rank = len(layout)
    inputs = [v.spread(value, rank, layout) for value in (op.a, op.b)]
    fields: dict[str, object] = {"fusedActivationFunction": activation}
    if not isinstance(op, o.Mul):
        fields["potScaleInt16"] = v.version(op.a, 0, 0, 1) == 0  # scales of 16-bit codes are no powers of two
    wide = {o.Add: 3, o.Sub: 5, o.Mul: 4}[type(op)]
    v.file.operator(kind, inputs, [v.result(out, layout)], v.version(op.a, 1, 2, wide), options, **fields)


def write_average_pool(op: o.AveragePool, out: o.Value, activation: int, v: Values) -> None:
    """AVERAGE_POOL_2D; padding that counts is written out."""
    x, padding = padded_for(op.x, out, op.kernel, op.stride, op.padding, (1, 1), v)
    if padding == 0 and op.count_padding:
        x, padding = _written_out(op, out, v), 1
    v.file.operator(
        "AVERAGE_POOL_2D", [x], [v.result(out, NHWC)], v.version(op.x, 1, 2, 3), "Pool2DOptions",
        padding=padding, strideH=op.stride[0], strideW=op.stride[1], filterHeight=op.kernel[0],
        filterWidth=op.kernel[1], fusedActivationFunction=activation,
    )  # fmt: skip


def _written_out(op: o.AveragePool, out: o.Value, v: Values) -> Index:
    n, c, height, width = v.shape(op.x)
    top, left, bottom, right = op.padding
    wider = v.temporary(op.x, f"{out}.padded", (n, height + top + bottom, width + left + right, c))
    amounts = np.array([[0, 0], [top, bottom], [left, right], [0, 0]], dtype=np.int32)
    v.file.operator("PAD", [v.read(op.x, NHWC), v.numbers(amounts, "paddings")], [wider], 2, "PadOptions")
    return wider


def write_mean(op: o.Mean, out: o.Value, v: Values) -> None:
    """MEAN, with the axes where they lie."""
    layout = v.layout(op.x)
    axes = v.integers(sorted(layout.index(axis) for axis in op.axes), "axes")
    version = v.version(op.x, 1, 2, 3)
    v.file.operator(
        "MEAN", [v.read(op.x), axes], [v.result(out, layout)], version, "ReducerOptions", keepDims=True
    )  # fmt: skip


def write_bilinear(op: o.Resize, out: o.Value, aligned: bool, centred: bool, v: Values) -> None:
    """RESIZE_BILINEAR."""
    inputs = [v.read(op.x, NHWC), v.integers(list(op.size), "size")]
    version = max(v.version(op.x, 1, 2, 4), 3 if centred else 1)
    v.file.operator(
        "RESIZE_BILINEAR", inputs, [v.result(out, NHWC)], version, "ResizeBilinearOptions",
        alignCorners=aligned, halfPixelCenters=centred,
    )  # fmt: skip


def write_softmax(x: o.Value, axis: int, out: o.Value, v: Values) -> None:
    """SOFTMAX over the last axis of the tensor, to which `axis` is moved."""
    home = v.layout(x)
    layout: Layout = home if home[-1] == axis else (*(a for a in home if a != axis), axis)
    version = v.version(x, 1, 2, 3)
    v.file.operator("SOFTMAX", [v.read(x, layout)], [v.result(out, layout)], version, "SoftmaxOptions", beta=1.0)
