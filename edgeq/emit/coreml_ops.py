"""Every operator in MIL: on reals directly, on codes between `dequantize` and `quantize`.

An accumulator is printed as the real it stands for, so a requantization to 8 bits is a `quantize` and one to more bits
is nothing at all. Windows are padded (before, after) axis by axis, as MIL wants it.
"""

from __future__ import annotations

from typing import assert_never

import numpy as np

from edgeq.emit.coreml_functions import write_binary, write_function
from edgeq.emit.coreml_movement import write_movement
from edgeq.emit.coreml_program import Tensor
from edgeq.emit.coreml_writer import Writer, is_narrow
from edgeq.errors import UnsupportedError
from edgeq.formats import Fixed, Int, code_range
from edgeq.ir import ops as o

_REDUCTIONS = {"sum": "reduce_sum", "max": "reduce_max", "min": "reduce_min", "l2": "reduce_l2_norm"}
_CASTS = {"index": "int32", "bool": "bool"}
_SMALLEST_EPSILON = 2.0**-24
"""The smallest positive number of half precision."""


def write_op(op: o.Op, w: Writer) -> None:
    """Append one operator of a real or lowered graph. Raises UnsupportedError for formats without MIL quantizer."""
    for value in o.results(op):
        type_ = w.type(value)
        if type_.scale and not isinstance(type_.format, Int | Fixed):
            raise UnsupportedError(
                "CoreML quantizes activations to 8-bit integers only", where=value, value=type_.format
            )
    match op:
        case o.Quantize() if is_narrow(w.type(op.out)):
            w.quantize(w.real(op.x), op.out)
        case o.Quantize() | o.Dequantize():
            w.same_as(op.out, op.x)
        case o.Requantize() | o.DivideCodes():
            _requantize(op, w)
        case o.Lookup():
            w.finish(op.out, write_function(op.function, w.real(op.x), op.out, w))
        case o.TopK():
            _top_k(op, w)
        case _:
            w.finish(o.results(op)[0], _real(op, w))


def _requantize(op: o.Requantize | o.DivideCodes, w: Writer) -> None:
    if not is_narrow(w.type(op.out)):
        real = w.real(op.x)
        clamped = w.clamp(real, w.type(op.out), op.low, op.high, op.out)
        if clamped is real:
            w.same_as(op.out, op.x)
        else:
            w.tensors[op.out] = clamped
    elif _is_left_to_concat(op, w):
        w.same_as(op.out, op.x)
    else:
        w.quantize(w.real(op.x), op.out, op.low, op.high)


def _is_left_to_concat(op: o.Requantize | o.DivideCodes, w: Writer) -> bool:
    """Whether the quantizer behind a concatenation does this requantization anyway."""
    readers = w.graph.consumers.get(op.out, ())
    full = (op.low, op.high) == code_range(w.type(op.out).format)
    return full and op.out not in w.graph.outputs and all(isinstance(reader, o.Concat) for reader in readers)


def _top_k(op: o.TopK, w: Writer) -> None:
    x, shape = w.real(op.x), w.shape(op.out_values)
    w.tensors[op.out_values], w.tensors[op.out_indices] = w.several(
        "topk", [(op.out_values, shape, x.dtype), (op.out_indices, shape, "int32")],
        x=x, k=op.k, axis=op.axis, ascending=not op.largest, sort=True, return_indices=True,
    )  # fmt: skip


def _real(op: o.Op, w: Writer) -> Tensor:
    """The real (or index, or truth) tensor that `op` computes."""
    out = o.results(op)[0]
    shape = w.shape(out)
    match op:
        case o.Conv():
            return _conv(op, w)
        case o.ConvTranspose():
            return _conv_transpose(op, w)
        case o.Linear():
            return _linear(op, w)
        case o.MatMul():
            return w.op("matmul", out, shape, x=w.real(op.a), y=w.real(op.b))
        case o.Add() | o.Sub() | o.Mul():
            a = w.real(op.a)
            return w.op(type(op).__name__.lower(), out, shape, a.dtype, x=a, y=w.real(op.b))
        case o.Binary():
            return write_binary(op, w)
        case o.Apply():
            return write_function(op.function, w.real(op.x), out, w)
        case o.ChannelAffine():
            return _affine(w.real(op.x), op.scale, op.shift, out, w)
        case o.Softmax():
            return w.op("softmax", out, shape, x=w.real(op.x), axis=op.axis)
        case o.LayerNorm():
            return _layer_norm(op, w)
        case o.GroupNorm():
            return _group_norm(op, w)
        case o.MaxPool():
            return _max_pool(op, w)
        case o.AveragePool():
            return w.op(
                "avg_pool", out, shape, x=w.real(op.x), kernel_sizes=np.array(op.kernel), strides=np.array(op.stride),
                pad_type="custom", pad=_pads(op.padding), exclude_padding_from_average=not op.count_padding,
            )  # fmt: skip
        case o.Mean():
            return w.op("reduce_mean", out, shape, x=w.real(op.x), axes=np.array(op.axes), keep_dims=True)
        case o.Reduce():
            x = w.real(op.x)
            kind = _REDUCTIONS[op.function]
            return w.op(kind, out, shape, x.dtype, x=x, axes=np.array(op.axes), keep_dims=True)
        case o.ArgMax():
            return w.op("reduce_argmax", out, shape, "int32", x=w.real(op.x), axis=op.axis, keep_dims=True)
        case o.Where():
            a = w.real(op.a)
            return w.op("select", out, shape, a.dtype, cond=w.real(op.condition), a=a, b=w.real(op.b))
        case o.Cast():
            dtype = _CASTS.get(op.to, w.real_dtype)
            return w.op("cast", out, shape, dtype, x=w.real(op.x), dtype=dtype)
        case (
            o.Concat() | o.Slice() | o.Pad() | o.Reshape() | o.Transpose() | o.Expand() | o.Resize()
            | o.Gather() | o.GatherElements()
        ):  # fmt: skip
            return write_movement(op, w)
        case o.Quantize() | o.Dequantize() | o.Requantize() | o.DivideCodes() | o.Lookup() | o.TopK():
            raise TypeError(f"{type(op).__name__} is written elsewhere")
        case _:
            assert_never(op)


def _pads(padding: o.Quad) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    top, left, bottom, right = padding
    return np.array([top, bottom, left, right])


def _is_constant(value: o.Value | None, w: Writer) -> bool:
    return value is not None and w.source(value) in w.graph.constants


def _with_bias(result: Tensor, bias: o.Value | None, out: str, w: Writer) -> Tensor:
    """`result` plus a bias [C] that its operator does not take along."""
    if bias is None:
        return result
    shape = (-1, *[1] * (len(result.shape) - 2)) if len(result.shape) > 2 else (-1,)
    return w.op("add", out, result.shape, x=result, y=_reshaped(bias, shape, w))


def _reshaped(vector: o.Value, shape: tuple[int, ...], w: Writer) -> Tensor:
    """A vector in a `shape` with one -1."""
    full = tuple(w.shape(vector)[0] if size == -1 else size for size in shape)
    return w.op("reshape", f"{vector}_channels", full, x=w.real(vector), shape=np.array(full))


def _conv(op: o.Conv, w: Writer) -> Tensor:
    inside = op.bias is None or _is_constant(op.bias, w)
    result = w.op(
        "conv", op.out, w.shape(op.out), x=w.real(op.x), weight=w.real(op.weight),
        bias=w.real(op.bias) if op.bias is not None and inside else None,
        strides=np.array(op.stride), pad_type="custom", pad=_pads(op.padding), dilations=np.array(op.dilation),
        groups=op.groups,
    )  # fmt: skip
    return result if inside else _with_bias(result, op.bias, op.out, w)


def _conv_transpose(op: o.ConvTranspose, w: Writer) -> Tensor:
    top, left, bottom, right = op.padding
    spare = bottom - op.output_padding[0], right - op.output_padding[1]
    missing = [max(0, -extra) for extra in spare]
    shape = w.shape(op.out)
    inside = not any(missing) and (op.bias is None or _is_constant(op.bias, w))
    result = w.op(
        "conv_transpose", op.out, (*shape[:2], shape[2] - missing[0], shape[3] - missing[1]), x=w.real(op.x),
        weight=w.real(op.weight), bias=w.real(op.bias) if op.bias is not None and inside else None,
        strides=np.array(op.stride), pad_type="custom",
        pad=np.array([top, max(0, spare[0]), left, max(0, spare[1])]), dilations=np.array(op.dilation),
        groups=op.groups,
    )  # fmt: skip
    if any(missing):  # the last rows and columns meet no input at all
        amounts = np.array([0, missing[0], 0, missing[1]])
        result = w.op("pad", f"{op.out}_whole", shape, x=result, pad=amounts, mode="constant", constant_val=0.0)
    return result if inside else _with_bias(result, op.bias, op.out, w)


def _linear(op: o.Linear, w: Writer) -> Tensor:
    x, shape = w.real(op.x), w.shape(op.out)
    if not _is_constant(op.weight, w) or (op.bias is not None and not _is_constant(op.bias, w)):
        result = w.op("matmul", op.out, shape, x=x, y=w.real(op.weight), transpose_y=True)
        return result if op.bias is None else w.op("add", op.out, shape, x=result, y=w.real(op.bias))
    weight, bias = w.real(op.weight), None if op.bias is None else w.real(op.bias)
    if len(shape) <= 3:
        return w.op("linear", op.out, shape, x=x, weight=weight, bias=bias)
    rows = (x.size // x.shape[-1], x.shape[-1])
    flat = w.op("reshape", f"{op.out}_rows", rows, x=x, shape=np.array(rows))
    product = w.op("linear", f"{op.out}_product", (rows[0], shape[-1]), x=flat, weight=weight, bias=bias)
    return w.op("reshape", op.out, shape, x=product, shape=np.array(shape))


def _affine(x: Tensor, scale: o.Value | None, shift: o.Value | None, out: str, w: Writer) -> Tensor:
    """scale[c] x[n,c,…] + shift[c], without what is None."""
    shape = (-1, *[1] * (len(x.shape) - 2))
    for kind, vector in (("mul", scale), ("add", shift)):
        if vector is not None:
            x = w.op(kind, out, x.shape, x=x, y=_reshaped(vector, shape, w))
    return x


def _layer_norm(op: o.LayerNorm, w: Writer) -> Tensor:
    x, shape = w.real(op.x), w.shape(op.out)
    given = [value for value in (op.gamma, op.beta) if value is not None]
    inside = all(_is_constant(value, w) for value in given)
    result = w.op(
        "layer_norm", op.out, shape, x=x, axes=np.arange(op.axis, len(shape)),
        gamma=w.real(op.gamma) if inside and op.gamma is not None else None,
        beta=w.real(op.beta) if inside and op.beta is not None else None,
        epsilon=max(op.epsilon, _SMALLEST_EPSILON),
    )  # fmt: skip
    for kind, value in (("mul", op.gamma), ("add", op.beta)):
        if value is not None and not inside:
            result = w.op(kind, op.out, shape, x=result, y=w.real(value))
    return result


def _group_norm(op: o.GroupNorm, w: Writer) -> Tensor:
    x, shape = w.real(op.x), w.shape(op.out)
    grouped = (shape[0], op.groups, x.size // (shape[0] * op.groups))
    flat = w.op("reshape", f"{op.out}_groups", grouped, x=x, shape=np.array(grouped))
    normal = w.op(
        "layer_norm", f"{op.out}_normal", grouped, x=flat, axes=np.array([2]),
        epsilon=max(op.epsilon, _SMALLEST_EPSILON),
    )  # fmt: skip
    whole = w.op("reshape", op.out, shape, x=normal, shape=np.array(shape))
    return _affine(whole, op.gamma, op.beta, op.out, w)


def _max_pool(op: o.MaxPool, w: Writer) -> Tensor:
    x, shape = w.real(op.x), w.shape(op.out)
    if op.dilation == (1, 1) and all(pad < size for pad, size in zip(op.padding, op.kernel * 2, strict=True)):
        return w.op(
            "max_pool", op.out, shape, x=x, kernel_sizes=np.array(op.kernel), strides=np.array(op.stride),
            pad_type="custom", pad=_pads(op.padding),
        )  # fmt: skip
    return _largest_tap(op, x, w)


def _largest_tap(op: o.MaxPool, x: Tensor, w: Writer) -> Tensor:
    """A dilated window as the maximum over its taps, each a strided slice."""
    shape, (top, left, bottom, right) = w.shape(op.out), op.padding
    around = (*x.shape[:2], x.shape[2] + top + bottom, x.shape[3] + left + right)
    if any(op.padding):
        pads = np.array([top, bottom, left, right])
        x = w.op("pad", f"{op.out}_around", around, x=x, pad=pads, mode="constant", constant_val=w.limits[0])
    best = None
    for row in range(op.kernel[0]):
        for column in range(op.kernel[1]):
            begin = (0, 0, row * op.dilation[0], column * op.dilation[1])
            last = (shape[2] - 1) * op.stride[0], (shape[3] - 1) * op.stride[1]
            end = (*shape[:2], begin[2] + last[0] + 1, begin[3] + last[1] + 1)
            tap = w.op(
                "slice_by_index", f"{op.out}_tap", shape, x=x, begin=np.array(begin), end=np.array(end),
                stride=np.array((1, 1, *op.stride)),
            )  # fmt: skip
            best = tap if best is None else w.op("maximum", op.out, shape, x=best, y=tap)
    assert best is not None
    return best
