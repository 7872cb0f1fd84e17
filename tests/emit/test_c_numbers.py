"""The kernels' requantization, transcribed, against the reference rules on every kind of number."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeq.emit.c_numbers import Scaling, scaling
from edgeq.errors import UnsupportedError
from edgeq.ir import ops as o
from edgeq.reference.arithmetic import quantize_multiplier, requantize

INT32 = range(-(1 << 31), 1 << 31)


def as_the_kernel_does(total: int, numbers: Scaling, channel: int, rounding: str) -> int:
    """edgeq_requantize of runtimes/c/edgeq.h in Python's integers; every intermediate must fit 32 bits."""
    _, multiplier, offset, shift = numbers.channels[channel]
    raised = total * numbers.factor
    high = (raised * multiplier) >> 32
    if rounding == "gemmlowp2":
        r = (high + 1) >> 1
        high = r - int(r < 0 and shift > 0)
    assert raised in INT32 and high + offset in INT32 and 0 <= shift < 32
    return min(max((high + offset) >> shift, numbers.low), numbers.high)


def reference(total: int, op: o.Requantize, zero_point: int, channel: int) -> int:
    numbers = [torch.tensor(n) for n in (total, op.multiplier[channel], op.shift[channel])]
    return min(max(int(requantize(*numbers, op.rounding)) + zero_point, op.low), op.high)


ROUNDINGS: tuple[o.Rounding, ...] = ("single", "gemmlowp2")
ratios = st.one_of(
    st.floats(2.0**-18, 0.9),
    st.sampled_from([2.0**-k for k in range(1, 19)]),
    st.sampled_from([0.0, 2.0**-33, 0.2500001, 0.4999999, 1 - 2.0**-31]),
)


@settings(max_examples=400, deadline=None)
@given(ratios, st.sampled_from(ROUNDINGS), st.integers(-128, 127), st.integers(1, 1 << 26), st.data())
def test_equal_to_the_rule(ratio: float, rounding: o.Rounding, zero: int, largest: int, data: st.DataObject) -> None:
    q, e = quantize_multiplier(ratio)
    op = o.Requantize("x", "y", (q,), (e,), rounding, -128, 127)
    numbers = scaling(op, zero, [0], [(-largest, largest)])
    step = max(1, round(0.5 / ratio)) if ratio > 1e-9 else 1
    ties = [k * step for k in (-3, -1, 1, 2, 255)]
    totals = [-largest, largest, 0, 1, -1, *ties, *(t + d for t in ties for d in (-1, 1))]
    totals += [data.draw(st.integers(-largest, largest)) for _ in range(8)]
    for total in totals:
        if -largest <= total <= largest:
            assert as_the_kernel_does(total, numbers, 0, rounding) == reference(total, op, zero, 0), total


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_ratios_of_one_and_more(rounding: o.Rounding) -> None:
    for ratio in (1.0, 1.5, 7.3, 100.0):
        q, e = quantize_multiplier(ratio)
        op = o.Requantize("x", "y", (q,), (e,), rounding, -128, 127)
        numbers = scaling(op, 3, [0], [(-1000, 1000)])
        for total in range(-1000, 1001):
            assert as_the_kernel_does(total, numbers, 0, rounding) == reference(total, op, 3, 0)


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_a_constant_channel_needs_no_ratio_that_fits(rounding: o.Rounding) -> None:
    pairs = [quantize_multiplier(ratio) for ratio in (0.01, 1e6)]
    op = o.Requantize("x", "y", *zip(*pairs, strict=True), rounding, -128, 127)
    numbers = scaling(op, 5, [7, 3], [(-5000, 5000), (3, 3)])
    assert [as_the_kernel_does(3, numbers, 1, rounding), numbers.channels[1][0]] == [127, 3]
    assert as_the_kernel_does(4321, numbers, 0, rounding) == reference(4321, op, 5, 0)


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_what_32_bits_cannot_hold_is_refused(rounding: o.Rounding) -> None:
    q, e = quantize_multiplier(1000.0)
    op = o.Requantize("x", "y", (q,), (e,), rounding, -128, 127)
    with pytest.raises(UnsupportedError, match="too large"):
        scaling(op, 0, [0], [(-(1 << 27), 1 << 27)])
    assert math.isclose(1000.0, q * 2.0 ** (e - 31))
