"""What XNNPACK computes, LiteRT's default kernels on a CPU, where it rounds otherwise than TFLite's reference kernels.

    CONV_2D, DEPTHWISE_CONV_2D, TRANSPOSE_CONV, FULLY_CONNECTED, MUL of 8-bit codes    fp32rne

The ratio is s_a s_b / s_out in single precision, whose every step is rounded. Everything else is taken as the
reference kernels have it: exact for sums, tables and what moves codes, within a code or two for means and
interpolation.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgeq.formats import bits_of
from edgeq.ir import ops as o
from edgeq.ir.graph import Graph
from edgeq.reference.arithmetic import quantize_multiplier


def as_xnnpack(graph: Graph) -> Graph:
    """A lowered `graph` of TFLite's arithmetic with the roundings of XNNPACK."""
    return replace(graph, ops=tuple(_rounded(op, graph) for op in graph.ops))


def _rounded(op: o.Op, graph: Graph) -> o.Op:
    accumulated = graph.producer.get(op.x) if isinstance(op, o.Requantize) else None
    factors = _factors(accumulated)
    if not isinstance(op, o.Requantize) or factors is None:
        return op
    types = [graph.types[value] for value in factors]
    if any(bits_of(type_.format) != 8 for type_ in types):
        return op  # kernels of other widths are not XNNPACK's
    scale, others = (np.asarray(type_.scale, dtype=np.float32) for type_ in types)
    ratios = scale * others / np.float32(graph.types[op.out].scale[0])
    multiplier, shift = zip(*(quantize_multiplier(float(ratio)) for ratio in ratios), strict=True)
    return replace(op, rounding="fp32rne", multiplier=multiplier, shift=shift)


def _factors(op: o.Op | None) -> tuple[o.Value, o.Value] | None:
    """The operands of a product whose kernel is XNNPACK's; learned weights come second."""
    match op:
        case o.Conv() | o.ConvTranspose() | o.Linear():
            return op.x, op.weight
        case o.Mul():
            return op.a, op.b
        case _:
            return None
