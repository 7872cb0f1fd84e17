"""What a lowered operator may do with codes: scales, zero points, formats, and accumulators proved to fit.

Real, index and truth values may pass through any operator that has a meaning on them; the rules here begin
where codes appear. Every problem is one short phrase; edgeq/ir/verify.py says which operator has it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from edgeq.formats import Fixed, Int, bits_of, code_range, level_range
from edgeq.ir import ops as o
from edgeq.ir.bounds import (
    EXPONENTIAL_ONE,
    LARGEST_DEVIATION,
    LARGEST_POWER,
    LONGEST_ROW,
    RESIZE_FACTOR,
    SHARE_UNIT,
    Interval,
    accumulates,
    epsilon_level,
    is_codes,
    normal_fraction_bits,
    normalized_count,
    partial_sums,
    signed_bits,
)
from edgeq.ir.graph import Graph, Type
from edgeq.ir.sound import ordered

Problems = Iterator[str]
SCALE_TOLERANCE = 1e-12
RATIO_TOLERANCE = 2.0**-23
"""A ratio may have been stored as float32 before it became a multiplier and a shift."""


def _close(a: float, b: float, tolerance: float = SCALE_TOLERANCE) -> bool:
    return math.isclose(a, b, rel_tol=tolerance)


def _same_scales(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return len(a) == len(b) and all(map(_close, a, b))


def _same_numbers(a: Type, b: Type) -> bool:
    """Whether codes of `a` mean what the same codes of `b` mean."""
    return a.format == b.format and a.zero_point == b.zero_point and a.scale == b.scale


class _Codes:
    """The rules over the values of one graph whose structure is sound."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.types = graph, graph.types

    def problems(self, op: o.Op) -> Problems:
        for value in (*o.operands(op), *o.results(op)):
            if self.types[value].block and not (isinstance(op, o.Dequantize) and value == op.x):
                yield f"{value!r} has a scale per block, which only Dequantize reads"
                return
        match op:
            case o.Conv() | o.ConvTranspose() | o.Linear():
                yield from self._weighted(op)
            case o.MatMul() | o.Mul():
                yield from self._product(op)
            case o.Add() | o.Sub():
                yield from self._sum(op)
            case o.AveragePool() | o.Mean():
                yield from self._average(op)
            case o.Softmax():
                yield from self._softmax(op)
            case o.LayerNorm():
                yield from self._layer_norm(op)
            case o.Resize() if op.mode != "nearest":
                yield from self._interpolated(op)
            case o.Requantize():
                yield from self._requantize(op)
            case o.DivideCodes():
                yield from self._divide_codes(op)
            case o.Lookup():
                yield from self._lookup(op)
            case o.Quantize():
                yield from self._real(op.x)
                yield from self._codes(op.out)
                if op.ties == "away" and not isinstance(self.types[op.out].format, Int | Fixed):
                    yield f"ties away from zero need integer codes, not {self.types[op.out].format}"
            case o.Dequantize():
                yield from self._codes(op.x)
                yield from self._real(op.out)
            case o.Concat():
                yield from self._moved(op.xs, op.out)
            case o.Where():
                yield from self._moved((op.a, op.b), op.out)
            case o.ArgMax():
                yield from self._compared(op.x)
            case o.TopK():
                yield from self._compared(op.x)
                yield from self._moved((op.x,), op.out_values)
            case o.MaxPool() | o.Reduce(function="max" | "min"):
                yield from self._compared(op.x)
                yield from self._moved((op.x,), op.out)
            case o.Reduce(function="sum"):
                yield from self._one_scale(op.x)
                yield from self._accumulator(op.out, self.types[op.x].scale)
            case (
                o.Slice() | o.Reshape() | o.Transpose() | o.Expand() | o.Pad() | o.Resize()
                | o.Gather() | o.GatherElements()
            ):  # fmt: skip
                yield from self._moved((op.x,), op.out)
            case _:
                yield "has no meaning on codes; lower it to Lookup or keep it on real values"

    def _codes(self, *values: o.Value) -> Problems:
        for value in values:
            if not is_codes(self.types[value]):
                yield f"{value!r} must be codes"

    def _real(self, value: o.Value) -> Problems:
        if not self.types[value].is_real:
            yield f"{value!r} must be real, not {self.types[value].format}"

    def _one_scale(self, *values: o.Value) -> Problems:
        yield from self._codes(*values)
        for value in values:
            if len(self.types[value].scale) > 1:
                yield f"{value!r} must have one scale, not one per channel"

    def _moved(self, xs: tuple[o.Value, ...], out: o.Value) -> Problems:
        yield from self._one_scale(*xs, out)
        for x in xs:
            if not _same_numbers(self.types[x], self.types[out]):
                yield f"{x!r} must have the type of {out!r}: {self.types[x]} is not {self.types[out]}"

    def _compared(self, x: o.Value) -> Problems:
        if not ordered(self.types[x]):
            yield f"codes of {self.types[x].format} are not in the order of their levels"

    def _accumulator(self, out: o.Value, scales: tuple[float, ...], axis: int | None = None) -> Problems:
        """`out` must be a plain integer in units of `scales`."""
        type_ = self.types[out]
        if not isinstance(type_.format, Int) or type_.zero_point or not is_codes(type_):
            yield f"{out!r} must be an integer accumulator with zero point 0, not {type_}"
            return
        if not _same_scales(type_.scale, scales) or (len(scales) > 1 and type_.axis != axis):
            found, given = f"{_short(type_.scale)} on axis {type_.axis}", f"{_short(scales)} on axis {axis}"
            yield f"{out!r} has scale {found}, but its operands give {given}"

    def _weighted(self, op: o.Conv | o.ConvTranspose | o.Linear) -> Problems:
        yield from self._codes(op.weight)
        yield from self._one_scale(op.x)
        weight = self.types[op.weight]
        if not is_codes(weight) or not is_codes(self.types[op.x]):
            return
        axis = 1 if isinstance(op, o.ConvTranspose) else 0
        shared = isinstance(op, o.ConvTranspose) and op.groups > 1  # one row of weights serves every group
        if len(weight.scale) > 1 and (weight.axis != axis or shared):
            yield f"{op.weight!r} has scales on axis {weight.axis}, not on that of output channels, {axis}"
            return
        scales = tuple(self.types[op.x].scale[0] * scale for scale in weight.scale)
        if op.bias is not None:
            yield from self._bias(op.bias, scales)
        last = len(self.types[op.out].shape) - 1
        yield from self._accumulator(op.out, scales, last if isinstance(op, o.Linear) else 1)

    def _bias(self, bias: o.Value, scales: tuple[float, ...]) -> Problems:
        type_ = self.types[bias]
        if not isinstance(type_.format, Int) or type_.zero_point or not is_codes(type_):
            yield f"bias {bias!r} must be an integer with zero point 0, not {type_}"
        elif not _same_scales(type_.scale, scales):
            yield f"bias {bias!r} has scale {_short(type_.scale)} but its operands give {_short(scales)}"

    def _product(self, op: o.MatMul | o.Mul) -> Problems:
        yield from self._one_scale(op.a, op.b)
        a, b = self.types[op.a], self.types[op.b]
        if is_codes(a) and is_codes(b):
            yield from self._accumulator(op.out, (a.scale[0] * b.scale[0],))

    def _sum(self, op: o.Add | o.Sub) -> Problems:
        yield from self._one_scale(op.a, op.b)
        a, b = self.types[op.a], self.types[op.b]
        if is_codes(a) and is_codes(b):
            if not _same_scales(a.scale, b.scale):
                yield f"{op.a!r} and {op.b!r} must share a scale: {a.scale[0]!r} is not {b.scale[0]!r}"
            yield from self._accumulator(op.out, a.scale)

    def _average(self, op: o.AveragePool | o.Mean) -> Problems:
        yield from self._one_scale(op.x)
        if isinstance(op, o.AveragePool) and any(op.padding) and not op.count_padding:
            yield "windows on codes must count their padding"
        x, out = self.types[op.x], self.types[op.out]
        if is_codes(x):
            taps = op.kernel[0] * op.kernel[1] if isinstance(op, o.AveragePool) else x.size // out.size
            yield from self._accumulator(op.out, (x.scale[0] / taps,))

    def _softmax(self, op: o.Softmax) -> Problems:
        yield from self._integers(op.x)
        yield from self._accumulator(op.out, (1 / SHARE_UNIT,))
        if (length := self.types[op.x].shape[op.axis]) > LONGEST_ROW:
            yield f"a row of {length} elements exceeds {LONGEST_ROW}"
        table = None if op.table is None else self.graph.constants.get(op.table)
        if table is None or op.table is None:
            yield "needs a constant table of exponentials"
            return
        if not isinstance(self.types[op.x].format, Int | Fixed):
            return
        low, high = code_range(self.types[op.x].format)
        if table.shape != (high - low + 1,):
            yield f"table {op.table!r} has {table.shape} entries for {high - low + 1} codes"
        elif table[0] != EXPONENTIAL_ONE or table.min() < 0 or table.max() > EXPONENTIAL_ONE:
            yield f"table {op.table!r} must begin with its largest entry, {EXPONENTIAL_ONE}"

    def _layer_norm(self, op: o.LayerNorm) -> Problems:
        yield from self._integers(op.x)
        count = normalized_count(op, self.types[op.x].shape)
        unit = 2.0 ** -normal_fraction_bits(count)
        if op.gamma is not None:
            yield from self._integers(op.gamma)
            unit *= self.types[op.gamma].scale[0] if is_codes(self.types[op.gamma]) else 1.0
        if op.beta is not None:
            yield from self._bias(op.beta, (unit,))
        yield from self._accumulator(op.out, (unit,))

    def _integers(self, value: o.Value) -> Problems:
        yield from self._one_scale(value)
        if is_codes(self.types[value]) and not isinstance(self.types[value].format, Int | Fixed):
            yield f"{value!r} must be integer codes, not {self.types[value].format}"

    def _interpolated(self, op: o.Resize) -> Problems:
        yield from self._one_scale(op.x)
        if op.mode == "cubic":
            yield "cubic interpolation has no meaning on codes; use linear or nearest"
        elif is_codes(self.types[op.x]):
            yield from self._accumulator(op.out, (self.types[op.x].scale[0] / RESIZE_FACTOR,))

    def _requantize(self, op: o.Requantize) -> Problems:
        yield from self._codes(op.x)
        yield from self._one_scale(op.out)
        x, out = self.types[op.x], self.types[op.out]
        if not isinstance(out.format, Int | Fixed) or not is_codes(out) or not is_codes(x):
            yield f"{op.out!r} must be integer codes, not {out}; follow it by a Lookup for {out.format}"
            return
        bottom, top = code_range(out.format)
        if not bottom <= op.low <= op.high <= top:
            yield f"clamp [{op.low}, {op.high}] is not within {out.format}"
        if not len(op.multiplier) == len(op.shift) == len(x.scale):
            yield f"{len(op.multiplier)} multipliers and {len(op.shift)} shifts for {len(x.scale)} scales"
            return
        for scale, multiplier, shift in zip(x.scale, op.multiplier, op.shift, strict=True):
            yield from _ratio_problems(scale / out.scale[0], multiplier, shift, -62 if bits_of(x.format) > 32 else -31)

    def _divide_codes(self, op: o.DivideCodes) -> Problems:
        yield from self._one_scale(op.x, op.out)
        x, out = self.types[op.x], self.types[op.out]
        if not isinstance(out.format, Int) or not is_codes(out) or not is_codes(x):
            yield f"{op.out!r} must be integer codes, not {out}"
            return
        if not code_range(out.format)[0] <= op.low <= op.high <= code_range(out.format)[1]:
            yield f"clamp [{op.low}, {op.high}] is not within {out.format}"
        if not _close(out.scale[0], x.scale[0] * op.divisor):
            yield f"{op.out!r} has scale {out.scale[0]!r}, but {op.divisor} times that of {op.x!r} is another"

    def _lookup(self, op: o.Lookup) -> Problems:
        yield from self._one_scale(op.x)
        yield from self._codes(op.out)
        if not is_codes(self.types[op.x]):
            return
        low, high = code_range(self.types[op.x].format)
        if op.table not in self.graph.constants:
            yield f"table {op.table!r} must be a constant"
        elif self.types[op.table].shape != (high - low + 1,):
            yield f"table {op.table!r} has {self.types[op.table].shape} entries for {high - low + 1} codes"
        if not _same_numbers(self.types[op.table], self.types[op.out]):
            yield f"table {op.table!r} must have the type of {op.out!r}"


def _ratio_problems(ratio: float, multiplier: int, shift: int, shift_min: int) -> Problems:
    if (multiplier, shift) == (0, 0):
        if ratio >= 2.0**-32:
            yield f"multiplier 0 for the scale ratio {ratio!r}"
    elif not (1 << 29 <= multiplier < 1 << 31 and shift_min <= shift <= 30):
        yield f"multiplier {multiplier} or shift {shift} is out of range"
    elif not _close(math.ldexp(multiplier, shift - 31), ratio, RATIO_TOLERANCE):
        yield f"multiplier {multiplier} and shift {shift} are not the scale ratio {ratio!r}"


def _short(scales: tuple[float, ...]) -> str:
    return repr(scales[0]) if len(scales) == 1 else f"({scales[0]!r}, … {len(scales)})"


def touches_codes(graph: Graph, op: o.Op) -> bool:
    """Whether an operand or result of `op` is codes."""
    return any(is_codes(graph.types[value]) for value in (*o.operands(op), *o.results(op)))


def code_problems(graph: Graph, op: o.Op) -> Problems:
    """What `op` does with codes that it may not, apart from overflow."""
    if touches_codes(graph, op):
        yield from _Codes(graph).problems(op)


def overflow_problems(graph: Graph, op: o.Op, bounds: Mapping[o.Value, Interval]) -> Problems:
    """Numbers that some input makes too wide for the result of `op`, or for its rounding rule.

    For operators that code_problems accepts; `bounds` are those of level_bounds.
    """
    out = o.results(op)[0]
    if not is_codes(graph.types[out]):
        return
    if isinstance(op, o.Requantize):
        yield from _shift_overflow(op, bounds[op.x])
    if isinstance(op, o.LayerNorm):
        yield from _power_overflow(graph, op, bounds[op.x])
    if not accumulates(op):
        return
    type_ = graph.types[out]
    low, high = partial_sums(graph, op, bounds.__getitem__)
    bottom, top = level_range(type_.format, type_.zero_point)
    if low < bottom or high > top:
        needed = f"{signed_bits((low, high))} bits for [{low}, {high}]"
        yield f"accumulator {out!r} needs {needed} but is {type_.format}; use fewer bits or widen it"


def _power_overflow(graph: Graph, op: o.LayerNorm, levels: Interval) -> Problems:
    """The sums of a layer normalization: n times a deviation, and n^2 times the variance."""
    count = normalized_count(op, graph.types[op.x].shape)
    spread = count * (levels[1] - levels[0])
    power = spread * spread + epsilon_level(op.epsilon, graph.types[op.x].scale[0], count)
    if spread >= LARGEST_DEVIATION or power >= LARGEST_POWER:
        yield f"{count} levels in {list(levels)} are too many to normalize; use fewer bits"


def _shift_overflow(op: o.Requantize, levels: Interval) -> Problems:
    """gemmlowp2 and gemmlowp2-up first shift a 32-bit level left; the other rules end in 64 bits."""
    left = max(0, *op.shift)
    bits = signed_bits(levels) + left
    limit = 32 if op.rounding.startswith("gemmlowp2") else 63
    if bits > limit:
        yield f"levels {list(levels)} shifted left by {left} need {bits} bits; {op.rounding} has {limit}"
