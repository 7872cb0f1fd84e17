"""ONNX operators that only move elements."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from edgeq.errors import UnsupportedError
from edgeq.frontend.onnx_build import Builder, Handler, Node, Numbers
from edgeq.frontend.onnx_elementwise import cast
from edgeq.ir import ops as o


def given_axes(b: Builder, n: Node, position: int) -> tuple[int, ...] | None:
    """Axes from the attribute (old opsets) or the operand (new ones); None where neither is given."""
    value = n.optional(position)
    return b.integers(value, "the axes") if value else n.integers("axes")


def _reshape(b: Builder, n: Node) -> o.Value:
    x, wanted = n.operand(0), list(b.integers(n.operand(1), "the shape"))
    shape = b.shape(x)
    if not n.integer("allowzero", 0):
        wanted = [shape[k] if length == 0 and k < len(shape) else length for k, length in enumerate(wanted)]
    if wanted.count(-1) > 1 or min(wanted, default=0) < -1:
        raise UnsupportedError("bad shape", value=wanted)
    known = math.prod(length for length in wanted if length != -1)
    if -1 in wanted:
        wanted[wanted.index(-1)] = math.prod(shape) // max(known, 1)
    if math.prod(wanted) != math.prod(shape):
        raise UnsupportedError(
            "the shape does not hold the elements", value=wanted, allowed=f"{math.prod(shape)} elements"
        )
    return b.reshape(x, wanted)


def _flatten(b: Builder, n: Node) -> o.Value:
    x = n.operand(0)
    shape, axis = b.shape(x), n.integer("axis", 1)
    axis = axis + len(shape) if axis < 0 else axis
    return b.reshape(x, (math.prod(shape[:axis]), math.prod(shape[axis:])))


def _squeeze(b: Builder, n: Node) -> o.Value:
    x, axes = n.operand(0), given_axes(b, n, 1)
    shape = b.shape(x)
    dropped = {b.axis(x, k) for k in axes} if axes is not None else {k for k, size in enumerate(shape) if size == 1}
    if any(shape[k] != 1 for k in dropped):
        raise UnsupportedError("only axes of size 1 can be squeezed", value=shape)
    return b.reshape(x, (size for k, size in enumerate(shape) if k not in dropped))


def _unsqueeze(b: Builder, n: Node) -> o.Value:
    x, axes = n.operand(0), given_axes(b, n, 1) or ()
    rank = len(b.shape(x)) + len(axes)
    added = {axis % rank for axis in axes if -rank <= axis < rank}
    if len(added) != len(axes):
        raise UnsupportedError("bad axes", value=axes)
    rest = iter(b.shape(x))
    return b.reshape(x, [1 if k in added else next(rest) for k in range(rank)])


def _transpose(b: Builder, n: Node) -> o.Value:
    x = n.operand(0)
    rank = len(b.shape(x))
    order = n.integers("perm") or tuple(reversed(range(rank)))
    if sorted(order) != list(range(rank)):
        raise UnsupportedError("bad permutation", value=order)
    return b.transpose(x, order)


def _expand(b: Builder, n: Node) -> o.Value:
    x = n.operand(0)
    shape = np.broadcast_shapes(b.shape(x), b.integers(n.operand(1), "the shape"))
    return expanded(b, x, shape)


def expanded(b: Builder, x: o.Value, shape: Sequence[int]) -> o.Value:
    """x broadcast to `shape`, or x itself."""
    return x if tuple(shape) == b.shape(x) else b.emit(o.Expand(x, "", tuple(shape)))


def _tile(b: Builder, n: Node) -> o.Value:
    x, repeats = n.operand(0), b.integers(n.operand(1), "the repeats")
    shape = b.shape(x)
    if len(repeats) != len(shape) or min(repeats, default=1) < 0:
        raise UnsupportedError("bad repeats", value=repeats)
    if all(times == 1 or size == 1 for times, size in zip(repeats, shape, strict=True)):
        return expanded(b, x, [times * size for times, size in zip(repeats, shape, strict=True)])
    split = [length for size in shape for length in (1, size)]
    wide = [length for times, size in zip(repeats, shape, strict=True) for length in (times, size)]
    return b.reshape(expanded(b, b.reshape(x, split), wide), [t * s for t, s in zip(repeats, shape, strict=True)])


def _concat(b: Builder, n: Node) -> o.Value:
    axis = b.axis(n.operand(0), n.integer("axis", 0))
    given = [n.operand(k) for k in range(len(n.inputs))]
    xs = tuple(x for x in given if 0 not in b.shape(x)) or (given[0],)
    return xs[0] if len(xs) == 1 else b.emit(o.Concat(xs, "", axis))


def _split(b: Builder, n: Node) -> tuple[o.Value, ...]:
    x = n.operand(0)
    axis = b.axis(x, n.integer("axis", 0))
    size, given = b.shape(x)[axis], n.optional(1)
    parts = b.integers(given, "the split") if given else n.integers("split")
    if parts is None:
        count = n.integer("num_outputs", len(n.outputs))
        step = -(-size // count)
        parts = tuple(min(step, size - k * step) for k in range(count))
    if sum(parts) != size or min(parts) < 0 or len(parts) < len(n.outputs):
        raise UnsupportedError("the split does not fit the operand", value=parts, allowed=f"sum {size}")
    ends = np.cumsum(parts).tolist()
    return tuple(b.cut(x, axis, end - part, end) for part, end in zip(parts, ends, strict=True))


def _slice(b: Builder, n: Node) -> o.Value:
    x = n.operand(0)
    shape = b.shape(x)
    starts, stops = (b.integers(n.operand(k), "the slice") for k in (1, 2))
    axes_value, steps_value = n.optional(3), n.optional(4)
    axes = b.integers(axes_value, "the axes") if axes_value else tuple(range(len(starts)))
    steps = b.integers(steps_value, "the steps") if steps_value else (1,) * len(starts)
    if not len(starts) == len(stops) == len(axes) == len(steps) or 0 in steps:
        raise UnsupportedError("bad slice", value=(starts, stops, axes, steps))
    bounds = [(0, size, 1) for size in shape]
    for start, stop, axis, step in zip(starts, stops, axes, steps, strict=True):
        k = b.axis(x, axis)
        bounds[k] = slice(start, stop, step).indices(shape[k])
    if bounds == [(0, size, 1) for size in shape]:
        return x
    return b.emit(o.Slice(x, "", *(tuple(bound[k] for bound in bounds) for k in range(3))))


def _gather(b: Builder, n: Node) -> o.Value:
    x, indices = n.operand(0), n.operand(1)
    axis = b.axis(x, n.integer("axis", 0))
    chosen, size = b.array(indices), b.shape(x)[axis]
    if chosen is None:
        return b.emit(o.Gather(x, indices, "", axis))
    if chosen.size and not (-size <= chosen.min() and chosen.max() < size):
        raise UnsupportedError(
            "an index is out of range", value=(chosen.min(), chosen.max()), allowed=f"{-size}…{size - 1}"
        )
    positions = np.where(chosen < 0, chosen + size, chosen)
    if positions.ndim < 2 and positions.size and _is_range(positions.reshape(-1)):
        # A run of neighbours is a slice, which every target has.
        flat = positions.reshape(-1)
        y = b.cut(x, axis, int(flat[0]), int(flat[-1]) + 1)
        return y if positions.ndim else b.reshape(y, b.shape(x)[:axis] + b.shape(x)[axis + 1 :])
    return b.emit(o.Gather(x, b.constant(positions), "", axis))


def _is_range(positions: Numbers) -> bool:
    return bool(np.array_equal(positions, np.arange(positions[0], positions[0] + len(positions))))


def _gather_elements(b: Builder, n: Node) -> o.Value:
    x, indices = n.operand(0), n.operand(1)
    axis = b.axis(x, n.integer("axis", 0))
    chosen, size = b.array(indices), b.shape(x)[axis]
    if chosen is not None:
        if chosen.size and not (-size <= chosen.min() and chosen.max() < size):
            raise UnsupportedError("an index is out of range", allowed=f"{-size}…{size - 1}")
        indices = b.constant(np.where(chosen < 0, chosen + size, chosen))
    if any(i > n for k, (i, n) in enumerate(zip(b.shape(indices), b.shape(x), strict=True)) if k != axis):
        raise UnsupportedError("the indices do not fit the operand", value=b.shape(indices), allowed=b.shape(x))
    return b.emit(o.GatherElements(x, indices, "", axis))


def _depth_to_space(b: Builder, n: Node) -> o.Value:
    x, s = n.operand(0), n.integer("blocksize", 1)
    batch, channels, height, width = b.shape(x)
    if n.text("mode", "DCR") == "DCR":
        split, order = (batch, s, s, channels // (s * s), height, width), (0, 3, 4, 1, 5, 2)
    else:
        split, order = (batch, channels // (s * s), s, s, height, width), (0, 1, 4, 2, 5, 3)
    return b.reshape(b.transpose(b.reshape(x, split), order), (batch, channels // (s * s), height * s, width * s))


def _space_to_depth(b: Builder, n: Node) -> o.Value:
    x, s = n.operand(0), n.integer("blocksize", 1)
    batch, channels, height, width = b.shape(x)
    split = b.reshape(x, (batch, channels, height // s, s, width // s, s))
    return b.reshape(b.transpose(split, (0, 3, 5, 1, 2, 4)), (batch, channels * s * s, height // s, width // s))


def _trilu(b: Builder, n: Node) -> o.Value:
    x, shift = n.operand(0), n.optional(1)
    k = b.integers(shift, "the diagonal")[0] if shift else 0
    ones = np.ones(b.shape(x)[-2:], bool)
    mask = np.triu(ones, k) if n.integer("upper", 1) else np.tril(ones, k)
    zero = cast(b, b.constant(0), b.kind(x))
    return b.emit(o.Where(b.constant(mask), x, zero, ""))


LAYOUT: dict[str, Handler] = {
    "Concat": _concat,
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "Reshape": _reshape,
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Trilu": _trilu,
    "Unsqueeze": _unsqueeze,
}
