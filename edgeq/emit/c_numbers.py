"""Requantization as the kernels compute it: per channel a multiplier, an offset and a shift, exact by construction.

`single`: floor((sum q + 2^(t - 1)) / 2^t) with t = 31 - e. When t >= 33 the low word of sum q cannot change the result,
so it is (high(sum q) + 2^(t - 33)) >> (t - 32); a smaller t is raised by multiplying sums by a power of two, the layer's
factor. The output zero point is added before the shift. `gemmlowp2` is the same with its two roundings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgeq.errors import UnsupportedError
from edgeq.ir import ops as o

WORD = 1 << 31
Channel = tuple[int, int, int, int]
"""bias, multiplier, offset, shift."""


@dataclass(frozen=True)
class Scaling:
    """`channels` and what they share: the factor of sums, and the lowest and highest output code."""

    channels: tuple[Channel, ...]
    factor: int
    low: int
    high: int


def scaling(op: o.Requantize, zero_point: int, biases: Sequence[int], largest: int) -> Scaling:
    """The numbers of `op` for sums of magnitude up to `largest`, one channel per bias.

    Raises UnsupportedError if 32 bits cannot hold an intermediate, which needs absurd scales.
    """
    count = len(biases)
    pairs = list(zip(op.multiplier, op.shift, strict=True))
    pairs = pairs * count if len(pairs) == 1 else pairs
    numbers = _single if op.rounding == "single" else _gemmlowp2
    factor, found = numbers(pairs, zero_point, largest, op.out)
    channels = tuple((bias, *channel) for bias, channel in zip(biases, found, strict=True))
    return Scaling(channels, factor, op.low, op.high)


Numbers = tuple[int, int, int]


def _single(
    pairs: Sequence[tuple[int, int]], zero_point: int, largest: int, where: str
) -> tuple[int, list[Numbers]]:
    live = [e for q, e in pairs if q]
    raised = max([0, *(2 + e for e in live)])
    if largest << raised >= WORD:
        raise UnsupportedError("a scale ratio is too large for 32-bit requantization", where=where, value=max(live))
    found = []
    for q, e in pairs:
        shift = raised - 1 - e  # t + raised - 32
        if q == 0 or largest * q < 1 << (30 - e):  # every sum rounds to zero
            q, shift = 0, 1
        found.append((q, (1 << (shift - 1)) + (zero_point << shift), shift))
    _check(found, largest << raised >> 1, where)
    return 1 << raised, found


def _gemmlowp2(
    pairs: Sequence[tuple[int, int]], zero_point: int, largest: int, where: str
) -> tuple[int, list[Numbers]]:
    lefts = {max(e, 0) for q, e in pairs if q} or {0}
    factor = 4 << max(lefts)
    if len(lefts) > 1 or largest * factor >= WORD:
        raise UnsupportedError("scale ratios are too large or too unequal for 32-bit requantization", where=where)
    found = []
    for q, e in pairs:
        shift = max(-e, 0)
        if q == 0 or (shift and ((largest * q >> 31) + 1) < 1 << (shift - 1)):
            q, shift = 0, 0
        found.append((q, (1 << shift >> 1) + (zero_point << shift), shift))
    _check(found, largest * factor, where)
    return factor, found


def _check(found: Sequence[Numbers], largest: int, where: str) -> None:
    for q, offset, shift in found:
        reach = largest if q else 0
        if abs(offset) + reach + 1 >= WORD or shift > 31:
            raise UnsupportedError("a scale ratio is too small for 32-bit requantization", where=where, value=shift)
