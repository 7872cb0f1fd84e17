"""The same graph for several images at once.

A value that depends on an input carries the images along one of its axes, image by image: where it has d entries for
one image it has n d for n, those of the first image first. Reshapes keep that order, so they only scale the axis;
operators that would mix images are refused by name.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from math import prod

from edgeq.errors import UnsupportedError
from edgeq.ir import ops as o
from edgeq.ir.graph import Graph, Type


def with_batch(graph: Graph, count: int) -> Graph:
    """`graph` for `count` images, which lie one after the other along the first axis of every input.

    Raises UnsupportedError for an operator that would mix images.
    """
    return _Batching(graph, count).run()


class Batches:
    """The operators of a graph for as many images as their operands hold.

    `axes` are the axes along which images lie; empty where the graph holds an operator that would mix them.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph, self.axes = graph, dict[o.Value, int]()
        self._known: dict[int, dict[o.Op, tuple[o.Op, ...]]] = {1: {op: (op,) for op in graph.ops}}
        with suppress(UnsupportedError):
            self.axes = self._for(2).axes

    def _for(self, count: int) -> _Batching:
        work = _Batching(self.graph, count)
        work.run()
        self._known[count] = work.groups
        return work

    def of(self, op: o.Op, shape: Callable[[o.Value], tuple[int, ...]]) -> tuple[o.Op, ...]:
        """What computes the results of `op`, given the shapes of its operands: it itself last, in its batched form."""
        carrier = next((value for value in o.operands(op) if value in self.axes), None)
        if carrier is None:
            return (op,)
        axis = self.axes[carrier]
        count = shape(carrier)[axis] // self.graph.types[carrier].shape[axis]
        if count not in self._known:
            self._for(count)
        return self._known[count][op]

    def are_rows(self, value: o.Value) -> bool:
        """Whether each image is one entry of the first axis of `value`."""
        return self.axes.get(value) == 0 and self.graph.types[value].shape[0] == 1


class _Batching:
    def __init__(self, graph: Graph, count: int) -> None:
        self.graph, self.count = graph, count
        self.types = dict(graph.types)
        self.axes: dict[o.Value, int] = {}
        self.ops: list[o.Op] = []
        self.groups: dict[o.Op, tuple[o.Op, ...]] = {}

    def run(self) -> Graph:
        for value in self.graph.inputs:
            self._place(value, 0)
        for op in self.graph.ops:
            start = len(self.ops)
            if any(value in self.axes for value in o.operands(op)):
                self._batch(op)
            else:
                self.ops.append(op)
            self.groups[op] = tuple(self.ops[start:])
        return Graph(
            self.graph.name,
            self.graph.inputs,
            self.graph.outputs,
            tuple(self.ops),
            self.types,
            self.graph.constants,
        )

    def _place(self, value: o.Value, axis: int) -> None:
        """Note that the images lie along `axis` of `value`."""
        self.axes[value] = axis
        type_ = self.graph.types[value]
        self.types[value] = replace(type_, shape=_scaled(type_.shape, axis, self.count))

    def _shape(self, value: o.Value) -> tuple[int, ...]:
        """For one image."""
        return self.graph.types[value].shape

    def _batch(self, op: o.Op) -> None:
        op, axis = self._rewritten(op)
        self.ops.append(op)
        for value in o.results(op):
            self._place(value, axis)

    def _rewritten(self, op: o.Op) -> tuple[o.Op, int]:
        """`op` for all images, and the axis of its results along which they lie."""
        match op:
            case o.Reshape():
                axis = self._reshaped_axis(op)
                return replace(op, shape=_scaled(op.shape, axis, self.count)), axis
            case o.Expand():
                axis = self._aligned((op.x,), len(op.shape), op)
                self._refuse_unless(self._shape(op.x)[self.axes[op.x]] == op.shape[axis], op)
                return replace(op, shape=_scaled(op.shape, axis, self.count)), axis
            case o.Slice():
                axis = self.axes[op.x]
                size = self._shape(op.x)[axis]
                self._refuse_unless((op.starts[axis], op.stops[axis], op.steps[axis]) == (0, size, 1), op)
                stops = (*op.stops[:axis], size * self.count, *op.stops[axis + 1 :])
                return replace(op, stops=stops), axis
            case o.Concat():
                return self._concat(op)
            case _:
                return op, self._kept_axis(op)

    def _kept_axis(self, op: o.Op) -> int:
        """The axis in the results of an operator that is the same for any number of images."""
        match op:
            case o.Conv() | o.ConvTranspose() | o.MaxPool() | o.AveragePool() | o.Resize() | o.ChannelAffine():
                return self._only(op, op.x, 0)
            case o.GroupNorm():
                return self._only(op, op.x, 0)
            case o.Linear():
                axis = self._only(op, op.x)
                self._refuse_unless(axis < len(self._shape(op.x)) - 1, op)
                return axis
            case o.Add() | o.Sub() | o.Mul() | o.Binary() | o.Where() | o.MatMul():
                rank = len(self._shape(op.out))
                axis = self._aligned(o.operands(op), rank, op)
                self._refuse_unless(not isinstance(op, o.MatMul) or axis < rank - 2, op)
                return axis
            case o.Apply() | o.Cast() | o.Quantize() | o.Dequantize() | o.Requantize() | o.DivideCodes() | o.Lookup():
                return self._only(op, op.x)
            case o.Softmax() | o.TopK() | o.ArgMax():
                return self._apart(op, op.x, (op.axis % len(self._shape(op.x)),))
            case o.LayerNorm():
                return self._apart(op, op.x, tuple(range(op.axis, len(self._shape(op.x)))))
            case o.Mean() | o.Reduce():
                return self._apart(op, op.x, op.axes)
            case o.Pad():
                touched = [axis for axis, ends in enumerate(zip(op.before, op.after, strict=True)) if any(ends)]
                return self._apart(op, op.x, tuple(touched))
            case o.Transpose():
                return op.permutation.index(self.axes[op.x])
            case o.Gather():
                axis = self._apart(op, op.x, (op.axis,))
                self._refuse_unless(op.indices not in self.axes, op)
                return axis if axis < op.axis else axis + len(self._shape(op.indices)) - 1
            case o.GatherElements():
                axis = self._apart(op, op.x, (op.axis,))
                self._refuse_unless(self.axes.get(op.indices) == axis, op)
                return axis
            case _:
                raise self._refusal(op)

    def _only(self, op: o.Op, x: o.Value, axis: int | None = None) -> int:
        """The axis of `x`, the one operand that may carry images; `axis` if it must be that one."""
        self._refuse_unless([v for v in o.operands(op) if v in self.axes] == [x], op)
        self._refuse_unless(axis is None or self.axes[x] == axis, op)
        return self.axes[x]

    def _apart(self, op: o.Op, x: o.Value, touched: tuple[int, ...]) -> int:
        """The axis of `x`, which must not be among those that `op` works along."""
        self._refuse_unless(x in self.axes and self.axes[x] not in touched, op)
        return self.axes[x]

    def _aligned(self, values: tuple[o.Value, ...], rank: int, op: o.Op) -> int:
        """The axis in a result of `rank` axes to which `values` are broadcast."""
        batched = [value for value in values if value in self.axes]
        found = {rank - len(self._shape(value)) + self.axes[value] for value in batched}
        sizes = {self._shape(value)[self.axes[value]] for value in batched}
        self._refuse_unless(len(found) == len(sizes) == 1, op)
        (axis,) = found
        for value in values:
            place = axis - (rank - len(self._shape(value)))
            self._refuse_unless(value in self.axes or place < 0 or self._shape(value)[place] == 1, op)
        return axis

    def _reshaped_axis(self, op: o.Reshape) -> int:
        """Where the entries that lie before the images' axis fill whole axes of the new shape."""
        before = prod(self._shape(op.x)[: self.axes[op.x]])
        for axis in range(len(op.shape)):
            if prod(op.shape[:axis]) == before:
                return axis
        raise self._refusal(op)

    def _concat(self, op: o.Concat) -> tuple[o.Op, int]:
        """Operands that are the same for every image are repeated."""
        found = {self.axes[x] for x in op.xs if x in self.axes}
        self._refuse_unless(len(found) == 1 and op.axis not in found, op)
        (axis,) = found
        return replace(op, xs=tuple(x if x in self.axes else self._repeated(x, axis, op) for x in op.xs)), axis

    def _repeated(self, value: o.Value, axis: int, op: o.Op) -> o.Value:
        type_ = self.graph.types[value]
        self._refuse_unless(type_.shape[axis] == 1, op)
        shape = _scaled(type_.shape, axis, self.count)
        name = f"{value}.repeated"
        while name in self.types:
            name += "'"
        self.types[name] = Type(shape, type_.format, type_.scale, type_.zero_point)
        self.ops.append(o.Expand(value, name, shape))
        return name

    def _refuse_unless(self, condition: bool, op: o.Op) -> None:
        if not condition:
            raise self._refusal(op)

    def _refusal(self, op: o.Op) -> UnsupportedError:
        return UnsupportedError(
            "this operator would mix images", where=o.results(op)[0], value=type(op).__name__,
            next_step="Give one image at a time.",
        )  # fmt: skip


def _scaled(shape: tuple[int, ...], axis: int, count: int) -> tuple[int, ...]:
    return (*shape[:axis], shape[axis] * count, *shape[axis + 1 :])
