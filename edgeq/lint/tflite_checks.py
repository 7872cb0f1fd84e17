"""Checks of .tflite files."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from edgeq.errors import UnsupportedError
from edgeq.frontend.tflite_file import PACKED_BITS, FileOperator, FileTensor
from edgeq.lint.finding import Place
from edgeq.lint.placement import COARSE_SCORE_STEP
from edgeq.lint.tflite_net import MOVING, Parameter, TfliteNet
from edgeq.lint.tflite_versions import NEWEST_IN_2_14, ON_MICROCONTROLLERS

_SMALLEST_NORMAL = float(np.finfo(np.float32).tiny)
_ONE_SCALE = (*MOVING, "AVERAGE_POOL_2D", "RESIZE_BILINEAR", "MAXIMUM", "MINIMUM", "BATCH_TO_SPACE_ND",
              "SPACE_TO_BATCH_ND", "REDUCE_MAX", "REDUCE_MIN")  # fmt: skip
_FIXED = {
    "LOGISTIC": (1 / 256, -128), "SOFTMAX": (1 / 256, -128), "TANH": (1 / 128, 0), "L2_NORMALIZATION": (1 / 128, 0),
    "LOG_SOFTMAX": (16 / 256, 127),
}  # fmt: skip
_BOUNDED = ("LOGISTIC", "SOFTMAX")


def scale_not_positive(net: TfliteNet) -> Iterator[Place]:
    for tensor in net.quantized:
        bad = [scale for scale in tensor.scale if not (math.isfinite(scale) and scale > 0)]
        if bad:
            yield tensor.name, f"{len(bad)} of {len(tensor.scale)} scales such as {bad[0]:g}"


def scale_denormal(net: TfliteNet) -> Iterator[Place]:
    for tensor in net.quantized:
        small = [scale for scale in tensor.scale if 0 < scale < _SMALLEST_NORMAL]
        if small:
            yield tensor.name, f"the smallest of {len(tensor.scale)} scales is {min(small):g}"


def broken_quantization(net: TfliteNet) -> Iterator[Place]:
    for tensor in net.quantized:
        if "scales" in tensor.obstacle or "zero points" in tensor.obstacle:
            yield tensor.name, tensor.obstacle


def activation_per_channel(net: TfliteNet) -> Iterator[Place]:
    for tensor in net.computed:
        if len(tensor.scale) > 1:
            yield tensor.name, f"an activation with {len(tensor.scale)} scales"


def _codes(parameter: Parameter) -> bool:
    return parameter.weight.is_quantized


def per_tensor_weights(net: TfliteNet) -> Iterator[Place]:
    for p in net.parameters:
        channels = p.weight.shape[p.axis] if p.axis < len(p.weight.shape) else 1
        if _codes(p) and p.op.kind != "FULLY_CONNECTED" and len(p.weight.scale) == 1 and channels > 1:
            yield net.title(p.op), f"one scale for a weight of shape {p.weight.shape}"


def weight_axis(net: TfliteNet) -> Iterator[Place]:
    for p in net.parameters:
        if _codes(p) and len(p.weight.scale) > 1 and p.weight.axis != p.axis:
            yield net.title(p.op), f"scales along axis {p.weight.axis} of the weight, which needs axis {p.axis}"


def weight_zero_point(net: TfliteNet) -> Iterator[Place]:
    for p in net.parameters:
        if _codes(p) and p.weight.element != "uint8" and any(p.weight.zero_point):
            yield net.title(p.op), f"its weight has zero point {max(p.weight.zero_point, key=abs)}"


def narrow_weights(net: TfliteNet) -> Iterator[Place]:
    for p in net.parameters:
        if p.weight.element == "int8" and _codes(p) and (codes := _array(p.weight)) is not None:
            count = int((codes == -128).sum())
            if count:
                yield net.title(p.op), f"{count} weights of -128"


def _array(tensor: FileTensor) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]] | None:
    try:
        return tensor.array()
    except UnsupportedError:  # the reader says what is wrong with it
        return None


def bias_scale(net: TfliteNet) -> Iterator[Place]:
    for p in net.parameters:
        if p.bias is None or not (_codes(p) and p.bias.is_quantized and len(p.x.scale) == 1):
            continue
        wanted = p.x.scale[0] * np.asarray(p.weight.scale)
        found = np.asarray(p.bias.scale)
        if found.size not in (1, wanted.size) or not np.allclose(found, wanted, rtol=1e-3, atol=0):
            yield net.title(p.op), "the bias has another scale than input times weight"


def bias_type(net: TfliteNet) -> Iterator[Place]:
    for p in net.parameters:
        if p.bias is None or not _codes(p) or not p.x.is_quantized:
            continue
        allowed = ("int32", "int64") if p.x.element == "int16" else ("int32",)
        if p.bias.element not in allowed or any(p.bias.zero_point):
            yield net.title(p.op), f"the bias is {p.bias.element} with zero point {max(p.bias.zero_point or (0,))}"


def _numbers(tensor: FileTensor) -> tuple[tuple[float, ...], tuple[int, ...]]:
    return tensor.scale, tensor.zero_point


def shared_scale(net: TfliteNet) -> Iterator[Place]:
    for op in net.ops:
        if op.kind not in _ONE_SCALE or not net.on_codes(op):
            continue
        operands = [t for t in net.operands(op) if t.is_quantized and t.element == net.results(op)[0].element]
        for tensor in net.results(op):
            differing = [t for t in operands if _numbers(t) != _numbers(tensor)]
            if differing:
                yield net.title(op), f"its operand {differing[0].name} has other numbers than its result"
                break


def fixed_scale(net: TfliteNet) -> Iterator[Place]:
    for op in net.ops:
        result = net.results(op)[0]
        if op.kind in _FIXED and result.element == "int8" and result.is_quantized:
            scale, zero = _FIXED[op.kind]
            if len(result.scale) != 1 or not math.isclose(result.scale[0], scale, rel_tol=1e-6) or (
                result.zero_point != (zero,)
            ):  # fmt: skip
                yield net.title(op), f"scale {result.scale[0]:g} and zero point {result.zero_point[0]}"


def symmetric_int16(net: TfliteNet) -> Iterator[Place]:
    for tensor in net.computed:
        if tensor.element == "int16" and any(tensor.zero_point):
            yield tensor.name, f"zero point {tensor.zero_point[0]} of int16"


def unsigned_codes(net: TfliteNet) -> Iterator[Place]:
    for tensor in net.computed:
        if tensor.element == "uint8" and net.producer.get(tensor.index) is not None:
            yield tensor.name, "its codes are uint8"


def boxes_and_scores(net: TfliteNet) -> Iterator[Place]:
    bounded: set[int] = set()
    for op in net.ops:
        moved = [index for index in op.inputs if index in net.producer or index in net.file.inputs]
        transparent = (*MOVING, "QUANTIZE", "DEQUANTIZE")
        if op.kind in _BOUNDED or (op.kind in transparent and moved and bounded.issuperset(moved)):
            bounded.update(op.outputs)
        result = net.results(op)[0]
        if op.kind != "CONCATENATION" or not result.is_quantized:
            continue
        found = [index in bounded for index in moved]
        if any(found) and not all(found) and max(result.scale) > COARSE_SCORE_STEP:
            yield net.title(op), f"joins scores in 0 … 1 with other numbers; both get steps of {max(result.scale):.3g}"


def float_islands(net: TfliteNet) -> Iterator[Place]:
    """Operators in float whose numbers were codes before and become codes again, each connected group once."""
    after = _reached(net, forwards=True)
    before = _reached(net, forwards=False)
    inside = [op for op in net.ops if net.in_float(op) and op.outputs[0] in after and op.outputs[0] in before]
    for island in _connected(inside):
        kinds = ", ".join(sorted({op.kind for op in island}))
        yield net.title(island[0]), f"{len(island)} in float between operators on integers: {kinds}"


def _connected(ops: list[FileOperator]) -> list[list[FileOperator]]:
    """`ops` in groups that share computed tensors."""
    groups: list[tuple[set[int], list[FileOperator]]] = []
    made = {index for op in ops for index in op.outputs}
    for op in ops:
        touched = {index for index in (*op.inputs, *op.outputs) if index in made}
        joined = [group for group in groups if group[0] & touched]
        groups = [group for group in groups if not group[0] & touched]
        groups.append((touched.union(*(g[0] for g in joined)), [o for g in joined for o in g[1]] + [op]))
    return [members for _, members in groups]


def _reached(net: TfliteNet, *, forwards: bool) -> set[int]:
    """Tensors of reals that come from DEQUANTIZE (or, backwards, that go to QUANTIZE) through float operators."""
    found: set[int] = set()
    for op in net.ops if forwards else net.ops[::-1]:
        near, far = (op.inputs, op.outputs) if forwards else (op.outputs, op.inputs)
        border = "DEQUANTIZE" if forwards else "QUANTIZE"
        starts = op.kind == border and all(t.content is None for t in net.operands(op)[:1])
        if starts or (net.in_float(op) and found.intersection(near)):
            found.update(far)
    return found


def hybrid(net: TfliteNet) -> Iterator[Place]:
    for p in net.parameters:
        if _codes(p) and not p.x.is_quantized:
            yield net.title(p.op), f"{p.weight.element} weights with {p.x.element} activations"


def float_operators(net: TfliteNet) -> Iterator[Place]:
    for p in net.parameters:
        if not _codes(p) and not p.x.is_quantized:
            yield net.title(p.op), f"runs in {p.x.element}"


def recent_runtime(net: TfliteNet) -> Iterator[Place]:
    seen: set[tuple[str, int]] = set()
    for op in net.ops:
        newest = NEWEST_IN_2_14.get(op.kind)
        if (op.kind, op.version) in seen or newest is None or op.version <= newest:
            continue
        seen.add((op.kind, op.version))
        yield net.title(op), f"version {op.version}; tflite-runtime 2.14 knows up to {newest or 'none'}"
    for tensor in net.quantized:
        if tensor.element in PACKED_BITS and ("packed", 0) not in seen:
            seen.add(("packed", 0))
            yield tensor.name, f"{tensor.element} weights"


def custom_operators(net: TfliteNet) -> Iterator[Place]:
    for op in net.ops:
        if op.kind.startswith("CUSTOM:"):
            yield net.title(op), f"custom operator {op.kind.removeprefix('CUSTOM:')}"


def microcontroller_operators(net: TfliteNet) -> Iterator[Place]:
    for op in net.ops:
        if op.kind not in ON_MICROCONTROLLERS and not op.kind.startswith("CUSTOM:"):
            yield net.title(op), f"TFLite Micro has no {op.kind}"


def float_ports(net: TfliteNet) -> Iterator[Place]:
    has_codes = bool(net.computed)
    for index in (*net.file.inputs, *net.file.outputs):
        tensor = net.file.tensors[index]
        if has_codes and "float" in tensor.element:
            yield tensor.name, f"a port in {tensor.element}"
