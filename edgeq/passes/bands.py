"""Channels of very different ranges computed apart, so that each band of them has a scale of its own.

One scale must reach the widest channel of a value and is then too coarse for the narrowest. Between two layers that mix
channels a network only does to each channel what it does to it alone: functions, products of such values, pooling,
depthwise convolutions. So the layer that makes the channels, and all that follows up to the layers that mix them
again, may become several, one for each band; the bands are joined where they are mixed, whose weights are sorted
likewise. The products are the same, in another order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgeq.errors import UsageError
from edgeq.ir import ops as o
from edgeq.ir.graph import Array, Editor, Graph

Bands = tuple[tuple[int, ...], ...]
"""Channels of each band; together all of them, once each."""


@dataclass(frozen=True)
class Stretch:
    """What may be computed in bands: `maker` makes the channels, `ops` keep them apart, `readers` mix what `ends` hold."""

    maker: o.Conv
    ops: tuple[o.Op, ...]
    ends: tuple[o.Value, ...]
    readers: tuple[o.Conv, ...]

    @property
    def inside(self) -> tuple[o.Value, ...]:
        """Values that the bands hold apart."""
        return tuple(o.results(op)[0] for op in (self.maker, *self.ops))


def stretches(graph: Graph) -> dict[o.Value, Stretch]:
    """Every stretch of a real graph, by the result of its maker."""
    found = (_stretch(graph, op) for op in graph.ops if isinstance(op, o.Conv) and op.groups == 1)
    return {stretch.maker.out: stretch for stretch in found if stretch is not None}


def in_bands(graph: Graph, bands: Mapping[o.Value, Bands]) -> Graph:
    """`graph` with some stretches, by their makers' results, computed in bands; the same function.

    Raises UsageError for a value that no stretch starts at, and for bands that are not a partition of its channels.
    """
    known = stretches(graph)
    for value, parts in bands.items():
        _check(graph, value, parts, known)
    return _Banding(graph, {value: (known[value], parts) for value, parts in bands.items()}).run()


def _check(graph: Graph, value: o.Value, parts: Bands, known: Mapping[o.Value, Stretch]) -> None:
    if value not in known:
        raise UsageError("this value cannot be computed in bands", where=value, allowed=", ".join(known) or "none")
    if sorted(channel for part in parts for channel in part) != list(range(graph.types[value].shape[1])):
        raise UsageError("bands must hold every channel once", where=value, value=parts)


def _stretch(graph: Graph, maker: o.Conv) -> Stretch | None:
    if not _is_constant(graph, maker):
        return None
    inside, ops, ends, readers = {maker.out}, list[o.Op](), list[o.Value](), list[o.Conv]()
    for op in graph.ops[graph.ops.index(maker) + 1 :]:
        if inside.isdisjoint(o.operands(op)):
            continue
        if _keeps_apart(graph, op, inside):
            inside.update(o.results(op))
            ops.append(op)
        elif isinstance(op, o.Conv) and op.groups == 1 and _is_constant(graph, op):
            ends.append(op.x)
            readers.append(op)
        else:
            return None
    if not ops or not inside.isdisjoint(graph.outputs):
        return None
    return Stretch(maker, tuple(ops), tuple(dict.fromkeys(ends)), tuple(readers))


def _is_constant(graph: Graph, op: o.Conv) -> bool:
    return op.weight in graph.constants and (op.bias is None or op.bias in graph.constants)


def _keeps_apart(graph: Graph, op: o.Op, inside: set[o.Value]) -> bool:
    """Whether `op`, which reads values of the stretch, leaves every channel to itself."""
    match op:
        case o.Apply() | o.MaxPool() | o.AveragePool() | o.Resize():
            return True
        case o.Mul() | o.Add() | o.Sub():
            return all(x in inside or (x in graph.constants and graph.types[x].size == 1) for x in (op.a, op.b))
        case o.Conv():
            channels = graph.types[op.x].shape[1]
            depthwise = op.groups == channels == graph.types[op.weight].shape[0] > 1
            return depthwise and _is_constant(graph, op)
        case _:
            return False


class _Banding:
    def __init__(self, graph: Graph, work: Mapping[o.Value, tuple[Stretch, Bands]]) -> None:
        self.graph, self.editor = graph, Editor.like(graph)
        self.bands: dict[o.Value, Bands] = {}
        self.parts: dict[o.Value, tuple[o.Value, ...]] = {}
        self.joined: dict[o.Value, o.Value] = {}
        for stretch, bands in work.values():
            self.bands.update(dict.fromkeys(stretch.inside, bands))

    def run(self) -> Graph:
        for op in map(self._mixing, self.graph.ops):
            if o.results(op)[0] in self.bands:
                self._apart(op)
            else:
                self.editor.append(op)
        return self.editor.graph(self.graph.outputs)

    def _mixing(self, op: o.Op) -> o.Op:
        """`op`; a reader, which may begin a stretch of its own, with its weights in the order of the joined bands."""
        if not isinstance(op, o.Conv) or op.groups > 1 or op.x not in self.bands:
            return op
        order = np.concatenate([np.array(part) for part in self.bands[op.x]])
        weight = self._constant(self.editor.constants[op.weight][:, order], op.weight)
        return replace(op, x=self._together(op.x), weight=weight)

    def _together(self, value: o.Value) -> o.Value:
        if value not in self.joined:
            name = self.editor.fresh(f"{value}.bands")
            self.joined[value] = self.editor.append(o.Concat(self.parts[value], name, 1))
        return self.joined[value]

    def _apart(self, op: o.Op) -> None:
        """One copy of `op` for every band."""
        (out, *_) = o.results(op)
        names = tuple(self.editor.fresh(f"{out}.band{index}") for index in range(len(self.bands[out])))
        for index, (channels, name) in enumerate(zip(self.bands[out], names, strict=True)):
            self.editor.append(self._part(op, index, channels, name))
        self.parts[out] = names

    def _part(self, op: o.Op, index: int, channels: Sequence[int], name: o.Value) -> o.Op:
        op = o.rename(op, lambda value: self.parts[value][index] if value in self.parts else value, where="operands")
        op = o.rename(op, lambda _: name, where="results")
        if not isinstance(op, o.Conv):
            return op
        rows = list(channels)
        weight = self._constant(self.editor.constants[op.weight][rows], op.weight)
        bias = None if op.bias is None else self._constant(self.editor.constants[op.bias][rows], op.bias)
        return replace(op, weight=weight, bias=bias, groups=1 if op.groups == 1 else len(rows))

    def _constant(self, array: Array, like: o.Value) -> o.Value:
        return self.editor.constant(like, np.ascontiguousarray(array))
