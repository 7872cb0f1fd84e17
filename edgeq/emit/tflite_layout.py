"""Orders of axes: a value keeps its meaning while its tensor stores the axes in another order.

A layout lists, for each axis of the tensor, the axis of the value that it holds; (0, 2, 3, 1) is NHWC. A transposition
of the value is only another layout of the same tensor, and so is many a reshape: nothing has to move.
"""

from __future__ import annotations

from collections.abc import Sequence

Layout = tuple[int, ...]
Shape = tuple[int, ...]

NHWC: Layout = (0, 2, 3, 1)


def identity(rank: int) -> Layout:
    """Axes as the value has them."""
    return tuple(range(rank))


def port_layout(rank: int) -> Layout:
    """The layout in which files take inputs and give outputs: NHWC for values of four axes."""
    return NHWC if rank == 4 else identity(rank)


def stored_shape(shape: Shape, layout: Layout) -> Shape:
    """Shape of the tensor."""
    return tuple(shape[axis] for axis in layout)


def inverse(layout: Layout) -> Layout:
    """Where each axis of the value lies in the tensor."""
    return tuple(layout.index(axis) for axis in range(len(layout)))


def moved_to_end(layout: Layout, axis: int) -> Layout:
    """`layout` with one axis stored last."""
    return (*(a for a in layout if a != axis), axis)


def permutation(before: Layout, after: Layout) -> Layout:
    """The transposition of a tensor that turns one layout of a value into another."""
    return tuple(before.index(axis) for axis in after)


def moves_nothing(shape: Shape, before: Layout, after: Layout) -> bool:
    """Whether the two layouts order the elements alike, as only axes of size one change places."""
    return [a for a in before if shape[a] != 1] == [a for a in after if shape[a] != 1]


def transposed(layout: Layout, axes: Sequence[int]) -> Layout:
    """Layout of the same tensor as the value whose axis k is axis `axes[k]` of the old one."""
    where = {axis: k for k, axis in enumerate(axes)}
    return tuple(where[axis] for axis in layout)


def reshaped(shape: Shape, layout: Layout, to: Shape) -> Layout | None:
    """A layout of the value reshaped to `to` that stores the elements in the same order; None if there is none.

    Both shapes are cut into the smallest groups of neighbouring axes with equal products. Each group keeps its
    place if its axes lie side by side and in order in the tensor.

    >>> reshaped((1, 64, 8, 8), (0, 2, 3, 1), (1, 4, 16, 64))
    (0, 3, 1, 2)
    """
    groups = _groups(shape, to)
    if groups is None:
        return None
    order = [axis for axis in layout if shape[axis] != 1]
    starts = {}
    for k, (axes, _) in enumerate(groups):
        wide = [axis for axis in axes if shape[axis] != 1]
        if not wide:
            continue
        first = order.index(wide[0])
        if order[first : first + len(wide)] != wide:
            return None
        starts[k] = first
    placed = sorted(starts, key=starts.__getitem__)
    found: list[int] = []
    for k in placed:
        found += groups[k][1]
    result = _with_ones(found, [axis for axis in range(len(to)) if axis not in found])
    return NHWC if len(to) == 4 and moves_nothing(to, result, NHWC) else result


def before_reshape(shape: Shape, layout: Layout, to: Shape) -> Layout:
    """The layout into which a value must be brought so that its reshape to `to` moves nothing; near to `layout`.

    The axes of each group (see `reshaped`) come side by side and in order, the groups in the order of their last axes.

    >>> before_reshape((1, 4, 2, 8, 8), (0, 3, 4, 2, 1), (1, 8, 8, 8))
    (0, 3, 4, 1, 2)
    """
    groups = _groups(shape, to)
    if groups is None:
        return identity(len(shape))
    ordered = sorted(groups, key=lambda group: max(layout.index(axis) for axis in group[0]))
    wide = [axis for axes, _ in ordered for axis in axes]
    return _with_ones(wide, [axis for axis in range(len(shape)) if axis not in wide])


def _with_ones(found: list[int], ones: list[int]) -> Layout:
    """`found` with axes of size one put behind the axis before them, so that a plain order stays plain."""
    result = list(found)
    for axis in ones:
        result.insert(result.index(axis - 1) + 1 if axis else 0, axis)
    return tuple(result)


def _groups(shape: Shape, to: Shape) -> list[tuple[list[int], list[int]]] | None:
    """Neighbouring axes of both shapes with equal products, axes of size one left out."""
    if 0 in shape or 0 in to:
        return None
    left = [axis for axis, size in enumerate(shape) if size != 1]
    right = [axis for axis, size in enumerate(to) if size != 1]
    groups = []
    while left or right:
        axes, others = [left.pop(0)], [right.pop(0)]
        a, b = shape[axes[0]], to[others[0]]
        while a != b:
            if a < b:
                axes.append(left.pop(0))
                a *= shape[axes[-1]]
            else:
                others.append(right.pop(0))
                b *= to[others[-1]]
        groups.append((axes, others))
    return groups
