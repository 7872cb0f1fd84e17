"""What LiteRT's default kernels compute where they round otherwise than its reference kernels.

Most are XNNPACK's; what XNNPACK does not take stays with LiteRT's own optimized kernels and the ruy library:

    CONV_2D, DEPTHWISE_CONV_2D, TRANSPOSE_CONV, FULLY_CONNECTED, MUL, MEAN of 8-bit codes    fp32rne
    TRANSPOSE_CONV, FULLY_CONNECTED (of an even number) with 4-bit weights                   fp32rne
    CONV_2D, FULLY_CONNECTED of an odd number with 4-bit weights (ruy)                       gemmlowp2-up
    DEPTHWISE_CONV_2D with 4-bit weights (LiteRT)    gemmlowp2-up for channels in eights, gemmlowp2 for the rest
    ADD, SUB of 8-bit codes       weights of 21 bits, sum w level 2^-k with one rounding, ties upward
    ADD of 16-bit codes (LiteRT)  operands rounded once, ties upward; the rest as the reference kernel
    QUANTIZE of 8-bit codes       ratio in multiples of 2^-8, ties upward
    QUANTIZE of reals             x times the rounded reciprocal of the scale, ties to even
    RESIZE_BILINEAR               weights in multiples of 2^-11 on each axis, one rounding, ties upward
    LEAKY_RELU of 8-bit codes     both ratios in multiples of 2^-8, ties upward
    LOGISTIC, TANH of 8-bit codes the function in double or single precision, ties to even

The ratio of a product is s_a s_b / s_out, of a mean over n elements s_x / s_out / n, in single precision, whose every
step is rounded. Everything else (functions of other kinds, pooling, softmax, 16-bit kernels, what moves codes) is as
the reference kernels have it. XNNPACK leaves operators with extreme ratios to LiteRT, and so do the rules here.

On x86 every rule was seen: no code differs. XNNPACK's sources have the same for Arm, but for MUL, and for products with
weights that have one scale for all channels, which NEON kernels round once, ties upward (`single`, with the ratio's 24
bits). What ruy and LiteRT round on Arm was not seen. The last elements of ADD of 16-bit codes, beyond a multiple of 16,
LiteRT rounds as its reference kernel.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Iterator
from dataclasses import replace
from math import prod
from typing import Literal

import numpy as np

from edgeq.formats import INT16, INT32, IntArray, bits_of
from edgeq.ir import ops as o
from edgeq.ir.bounds import is_codes
from edgeq.ir.graph import Editor, Graph, Type
from edgeq.reference.arithmetic import quantize_multiplier
from edgeq.reference.tflite import counted, grid_flags
from edgeq.reference.tflite_tables import default_table, tabulate

WEIGHT_BITS = 20
"""The larger weight of a sum lies between 2^20 and 2^21."""
TOGETHER = 8
RATIO_BITS = 8
RESIZE_BITS = 11


Processor = Literal["x86", "arm"]


def this_processor() -> Processor:
    """The one whose kernels run here."""
    return "arm" if platform.machine().lower().startswith(("arm", "aarch64")) else "x86"


def as_xnnpack(graph: Graph, processor: Processor | None = None) -> Graph:
    """A lowered `graph` of TFLite's arithmetic with the roundings of LiteRT's default kernels; values keep their names.

    It has a meaning, which the interpreter computes, and no file: emitters write the graph itself. `processor` is this
    one unless given.
    """
    processor = processor or this_processor()
    editor = Editor.like(graph)
    sums = dict(_sums(graph))
    for op in graph.ops:
        out = o.results(op)[0]
        match op:
            case _ if out in sums:
                editor.append(*sums[out])
            case o.Quantize():
                editor.append(replace(op, ties="even", reciprocal=True), graph.types[out])
            case o.Requantize() if _is_in_parts(op, graph):
                _requantize_in_parts(editor, op, graph)
            case o.Requantize():
                editor.append(_requantized(op, graph, processor), graph.types[out])
            case o.Resize() if op.mode == "linear" and _is_8_bits(graph.types[op.x]):
                _interpolate(editor, op, graph.types[op.x])
            case o.DivideCodes() if isinstance(graph.producer.get(op.x), o.Resize) and _is_8_bits(graph.types[out]):
                ratio = quantize_multiplier(2.0 ** (-2 * RESIZE_BITS))
                editor.append(_rescaled(op.x, out, ratio, op.low, op.high), graph.types[out])
            case o.Lookup():
                editor.append(replace(op, table=_table(editor, op, graph)), graph.types[out])
            case _:
                editor.append(op, *(graph.types[value] for value in o.results(op)))
    return editor.graph(graph.outputs)


def _is_8_bits(type_: Type) -> bool:
    return is_codes(type_) and bits_of(type_.format) == 8


def _rescaled(x: o.Value, out: o.Value, ratio: tuple[int, int], low: int, high: int) -> o.Requantize:
    return o.Requantize(x, out, (ratio[0],), (ratio[1],), "single", low, high)


# --- products, means and codes of another scale -------------------------------------------------------------------


def _requantized(op: o.Requantize, graph: Graph, processor: Processor) -> o.Requantize:
    if _is_8_bits(graph.types[op.x]) and _is_8_bits(graph.types[op.out]):
        return _recoded(op, graph.types[op.x], graph.types[op.out])
    accumulated = graph.producer.get(op.x)
    operands = _operands(accumulated)
    types = [graph.types[value] for value in operands]
    bits = [bits_of(type_.format) for type_ in types]
    if bits == [8, 4] and _is_left_to_ruy(accumulated, types[0]):
        return replace(op, rounding="gemmlowp2-up")
    if bits not in ([8], [8, 8], [8, 4]):
        return op  # kernels of other widths are not XNNPACK's
    scales = [np.asarray(type_.scale, dtype=np.float32) for type_ in types]
    ratios = prod(scales[1:], start=scales[0]) / np.float32(graph.types[op.out].scale[0])
    if isinstance(accumulated, o.Mean):
        ratios = ratios * (np.float32(1) / np.float32(counted(accumulated, types[0].shape)))
    multiplier, shift = zip(*(quantize_multiplier(float(ratio)) for ratio in ratios), strict=True)
    once = processor == "arm" and bits == [8, 8] and len(ratios) == 1  # XNNPACK's rndnu
    return replace(op, rounding="single" if once else "fp32rne", multiplier=multiplier, shift=shift)


def _operands(op: o.Op | None) -> tuple[o.Value, ...]:
    """What an accumulating kernel of XNNPACK's multiplies or averages; learned weights come second."""
    match op:
        case o.Conv() | o.ConvTranspose() | o.Linear():
            return op.x, op.weight
        case o.Mul():
            return op.a, op.b
        case o.Mean():
            return (op.x,)
        case _:
            return ()


def _is_left_to_ruy(op: o.Op | None, x: Type) -> bool:
    """Of operators with 4-bit weights, of which XNNPACK reads two from a byte."""
    return isinstance(op, o.Conv) or (isinstance(op, o.Linear) and x.shape[-1] % 2 == 1)


def _is_in_parts(op: o.Requantize, graph: Graph) -> bool:
    """Whether a depthwise kernel with 4-bit weights has channels beyond the eights that it computes together."""
    conv = graph.producer.get(op.x)
    if not isinstance(conv, o.Conv) or conv.groups == 1 or bits_of(graph.types[conv.weight].format) != 4:
        return False
    return _is_8_bits(graph.types[conv.x]) and graph.types[op.x].shape[1] % TOGETHER != 0


def _requantize_in_parts(editor: Editor, op: o.Requantize, graph: Graph) -> None:
    acc, to = graph.types[op.x], graph.types[op.out]
    cut, channels = acc.shape[1] // TOGETHER * TOGETHER, acc.shape[1]
    parts = []
    for first, last in ((0, cut), (cut, channels)) if cut else ((0, channels),):
        shape, own = (
            (acc.shape[0], last - first, *acc.shape[2:]),
            slice(first, last) if len(acc.scale) > 1 else slice(1),
        )
        starts, stops = (0, first, 0, 0), (acc.shape[0], last, *acc.shape[2:])
        sliced = o.Slice(op.x, editor.fresh(f"{op.out}.acc"), starts, stops, (1, 1, 1, 1))
        editor.append(sliced, replace(acc, shape=shape, scale=acc.scale[own]))
        rounding: o.Rounding = "gemmlowp2-up" if last == cut else "gemmlowp2"
        name, multiplier, shift = editor.fresh(f"{op.out}.part"), op.multiplier[own], op.shift[own]
        part = o.Requantize(sliced.out, name, multiplier, shift, rounding, op.low, op.high)
        parts.append(editor.append(part, replace(to, shape=shape)))
    editor.append(o.Concat(tuple(parts), op.out, 1), to)


def _recoded(op: o.Requantize, x: Type, to: Type) -> o.Requantize:
    ratio = np.float32(x.scale[0]) / np.float32(to.scale[0])
    if not 2.0**-RATIO_BITS <= ratio <= 2.0 ** (RATIO_BITS - 1):
        return op
    coarse = float(np.rint(ratio * np.float32(1 << RATIO_BITS))) / (1 << RATIO_BITS)
    return _rescaled(op.x, op.out, quantize_multiplier(coarse), op.low, op.high)


# --- sums ---------------------------------------------------------------------------------------------------------


def _sums(graph: Graph) -> Iterator[tuple[o.Value, tuple[o.Op, Type]]]:
    """The operators that bring operands of sums to a common scale and their sums to codes, by result, as they become."""
    for op in graph.ops:
        readers = graph.consumers.get(o.results(op)[0], ())
        if not isinstance(op, o.Add | o.Sub) or len(readers) != 1 or not isinstance(readers[0], o.Requantize):
            continue
        addends = [graph.producer.get(value) for value in (op.a, op.b)]
        finer = [graph.producer.get(a.x) if isinstance(a, o.Requantize) else None for a in addends]
        if all(isinstance(f, o.Requantize) for f in finer):  # what `tflite.with_common_scale` builds
            operands = [graph.types[f.x] for f in finer if isinstance(f, o.Requantize)]
            yield from _sum(op, [a for a in addends if isinstance(a, o.Requantize)], operands, readers[0], graph)


def _sum(
    op: o.Add | o.Sub, addends: list[o.Requantize], operands: list[Type], settling: o.Requantize, graph: Graph
) -> Iterator[tuple[o.Value, tuple[o.Op, Type]]]:
    types, to = graph.types, graph.types[settling.out]
    ratios = [np.float32(type_.scale[0]) / np.float32(to.scale[0]) for type_ in operands]
    narrow = all(map(_is_8_bits, (*operands, to)))
    if not narrow or not all(2.0**-10 <= ratio < 2.0**8 for ratio in ratios):
        if isinstance(op, o.Add) and operands[0].shape == operands[1].shape:
            for addend in addends:
                yield addend.out, (replace(addend, rounding="single"), types[addend.out])
        return
    shift = WEIGHT_BITS + 1 - math.frexp(max(ratios))[1]
    common = Type((), INT32, (to.scale[0] * 2.0**-shift,))
    for addend, ratio in zip(addends, ratios, strict=True):
        weight = float(np.rint(np.ldexp(ratio, shift)))
        fine = quantize_multiplier(weight * 2.0**-WEIGHT_BITS)  # its operand is 2^20 times the level
        yield (
            addend.out,
            (
                _rescaled(addend.x, addend.out, fine, addend.low, addend.high),
                replace(common, shape=types[addend.out].shape),
            ),
        )
    yield op.out, (op, replace(common, shape=types[op.out].shape))
    last = quantize_multiplier(2.0**-shift)
    yield settling.out, (_rescaled(op.out, settling.out, last, settling.low, settling.high), to)


# --- interpolation ------------------------------------------------------------------------------------------------


def _interpolate(editor: Editor, op: o.Resize, x: Type) -> None:
    """Rows and columns weighed by matrices of whole numbers."""
    aligned, centred = grid_flags(op, x.shape)
    unit = 2.0**-RESIZE_BITS
    matrices = [_weights(x.shape[2 + k], op.size[k], aligned, centred) for k in (0, 1)]
    rows, columns = (
        editor.constant(f"{op.out}.{name}", matrix.astype(np.int16), Type(matrix.shape, INT16, (unit,)))
        for name, matrix in (("rows", matrices[0]), ("columns", np.ascontiguousarray(matrices[1].T)))
    )
    wide = Type((*x.shape[:3], op.size[1]), INT32, (x.scale[0] * unit,))
    across = editor.append(o.MatMul(op.x, columns, editor.fresh(f"{op.out}.across")), wide)
    editor.append(o.MatMul(rows, across, op.out), Type((*x.shape[:2], *op.size), INT32, (x.scale[0] * unit * unit,)))


def _weights(size: int, out: int, aligned: bool, centred: bool) -> IntArray:
    """[out, size] in units of 2^-11; positions in single precision, weights to the nearest, ties to even."""
    one = np.float32(1)
    less = one if aligned and out > 1 else np.float32(0)
    scale = (np.float32(size) - less) / (np.float32(out) - less)
    index = np.arange(out, dtype=np.float32)
    position = index * scale
    if centred:
        position = position + (np.float32(0.5) * scale - np.float32(0.5))
    position = np.clip(position, np.float32(0), np.float32(size - 1))
    first = position.astype(np.int64)
    upper = np.rint((position - first.astype(np.float32)) * np.float32(1 << RESIZE_BITS)).astype(np.int64)
    matrix: IntArray = np.zeros((out, size), dtype=np.int64)
    np.add.at(matrix, (np.arange(out), first), (1 << RESIZE_BITS) - upper)
    np.add.at(matrix, (np.arange(out), np.minimum(first + 1, size - 1)), upper)
    return matrix


# --- functions ----------------------------------------------------------------------------------------------------


def _table(editor: Editor, op: o.Lookup, graph: Graph) -> o.Value:
    """The table of the kernel that computes the function, if it is the kernel's own and another than the reference's."""
    x, to, table = graph.types[op.x], graph.types[op.out], graph.constants[op.table]
    if not (_is_8_bits(x) and _is_8_bits(to)):
        return op.table
    found = default_table(op.function, x, to)
    if found is None or not np.array_equal(table, tabulate(op.function, x, to)):
        return op.table
    return editor.constant(op.table, found, graph.types[op.table])
