"""Proved bounds: an interval of integer levels for every value of codes, true for every possible input.

Weights are constants, so the extremes of an accumulator are exact per output channel: positive weights meet
the largest input level and negative weights the smallest. Nothing here samples data; widths, carriers and
refusals follow from these intervals alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from math import isqrt, prod

import numpy as np

from edgeq.errors import UnsupportedError
from edgeq.formats import Fixed, Int, IntArray, code_range, decode, encode, level_range
from edgeq.ir import ops as o
from edgeq.ir.graph import Graph, Type

Interval = tuple[int, int]

RESIZE_FACTOR = 1 << 20
"""Linear interpolation weights are multiples of 2^-10 on each of two axes."""

EXPONENTIAL_ONE = 1 << 15
"""The exponential of a row's largest element, in the unit of softmax's tables."""

SHARE_UNIT = (1 << 15) - 1
"""The shares of a softmax are multiples of 1 / SHARE_UNIT, so that 16-bit codes hold all of them, 1 included."""

LONGEST_ROW = 1 << 16
"""Softmax's sums fit in 32 bits for rows of so many elements."""

NORMAL_BITS = 15
"""A normalized element fills so many bits."""

LARGEST_DEVIATION, LARGEST_POWER = 1 << 30, 1 << 62
"""Limits of n (x - mean) and n^2 (variance + epsilon) in layer normalization."""

_WIDE = (
    o.Conv, o.ConvTranspose, o.Linear, o.MatMul, o.Mul, o.Add, o.Sub, o.AveragePool, o.Mean, o.Softmax, o.LayerNorm
)  # fmt: skip


def is_codes(type_: Type) -> bool:
    """Whether a value of this type is codes with a scale (neither real nor an index or truth value)."""
    return bool(type_.scale)


def signed_bits(interval: Interval) -> int:
    """Bits of the narrowest two's complement integer that holds every level of `interval`.

    >>> signed_bits((-128, 127)), signed_bits((0, 128))
    (8, 9)
    """
    low, high = interval
    return max((-low - 1).bit_length() if low < 0 else 0, high.bit_length() if high > 0 else 0) + 1


def union(intervals: Iterable[Interval]) -> Interval:
    """The smallest interval that holds all of `intervals`."""
    lows, highs = zip(*intervals, strict=True)
    return min(lows), max(highs)


def products(a: Interval, b: Interval) -> Interval:
    """Extremes of x y for x in a and y in b."""
    corners = [x * y for x in a for y in b]
    return min(corners), max(corners)


def constant_levels(graph: Graph, value: o.Value) -> IntArray | None:
    """Exact levels of a constant of codes; None when `value` is computed or an input."""
    if value not in graph.constants:
        return None
    type_ = graph.types[value]
    return decode(type_.format, graph.constants[value], type_.zero_point)


def _rows(op: o.Conv | o.ConvTranspose | o.Linear, weight: IntArray) -> list[IntArray]:
    """Weights as matrices [output channel, tap]: one output element sums over one row of one of them."""
    match op:
        case o.Conv() | o.Linear():
            return [weight.reshape(len(weight), -1)]
        case o.ConvTranspose():
            return _phases(op, weight)


def _phases(op: o.ConvTranspose, weight: IntArray) -> list[IntArray]:
    """A transposed convolution of stride s is s_h s_w plain ones: one per value of (tap dilation) mod s."""
    inputs, outputs, height, width = weight.shape
    grouped = weight.reshape(op.groups, inputs // op.groups, outputs, height, width)
    rows = (np.arange(height) * op.dilation[0]) % op.stride[0]
    columns = (np.arange(width) * op.dilation[1]) % op.stride[1]
    return [
        grouped[:, :, :, rows == row][..., columns == column].swapaxes(1, 2).reshape(op.groups * outputs, -1)
        for row in range(op.stride[0])
        for column in range(op.stride[1])
    ]


def _row_extremes(weight: IntArray, x: Interval) -> list[Interval]:
    """Extremes of sum_k weight[o,k] x_k for every row o, as Python integers that cannot overflow."""
    if weight.size and int(np.abs(weight).max()) * weight.shape[1] >= 1 << 62:
        weight = weight.astype(object)
    positive = weight.clip(min=0).sum(1).tolist()
    negative = weight.clip(max=0).sum(1).tolist()
    low, high = x
    return [(p * low + n * high, p * high + n * low) for p, n in zip(positive, negative, strict=True)]


def _may_see_padding(op: o.Conv | o.ConvTranspose | o.Linear) -> bool:
    match op:
        case o.Conv():
            return any(op.padding)
        case o.ConvTranspose():
            return True  # at the border some taps of the window meet no input
        case o.Linear():
            return False


def taps(op: o.Conv | o.ConvTranspose | o.Linear, weight: tuple[int, ...]) -> int:
    """How many products one sum of `op` may have, for a weight of shape `weight`."""
    if isinstance(op, o.ConvTranspose):
        return prod(weight) // (weight[1] * op.groups)
    return prod(weight[1:])


def channel_bounds(
    graph: Graph, op: o.Conv | o.ConvTranspose | o.Linear, bound: Callable[[o.Value], Interval]
) -> list[Interval]:
    """Proved interval of each output channel's accumulator; `bound` gives those of the operands of `op`."""
    x = bound(op.x)
    if _may_see_padding(op):
        x = union([x, (0, 0)])
    channels = graph.types[op.out].shape[-1 if isinstance(op, o.Linear) else 1]
    weight = constant_levels(graph, op.weight)
    if weight is None:
        count = taps(op, graph.types[op.weight].shape)
        sums = [_scaled(products(x, bound(op.weight)), count)] * channels
    else:
        phases = [_row_extremes(rows, x) for rows in _rows(op, weight)]
        sums = phases[0] if len(phases) == 1 else [union(intervals) for intervals in zip(*phases, strict=True)]
    biases = _biases(graph, op.bias, channels, bound)
    return [_sum(total, bias) for total, bias in zip(sums, biases, strict=True)]


def _biases(graph: Graph, bias: o.Value | None, channels: int, bound: Callable[[o.Value], Interval]) -> list[Interval]:
    if bias is None:
        return [(0, 0)] * channels
    levels = constant_levels(graph, bias)
    return [bound(bias)] * channels if levels is None else [(level, level) for level in levels.tolist()]


def _sum(a: Interval, b: Interval) -> Interval:
    return a[0] + b[0], a[1] + b[1]


def _scaled(x: Interval, count: int) -> Interval:
    return x[0] * count, x[1] * count


def _requantized(op: o.Requantize, x: Interval, zero_point: int) -> Interval:
    """The clamp of `op`, tightened by its image.

    With y = floor(x ratio), single15 stays within 2 + |y| 2^-14 of [y, y + 1], every other rule within 2 + |y| 2^-22.
    """
    images = []
    precision = 14 if op.rounding == "single15" else 22
    for multiplier, shift in zip(op.multiplier, op.shift, strict=True):
        for level in x:
            y = (level * multiplier) >> (31 - shift)
            margin = 2 + (abs(y) >> precision)
            images.append((y - margin, y + 1 + margin))
    low, high = union(images)
    clamp_low, clamp_high = op.low - zero_point, op.high - zero_point
    return min(max(low, clamp_low), clamp_high), max(min(high, clamp_high), clamp_low)


def _divided(op: o.DivideCodes, x: Interval, zero_point: int) -> Interval:
    """The clamp of `op`, tightened by its image."""
    low, high = (divided_away(level + op.divisor * zero_point, op.divisor) for level in x)
    return min(max(low, op.low), op.high) - zero_point, max(min(high, op.high), op.low) - zero_point


def divided_away(numerator: int, divisor: int) -> int:
    """round(numerator / divisor), ties away from zero.

    >>> divided_away(5, 2), divided_away(-5, 2), divided_away(4, 3)
    (3, -3, 1)
    """
    magnitude = (2 * abs(numerator) + divisor) // (2 * divisor)
    return magnitude if numerator >= 0 else -magnitude


def _looked_up(graph: Graph, op: o.Lookup, x: Interval) -> Interval:
    """Extremes of the table entries that codes of x can reach."""
    x_type, out_type = graph.types[op.x], graph.types[op.out]
    table = np.asarray(graph.constants[op.table]).reshape(-1)
    if isinstance(x_type.format, Int | Fixed):
        first = code_range(x_type.format)[0] - x_type.zero_point
        table = table[x[0] - first : x[1] - first + 1]
    levels = decode(out_type.format, table, out_type.zero_point)
    return int(levels.min()), int(levels.max())


def _matmul(graph: Graph, op: o.MatMul, bound: Callable[[o.Value], Interval]) -> Interval:
    count = graph.types[op.a].shape[-1]
    if (maker := graph.producer.get(op.a)) and isinstance(maker, o.Softmax) and _is_last(graph, maker):
        # Shares of one row, which are not negative, add up to 1 but for the rounding of each.
        return products((0, SHARE_UNIT + count // 2), union([bound(op.b), (0, 0)]))
    return _scaled(products(bound(op.a), bound(op.b)), count)


def _is_last(graph: Graph, op: o.Softmax) -> bool:
    return op.axis == len(graph.types[op.x].shape) - 1


def normalized_count(op: o.LayerNorm, shape: tuple[int, ...]) -> int:
    """How many elements of a value of `shape` are normalized together."""
    return prod(shape[op.axis :])


def normal_fraction_bits(count: int) -> int:
    """Fractional bits of an element normalized among `count`: its magnitude, at most sqrt(count), fills 15 bits.

    >>> normal_fraction_bits(1), normal_fraction_bits(192), normal_fraction_bits(256), normal_fraction_bits(257)
    (15, 11, 11, 10)
    """
    return NORMAL_BITS - ((count - 1).bit_length() + 1) // 2


def epsilon_level(epsilon: float, scale: float, count: int) -> int:
    """round(count^2 epsilon / scale^2), at least 1, so that a row without variance divides by no zero.

    >>> epsilon_level(1e-5, 0.01, 10), epsilon_level(0.0, 0.01, 10)
    (10, 1)
    """
    return max(1, round(epsilon * (count / scale) ** 2))


def normal_limit(count: int) -> int:
    """Largest magnitude of an element normalized among `count`: 2^b sqrt(count - 1), one part in 2^14 and rounding more.

    >>> normal_limit(1), normal_limit(4)
    (1, 28380)
    """
    exact = isqrt((count - 1) << (2 * normal_fraction_bits(count))) + 1
    return exact + (exact >> 14) + 1 if count > 1 else 1


def _normalized(graph: Graph, op: o.LayerNorm, bound: Callable[[o.Value], Interval]) -> Interval:
    limit = normal_limit(normalized_count(op, graph.types[op.x].shape))
    scaled = (-limit, limit) if op.gamma is None else products((-limit, limit), bound(op.gamma))
    return scaled if op.beta is None else _sum(scaled, bound(op.beta))


def _padded(op: o.Pad, x: Interval, type_: Type) -> Interval:
    if op.mode != "constant":
        return x
    code = encode(type_.format, [op.value / type_.scale[0]], type_.zero_point)
    level = int(decode(type_.format, code, type_.zero_point)[0])
    return union([x, (level, level)])


def _result(graph: Graph, op: o.Op, bound: Callable[[o.Value], Interval]) -> Interval:
    """Interval of the first result of `op`, which holds codes."""
    types = graph.types
    match op:
        case o.Conv() | o.ConvTranspose() | o.Linear():
            return union(channel_bounds(graph, op, bound))
        case o.MatMul():
            return _matmul(graph, op, bound)
        case o.Mul():
            return products(bound(op.a), bound(op.b))
        case o.Add():
            return _sum(bound(op.a), bound(op.b))
        case o.Sub():
            low, high = bound(op.b)
            return _sum(bound(op.a), (-high, -low))
        case o.AveragePool():
            x = union([bound(op.x), (0, 0)]) if any(op.padding) else bound(op.x)
            return _scaled(x, op.kernel[0] * op.kernel[1])
        case o.Mean() | o.Reduce(function="sum"):
            return _scaled(bound(op.x), types[op.x].size // types[op.out].size)
        case o.Softmax():
            return 0, SHARE_UNIT
        case o.LayerNorm():
            return _normalized(graph, op, bound)
        case o.Resize():
            return bound(op.x) if op.mode == "nearest" else _scaled(bound(op.x), RESIZE_FACTOR)
        case o.Pad():
            return _padded(op, bound(op.x), types[op.x])
        case o.Concat():
            return union(map(bound, op.xs))
        case o.Where():
            return union([bound(op.a), bound(op.b)])
        case (
            o.MaxPool() | o.Reduce() | o.Slice() | o.Reshape() | o.Transpose() | o.Expand()
            | o.Gather() | o.GatherElements() | o.TopK()
        ):  # fmt: skip
            return bound(op.x)
        case o.Quantize():
            return level_range(types[op.out].format, types[op.out].zero_point)
        case o.Requantize():
            return _requantized(op, bound(op.x), types[op.out].zero_point)
        case o.DivideCodes():
            return _divided(op, bound(op.x), types[op.out].zero_point)
        case o.Lookup():
            return _looked_up(graph, op, bound(op.x))
        case _:
            raise UnsupportedError(
                f"{type(op).__name__} has no meaning on integer levels",
                where=o.results(op)[0],
                next_step="Lower it to a Lookup, or keep it on real values.",
            )


def accumulates(op: o.Op) -> bool:
    """Whether the result of `op` on codes is a wide integer in a unit of its own."""
    if isinstance(op, o.Resize):
        return op.mode != "nearest"
    return isinstance(op, _WIDE) or (isinstance(op, o.Reduce) and op.function == "sum")


def partial_sums(graph: Graph, op: o.Op, bound: Callable[[o.Value], Interval]) -> Interval:
    """Interval of the result of `op`, which accumulates, and of every partial sum in any order.

    The bias may come first or last. An accumulator must hold all of this; it contains the interval that
    level_bounds gives for the result.
    """

    def with_zero(value: o.Value) -> Interval:
        return union([bound(value), (0, 0)])

    sums = [_result(graph, op, bound), _result(graph, op, with_zero)]
    if isinstance(op, o.Conv | o.ConvTranspose | o.Linear) and op.bias is not None:
        sums.append(_result(graph, replace(op, bias=None), with_zero))
    return union(sums)


def _leaf(graph: Graph, value: o.Value) -> Interval:
    levels = constant_levels(graph, value)
    if levels is None or not levels.size:
        return level_range(graph.types[value].format, graph.types[value].zero_point)
    return int(levels.min()), int(levels.max())


def level_bounds(graph: Graph) -> dict[o.Value, Interval]:
    """Smallest and largest integer level that each value of codes can take, for any input whatsoever.

    For a lowered graph. Values that are real, indices or truth values are absent. Raises UnsupportedError for
    an operator that has no integer meaning.
    """
    bounds: dict[o.Value, Interval] = {}
    for value in dict.fromkeys((*graph.inputs, *graph.constants)):
        if is_codes(graph.types[value]):
            bounds[value] = _leaf(graph, value)
    for op in graph.ops:
        value = o.results(op)[0]
        if is_codes(graph.types[value]):
            bounds[value] = _result(graph, op, bounds.__getitem__)
    return bounds
