"""Idle channels of a lowered graph: those that hold one level whatever the input, and those that nobody reads.

Training with weight decay leaves many: a channel whose weights all rounded to zero, or whose sums never get past the
clamp of an activation. An interval is proved for every channel; where it is one level, the layers that read it take
its product with their weights into their biases. Where padding would make that product depend on the place, the level
must be zero. Channels that operators keep apart (depthwise convolutions, pools, functions, sums of two values) are
idle together or not at all. Every value that is left holds exactly the codes that it held before.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from edgeq.formats import IntArray, code_range, decode
from edgeq.ir import ops as o
from edgeq.ir.bounds import constant_levels, is_codes, level_bounds
from edgeq.ir.graph import Array, Editor, Graph, Type
from edgeq.reference.arithmetic import divide_away, requantize

Ends = NDArray[np.int64]
"""Lowest and highest level of every channel: [2, channels]."""

Mixing = o.Conv | o.Linear
AXIS = 1


@dataclass(frozen=True)
class Reduced:
    """The `graph` without its idle channels: `left_out` of the `channels` that its layers with weights compute."""

    graph: Graph
    left_out: int
    channels: int


def without_idle_channels(graph: Graph) -> Reduced:
    """`graph` (lowered) with every channel left out that cannot matter to an output."""
    idle = _Idle(graph)
    editor = Editor.like(graph)
    for op in graph.ops:
        changed = _without(editor, graph, idle, op)
        editor.append(changed, *(_part_of(graph.types[v], idle.kept(v), AXIS) for v in o.results(op)))
    made = [op.out for op in graph.ops if isinstance(op, o.Conv | o.Linear) and idle.channels(op.out)]
    left_out = sum(idle.channels(value) - len(idle.kept(value)) for value in made)
    if not left_out:
        return Reduced(graph, 0, sum(map(idle.channels, made)))
    return Reduced(editor.graph(graph.outputs), left_out, sum(map(idle.channels, made)))


# --- what is idle ---------------------------------------------------------------------------------------------------


class _Idle:
    """Which channels of which values are idle; values whose channels go together have one mask."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.bounds = level_bounds(graph)
        self.ends: dict[o.Value, Ends] = {}
        for op in graph.ops:
            value = o.results(op)[0]
            if self.channels(value):
                self.ends[value] = _ends(self, op)
        self._leader: dict[o.Value, o.Value] = {}
        self._masks: dict[o.Value, NDArray[np.bool_]] = {}
        self._join()
        self._mark()

    def channels(self, value: o.Value) -> int:
        """Of a value of codes that has them, else 0."""
        type_ = self.graph.types[value]
        return type_.shape[AXIS] if is_codes(type_) and len(type_.shape) in (2, 4) else 0

    def ends_of(self, value: o.Value) -> Ends:
        """Of a value with channels."""
        if value in self.ends:
            return self.ends[value]
        return np.repeat(np.array(self.bounds[value], np.int64)[:, None], self.channels(value), axis=1)

    def kept(self, value: o.Value) -> NDArray[np.intp]:
        """Indices of the channels that are not idle."""
        mask = self._masks.get(self._first(value))
        return np.arange(self.channels(value)) if mask is None else np.flatnonzero(~mask)

    def _first(self, value: o.Value) -> o.Value:
        while value in self._leader:
            value = self._leader[value]
        return value

    def _join(self) -> None:
        for op in self.graph.ops:
            if _keeps_apart(self, op):
                for value in _activations(op):
                    own, other = self._first(value), self._first(o.results(op)[0])
                    if own != other:
                        self._leader[own] = other

    def _mark(self) -> None:
        for value in self.graph.types:
            if self.channels(value) and value not in self.graph.constants:
                first = self._first(value)
                mask = self._masks.setdefault(first, np.ones(self.channels(value), bool))
                mask &= self._may_go(value)
        for mask in self._masks.values():
            if mask.all():
                mask[0] = False  # a value has a channel at least

    def _may_go(self, value: o.Value) -> NDArray[np.bool_]:
        maker = self.graph.producer.get(value)
        is_made = maker is not None and (_mixes(self, maker) or _keeps_apart(self, maker))
        found = np.full(self.channels(value), is_made and value not in self.graph.outputs)
        for reader in self.graph.consumers.get(value, ()):
            if isinstance(reader, Mixing) and _mixes(self, reader):
                found &= _does_without(self, reader)
            else:
                found &= _keeps_apart(self, reader)
        return found


def _activations(op: o.Op) -> tuple[o.Value, ...]:
    return o.operands(op) if isinstance(op, o.Add | o.Sub | o.Mul) else o.operands(op)[:1]


def _mixes(idle: _Idle, op: o.Op) -> bool:
    """Whether every output channel of `op`, a layer, sums over all input channels."""
    if not isinstance(op, Mixing) or (isinstance(op, o.Conv) and op.groups > 1):
        return False
    return bool(idle.channels(op.x) and idle.channels(op.out)) and _has_constants(idle.graph, op)


def _has_constants(graph: Graph, op: Mixing) -> bool:
    constant = op.weight in graph.constants and (op.bias is None or op.bias in graph.constants)
    return constant and not graph.types[op.weight].block


def _keeps_apart(idle: _Idle, op: o.Op) -> bool:
    """Whether a channel of the result of `op` depends on that channel of its operands alone."""
    match op:
        case o.Conv():
            own = 1 < op.groups == idle.channels(op.x) == idle.channels(op.out)
            return own and _has_constants(idle.graph, op)
        case o.Mean():
            whole = AXIS not in op.axes
        case o.Reshape():
            shapes = [idle.graph.types[value].shape for value in (op.x, op.out)]
            whole = all(shape[0] == 1 and set(shape[2:]) <= {1} for shape in shapes)
        case (
            o.Requantize() | o.DivideCodes() | o.Lookup() | o.MaxPool() | o.AveragePool() | o.Resize() | o.Add()
            | o.Sub() | o.Mul()
        ):  # fmt: skip
            whole = True
        case _:
            return False
    values = (*_activations(op), op.out)
    return whole and len({idle.channels(v) for v in values} - {0}) == 1 and all(map(idle.channels, values)) and not (
        set(values) & idle.graph.constants.keys()
    )  # fmt: skip


def _does_without(idle: _Idle, op: Mixing) -> NDArray[np.bool_]:
    """Which input channels `op` can do without: unread ones, and such whose products can become part of the bias."""
    weight = _levels(idle.graph, op.weight)
    unread = np.equal(weight, 0).all(axis=(0, *range(2, weight.ndim)))
    low, high = idle.ends_of(op.x)
    padded = isinstance(op, o.Conv) and any(op.padding)
    addable = (low == 0) | (op.bias is not None and not padded)
    found: NDArray[np.bool_] = unread | ((low == high) & addable)
    return found


def _levels(graph: Graph, value: o.Value) -> IntArray:
    levels = constant_levels(graph, value)
    assert levels is not None, value
    return levels


# --- intervals of channels ------------------------------------------------------------------------------------------


def _ends(idle: _Idle, op: o.Op) -> Ends:
    """Lowest and highest level of every channel of the result of `op`."""
    match op:
        case o.Conv() | o.Linear() if _mixes(idle, op) or _keeps_apart(idle, op):
            return _sums(idle, op)
        case o.Requantize() if _keeps_apart(idle, op):
            return _requantized(idle, op)
        case o.DivideCodes() if _keeps_apart(idle, op):
            zero = idle.graph.types[op.out].zero_point
            codes = divide_away(torch.from_numpy(idle.ends_of(op.x)) + op.divisor * zero, op.divisor)
            return codes.clamp(op.low, op.high).numpy() - zero
        case o.Lookup() if _keeps_apart(idle, op):
            return _looked_up(idle, op)
        case o.MaxPool() | o.Reshape() if _keeps_apart(idle, op):
            return idle.ends_of(op.x)
        case o.AveragePool() if _keeps_apart(idle, op):
            return _with_zero(idle.ends_of(op.x), any(op.padding)) * (op.kernel[0] * op.kernel[1])
        case o.Mean() if _keeps_apart(idle, op):
            types = idle.graph.types
            return idle.ends_of(op.x) * (types[op.x].size // types[op.out].size)
        case _:
            value = o.results(op)[0]
            return np.repeat(np.array(idle.bounds[value], np.int64)[:, None], idle.channels(value), axis=1)


def _with_zero(ends: Ends, padded: bool) -> Ends:
    return np.stack([ends[0].clip(max=0), ends[1].clip(min=0)]) if padded else ends


def _sums(idle: _Idle, op: Mixing) -> Ends:
    low, high = _with_zero(idle.ends_of(op.x), isinstance(op, o.Conv) and any(op.padding))
    weight = _levels(idle.graph, op.weight)
    rows = weight.reshape(*weight.shape[:2], -1)
    positive, negative = rows.clip(min=0).sum(2), rows.clip(max=0).sum(2)
    if isinstance(op, o.Conv) and op.groups > 1:
        low, high = low[:, None], high[:, None]
        ends = np.stack([(positive * low + negative * high)[:, 0], (positive * high + negative * low)[:, 0]])
    else:
        ends = np.stack([positive @ low + negative @ high, positive @ high + negative @ low])
    return ends if op.bias is None else ends + _levels(idle.graph, op.bias)


def _requantized(idle: _Idle, op: o.Requantize) -> Ends:
    """Rounding never turns the order of two levels around."""
    zero = idle.graph.types[op.out].zero_point
    multiplier, shift = torch.tensor(op.multiplier), torch.tensor(op.shift)
    codes = requantize(torch.from_numpy(idle.ends_of(op.x)), multiplier, shift, op.rounding).long() + zero
    return codes.clamp(op.low, op.high).numpy() - zero


def _looked_up(idle: _Idle, op: o.Lookup) -> Ends:
    x, out = idle.graph.types[op.x], idle.graph.types[op.out]
    table = decode(out.format, idle.graph.constants[op.table].reshape(-1), out.zero_point)
    first = code_range(x.format)[0] - x.zero_point
    parts = [table[low - first : high - first + 1] for low, high in idle.ends_of(op.x).T]
    return np.array([[part.min() for part in parts], [part.max() for part in parts]], np.int64)


# --- the graph without them -----------------------------------------------------------------------------------------


def _without(editor: Editor, graph: Graph, idle: _Idle, op: o.Op) -> o.Op:
    """`op` on the channels that are left."""
    match op:
        case o.Conv() | o.Linear() if _is_whole(idle, op.x) and _is_whole(idle, op.out):
            return op
        case o.Conv() | o.Linear():
            return _layer_without(editor, graph, idle, op)
        case o.Requantize() if len(op.multiplier) > 1 and not _is_whole(idle, op.x):
            kept = idle.kept(op.x)
            return replace(op, multiplier=tuple(op.multiplier[k] for k in kept), shift=tuple(op.shift[k] for k in kept))
        case o.Reshape() if not _is_whole(idle, op.out):
            return replace(op, shape=(op.shape[0], len(idle.kept(op.out)), *op.shape[2:]))
        case _:
            return op


def _is_whole(idle: _Idle, value: o.Value) -> bool:
    return len(idle.kept(value)) == idle.channels(value)


def _layer_without(editor: Editor, graph: Graph, idle: _Idle, op: Mixing) -> Mixing:
    rows, columns = idle.kept(op.out), idle.kept(op.x)
    codes, levels = graph.constants[op.weight][rows], _levels(graph, op.weight)[rows]
    if _mixes(idle, op):
        codes = codes[:, columns]
    weight = _constant(editor, graph, op.weight, codes, rows)
    bias = op.bias
    if bias is not None:
        sums = _levels(graph, bias)[rows] + (_folded(idle, op, levels) if _mixes(idle, op) else 0)
        is_short = np.abs(sums).max(initial=0) < 1 << 31
        bias = _constant(editor, graph, bias, sums.astype(np.int32 if is_short else np.int64), rows)
    if isinstance(op, o.Conv) and op.groups > 1:
        return replace(op, weight=weight, bias=bias, groups=len(rows))
    return replace(op, weight=weight, bias=bias)


def _folded(idle: _Idle, op: Mixing, levels: IntArray) -> IntArray:
    """What the channels that are left out add to every sum."""
    gone = np.setdiff1d(np.arange(idle.channels(op.x)), idle.kept(op.x))
    totals = levels.sum(axis=tuple(range(2, levels.ndim)))
    found: IntArray = totals[:, gone] @ idle.ends_of(op.x)[0][gone]
    return found


def _constant(editor: Editor, graph: Graph, value: o.Value, codes: Array, rows: NDArray[np.intp]) -> o.Value:
    type_ = replace(_part_of(graph.types[value], rows, 0), shape=codes.shape)
    return editor.constant(value, np.ascontiguousarray(codes), type_)


def _part_of(type_: Type, kept: NDArray[np.intp], axis: int) -> Type:
    """`type_` with the channels `kept` of those along `axis`."""
    if not len(kept) or len(type_.shape) <= axis or len(kept) == type_.shape[axis]:
        return type_
    shape = (*type_.shape[:axis], len(kept), *type_.shape[axis + 1 :])
    own = len(type_.scale) > 1 and type_.axis == axis
    return replace(type_, shape=shape, scale=tuple(type_.scale[k] for k in kept) if own else type_.scale)
