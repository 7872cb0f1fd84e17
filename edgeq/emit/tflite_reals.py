"""Operators on reals and indices: the float baseline, and the float islands of integer files."""

from __future__ import annotations

from typing import assert_never

import numpy as np

from edgeq.emit.tflite_functions import BINARY, write_function
from edgeq.emit.tflite_layout import Layout, identity, moved_to_end
from edgeq.emit.tflite_movement import bilinear_flags, common_layout, is_same_padding, write_movement
from edgeq.emit.tflite_operators import (
    ACTIVATION_CODES,
    write_arithmetic,
    write_average_pool,
    write_bilinear,
    write_conv,
    write_conv_transpose,
    write_linear,
    write_matmul,
    write_mean,
    write_softmax,
)
from edgeq.emit.tflite_values import Values
from edgeq.emit.tflite_writer import Index
from edgeq.errors import UnsupportedError
from edgeq.formats import BOOL, INDEX
from edgeq.ir import ops as o
from edgeq.ir.graph import Graph
from edgeq.reference.meaning import interpolation_matrix
from edgeq.reference.tflite import Activation

_REDUCTIONS = {"sum": "SUM", "max": "REDUCE_MAX", "min": "REDUCE_MIN"}
Fusing = o.Conv | o.Linear | o.Add | o.Sub | o.Mul | o.AveragePool


def fused_activation(op: o.Op, graph: Graph) -> tuple[o.Value, int]:
    """Where `op` writes and with which activation: the result of the relu behind it, if that is all that reads it."""
    out = o.results(op)[0]
    reader = graph.sole_consumer(out)
    if isinstance(op, Fusing) and isinstance(reader, o.Apply) and graph.types[out].is_real:
        limits = {("relu", 0.0, 0.0): "RELU", ("clip", 0.0, 6.0): "RELU6", ("clip", -1.0, 1.0): "RELU_N1_TO_1"}
        f = reader.function
        activation: Activation | None = limits.get((f.name, f.a, f.b))  # type: ignore[assignment]
        if activation is not None:
            return reader.out, ACTIVATION_CODES[activation]
    return out, 0


def write_real(op: o.Op, v: Values) -> None:
    """Append an operator on reals, indices or truth values. Raises UnsupportedError for what TFLite cannot compute."""
    out, activation = fused_activation(op, v.graph)
    match op:
        case o.Conv():
            write_conv(op, out, activation, v)
        case o.ConvTranspose():
            write_conv_transpose(op, out, v)
        case o.Linear():
            write_linear(op, out, activation, v)
        case o.MatMul():
            write_matmul(op, out, v)
        case o.Add() | o.Sub() | o.Mul():
            write_arithmetic(op, out, activation, v)
        case o.AveragePool():
            _average_pool(op, out, activation, v)
        case o.Mean():
            write_mean(op, out, v)
        case o.Binary():
            _binary(op, v)
        case o.Apply():
            _apply(op, v)
        case o.ChannelAffine():
            _affine(op, v)
        case o.Softmax():
            v.later(op.out, lambda: write_softmax(op.x, op.axis, op.out, v))
        case o.LayerNorm():
            _layer_norm(op, v)
        case o.GroupNorm():
            _group_norm(op, v)
        case o.Reduce():
            _reduce(op, v)
        case o.Resize() if op.mode != "nearest":
            _resize(op, v)
        case o.TopK():
            _top_k(op, v)
        case o.ArgMax():
            _arg_max(op, v)
        case o.Where():
            _where(op, v)
        case o.Cast():
            _cast(op, v)
        case (
            o.MaxPool() | o.Concat() | o.Slice() | o.Pad() | o.Reshape() | o.Transpose() | o.Expand() | o.Resize()
            | o.Gather() | o.GatherElements()
        ):  # fmt: skip
            write_movement(op, v)
        case o.Quantize() | o.Dequantize() | o.Requantize() | o.DivideCodes() | o.Lookup():
            raise TypeError(f"{type(op).__name__} acts on codes")
        case _:
            assert_never(op)


def _arg_max(op: o.ArgMax, v: Values) -> None:
    layout = v.layout(op.x)
    x, place = v.read(op.x), layout.index(op.axis)
    flat = v.file.tensor(f"{op.out}.flat", _without(v.file.shape(x), place), "INT32")
    v.file.operator("ARG_MAX", [x, v.integers([place], "axis")], [flat], 1, "ArgMaxOptions", outputType=2)
    v.reshape(flat, v.result(op.out, layout))


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return (*shape[:axis], *shape[axis + 1 :])


def _apply(op: o.Apply, v: Values) -> None:
    if op.out in v.home:
        return  # fused into the operator before it
    layout = v.layout(op.x)
    x = v.read(op.x)
    write_function(op.function, x, v.result(op.out, layout), op.out, v)


def _binary(op: o.Binary, v: Values) -> None:
    kind, options = BINARY[op.function]
    layout = common_layout((op.a, op.b), v)
    inputs = [v.spread(value, len(layout), layout) for value in (op.a, op.b)]
    if op.function == "div" and v.type(op.a).format == INDEX:
        kind, options = "FLOOR_DIV", "FloorDivOptions"  # indices are not negative
    if op.function == "mod" and v.type(op.a).is_real:
        raise UnsupportedError("TFLite's remainder has the sign of the divisor", where=op.out, value="mod of reals")
    fields = {"fusedActivationFunction": 0} if options == "DivOptions" else {}
    v.file.operator(kind, inputs, [v.result(op.out, layout)], 1, options, **fields)


def _average_pool(op: o.AveragePool, out: o.Value, activation: int, v: Values) -> None:
    """Windows that do not count their padding are SAME, or their means are scaled by what they do count."""
    size = v.shape(op.x)[2:]
    same = all(
        is_same_padding(size[k], op.kernel[k], op.stride[k], 1, op.padding[k], op.padding[k + 2]) for k in (0, 1)
    )
    if op.count_padding or not any(op.padding) or same:
        write_average_pool(op, out, activation, v)
        return
    raise UnsupportedError("TFLite cannot leave this padding out of an average", where=op.out, value=op.padding)


def _channels(value: o.Value, rank: int, layout: Layout, v: Values) -> Index:
    """A vector as a constant that broadcasts along axis 1 of values of `rank` axes stored in `layout`."""
    return v.constant(value, layout, (1, -1, *([1] * (rank - 2))))


def _affine(op: o.ChannelAffine, v: Values) -> None:
    layout = v.layout(op.x)
    x = v.read(op.x)
    scaled = v.real(f"{op.out}.scaled", v.file.shape(x))
    factor, shift = (_channels(value, len(layout), layout, v) for value in (op.scale, op.shift))
    v.file.operator("MUL", [x, factor], [scaled], 1, "MulOptions", fusedActivationFunction=0)
    v.file.operator("ADD", [scaled, shift], [v.result(op.out, layout)], 1, "AddOptions", fusedActivationFunction=0)


def _normalized(x: Index, axes: list[int], epsilon: float, out: o.Value, v: Values, to: Index | None = None) -> Index:
    """(x - mean) / sqrt(variance + epsilon) over some axes of a tensor."""
    shape = v.file.shape(x)
    kept = tuple(1 if axis in axes else size for axis, size in enumerate(shape))
    places = v.integers(axes, "axes")

    def step(kind: str, inputs: list[Index], name: str, size: tuple[int, ...], options: str | None = None) -> Index:
        result = v.real(f"{out}.{name}", size)
        fields: dict[str, object] = {"keepDims": True} if options == "ReducerOptions" else {}
        if options in ("SubOptions", "MulOptions", "AddOptions"):
            fields = {"fusedActivationFunction": 0}
        v.file.operator(kind, inputs, [result], 1, options, **fields)
        return result

    mean = step("MEAN", [x, places], "mean", kept, "ReducerOptions")
    centred = step("SUB", [x, mean], "centred", shape, "SubOptions")
    squares = step("MUL", [centred, centred], "squares", shape, "MulOptions")
    variance = step("MEAN", [squares, places], "variance", kept, "ReducerOptions")
    positive = step(
        "ADD", [variance, v.numbers(np.full((1,) * len(shape), epsilon), "epsilon")], "raised", kept, "AddOptions"
    )
    spread = step("RSQRT", [positive], "spread", kept)
    result = v.real(f"{out}.normal", shape) if to is None else to
    v.file.operator("MUL", [centred, spread], [result], 1, "MulOptions", fusedActivationFunction=0)
    return result


def _scaled_and_moved(x: Index, gamma: Index | None, beta: Index | None, out: Index, name: str, v: Values) -> None:
    steps = [item for item in (("MUL", "MulOptions", gamma), ("ADD", "AddOptions", beta)) if item[2] is not None]
    for k, (kind, options, operand) in enumerate(steps):
        assert operand is not None
        to = out if k == len(steps) - 1 else v.real(f"{name}.scaled", v.file.shape(out))
        v.file.operator(kind, [x, operand], [to], 1, options, fusedActivationFunction=0)
        x = to


def _layer_norm(op: o.LayerNorm, v: Values) -> None:
    layout, rank = v.layout(op.x), len(v.shape(op.x))
    axes = sorted(layout.index(axis) for axis in range(op.axis, rank))
    vectors = [None if value is None else v.spread(value, rank, layout) for value in (op.gamma, op.beta)]
    x, out = v.read(op.x), v.result(op.out, layout)
    if vectors == [None, None]:
        _normalized(x, axes, op.epsilon, op.out, v, out)
    else:
        _scaled_and_moved(_normalized(x, axes, op.epsilon, op.out, v), vectors[0], vectors[1], out, op.out, v)


def _group_norm(op: o.GroupNorm, v: Values) -> None:
    """Over [N, groups, elements] in the value's own order, then scaled per channel."""
    shape, rank = v.shape(op.x), len(v.shape(op.x))
    plain = identity(rank)
    grouped = v.real(f"{op.out}.grouped", (shape[0], op.groups, int(np.prod(shape[1:])) // op.groups))
    v.reshape(v.read(op.x, plain), grouped)
    normal = _normalized(grouped, [2], op.epsilon, op.out, v)
    gamma, beta = (None if c is None else _channels(c, rank, plain, v) for c in (op.gamma, op.beta))
    out = v.result(op.out)
    if gamma is None and beta is None:
        v.reshape(normal, out)
        return
    back = v.real(f"{op.out}.back", shape)
    v.reshape(normal, back)
    _scaled_and_moved(back, gamma, beta, out, op.out, v)


def _reduce(op: o.Reduce, v: Values) -> None:
    layout = v.layout(op.x)
    axes = v.integers(sorted(layout.index(axis) for axis in op.axes), "axes")
    x, out = v.read(op.x), v.result(op.out, layout)
    if op.function != "l2":
        v.file.operator(_REDUCTIONS[op.function], [x, axes], [out], 1, "ReducerOptions", keepDims=True)
        return
    squares, total = v.real(f"{op.out}.squares", v.file.shape(x)), v.real(f"{op.out}.total", v.file.shape(out))
    v.file.operator("MUL", [x, x], [squares], 1, "MulOptions", fusedActivationFunction=0)
    v.file.operator("SUM", [squares, axes], [total], 1, "ReducerOptions", keepDims=True)
    v.file.operator("SQRT", [total], [out], 1)


def _resize(op: o.Resize, v: Values) -> None:
    """RESIZE_BILINEAR where it samples alike, else the two interpolation matrices."""
    try:
        aligned, centred = bilinear_flags(op, v.shape(op.x)[2:])
        if op.mode == "linear":
            write_bilinear(op, op.out, aligned, centred, v)
            return
    except UnsupportedError:
        pass
    size = v.shape(op.x)[2:]
    rows, columns = (
        interpolation_matrix(size[k], op.size[k], op.scale[k], op.mode, op.coordinates, False).numpy() for k in (0, 1)
    )
    n, c, height, _ = v.shape(op.x)
    wide = v.real(f"{op.out}.wide", (n, c, height, op.size[1]))
    plain = v.read(op.x, identity(4))
    options = {"adjX": False, "asymmetricQuantizeInputs": False}
    right = v.numbers(columns[None, None].astype(np.float32), "columns")
    v.file.operator("BATCH_MATMUL", [plain, right], [wide], 1, "BatchMatMulOptions", adjY=True, **options)
    left = v.numbers(rows[None, None].astype(np.float32), "rows")
    v.file.operator("BATCH_MATMUL", [left, wide], [v.result(op.out)], 1, "BatchMatMulOptions", adjY=False, **options)


def _top_k(op: o.TopK, v: Values) -> None:
    if not op.largest:
        raise UnsupportedError("TFLite finds the largest elements only", where=op.out_values)
    layout = moved_to_end(v.layout(op.x), op.axis)
    inputs = [v.read(op.x, layout), v.numbers(np.array(op.k, dtype=np.int32), "k")]
    outputs = [v.result(op.out_values, layout), v.result(op.out_indices, layout)]
    v.file.operator("TOPK_V2", inputs, outputs, 1, "TopKV2Options")


def _where(op: o.Where, v: Values) -> None:
    layout = common_layout((op.condition, op.a, op.b), v)
    inputs = [v.spread(value, len(layout), layout) for value in (op.condition, op.a, op.b)]
    v.file.operator("SELECT_V2", inputs, [v.result(op.out, layout)], 1, "SelectV2Options")


def _cast(op: o.Cast, v: Values) -> None:
    codes = {"real": 0, "index": 2, "bool": 6}
    format_ = v.type(op.x).format
    source = 0 if v.type(op.x).is_real else 2 if format_ == INDEX else 6 if format_ == BOOL else 0
    layout = v.layout(op.x)
    v.file.operator(
        "CAST", [v.read(op.x)], [v.result(op.out, layout)], 1, "CastOptions", inDataType=source, outDataType=codes[op.to]
    )  # fmt: skip
