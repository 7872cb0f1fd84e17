"""Assignment: from ranges chosen for every class of values to the types of all values, weights and biases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from edgeq.formats import Format, code_range
from edgeq.ir import ops as o
from edgeq.ir.graph import Array, Type
from edgeq.quantize.plan import Plan
from edgeq.quantize.scale import SCALE_FLOOR, bias_codes, weight_type
from edgeq.quantize.structure import Structure
from edgeq.target import Target

Range = tuple[float, int]

TIE_MARGIN = 2.0**-16
"""Float32 arithmetic on codes errs by less than this, so products further from a half round alike everywhere."""


def constant_range(array: Array, format: Format, *, symmetric: bool) -> Range:
    """(scale, zero point) that holds every element of a constant operand, with 0.0 exact."""
    low_code, high_code = code_range(format)
    low, high = min(float(np.min(array)), 0.0), max(float(np.max(array)), 0.0)
    if symmetric:
        return _float32(max(-low, high) / high_code), 0
    scale = _float32((high - low) / (high_code - low_code))
    return scale, int(np.clip(round(low_code - low / scale), low_code, high_code))


def _float32(scale: float) -> float:
    return float(np.float32(max(scale, SCALE_FLOOR)))


def _weight_axis(op: o.Op) -> int | None:
    """Axis of the output channels of a weight, or None where groups mix them with another axis."""
    if isinstance(op, o.ConvTranspose):
        return 1 if op.groups == 1 else None
    return 0


def _meets_ties(ratio: float, codes: int = 256) -> bool:
    """Whether code * ratio comes so close to a half for some code that runtimes would round it differently."""
    products = np.arange(1, codes) * ratio
    return bool(np.any(np.abs(products - np.floor(products) - 0.5) < TIE_MARGIN))


def _without_ties(structure: Structure, ranges: Mapping[o.Value, Range]) -> dict[o.Value, Range]:
    """`ranges` with the scales of concatenated values raised by up to a few thousandths, away from exact ties.

    Ranges are often simple fractions of one another, and then requantizing one to another ties for many codes.
    """
    found = dict(ranges)
    for op in structure.graph.ops:
        if not isinstance(op, o.Concat) or not structure.runs_on_codes(op):
            continue
        goal = structure.key[op.out]
        for key in (structure.key[x] for x in op.xs):
            if key == goal or key not in found or goal not in found:
                continue
            scale, zero_point = found[key]
            while scale != found[goal][0] and _meets_ties(scale / found[goal][0]):
                scale = _float32(scale * (1 + 2.0**-10))
            found[key] = (scale, zero_point)
    return found


def assign(structure: Structure, ranges: Mapping[o.Value, Range], target: Target) -> Plan:
    """The plan for `structure`: `ranges` gives scale and zero point of every class that has a computed member.

    Classes made of constants alone get the range of their contents.
    """
    graph, ranges = structure.graph, _without_ties(structure, ranges)
    types: dict[o.Value, Type] = {}
    for key, members in structure.members.items():
        format = structure.formats[key]
        if key in ranges:
            scale, zero_point = ranges[key]
        else:
            array = np.concatenate([graph.constants[value].reshape(-1) for value in members])
            scale, zero_point = constant_range(array, format, symmetric=target.symmetric)
        for value in members:
            types[value] = Type(graph.types[value].shape, format, (scale,), zero_point)
    weights: dict[o.Value, Type] = {}
    biases: dict[o.Value, Array] = {}
    for op in graph.ops:
        if isinstance(op, o.Conv | o.ConvTranspose | o.Linear) and structure.runs_on_codes(op):
            weight = weight_type(graph.constants[op.weight], target.weight, _weight_axis(op), where=op.weight)
            if op.bias is not None:
                bias, x_scale = graph.constants[op.bias], types[op.x].scale[0]
                biases[op.out], scales = bias_codes(bias, x_scale, weight.scale)
                weight = replace(weight, scale=scales)
            weights[op.out] = weight
    return Plan(structure, types, weights, biases, target.rounding)
