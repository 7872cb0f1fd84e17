"""Where elements lie in memory: images as [height][width][channel], everything else in row-major order
(edgeq/passes/orders.py).

Whatever only moves elements is a map from the bytes of its result to the bytes of its operand. `nest` writes such maps
as nested loops with strides, which is what the kernels walk.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeq.formats import IntArray
from edgeq.ir import ops as o
from edgeq.ir.graph import Array, Type
from edgeq.passes.kernel import Kernel, Program
from edgeq.passes.orders import axes_in_memory
from edgeq.reference.meaning import nearest_sources

Axes = tuple[int, ...]

Loops = list[tuple[int, tuple[int, ...]]]
"""(count, stride in each map) of nested loops, outermost first."""


def to_memory(array: Array, axes: Axes | None = None) -> Array:
    """`array` flat, as memory holds it with this order of axes (of images, if the rank is 4, unless given)."""
    return np.ascontiguousarray(array.transpose(axes or axes_in_memory(array.ndim))).reshape(-1)


def from_memory(flat: Array, shape: tuple[int, ...], axes: Axes | None = None) -> Array:
    """The value of `shape` that lies flat in memory."""
    axes = axes or axes_in_memory(len(shape))
    return flat.reshape([shape[axis] for axis in axes]).transpose(np.argsort(axes))


def places(shape: tuple[int, ...], axes: Axes | None = None) -> IntArray:
    """For every element of a value of `shape`, in its own order of axes: where it lies."""
    return np.asarray(from_memory(np.arange(int(np.prod(shape)), dtype=np.int64), shape, axes), dtype=np.int64)


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


def moved(op: o.Op, found: IntArray, indices: Array | None = None) -> IntArray:
    """`found` as an operator moves its elements; -1 where the result is padding. `indices` are those of a Gather."""
    match op:
        case o.Reshape():
            return found.reshape(op.shape)
        case o.Transpose():
            return found.transpose(op.permutation)
        case o.Slice():
            return _sliced(op, found)
        case o.Expand():
            return np.broadcast_to(found, op.shape)
        case o.Resize():
            return _resized(op, found)
        case o.Pad():
            pads = list(zip(op.before, op.after, strict=True))
            return np.pad(found, pads, constant_values=-1) if op.mode == "constant" else np.pad(found, pads, op.mode)
        case o.Gather():
            assert indices is not None
            return np.take(found, indices.astype(np.int64), op.axis)
        case _:
            raise TypeError(f"{type(op).__name__} does not move codes")


def source_places(kernel: Kernel, program: Program) -> IntArray:
    """For every code that a kernel of moves writes, in memory order: which code of its operand it copies, or -1."""
    found = places(program.type(kernel.x).shape, program.axes(kernel.x))
    for op in (*kernel.moves, kernel.op):
        found = moved(op, found, program.graph.constants[op.indices] if isinstance(op, o.Gather) else None)
    return np.asarray(to_memory(found, program.axes(kernel.out)), dtype=np.int64)


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
