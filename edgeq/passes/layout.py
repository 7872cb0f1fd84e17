"""Operators that move, repeat or pad elements: chains become one operator, and what does nothing disappears."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np
import torch

from edgeq.ir import fit
from edgeq.ir import ops as o
from edgeq.ir.infer import result_shapes
from edgeq.passes.rewrite import Rule, Sweep
from edgeq.reference.meaning import evaluate

MAX_EVALUATED = 1 << 24  # elements of a constant result
MOST_AXES = 5  # that every runtime can move


def identity(s: Sweep, op: o.Op) -> o.Value | None:
    """The operand of an operator that changes nothing."""
    match op:
        case o.Reshape() | o.Expand() if op.shape == s.shape(op.x):
            return op.x
        case o.Transpose() if op.permutation == tuple(range(len(op.permutation))):
            return op.x
        case o.Slice() if set(op.steps) <= {1} and not any(op.starts) and s.shape(op.out) == s.shape(op.x):
            return op.x
        case o.Pad() if not any((*op.before, *op.after)):
            return op.x
        case o.Concat() if len(op.xs) == 1:
            return op.xs[0]
        case o.Resize() if op.size == s.shape(op.x)[2:] and op.scale == (1.0, 1.0):
            return op.x
        case o.Mean() | o.Reduce(function="sum" | "max" | "min") if s.shape(op.out) == s.shape(op.x):
            return op.x
        case _:
            return None


def reshape_of_reshape(s: Sweep, op: o.Op) -> o.Op | None:
    """Only the last shape counts."""
    inner = s.made_by(op.x) if isinstance(op, o.Reshape) else None
    return replace(op, x=inner.x) if isinstance(op, o.Reshape) and isinstance(inner, o.Reshape) else None


def transpose_of_transpose(s: Sweep, op: o.Op) -> o.Op | None:
    """Two permutations are one."""
    inner = s.made_by(op.x) if isinstance(op, o.Transpose) else None
    if not isinstance(op, o.Transpose) or not isinstance(inner, o.Transpose):
        return None
    return replace(op, x=inner.x, permutation=tuple(inner.permutation[axis] for axis in op.permutation))


def transpose_as_reshape(s: Sweep, op: o.Op) -> o.Op | None:
    """A permutation that only moves axes of size 1 moves no element."""
    if not isinstance(op, o.Transpose):
        return None
    shape = s.shape(op.x)
    moved = [axis for axis in op.permutation if shape[axis] != 1]
    return o.Reshape(op.x, op.out, tuple(shape[axis] for axis in op.permutation)) if moved == sorted(moved) else None


def transpose_of_fewer_axes(s: Sweep, op: o.Op) -> o.Op | None:
    """A permutation of more axes than many runtimes have: axes that stay neighbours become one, those of size 1 none."""
    if not isinstance(op, o.Transpose) or len(op.permutation) <= MOST_AXES:
        return None
    shape = s.shape(op.x)
    axes = [axis for axis in range(len(shape)) if shape[axis] != 1]
    runs: list[list[int]] = []
    for place in (axes.index(axis) for axis in op.permutation if shape[axis] != 1):
        if runs and runs[-1][-1] + 1 == place:
            runs[-1].append(place)
        else:
            runs.append([place])
    if len(runs) == len(shape):
        return None
    merged = tuple(prod(shape[axes[place]] for place in run) for run in sorted(runs))
    fewer = s.emit(o.Reshape(op.x, "", merged), op.x)
    moved = s.emit(o.Transpose(fewer, "", tuple(map(sorted(runs).index, runs))), op.out)
    return o.Reshape(moved, op.out, tuple(shape[axis] for axis in op.permutation))


def slice_of_slice(s: Sweep, op: o.Op) -> o.Op | None:
    """Two cuts are one."""
    inner = s.made_by(op.x) if isinstance(op, o.Slice) else None
    if not isinstance(op, o.Slice) or not isinstance(inner, o.Slice) or set(op.steps + inner.steps) != {1}:
        return None
    starts = tuple(a + b for a, b in zip(inner.starts, op.starts, strict=True))
    lengths = result_shapes(op, s.shape)[0]
    return replace(op, x=inner.x, starts=starts, stops=tuple(a + n for a, n in zip(starts, lengths, strict=True)))


def slice_of_concat(s: Sweep, op: o.Op) -> o.Op | None:
    """A cut that lies within one operand of a concatenation reads that operand."""
    joined = s.made_by(op.x) if isinstance(op, o.Slice) else None
    if not isinstance(op, o.Slice) or not isinstance(joined, o.Concat) or set(op.steps) != {1}:
        return None
    axis, first = joined.axis, 0
    for x in joined.xs:
        last = first + s.shape(x)[axis]
        if first <= op.starts[axis] and min(op.stops[axis], s.shape(op.x)[axis]) <= last:
            starts = (*op.starts[:axis], op.starts[axis] - first, *op.starts[axis + 1 :])
            stops = (*op.stops[:axis], op.stops[axis] - first, *op.stops[axis + 1 :])
            return replace(op, x=x, starts=starts, stops=stops)
        first = last
    return None


def concat_of_concat(s: Sweep, op: o.Op) -> o.Op | None:
    """Nested concatenations along one axis are one."""
    if not isinstance(op, o.Concat):
        return None
    xs: list[o.Value] = []
    for x in op.xs:
        inner = s.made_by(x)
        joins = isinstance(inner, o.Concat) and inner.axis == op.axis and s.is_sole(x)
        xs.extend(inner.xs if joins and isinstance(inner, o.Concat) else (x,))
    return replace(op, xs=tuple(xs)) if tuple(xs) != op.xs else None


def pad_of_pad(s: Sweep, op: o.Op) -> o.Op | None:
    """Two paddings with one number are one."""
    inner = s.made_by(op.x) if isinstance(op, o.Pad) else None
    if not isinstance(op, o.Pad) or not isinstance(inner, o.Pad) or not s.is_sole(op.x):
        return None
    if (op.mode, inner.mode) != ("constant", "constant") or op.value != inner.value:
        return None
    before, after = (
        tuple(a + b for a, b in zip(*pair, strict=True))
        for pair in ((op.before, inner.before), (op.after, inner.after))
    )
    return replace(op, x=inner.x, before=before, after=after)


def pad_into_window(s: Sweep, op: o.Op) -> o.Op | None:
    """Padding of the image, with what the window operator pads with, becomes its own padding."""
    if not isinstance(op, o.Conv | o.AveragePool | o.MaxPool) or not s.is_sole(op.x):
        return None
    pad = s.made_by(op.x)
    neutral = float("-inf") if isinstance(op, o.MaxPool) else 0.0
    if not isinstance(pad, o.Pad) or pad.mode != "constant" or pad.value != neutral:
        return None
    if any(pad.before[:2]) or any(pad.after[:2]):
        return None
    if isinstance(op, o.AveragePool) and any(op.padding) and not op.count_padding:
        return None
    top, left, bottom, right = op.padding
    padding = (top + pad.before[2], left + pad.before[3], bottom + pad.after[2], right + pad.after[3])
    new = replace(op, x=pad.x, padding=padding)
    if isinstance(new, o.AveragePool):
        new = replace(new, count_padding=True)
    return None if any(fit.problems(new, s.shape)) else new


def expand_into_broadcast(s: Sweep, op: o.Op) -> o.Op | None:
    """An operator that broadcasts by itself needs no expanded operand, if another operand gives it its shape."""
    if not isinstance(op, o.Add | o.Sub | o.Mul | o.Binary | o.Where):
        return None
    for value in o.operands(op):
        inner = s.made_by(value)
        if isinstance(inner, o.Expand):
            names = {**{name: name for name in o.operands(op)}, value: inner.x}
            new = o.rename(op, names.__getitem__, where="operands")
            if result_shapes(new, s.shape) == result_shapes(op, s.shape):
                return new
    return None


@torch.no_grad()
def evaluated(s: Sweep, op: o.Op) -> o.Value | None:
    """The result of an operator on constants, as a constant."""
    if len(o.results(op)) != 1 or any(s.array(value) is None for value in o.operands(op)):
        return None
    if np.prod(result_shapes(op, s.shape)[0], dtype=np.float64) > MAX_EVALUATED:
        return None
    (result,) = evaluate(op, lambda value: torch.from_numpy(s.editor.constants[value]))
    return s.constant(result.contiguous().numpy(), o.results(op)[0])


def repeated(s: Sweep, op: o.Op) -> o.Value | None:
    """The result of an equal operator that came before."""
    if len(o.results(op)) != 1:
        return None
    key = o.rename(o.rename(op, lambda _: "", where="results"), s.canonical, where="operands")
    found = s.editor.resolve(s.computed.setdefault(key, o.results(op)[0]))
    return None if found == o.results(op)[0] else found


LAYOUT: tuple[Rule, ...] = (
    evaluated,
    identity,
    repeated,
    reshape_of_reshape,
    transpose_of_transpose,
    transpose_as_reshape,
    transpose_of_fewer_axes,
    slice_of_slice,
    slice_of_concat,
    concat_of_concat,
    pad_of_pad,
    pad_into_window,
    expand_into_broadcast,
)
