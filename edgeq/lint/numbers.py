"""Checks of scales, zero points, axes and number formats."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgeq.lint.finding import Place
from edgeq.lint.net import DEQUANTIZE, QUANTIZE, Array, Net, Quantizer, integer, title

SMALLEST_NORMAL = float(np.finfo(np.float32).tiny)
QLINEAR_OPERATORS = (
    "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "QLinearAdd", "QLinearMul",
    "QLinearSigmoid", "QLinearConcat", "QLinearLeakyRelu", "QLinearSoftmax", "QLinearAveragePool",
    "QLinearGlobalAveragePool", "QLinearReduceMean", "QLinearWhere", "QGemm",
)  # fmt: skip
OLDEST_TENSORRT_OPSET, NEWEST_TENSORRT_OPSET = 17, 25


def _scales(net: Net) -> Iterator[tuple[Quantizer, Array]]:
    for quantizer in net.quantizers.values():
        if quantizer.scale is not None:
            yield quantizer, np.asarray(quantizer.scale, dtype=np.float64).reshape(-1)


def scale_not_finite(net: Net) -> Iterator[Place]:
    for quantizer, scale in _scales(net):
        if not np.isfinite(scale).all():
            yield quantizer.name, f"{int((~np.isfinite(scale)).sum())} of {scale.size} scales are not finite"


def scale_not_positive(net: Net) -> Iterator[Place]:
    for quantizer, scale in _scales(net):
        if (scale <= 0).any():
            yield quantizer.name, f"the smallest of {scale.size} scales is {scale.min():g}"


def scale_denormal(net: Net) -> Iterator[Place]:
    for quantizer, scale in _scales(net):
        if ((scale > 0) & (scale < SMALLEST_NORMAL)).any():
            yield quantizer.name, f"the smallest of {scale.size} scales is {scale[scale > 0].min():g}"


def scale_not_constant(net: Net) -> Iterator[Place]:
    for quantizer in net.quantizers.values():
        if quantizer.scale is None and not net.is_constant(quantizer.node.input[1]):
            yield quantizer.name, f"its scale {quantizer.node.input[1]} is computed at run time"


def axis_default(net: Net) -> Iterator[Place]:
    for quantizer in net.quantizers.values():
        if quantizer.is_per_axis and quantizer.axis is None:
            yield quantizer.name, f"{_count(quantizer)} scales and no axis attribute, so axis 1 is meant"


def axis_wrong(net: Net) -> Iterator[Place]:
    for quantizer in net.quantizers.values():
        if not quantizer.is_per_axis:
            continue
        shape = net.shapes.get(quantizer.node.input[0])
        axis = 1 if quantizer.axis is None else quantizer.axis
        if shape is not None and (not -len(shape) <= axis < len(shape) or shape[axis] != _count(quantizer)):
            yield quantizer.name, f"{_count(quantizer)} scales along axis {axis} of shape {shape}"
            continue
        for operator, wanted in _output_axes(net, quantizer):
            if shape is not None and axis % len(shape) != wanted % len(shape):
                yield (
                    quantizer.name,
                    f"axis {axis} of the weight of {operator}, which needs axis {wanted}",
                )


def _count(quantizer: Quantizer) -> int:
    return 1 if quantizer.scale is None else int(quantizer.scale.size)


def _output_axes(net: Net, quantizer: Quantizer) -> Iterator[tuple[str, int]]:
    """Operators that read a dequantized weight, with the axis of their output channels."""
    for reader in net.readers.get(quantizer.node.output[0], ()):
        if len(reader.input) < 2 or reader.input[1] != quantizer.node.output[0]:
            continue
        match reader.op_type:
            case "Conv":
                yield title(reader), 0
            case "ConvTranspose" if not (integer(reader, "group") or 1) > 1:
                yield title(reader), 1
            case "Gemm":
                yield title(reader), 0 if integer(reader, "transB") else 1
            case "MatMul":
                yield title(reader), -1


def pair_differs(net: Net) -> Iterator[Place]:
    for dequantizer in net.quantizers.values():
        pair = net.quantizer(dequantizer.node.input[0], QUANTIZE)
        if dequantizer.node.op_type == DEQUANTIZE and pair is not None and _differ(pair, dequantizer):
            yield dequantizer.name, f"its numbers are not those of {pair.name}, which made the codes"


def _differ(a: Quantizer, b: Quantizer) -> bool:
    pairs = ((a.scale, b.scale), (a.zero_point, b.zero_point))
    return any(x is not None and y is not None and not np.array_equal(x.reshape(-1), y.reshape(-1)) for x, y in pairs)


def zero_point_not_zero(net: Net) -> Iterator[Place]:
    for quantizer in net.quantizers.values():
        if quantizer.zero_point is not None and np.any(quantizer.zero_point):
            largest = int(np.abs(quantizer.zero_point.astype(np.int64)).max())
            yield quantizer.name, f"zero point {largest}"


def unsigned_codes(net: Net) -> Iterator[Place]:
    for quantizer in net.quantizers.values():
        if quantizer.is_unsigned:
            yield quantizer.name, "its codes are uint8"


def signed_activations(net: Net) -> Iterator[Place]:
    for quantizer in net.quantizers.values():
        activation = quantizer.node.op_type == QUANTIZE and not net.is_weight(quantizer)
        if activation and quantizer.zero_point is not None and quantizer.zero_point.dtype == np.int8:
            yield quantizer.name, "an activation in int8"


def activation_per_channel(net: Net) -> Iterator[Place]:
    for quantizer in net.quantizers.values():
        if quantizer.is_per_axis and quantizer.node.op_type == QUANTIZE and not net.is_weight(quantizer):
            yield quantizer.name, f"an activation with {_count(quantizer)} scales"


def qlinear_operators(net: Net) -> Iterator[Place]:
    for node in net.of_type(*QLINEAR_OPERATORS):
        yield title(node), f"operator {node.op_type}"


def opset_too_new(net: Net) -> Iterator[Place]:
    if net.opset > OLDEST_TENSORRT_OPSET:
        limit = f"TensorRT 8.6 reads up to {OLDEST_TENSORRT_OPSET}, TensorRT 11 up to {NEWEST_TENSORRT_OPSET}"
        yield "model", f"operator set {net.opset}; {limit}"


def bias_scale(net: Net) -> Iterator[Place]:
    for node in net.of_type("Conv", "Gemm"):
        dequantizers = [net.quantizer(name, DEQUANTIZE) for name in node.input[:3]]
        if len(dequantizers) < 3 or any(d is None or d.scale is None for d in dequantizers):
            continue
        codes = net.constant(dequantizers[1].node.input[0]) if dequantizers[1] is not None else None
        if codes is not None and codes.dtype.kind not in "iu":  # minifloats, which no integer kernel takes
            continue
        x, weight, bias = (np.asarray(d.scale, np.float64).reshape(-1) for d in dequantizers if d is not None)
        if not np.allclose(bias, x * weight, rtol=1e-3, atol=0):
            yield title(node), "the bias has another scale than input times weight"
