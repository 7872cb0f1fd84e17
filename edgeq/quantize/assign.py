"""Assignment: from ranges chosen for every class of values to the types of all values, weights and biases."""

from __future__ import annotations

import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import torch

from edgeq.formats import INT8, FloatArray, Format, bits_of, code_range
from edgeq.ir import ops as o
from edgeq.ir.graph import Array, Type
from edgeq.quantize.columns import Weighted
from edgeq.quantize.plan import Plan
from edgeq.quantize.scale import (
    SCALE_FLOOR,
    ClipSearch,
    bias_codes,
    bias_limit,
    half_scales,
    in_powers_of_two,
    weight_type,
)
from edgeq.quantize.structure import Structure
from edgeq.reference.meaning import apply_function
from edgeq.target import Target

Range = tuple[float, int]

TIE_MARGIN = 2.0**-14
"""Float32 arithmetic on codes errs by less than this, so products further from a half round alike everywhere."""

TIE_STEP = 1 + 2.0**-10


def constant_range(array: Array, format: Format, *, symmetric: bool, half: bool = False) -> Range:
    """(scale, zero point) that holds every element of a constant operand, with 0.0 exact."""
    low_code, high_code = code_range(format)
    low, high = min(float(np.min(array)), 0.0), max(float(np.max(array)), 0.0)
    if symmetric:
        return storable(max(-low, high) / high_code, half), 0
    scale = storable((high - low) / (high_code - low_code), half)
    return scale, int(np.clip(round(low_code - low / scale), low_code, high_code))


def storable(scale: float, half: bool) -> float:
    """A scale that files hold: the nearest float32, or with `half` the next half-precision number."""
    return float(half_scales(scale, INT8)) if half else float(np.float32(max(scale, SCALE_FLOOR)))


def power_of_two(scale: float) -> float:
    """The smallest power of two that is not below `scale`, so that nothing clips that did not.

    >>> power_of_two(0.3), power_of_two(0.5)
    (0.5, 0.5)
    """
    mantissa, exponent = math.frexp(scale)
    return math.ldexp(1.0, exponent - (mantissa == 0.5))


def weight_axis(op: o.Op) -> int | None:
    """Axis of the output channels of a weight, or None where groups mix them with another axis."""
    if isinstance(op, o.ConvTranspose):
        return 1 if op.groups == 1 else None
    return 0


def _meets_ties(products: FloatArray) -> bool:
    """Whether a product comes so close to a half that runtimes would round it differently."""
    return bool(np.any(np.abs(products - np.floor(products) - 0.5) < TIE_MARGIN))


def _without_ties(structure: Structure, ranges: Mapping[o.Value, Range], half: bool) -> dict[o.Value, Range]:
    """`ranges` with some scales raised by a few thousandths, away from exact ties.

    Ranges are often simple fractions of one another, and sigmoid(0) is a half: requantizing one value to another, adding
    to a zero, or tabulating a function, would then meet a tie at the commonest codes.
    """
    found = {key: (storable(scale, half), zero_point) for key, (scale, zero_point) in ranges.items()}
    for _ in range(2):  # a scale that moves may meet a tie elsewhere; a second look settles that
        for op in structure.graph.ops:
            if not structure.runs_on_codes(op):
                continue
            if isinstance(op, o.Concat):
                for x in op.xs:
                    _move_operand(structure, found, x, op.out, half)
            elif isinstance(op, o.Apply):
                _move_result(structure, found, op, half)
            elif isinstance(op, o.Add | o.Sub):
                _move_sum(structure, found, op, half)
    return found


def _move_operand(structure: Structure, ranges: dict[o.Value, Range], x: o.Value, out: o.Value, half: bool) -> None:
    key, goal = structure.key[x], structure.key[out]
    if key == goal or key not in ranges or goal not in ranges:
        return
    scale, zero_point = ranges[key]
    codes = np.arange(1, 256, dtype=np.float64)
    while scale != ranges[goal][0] and _meets_ties(codes * (scale / ranges[goal][0])):
        scale = storable(scale * TIE_STEP, half)
    ranges[key] = (scale, zero_point)


def _move_result(structure: Structure, ranges: dict[o.Value, Range], op: o.Apply, half: bool) -> None:
    key, goal = structure.key.get(op.x), structure.key.get(op.out)
    if key not in ranges or goal not in ranges or key == goal or bits_of(structure.formats[key]) > 8:
        return
    x_scale, x_zero_point = ranges[key]
    codes = np.arange(code_range(structure.formats[key])[0], code_range(structure.formats[key])[1] + 1)
    reals = apply_function(op.function, torch.from_numpy((codes - x_zero_point) * x_scale)).numpy()
    scale, zero_point = ranges[goal]
    for _ in range(64):
        if not _meets_ties(reals[reals != 0] / scale):
            break
        scale = storable(scale * TIE_STEP, half)
    ranges[goal] = (scale, zero_point)


def _move_sum(structure: Structure, ranges: dict[o.Value, Range], op: o.Add | o.Sub, half: bool) -> None:
    """Where one operand is zero, which it is after a ReLU more often than not, the other one is requantized alone."""
    results = [op.out, *(x for reader in structure.graph.consumers.get(op.out, ()) for x in o.results(reader))]
    goal = next((structure.key[value] for value in results if value in structure.key), None)
    operands = {structure.key.get(value, value) for value in (op.a, op.b)} & ranges.keys() - {goal}
    if goal is None or goal not in ranges or bits_of(structure.formats[goal]) > 8:
        return
    scale, zero_point = ranges[goal]
    codes = np.arange(1, 256, dtype=np.float64)
    for _ in range(64):
        if not any(_meets_ties(codes * (ranges[key][0] / scale)) for key in operands if ranges[key][0] != scale):
            break
        scale = storable(scale * TIE_STEP, half)
    ranges[goal] = (scale, zero_point)


def _weight_types(structure: Structure, target: Target) -> list[tuple[Weighted, Type]]:
    """Every weighted operator on codes with the type of its weight."""
    constants, ops = structure.graph.constants, structure.graph.ops
    weighted = [op for op in ops if isinstance(op, Weighted) and structure.runs_on_codes(op)]

    def of(op: Weighted) -> Type:
        array, format = constants[op.weight], structure.weights[op.out]
        clip: ClipSearch = "squared_error" if bits_of(format) < 8 else "largest"
        found = weight_type(array, format, weight_axis(op), clip=clip, half=target.half_scales, where=op.weight)
        return in_powers_of_two(array, found) if target.power_of_two else found

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # numpy computes large arrays side by side
        return list(zip(weighted, pool.map(of, weighted), strict=True))


def assign(structure: Structure, ranges: Mapping[o.Value, Range], target: Target) -> Plan:
    """The plan for `structure`: `ranges` gives scale and zero point of every class that has a computed member.

    Classes made of constants alone get the range of their contents.
    """
    graph, half = structure.graph, target.half_scales
    if target.power_of_two:  # whose ratios meet ties at every code, and round them alike everywhere
        ranges = {key: (power_of_two(scale), zero_point) for key, (scale, zero_point) in ranges.items()}
    else:
        ranges = _without_ties(structure, ranges, half)
    ranges = {**ranges, **structure.fixed}
    types: dict[o.Value, Type] = {}
    for key, members in structure.members.items():
        format = structure.formats[key]
        if key in ranges:
            scale, zero_point = ranges[key]
        else:
            array = np.concatenate([graph.constants[value].reshape(-1) for value in members])
            scale, zero_point = constant_range(array, format, symmetric=target.symmetric, half=half)
            scale = power_of_two(scale) if target.power_of_two else scale
        for value in members:
            types[value] = Type(graph.types[value].shape, format, (scale,), zero_point)
    weights: dict[o.Value, Type] = {}
    biases: dict[o.Value, Array] = {}
    for op, type_ in _weight_types(structure, target):
        weight = type_
        if op.bias is not None:
            bias, x = graph.constants[op.bias], types[op.x]
            limit = bias_limit(op, x, weight)
            biases[op.out], scales = bias_codes(bias, x.scale[0], weight.scale, limit=limit, half=half)
            weight = replace(weight, scale=scales)
        weights[op.out] = weight
    interpolates = target.interpolates
    return Plan(structure, types, weights, biases, target.rounding, target.kernels, interpolates=interpolates)
