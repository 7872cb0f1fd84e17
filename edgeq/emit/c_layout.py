"""Where elements lie in memory: images as [height][width][channel], everything else in row-major order.

Whatever only moves elements is a map from the bytes of its result to the bytes of its operand. `nest` writes such maps
as nested loops with strides, which is what the kernels walk.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeq.formats import IntArray
from edgeq.ir import ops as o
from edgeq.ir.graph import Array, Type
from edgeq.reference.meaning import nearest_sources

Loops = list[tuple[int, tuple[int, ...]]]
"""(count, stride in each map) of nested loops, outermost first."""


def axes_in_memory(rank: int) -> tuple[int, ...]:
    """The axes of a value in the order in which memory holds them."""
    return (0, 2, 3, 1) if rank == 4 else tuple(range(rank))


def to_memory(array: Array) -> Array:
    """`array` (NCHW if of rank 4) flat, as memory holds it."""
    return np.ascontiguousarray(array.transpose(axes_in_memory(array.ndim))).reshape(-1)


def from_memory(flat: Array, shape: tuple[int, ...]) -> Array:
    """The value of `shape` that lies flat in memory."""
    axes = axes_in_memory(len(shape))
    return flat.reshape([shape[axis] for axis in axes]).transpose(np.argsort(axes))


def places(shape: tuple[int, ...]) -> IntArray:
    """For every element of a value of `shape`, in its own order of axes: where it lies."""
    return np.asarray(from_memory(np.arange(int(np.prod(shape)), dtype=np.int64), shape), dtype=np.int64)


def image(type_: Type) -> tuple[int, int, int]:
    """Height, width and channels of a value of rank 4."""
    return type_.shape[2], type_.shape[3], type_.shape[1]


def _sliced(op: o.Slice, x: IntArray) -> IntArray:
    for axis, (start, stop, step) in enumerate(zip(op.starts, op.stops, op.steps, strict=True)):
        end = min(stop, x.shape[axis]) if step > 0 else stop
        x = np.take(x, range(start, end, step), axis)
    return x


def _resized(op: o.Resize, x: IntArray) -> IntArray:
    rows, columns = (nearest_sources(x.shape[2 + k], op.size[k], op.scale[k], op) for k in (0, 1))
    return np.asarray(x[:, :, rows][:, :, :, columns])


def source_places(op: o.Op, x: tuple[int, ...], indices: Array | None) -> IntArray:
    """For every byte of the result of an operator that moves codes, in memory order: which byte of x it copies.

    -1 where the result is padding. `indices` are those of a Gather.
    """
    found = places(x)
    match op:
        case o.Reshape():
            found = found.reshape(op.shape)
        case o.Transpose():
            found = found.transpose(op.permutation)
        case o.Slice():
            found = _sliced(op, found)
        case o.Expand():
            found = np.broadcast_to(found, op.shape)
        case o.Resize():
            found = _resized(op, found)
        case o.Pad():
            pads = list(zip(op.before, op.after, strict=True))
            found = np.pad(found, pads, constant_values=-1) if op.mode == "constant" else np.pad(found, pads, op.mode)
        case o.Gather():
            assert indices is not None
            found = np.take(found, indices.astype(np.int64), op.axis)
        case _:
            raise TypeError(f"{type(op).__name__} does not move codes")
    return np.asarray(to_memory(found), dtype=np.int64)


def nest(maps: Sequence[IntArray]) -> Loops | None:
    """Flat maps of one length as common nested loops, or None if they are no such loops."""
    loops: Loops = []
    rows = np.stack(maps)
    while rows.shape[1] > 1:
        count, strides = _innermost(rows)
        if count == 1:
            return None
        blocks = rows.reshape(len(maps), -1, count)
        steps = np.asarray(strides).reshape(-1, 1, 1) * np.arange(count)
        if not np.array_equal(blocks, blocks[:, :, :1] + steps):
            return None
        loops.insert(0, (count, strides))
        rows = blocks[:, :, 0]
    return loops


def _innermost(rows: IntArray) -> tuple[int, tuple[int, ...]]:
    """Length and strides of the longest common progression that all of `rows` consists of."""
    length = rows.shape[1]
    strides = rows[:, 1] - rows[:, 0]
    follows = np.all(np.diff(rows, axis=1) == strides[:, None], axis=0)
    run = length if follows.all() else int(np.argmin(follows)) + 1
    while run > 1:
        if length % run == 0:
            blocks = np.diff(rows.reshape(len(rows), -1, run), axis=2)
            if np.all(blocks == strides[:, None, None]):
                break
        run -= 1
    return run, tuple(strides.tolist())
