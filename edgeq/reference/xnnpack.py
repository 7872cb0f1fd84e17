"""What XNNPACK computes, LiteRT's default kernels on a CPU, where it rounds otherwise than TFLite's reference kernels.

    CONV_2D, DEPTHWISE_CONV_2D, TRANSPOSE_CONV, FULLY_CONNECTED, MUL, MEAN of 8-bit codes    fp32rne
    QUANTIZE of reals                                                                        ties to even
    CONV_2D with 4-bit weights, which XNNPACK leaves to ruy (seen on x86)                    gemmlowp2-up

The ratio is s_a s_b / s_out, of a mean over n elements s_x / s_out / n, in single precision, whose every step is
rounded. Everything else is taken as the reference kernels have it: exact for tables and what moves codes, within a
code for FULLY_CONNECTED with 4-bit weights and for sums, which XNNPACK weighs and rounds once, and for interpolation.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np

from edgeq.formats import bits_of
from edgeq.ir import ops as o
from edgeq.ir.graph import Graph
from edgeq.reference.arithmetic import quantize_multiplier
from edgeq.reference.tflite import counted


def as_xnnpack(graph: Graph) -> Graph:
    """A lowered `graph` of TFLite's arithmetic with the roundings of XNNPACK."""
    return replace(graph, ops=tuple(_rounded(op, graph) for op in graph.ops))


def _rounded(op: o.Op, graph: Graph) -> o.Op:
    match op:
        case o.Quantize():
            return replace(op, ties="even")
        case o.Requantize():
            return _in_single_precision(op, graph)
        case _:
            return op


def _in_single_precision(op: o.Requantize, graph: Graph) -> o.Requantize:
    accumulated = graph.producer.get(op.x)
    operands = _operands(accumulated)
    types = [graph.types[value] for value in operands]
    bits = [bits_of(type_.format) for type_ in types]
    if bits == [8, 4] and isinstance(accumulated, o.Conv) and accumulated.groups == 1:
        return replace(op, rounding="gemmlowp2-up")
    if not types or bits != [8] * len(types):
        return op  # kernels of other widths are not XNNPACK's
    scales = [np.asarray(type_.scale, dtype=np.float32) for type_ in types]
    ratios = prod(scales[1:], start=scales[0]) / np.float32(graph.types[op.out].scale[0])
    if isinstance(accumulated, o.Mean):
        ratios = ratios * (np.float32(1) / np.float32(counted(accumulated, types[0].shape)))
    multiplier, shift = zip(*(quantize_multiplier(float(ratio)) for ratio in ratios), strict=True)
    return replace(op, rounding="fp32rne", multiplier=multiplier, shift=shift)


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
