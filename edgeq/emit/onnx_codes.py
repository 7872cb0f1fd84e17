"""Operators on codes: where quantizers stand in the file, and the forms that ONNX Runtime fuses into integer kernels.

An accumulator is printed as the real it stands for, so a requantization to 8 bits is a QuantizeLinear and one to more
bits is nothing at all. TensorRT gets DequantizeLinear, operator, QuantizeLinear everywhere. For ONNX Runtime:
- operators that only move elements work on the codes themselves;
- a matrix product of codes is a Gemm over rows, which becomes QGemm;
- a 1x1 convolution whose result stays real is the same Gemm, the only integer kernel with a float result;
- weights of other convolutions whose result stays real are Cast and Mul, which the runtime folds (it never folds
  DequantizeLinear) and then lays out for its float kernels; before a quantizer it would round them a second time.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgeq.emit.onnx_functions import write_function
from edgeq.emit.onnx_reals import Movement, write_max_pool, write_movement, write_reals
from edgeq.emit.onnx_writer import Tensor, Writer, is_codes, is_narrow, same_numbers, storage
from edgeq.errors import UnsupportedError
from edgeq.formats import INT32, Fixed, Int, code_range, encode
from edgeq.ir import ops as o
from edgeq.quantize.operators import CLAMPS, is_matrix_product
from edgeq.reference.meaning import nearest_sources


def write_op(op: o.Op, w: Writer) -> None:
    """Append one operator of a real or lowered graph. Raises UnsupportedError for formats without ONNX quantizer."""
    for value in o.results(op):
        type_ = w.type(value)
        if is_codes(type_) and not isinstance(type_.format, Int | Fixed):
            raise UnsupportedError(
                "ONNX quantizes activations to integers only", where=value, value=type_.format, allowed="int2 … int16"
            )
    match op:
        case o.Quantize() if is_narrow(w.type(op.out)):
            w.quantize(_kept_apart(op.x, w), op.out)
        case o.Quantize() | o.Dequantize():
            w.same_as(op.out, op.x)
        case o.Requantize() | o.DivideCodes():
            _requantize(op, w)
        case o.Lookup():
            w.finish(op.out, write_function(op.function, w.real(op.x), w.result_name(op.out), w))
        case _ if w.runtime == "onnxruntime" and is_codes(w.type(o.results(op)[0])):
            _write_for_onnx_runtime(op, w)
        case _:
            write_reals(op, w)


def _kept_apart(value: o.Value, w: Writer) -> Tensor:
    """The reals of `value`, which a quantizer reads, out of reach of ONNX Runtime's own weight quantization.

    From DequantizeLinear through a weighted operator on reals (and Relu or Clip) to QuantizeLinear it would round the
    weights to one INT8 scale. A Max that changes nothing stands in the way.
    """
    maker = w.graph.producer.get(value)
    while isinstance(maker, o.Apply) and maker.function.name in CLAMPS:
        maker = w.graph.producer.get(maker.x)
    if w.runtime != "onnxruntime" or not isinstance(maker, o.Conv | o.ConvTranspose | o.Linear):
        return w.real(value)
    lowest = w.scalar(float(np.finfo(np.float32).min), "lowest")
    return w.node("Max", [w.real(value), lowest], w.fresh(f"{value}.apart"))


def _requantize(op: o.Requantize | o.DivideCodes, w: Writer) -> None:
    to = w.type(op.out)
    if is_narrow(to):
        if w.runtime == "onnxruntime" and _is_left_to_concat(op, w):
            w.same_as(op.out, op.x)
        else:
            reals = _kept_apart(op.x, w) if _has_real_weights(w.graph.producer.get(op.x), w) else w.real(op.x)
            w.quantize(reals, op.out, op.low, op.high)
        return
    reals = w.real(op.x)
    clamped = w.clamp(reals, to, op.low, op.high, op.out)
    if clamped == reals:
        w.same_as(op.out, op.x)
    else:
        w.tensors[op.out] = clamped


def _has_real_weights(maker: o.Op | None, w: Writer) -> bool:
    """Whether `maker` has weights that become reals, and no bias of 32-bit codes, which alone tell ONNX Runtime not to
    round them a second time."""
    if not isinstance(maker, o.Conv | o.ConvTranspose | o.Linear) or w.is_storable(maker.weight):
        return False
    return maker.bias is None or w.type(maker.bias).format != INT32


def _is_left_to_concat(op: o.Requantize | o.DivideCodes, w: Writer) -> bool:
    """Whether a concatenation, which ONNX Runtime requantizes by table, can do this requantization on its way."""
    readers = w.graph.consumers.get(op.out, ())
    full = (op.low, op.high) == code_range(w.type(op.out).format)
    return (
        is_narrow(w.type(w.source(op.x))) and full and op.out not in w.graph.outputs
        and all(isinstance(reader, o.Concat) for reader in readers)
    )  # fmt: skip


def _write_for_onnx_runtime(op: o.Op, w: Writer) -> None:
    match op:
        case o.MaxPool() if is_narrow(w.type(op.x)):
            _max_pool(op, w)
        case o.Slice() | o.Pad() | o.Reshape() | o.Transpose() | o.Expand() | o.Gather() | o.Concat() if _moves(op, w):
            _move(op, w)
        case o.Resize() if op.mode == "nearest" and is_narrow(w.type(op.x)):
            _move(op, w)
        case o.Linear() if _has_integer_weight(op, w):
            _linear(op, w)
        case o.Conv() if _stays_real(op, w) and is_matrix_product(op, w.graph) and _has_integer_weight(op, w):
            _pointwise(op, w)
        case o.Conv() | o.ConvTranspose() if _stays_real(op, w):
            _with_folded_weights(op, w)
        case _:
            write_reals(op, w)


def _moves(op: Movement, w: Writer) -> bool:
    """Whether the codes of the operands are the codes of the result (indices of a Gather aside)."""
    out = w.type(op.out)
    sources = [w.source(value) for value in (op.xs if isinstance(op, o.Concat) else (op.x,))]
    return is_narrow(out) and all(same_numbers(w.type(value), out) for value in sources)


def _move(op: Movement, w: Writer) -> None:
    if isinstance(op, o.Resize) and (factors := _whole_factors(op, w)):
        w.tensors[op.out] = _repeat(op, factors, w)
        return
    inputs = [w.codes(value) if is_narrow(w.type(value)) else w.real(value) for value in o.operands(op)]
    fill = ""
    if isinstance(op, o.Pad):
        type_ = w.type(op.x)
        code = encode(type_.format, [op.value / type_.scale[0]], type_.zero_point)
        fill = w.constant(code.astype(storage(type_)).reshape(()), f"{op.out}.value")
    w.tensors[op.out] = write_movement(op, op.out, inputs, w, fill)


def _max_pool(op: o.MaxPool, w: Writer) -> None:
    type_ = w.type(op.x)
    lowest = np.array(code_range(type_.format)[0], dtype=storage(type_))
    w.tensors[op.out] = write_max_pool(op, op.out, w.codes(op.x), lowest, w)


def _whole_factors(op: o.Resize, w: Writer) -> o.Pair | None:
    """How often each row and column is repeated, if that is all a nearest resize does."""
    size = w.type(op.x).shape[2:]
    factors = (op.size[0] // size[0], op.size[1] // size[1])
    for k in (0, 1):
        sources = nearest_sources(size[k], op.size[k], op.scale[k], op)
        if not np.array_equal(sources, np.arange(size[k]).repeat(factors[k])):
            return None
    return factors


def _repeat(op: o.Resize, factors: o.Pair, w: Writer) -> Tensor:
    """Rows and columns repeated in NHWC, where whole pixels are copied: ten times faster than Resize on bytes."""
    n, c, height, width = w.type(op.x).shape
    rows = w.node("Transpose", [w.codes(op.x)], w.fresh(f"{op.out}.nhwc"), perm=(0, 2, 3, 1))
    pixels = w.integers((n, height, 1, width, 1, c), f"{op.out}.pixels")
    split = w.node("Reshape", [rows, pixels], w.fresh(f"{op.out}.split"))
    counts = w.integers((n, height, factors[0], width, factors[1], c), f"{op.out}.counts")
    repeated = w.node("Expand", [split, counts], w.fresh(f"{op.out}.repeated"))
    shape = w.integers((n, *op.size, c), f"{op.out}.shape")
    merged = w.node("Reshape", [repeated, shape], w.fresh(f"{op.out}.merged"))
    return w.node("Transpose", [merged], op.out, perm=(0, 3, 1, 2))


def _has_integer_weight(op: o.Conv | o.Linear, w: Writer) -> bool:
    return op.weight in w.graph.constants and w.is_storable(op.weight) and is_narrow(w.type(w.source(op.x)))


def _stays_real(op: o.Conv | o.ConvTranspose, w: Writer) -> bool:
    """Whether nothing ever rounds the accumulator to codes."""
    return all(isinstance(reader, o.Dequantize) for reader in w.graph.consumers.get(op.out, ()))


def _rows(codes: Tensor, op: o.Conv | o.Linear, channels: int, w: Writer) -> Tensor:
    """Gemm of `codes`, seen as rows of `channels`, with the weight and bias of `op`: reals [rows, out]."""
    rows = w.node("Reshape", [codes, w.integers((-1, channels), "rows")], w.fresh(f"{op.out}.rows"))
    inputs = [w.dequantize(rows, w.type(w.source(op.x)), f"{op.out}.rows.dq"), _columns(op.weight, w)]
    bias = [] if op.bias is None else [w.real(op.bias)]
    return w.node("Gemm", [*inputs, *bias], w.fresh(f"{op.out}.product"))


def _columns(weight: o.Value, w: Writer) -> Tensor:
    """A weight [out, in] or [out, in, 1, 1] as the dequantized matrix [in, out]."""
    codes, type_ = w.stored(weight)
    matrix = codes.reshape(codes.shape[:2]).T
    turned = replace(type_, shape=matrix.shape, axis=None if type_.axis is None else 1 - type_.axis)
    return w.dequantize(
        w.stored_codes(matrix, turned, f"{weight}.columns", w.type(weight).format), turned, f"{weight}.columns.dq"
    )


def _linear(op: o.Linear, w: Writer) -> None:
    shape = w.type(op.out).shape
    product = _rows(w.codes(op.x), op, w.type(op.x).shape[-1], w)
    w.tensors[op.out] = w.node("Reshape", [product, w.integers(shape, f"{op.out}.shape")], op.out)


def _pointwise(op: o.Conv, w: Writer) -> None:
    n, channels, height, width = w.type(op.out).shape
    pixels = w.node("Transpose", [w.codes(op.x)], w.fresh(f"{op.out}.nhwc"), perm=(0, 2, 3, 1))
    product = _rows(pixels, op, w.type(op.x).shape[1], w)
    shape = w.integers((n, height, width, channels), f"{op.out}.shape")
    image = w.node("Reshape", [product, shape], w.fresh(f"{op.out}.image"))
    w.tensors[op.out] = w.node("Transpose", [image], op.out, perm=(0, 3, 1, 2))


def _with_folded_weights(op: o.Conv | o.ConvTranspose, w: Writer) -> None:
    # The bias, too: the runtime's fast layout wants every parameter constant.
    for value in (op.weight, op.bias):
        if value is not None and value in w.graph.constants:
            w.fold(value)
    write_reals(op, w)
