"""Requantization as the kernels compute it: per channel a multiplier, an offset and a shift, exact by construction.

`single`: floor((sum q + 2^(t - 1)) / 2^t) with t = 31 - e. When t >= 33 the low word of sum q cannot change the result,
so it is (high(sum q) + 2^(t - 33)) >> (t - 32); a smaller t is raised by multiplying sums by a power of two, the layer's
factor. The output zero point is added before the shift. `gemmlowp2` is the same with its two roundings.

A channel whose sum is proved to be constant (its weights are zero) needs no multiplier: its offset is the code. Records
of channels (`records`) hold no offsets, so there its bias is one that gives the code.

Codes of 16 bits, and sums of wide levels, are requantized in 64 bits, floor((sum q + 2^(t - 1)) / 2^t) as it stands. The
offset is the zero point; above its 16 bits stand those of a bias that 32 bits do not hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from edgeq.errors import UnsupportedError
from edgeq.ir import ops as o
from edgeq.ir.bounds import Interval
from edgeq.reference.arithmetic import requantize

WORD = 1 << 31
SMALL_SUMS = WORD
"""Below it, times the layer's factor, the sums of constants follow their codes, and fit in records; above, multipliers do."""

Channel = tuple[int, int, int, int]
"""bias, multiplier, offset, shift."""

Record = tuple[int, int]
"""256 bias + shift, and the multiplier: a channel in half the flash."""

_Numbers = tuple[int, int, int]


@dataclass(frozen=True)
class Scaling:
    """`channels` and what they share: the factor of sums, the lowest and highest output code, and the output zero point."""

    channels: tuple[Channel, ...]
    factor: int
    low: int
    high: int
    zero_point: int

    @property
    def middle(self) -> int:
        """2 zero point + 1: shifted by a channel's shift and halved it is the channel's offset (0: of 16-bit codes)."""
        middle = 2 * self.zero_point + 1
        return middle if abs(middle) < 1 << 15 else 0


@dataclass(frozen=True)
class _Ratio:
    """One channel: ratio q 2^(e - 31), and the largest magnitude of its sum."""

    q: int
    e: int
    largest: int


def scaling(op: o.Requantize, zero_point: int, biases: Sequence[int], sums: Sequence[Interval]) -> Scaling:
    """The numbers of `op` for sums within the intervals `sums` (one for all channels, or one each); one bias per channel.

    Raises UnsupportedError if 32 bits cannot hold an intermediate, which needs absurd scales.
    """
    pairs = list(zip(op.multiplier, op.shift, strict=True))
    pairs = pairs * len(biases) if len(pairs) == 1 else pairs
    intervals = list(sums) * len(biases) if len(sums) == 1 else list(sums)
    constant = {k: _code(op, zero_point, low, *pairs[k]) for k, (low, high) in enumerate(intervals) if low == high}
    live = {
        k: _Ratio(q, e, max(-low, high))
        for k, ((q, e), (low, high)) in enumerate(zip(pairs, intervals, strict=True))
        if k not in constant
    }
    factor, found = (_single if op.rounding == "single" else _gemmlowp2)(live, zero_point, op.out)
    numbers = {**found, **{k: (0, code, 0) for k, code in constant.items()}}
    return Scaling(tuple((bias, *numbers[k]) for k, bias in enumerate(biases)), factor, op.low, op.high, zero_point)


def long_scaling(op: o.Requantize, zero_point: int, biases: Sequence[int], sums: Sequence[Interval]) -> Scaling:
    """The numbers of `op` for sums of 64 bits: of each channel q, the zero point and t = 31 - e.

    Raises UnsupportedError if 64 bits cannot hold an intermediate, or 48 a bias.
    """
    pairs = list(zip(op.multiplier, op.shift, strict=True))
    pairs = pairs * len(biases) if len(pairs) == 1 else pairs
    largest = max(max(-low, high) for low, high in sums)
    channels = []
    for bias, (multiplier, e) in zip(biases, pairs, strict=True):
        q = min((multiplier + (1 << 15)) >> 16, (1 << 15) - 1) << 16 if op.rounding == "single15" else multiplier
        if (largest * q >> (31 - e)) >= 1 << 62 or largest >= 1 << 60:
            raise UnsupportedError("a scale ratio is too large for 64-bit requantization", where=op.out, value=e)
        low, high = _halves(bias, op.out)
        channels.append((low, q, zero_point + (high << 16), 31 - e))
    return Scaling(tuple(channels), 1, op.low, op.high, zero_point)


def channels_by_bias(op: o.Requantize, numbers: Scaling, sums: Sequence[Interval]) -> list[Channel]:
    """The channels of `scaling`, each with the offset that its shift and the zero point say: constants by their bias."""
    intervals = list(sums) * len(numbers.channels) if len(sums) == 1 else list(sums)
    found = []
    for channel, (low, high) in zip(numbers.channels, intervals, strict=True):
        bias, _, code, _ = channel
        if low != high:
            found.append(channel)
        else:
            total, multiplier = _constant(op, numbers.factor, code - numbers.zero_point)
            found.append((bias + total - low, multiplier, numbers.middle, 1))
    return found


def _constant(op: o.Requantize, factor: int, steps: int) -> tuple[int, int]:
    """A sum and a multiplier that give the code so many steps above the zero point, with a shift of one."""
    raised, small = (factor // 4, 4) if op.rounding == "gemmlowp2" else (factor, 8)
    if abs(small * steps) * factor < SMALL_SUMS:
        return small * steps, (1 << 30) // raised
    total, multiplier = (1 << 30) // factor, (16 if op.rounding == "gemmlowp2" else 8) * steps
    if abs(multiplier) >= WORD:
        raise UnsupportedError("a scale ratio is too large beside a constant channel", where=op.out)
    return total, multiplier


def record(channel: Channel, middle: int) -> Record | None:
    """A channel of a layer with this `middle` as flash holds it; None if its numbers do not fit."""
    bias, multiplier, offset, shift = channel
    fits = abs(2 * bias + 1) < 1 << 24 and 0 <= shift < 32 and abs(middle << shift) < WORD
    return (bias * 256 + shift, multiplier) if fits and offset == (middle << shift) >> 1 else None


def _halves(bias: int, where: str) -> tuple[int, int]:
    """(low, high) with bias = low + 2^32 high: the low word, with a sign, and 16 bits.

    >>> _halves(-5, ""), _halves(3 << 31, ""), _halves(-(1 << 31) - 1, "")
    ((-5, 0), (-2147483648, 2), (2147483647, -1))
    """
    low = (bias + WORD) % (2 * WORD) - WORD
    high = (bias - low) >> 32
    if abs(high) >= 1 << 15:
        raise UnsupportedError(
            "a bias, with what the zero point adds to it, exceeds 48 bits", where=where,
            next_step="Give this layer weights of smaller levels.",
        )  # fmt: skip
    return low, high


def _code(op: o.Requantize, zero_point: int, level: int, q: int, e: int) -> int:
    total, multiplier, shift = (torch.tensor(number, dtype=torch.int64) for number in (level, q, e))
    return min(max(int(requantize(total, multiplier, shift, op.rounding)) + zero_point, op.low), op.high)


def _single(live: dict[int, _Ratio], zero_point: int, where: str) -> tuple[int, dict[int, _Numbers]]:
    raised = max([0, *(2 + r.e for r in live.values() if r.q)])
    found = {}
    for k, r in live.items():
        q, shift = r.q, raised - 1 - r.e  # t + raised - 32
        if r.largest << raised >= WORD:
            raise UnsupportedError("a scale ratio is too large for 32-bit requantization", where=where, value=r.e)
        if q == 0 or r.largest * q < 1 << (30 - r.e):  # every sum rounds to zero
            q, shift = 0, 1
        found[k] = _checked((q, (1 << (shift - 1)) + (zero_point << shift), shift), r.largest << raised >> 1, where)
    return 1 << raised, found


def _gemmlowp2(live: dict[int, _Ratio], zero_point: int, where: str) -> tuple[int, dict[int, _Numbers]]:
    lefts = {max(r.e, 0) for r in live.values() if r.q} or {0}
    factor = 4 << max(lefts)
    if len(lefts) > 1:
        raise UnsupportedError("scale ratios of one layer lie on both sides of 1", where=where)
    found = {}
    for k, r in live.items():
        q, shift = r.q, max(-r.e, 0)
        if r.largest * factor >= WORD:
            raise UnsupportedError("a scale ratio is too large for 32-bit requantization", where=where, value=r.e)
        if q == 0 or (shift and ((r.largest * q >> 31) + 1) < 1 << (shift - 1)):
            q, shift = 0, 0
        found[k] = _checked((q, (1 << shift >> 1) + (zero_point << shift), shift), r.largest * factor, where)
    return factor, found


def _checked(numbers: _Numbers, largest: int, where: str) -> _Numbers:
    q, offset, shift = numbers
    if abs(offset) + (largest if q else 0) + 1 >= WORD or shift > 31:
        raise UnsupportedError("a scale ratio is too small for 32-bit requantization", where=where, value=shift)
    return numbers
