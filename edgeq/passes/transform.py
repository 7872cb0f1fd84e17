"""Shift and scale the channels of a value without changing what the network computes: x' = (x - b) / r.

The operator that computes x absorbs the map, the operators that read it absorb its inverse (W' = W r, bias' = bias +
W b), so that x' is easier to quantize. Cross-layer equalization, SmoothQuant, Outlier Suppression+, SQ-b and RepQ are
choices of b and r (edgeq/quantize/migrate.py); this is the one rewrite behind them. Legal is what is exact: between
the two only operators that commute with the map, which relu does for r > 0 and b = 0, and SiLU does not.

A clip between 0 and c commutes with r <= 1 as far as x stays within r c, where the moved network has the bound instead:
exact for every input whose channels reach no further than that, as a range is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgeq.errors import UsageError
from edgeq.formats import FloatArray
from edgeq.ir import ops as o
from edgeq.ir.graph import Graph
from edgeq.passes.affine import Affine, absorb_before
from edgeq.passes.fold import absorbed_by_producer
from edgeq.passes.rewrite import Rule, Sweep

Reader = o.Conv | o.ConvTranspose | o.Linear
Maker = Reader | o.LayerNorm | o.GroupNorm
_HOMOGENEOUS = ("relu", "leaky_relu")
_SLACK = 1 + 1e-9
"""What rounding may add to a scale of one."""


@dataclass(frozen=True)
class Move:
    """x' = (x - shift) / scale per channel, float64 [channels] each; scale > 0."""

    shift: FloatArray
    scale: FloatArray


@dataclass(frozen=True)
class Seam:
    """A value whose channels may be moved: `maker` computes it, `readers` read it through `reads`.

    `between` are the operators on the way; `axis` is that of the channels; `shifts` tells whether b may differ from 0.
    Where `ceiling` is finite, a clip keeps the channels below it, scales are at most one, and a channel that reaches
    further than its scale times the ceiling would be cut off.
    """

    value: o.Value
    maker: Maker
    between: tuple[o.Op, ...]
    readers: tuple[Reader, ...]
    reads: tuple[o.Value, ...]
    axis: int
    shifts: bool
    ceiling: float = math.inf


def seams(graph: Graph) -> dict[o.Value, Seam]:
    """Every seam of a real graph, by its value."""
    found = (_seam(graph, op) for op in graph.ops if isinstance(op, Maker) and _is_constant_maker(graph, op))
    return {seam.value: seam for seam in found if seam is not None}


def transform(graph: Graph, moves: Mapping[o.Value, Move]) -> Graph:
    """`graph` with the channels of some values moved; the same function up to float rounding.

    Raises UsageError for a value that is no seam, a shift where none is legal, and scales that are not positive.
    """
    legal = seams(graph)
    for value, move in moves.items():
        _check(value, move, legal)
    before = {o.results(op)[0]: moves[value] for value in moves for op in legal[value].readers}
    pending = {(name, "out") for name in moves} | {(name, "in") for name in before}

    def into_maker(s: Sweep, op: o.Op) -> o.Op | None:
        (out, *_) = o.results(op)
        if (out, "out") not in pending:
            return None
        pending.remove((out, "out"))
        inverse = 1 / moves[out].scale
        along = _along(s, out, legal[out].axis)
        affine = Affine(out, inverse.reshape(along), (-moves[out].shift * inverse).reshape(along))
        return absorbed_by_producer(s, op, affine, out)

    def into_reader(s: Sweep, op: o.Op) -> o.Op | None:
        (out, *_) = o.results(op)
        if (out, "in") not in pending or not isinstance(op, Reader):
            return None
        pending.remove((out, "in"))
        axis = len(s.shape(op.x)) - 1 if isinstance(op, o.Linear) else 1
        along = _along(s, op.x, axis)
        return absorb_before(s, op, Affine(op.x, before[out].scale.reshape(along), before[out].shift.reshape(along)))

    rules: tuple[Rule, ...] = (into_reader, into_maker)
    state = Sweep(graph)
    for op in graph.ops:
        state.place(op, rules)
    assert not pending, pending
    return state.finished()


def _along(s: Sweep, value: o.Value, axis: int) -> tuple[int, ...]:
    shape = [1] * len(s.editor.types[value].shape)
    shape[axis] = -1
    return tuple(shape)


def _check(value: o.Value, move: Move, legal: Mapping[o.Value, Seam]) -> None:
    if value not in legal:
        raise UsageError("the channels of this value cannot be moved", where=value, allowed=", ".join(legal) or "none")
    if move.shift.any() and not legal[value].shifts:
        raise UsageError("a shift would not survive the activation or padding behind this value", where=value)
    if not (np.isfinite(move.scale).all() and np.isfinite(move.shift).all() and (move.scale > 0).all()):
        raise UsageError("scales must be positive and finite", where=value)
    if math.isfinite(legal[value].ceiling) and move.scale.max() > _SLACK:
        raise UsageError("a scale above one would raise the bound of the clip behind this value", where=value)


def _is_constant_maker(graph: Graph, op: Maker) -> bool:
    operands = o.operands(op)
    return operands[0] not in graph.constants and all(value in graph.constants for value in operands[1:])


def _axis(graph: Graph, op: Maker) -> int | None:
    rank = len(graph.types[o.results(op)[0]].shape)
    if isinstance(op, o.LayerNorm):
        return rank - 1 if op.axis == rank - 1 else None
    return rank - 1 if isinstance(op, o.Linear) else 1


def _seam(graph: Graph, maker: Maker) -> Seam | None:
    axis = _axis(graph, maker)
    if axis is None or (isinstance(maker, o.ConvTranspose) and maker.groups > 1):
        return None
    readers: list[Reader] = []
    reads: list[o.Value] = []
    between: list[o.Op] = []
    shifts, ceiling, front = True, math.inf, [maker.out]
    while front:
        value = front.pop()
        following = graph.consumers.get(value, ())
        if value in graph.outputs or not following:
            return None
        for op in following:
            if isinstance(op, Reader) and _reads_channels(graph, op, value, axis):
                readers.append(op)
                reads.append(value)
                shifts &= isinstance(op, o.Linear) or (isinstance(op, o.Conv) and not any(op.padding))
            elif (passed := _passes(graph, op, axis)) is not None:
                shifts &= passed
                ceiling = min(ceiling, _ceiling(op))
                between.append(op)
                front.append(o.results(op)[0])
            else:
                return None
    return Seam(maker.out, maker, tuple(between), tuple(readers), tuple(dict.fromkeys(reads)), axis, shifts, ceiling)


def _reads_channels(graph: Graph, op: Reader, value: o.Value, axis: int) -> bool:
    """Whether `op` reads `value` as its input alone, with the channels on `axis`."""
    own = len(graph.types[op.x].shape) - 1 if isinstance(op, o.Linear) else 1
    constant = op.weight in graph.constants and (op.bias is None or op.bias in graph.constants)
    return op.x == value and own == axis and constant and o.operands(op).count(value) == 1


def _passes(graph: Graph, op: o.Op, axis: int) -> bool | None:
    """Whether a positive scale per channel, and with True also a shift, commutes with `op`; None if neither does."""
    match op:
        case o.Apply():
            return False if op.function.name in _HOMOGENEOUS or math.isfinite(_ceiling(op)) else None
        case o.MaxPool() if axis == 1:
            return True
        case o.AveragePool() if axis == 1:
            return not any(op.padding) or not op.count_padding
        case o.Resize() if axis == 1:
            return True
        case o.Mean() | o.Slice():
            return True if _keeps_channels(graph, op, axis) else None
        case o.Pad() if op.before[axis] == op.after[axis] == 0:
            return op.mode != "constant" if op.mode != "constant" or op.value == 0.0 else None
        case _:
            return None


def _ceiling(op: o.Op) -> float:
    """The upper bound of a clip whose lower bound is zero; infinite elsewhere."""
    match op:
        case o.Apply(function=o.Function(name="clip", a=0.0) as clip) if clip.b > 0:
            return clip.b
        case _:
            return math.inf


def _keeps_channels(graph: Graph, op: o.Mean | o.Slice, axis: int) -> bool:
    if isinstance(op, o.Mean):
        return axis not in op.axes
    size = graph.types[op.x].shape[axis]
    return (op.starts[axis], op.steps[axis]) == (0, 1) and op.stops[axis] >= size
