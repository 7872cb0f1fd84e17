"""Sums of two codes as one straight line over both, (own a + other b + start) >> shift, wherever that gives every code.

A residual requantizes two terms and then their sum. Both factors and a start that reproduce the rounded, clamped result
of all 65,536 pairs of codes need no table and a third of the instructions. Whether there are such numbers is found by
trying all pairs, so no rule of rounding matters here; terms that were rounded coarsely have none.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from edgeq.formats import IntArray
from edgeq.ir import ops as o
from edgeq.passes.kernel import Program, Residual
from edgeq.reference.arithmetic import requantize

CODES = np.arange(-128, 128)
LARGEST_SHIFT, SHIFTS = 23, 3
_NEIGHBOURS = range(-1, 3)
_LIMIT = 1 << 31


@dataclass(frozen=True)
class Line:
    """out = clamp((own a + other b + start) >> shift); no partial sum leaves 32 bits, in any order."""

    own: int
    other: int
    start: int
    shift: int


def sums_are_lines(program: Program) -> bool:
    """Whether every residual of `program` is a line."""
    return all(line_of(k.residual, program) is not None for k in program.kernels if k.residual)


def line_of(residual: Residual, program: Program) -> Line | None:
    """The line that gives the codes of a residual's sum for every pair of codes; None if none was found."""
    op = residual.requantize
    assert residual.other.table is not None
    own, other = (table.astype(np.int64).tobytes() for table in (residual.own, residual.other.table))
    return _line(own, other, op, program.type(op.out).zero_point)


@lru_cache(maxsize=256)
def _line(own: bytes, other: bytes, op: o.Requantize, zero_point: int) -> Line | None:
    a, b = (np.frombuffer(table, dtype=np.int64) for table in (own, other))
    wanted = _codes(a, b, op, zero_point)
    ratio = float(np.ldexp(op.multiplier[0], op.shift[0] - 31))
    slopes = [ratio * float(table[-1] - table[0]) / 255 for table in (a, b)]
    found = (_fitted(wanted, op, slopes, shift) for shift in _shifts(slopes))
    return next((line for line in found if line), None)


def _codes(a: IntArray, b: IntArray, op: o.Requantize, zero_point: int) -> IntArray:
    """[256, 256]: the code of every pair."""
    totals, q, e = (torch.tensor(n, dtype=torch.int64) for n in (a[:, None] + b, op.multiplier[0], op.shift[0]))
    codes: IntArray = requantize(totals, q, e, op.rounding).numpy().astype(np.int64) + zero_point
    return codes.clip(op.low, op.high)


def _shifts(slopes: list[float]) -> range:
    """The finest that 32 bits hold: twice the lines' reach leaves room for the start."""
    reach = 128 * sum(map(abs, slopes)) + 256
    finest = min(LARGEST_SHIFT, int(np.floor(np.log2(_LIMIT / reach))))
    return range(finest, max(finest - SHIFTS, 0), -1)


def _fitted(wanted: IntArray, op: o.Requantize, slopes: list[float], shift: int) -> Line | None:
    """The line of this shift nearest to `slopes`, if one is right for all pairs."""
    exact = [slope * (1 << shift) for slope in slopes]
    tried = [(int(np.floor(exact[0])) + i, int(np.floor(exact[1])) + j) for i in _NEIGHBOURS for j in _NEIGHBOURS]
    below, above = wanted > op.low, wanted < op.high
    for own, other in sorted(tried, key=lambda pair: abs(pair[0] - exact[0]) + abs(pair[1] - exact[1])):
        sums = own * CODES[:, None] + other * CODES
        least = int(((wanted << shift) - sums)[below].max(initial=-_LIMIT))
        most = int((((wanted + 1) << shift) - 1 - sums)[above].min(initial=_LIMIT))
        start = (least + most) // 2
        if least <= most and 128 * (abs(own) + abs(other)) + abs(start) < _LIMIT:
            return Line(own, other, start, shift)
    return None
