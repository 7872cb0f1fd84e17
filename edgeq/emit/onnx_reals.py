"""Every operator in its float form: how ONNX computes on reals what the operator means.

Codes enter as the reals they stand for, so the same lines serve the float baseline and the Q/DQ files.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import assert_never

import numpy as np
from onnx import TensorProto

from edgeq.emit.onnx_functions import BINARY_OPERATORS, write_function
from edgeq.emit.onnx_writer import Tensor, Writer, is_codes
from edgeq.errors import UnsupportedError
from edgeq.formats import INDEX
from edgeq.ir import ops as o
from edgeq.ir.graph import Array, Graph
from edgeq.quantize.operators import moves_codes

SMALLEST_NORMAL = float(np.finfo(np.float32).tiny)
_INT64_MIN = -(1 << 63)
_CASTS = {"real": TensorProto.FLOAT, "index": TensorProto.INT64, "bool": TensorProto.BOOL}
_REDUCTIONS = {"max": "ReduceMax", "min": "ReduceMin", "l2": "ReduceL2"}


def write_reals(op: o.Op, w: Writer) -> None:
    """Append `op` to the file, reading and writing reals; results with 8-bit codes are quantized after it."""
    out, *others = (w.result_name(value) for value in o.results(op))
    _write(op, out, others, w)
    for value, tensor in zip(o.results(op), [out, *others], strict=True):
        w.finish(value, tensor)


def _write(op: o.Op, out: Tensor, others: list[Tensor], w: Writer) -> None:
    match op:
        case o.Conv():
            _conv(op, out, w)
        case o.ConvTranspose():
            _conv_transpose(op, out, w)
        case o.Linear():
            _linear(op, out, w)
        case o.MatMul():
            w.node("MatMul", [w.real(op.a), w.real(op.b)], out)
        case o.Add() | o.Sub() | o.Mul():
            w.node(type(op).__name__, [w.real(op.a), w.real(op.b)], out)
        case o.Binary():
            _binary(op, out, w)
        case o.Apply():
            write_function(op.function, w.real(op.x), out, w)
        case o.ChannelAffine():
            rank = len(w.type(op.x).shape)
            scaled = w.node("Mul", [w.real(op.x), _channels(op.scale, rank, w)], w.fresh(f"{out}.scaled"))
            w.node("Add", [scaled, _channels(op.shift, rank, w)], out)
        case o.Softmax():
            _softmax(op, out, w)
        case o.LayerNorm():
            _layer_norm(op, out, w)
        case o.GroupNorm():
            _group_norm(op, out, w)
        case o.MaxPool():
            write_max_pool(op, out, w.real(op.x), np.array(-np.inf, dtype=np.float32), w)
        case o.AveragePool():
            w.node(
                "AveragePool", [w.real(op.x)], out,
                kernel_shape=op.kernel, strides=op.stride, pads=op.padding, count_include_pad=int(op.count_padding),
            )  # fmt: skip
        case o.Mean():
            _mean(op, out, w)
        case o.Reduce() if op.function == "sum":
            w.node("ReduceSum", [w.real(op.x), w.integers(op.axes, f"{out}.axes")], out, keepdims=1)
        case o.Reduce():
            _reduce(_REDUCTIONS[op.function], op.x, op.axes, out, w)
        case o.ArgMax():
            w.node("ArgMax", [w.real(op.x)], out, axis=op.axis, keepdims=1)
        case o.TopK():
            inputs = [w.real(op.x), w.integers([op.k], f"{out}.k")]
            w.node("TopK", inputs, [out, *others], axis=op.axis, largest=int(op.largest), sorted=1)
        case o.Where():
            w.node("Where", [w.real(op.condition), w.real(op.a), w.real(op.b)], out)
        case o.Cast():
            w.node("Cast", [w.real(op.x)], out, to=_CASTS[op.to])
        case (
            o.Concat() | o.Slice() | o.Pad() | o.Reshape() | o.Transpose() | o.Expand() | o.Resize()
            | o.Gather() | o.GatherElements()
        ):  # fmt: skip
            write_movement(op, out, [w.real(value) for value in o.operands(op)], w)
        case o.Quantize() | o.Dequantize() | o.Requantize() | o.DivideCodes() | o.Lookup():
            raise TypeError(f"{type(op).__name__} acts on codes")
        case _:
            assert_never(op)


Movement = (
    o.Concat | o.Slice | o.Pad | o.Reshape | o.Transpose | o.Expand | o.Resize | o.Gather | o.GatherElements
)  # fmt: skip


def write_movement(op: Movement, out: Tensor, inputs: list[Tensor], w: Writer, fill: Tensor = "") -> Tensor:
    """An operator that moves elements, on tensors of any kind; `fill` is what a constant Pad puts around."""
    match op:
        case o.Concat():
            return w.node("Concat", inputs, out, axis=op.axis)
        case o.Slice():
            return _slice(op, out, inputs[0], w)
        case o.Pad():
            constant = op.mode == "constant"
            value = [fill or w.scalar(_pad_value(op, w), f"{out}.value")] if constant else []
            pads = w.integers([*op.before, *op.after], f"{out}.pads")
            return w.node("Pad", [inputs[0], pads, *value], out, mode=op.mode)
        case o.Reshape():
            return w.node("Reshape", [inputs[0], w.integers(op.shape, f"{out}.shape")], out)
        case o.Transpose():
            return w.node("Transpose", inputs, out, perm=op.permutation)
        case o.Expand():
            return w.node("Expand", [inputs[0], w.integers(op.shape, f"{out}.shape")], out)
        case o.Resize():
            return _resize(op, out, inputs[0], w)
        case o.Gather() | o.GatherElements():
            return w.node(type(op).__name__, inputs, out, axis=op.axis)


def _pad_value(op: o.Pad, w: Writer) -> float:
    # ONNX Runtime 1.31 merges a zero Pad into the MaxPool behind it, where padding never wins, negative or not.
    pooled = any(isinstance(reader, o.MaxPool) for reader in w.graph.consumers.get(op.out, ()))
    return SMALLEST_NORMAL if pooled and op.value == 0.0 else op.value


def write_max_pool(op: o.MaxPool, out: Tensor, x: Tensor, lowest: Array, w: Writer) -> Tensor:
    """MaxPool on tensors of any kind; `lowest` never wins against an element."""
    pads, kernel = op.padding, (*op.kernel, *op.kernel)
    if any(pad >= size for pad, size in zip(pads, kernel, strict=True)):
        # ONNX Runtime refuses so much padding (it takes a dilated window to need it).
        around = w.integers((0, 0, *pads[:2], 0, 0, *pads[2:]), f"{out}.pads")
        filler = w.constant(lowest, f"{out}.lowest")
        x = w.node("Pad", [x, around, filler], w.fresh(f"{out}.padded"), mode="constant")
        pads = (0, 0, 0, 0)
    return w.node(
        "MaxPool", [x], out, kernel_shape=op.kernel, strides=op.stride, pads=pads, dilations=op.dilation
    )  # fmt: skip


def _operands(values: Iterable[o.Value | None], w: Writer) -> list[Tensor]:
    return [w.real(value) for value in values if value is not None]


def _conv(op: o.Conv, out: Tensor, w: Writer) -> None:
    w.node(
        "Conv", _operands([op.x, op.weight, op.bias], w), out,
        kernel_shape=w.type(op.weight).shape[2:], strides=op.stride, pads=op.padding, dilations=op.dilation,
        group=op.groups,
    )  # fmt: skip


def _conv_transpose(op: o.ConvTranspose, out: Tensor, w: Writer) -> None:
    w.node(
        "ConvTranspose", _operands([op.x, op.weight, op.bias], w), out,
        kernel_shape=w.type(op.weight).shape[2:], strides=op.stride, pads=op.padding, dilations=op.dilation,
        output_padding=op.output_padding, group=op.groups,
    )  # fmt: skip


def _linear(op: o.Linear, out: Tensor, w: Writer) -> None:
    if len(w.type(op.x).shape) == 2:
        w.node("Gemm", _operands([op.x, op.weight, op.bias], w), out, transB=1)
        return
    product = out if op.bias is None else w.fresh(f"{out}.product")
    w.node("MatMul", [w.real(op.x), w.transposed(op.weight)], product)
    if op.bias is not None:
        w.node("Add", [product, w.real(op.bias)], out)


def _binary(op: o.Binary, out: Tensor, w: Writer) -> None:
    fmod = 1 if op.function == "mod" and w.type(op.a).format != INDEX else None
    w.node(BINARY_OPERATORS[op.function], [w.real(op.a), w.real(op.b)], out, fmod=fmod)


def _channels(value: o.Value, rank: int, w: Writer) -> Tensor:
    """A vector as a tensor that broadcasts along axis 1 of a value of `rank` axes."""
    shape = (-1, *([1] * (rank - 2)))
    if value in w.graph.constants:
        return w.constant(w.graph.constants[value].astype(np.float32).reshape(shape), f"{value}.channels")
    return w.node("Reshape", [w.real(value), w.integers(shape, f"{value}.shape")], w.fresh(f"{value}.channels"))


def _becomes_codes(value: o.Value, graph: Graph) -> bool:
    """Whether `value` is quantized, maybe after it was moved."""
    readers = graph.consumers.get(value, ())
    moved = (o.results(op)[0] for op in readers if moves_codes(op))
    return (
        is_codes(graph.types[value])
        or any(isinstance(op, o.Quantize) for op in readers)
        or any(_becomes_codes(result, graph) for result in moved)
    )


def _softmax(op: o.Softmax, out: Tensor, w: Writer) -> None:
    last = len(w.type(op.x).shape) - 1
    x = w.real(op.x)
    if w.runtime == "onnxruntime" and _becomes_codes(op.out, w.graph):
        # Between codes ONNX Runtime would put a softmax of its own, from a table, whose shares may be a code off.
        x = w.node("Max", [x], w.fresh(f"{out}.scores"))
    if w.runtime == "tensorrt" or op.axis == last:
        w.node("Softmax", [x], out, axis=op.axis)
        return
    # ONNX Runtime walks any other axis with a stride, four times slower than it moves the axis to the end.
    swap = [last if axis == op.axis else op.axis if axis == last else axis for axis in range(last + 1)]
    moved = w.node("Transpose", [x], w.fresh(f"{out}.moved"), perm=swap)
    shares = w.node("Softmax", [moved], w.fresh(f"{out}.shares"), axis=last)
    w.node("Transpose", [shares], out, perm=swap)


def _layer_norm(op: o.LayerNorm, out: Tensor, w: Writer) -> None:
    ones = np.ones(w.type(op.x).shape[op.axis :], dtype=np.float32)
    gamma = w.constant(ones, f"{out}.gamma") if op.gamma is None else w.real(op.gamma)
    inputs = [w.real(op.x), gamma, *_operands([op.beta], w)]
    w.node("LayerNormalization", inputs, out, axis=op.axis, epsilon=op.epsilon)


def _group_norm(op: o.GroupNorm, out: Tensor, w: Writer) -> None:
    shape = w.type(op.x).shape
    vectors = [w.constant(np.full(op.groups, n, dtype=np.float32), f"{out}.{n}") for n in (1, 0)]
    flat = w.node(
        "Reshape", [w.real(op.x), w.integers([shape[0], op.groups, -1], f"{out}.groups")], w.fresh(f"{out}.grouped")
    )
    normal = w.node("InstanceNormalization", [flat, *vectors], w.fresh(f"{out}.normal"), epsilon=op.epsilon)
    steps = [(kind, value) for kind, value in (("Mul", op.gamma), ("Add", op.beta)) if value is not None]
    name = w.fresh(f"{out}.normed") if steps else out
    current = w.node("Reshape", [normal, w.integers(shape, f"{out}.shape")], name)
    for index, (kind, value) in enumerate(steps):
        name = out if index == len(steps) - 1 else w.fresh(f"{out}.scaled")
        current = w.node(kind, [current, _channels(value, len(shape), w)], name)


def _mean(op: o.Mean, out: Tensor, w: Writer) -> None:
    rank = len(w.type(op.x).shape)
    if rank == 4 and sorted(op.axes) == [2, 3]:
        w.node("GlobalAveragePool", [w.real(op.x)], out)
    else:
        _reduce("ReduceMean", op.x, op.axes, out, w)


def _reduce(kind: str, x: o.Value, axes: tuple[int, ...], out: Tensor, w: Writer) -> None:
    """Axes became an input in operator set 18."""
    if w.opset < 18:
        w.node(kind, [w.real(x)], out, axes=axes, keepdims=1)
    else:
        w.node(kind, [w.real(x), w.integers(axes, f"{out}.axes")], out, keepdims=1)


def _slice(op: o.Slice, out: Tensor, x: Tensor, w: Writer) -> Tensor:
    size = w.type(op.x).shape
    axes = [
        axis
        for axis, (start, stop, step) in enumerate(zip(op.starts, op.stops, op.steps, strict=True))
        if (start, step) != (0, 1) or stop < size[axis]
    ]
    stops = [_INT64_MIN + 1 if op.stops[axis] < 0 else op.stops[axis] for axis in axes]
    inputs = [
        w.integers(numbers, f"{out}.{name}")
        for name, numbers in (
            ("starts", [op.starts[axis] for axis in axes]),
            ("stops", stops),
            ("axes", axes),
            ("steps", [op.steps[axis] for axis in axes]),
        )
    ]
    return w.node("Slice", [x, *inputs], out) if axes else w.node("Identity", [x], out)


def _resize(op: o.Resize, out: Tensor, x: Tensor, w: Writer) -> Tensor:
    size = w.type(op.x).shape[2:]
    scales = np.array([1.0, 1.0, *op.scale], dtype=np.float32)
    # Runtimes take floor(size * scale), in either precision; where that misses, the size must carry the scale.
    sizes = {tuple(np.floor(np.asarray(size, kind) * scales[2:].astype(kind)).tolist()) for kind in ("f4", "f8")}
    if sizes == {op.size}:
        geometry = ["", w.constant(scales, f"{out}.scales")]
    elif np.allclose(np.array(op.size) / np.array(size), op.scale, rtol=1e-6):
        geometry = ["", "", w.integers([*w.type(op.x).shape[:2], *op.size], f"{out}.sizes")]
    else:
        raise UnsupportedError(
            "ONNX has no resize with this scale and this size", where=op.out, value=(op.scale, op.size),
            next_step="Export the model with a fixed input size.",
        )  # fmt: skip
    return w.node(
        "Resize", [x, *geometry], out,
        mode=op.mode, coordinate_transformation_mode=op.coordinates,
        nearest_mode=op.nearest if op.mode == "nearest" else None,
        cubic_coeff_a=-0.75 if op.mode == "cubic" else None,
    )  # fmt: skip
