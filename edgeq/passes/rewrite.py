"""The engine of the rewriting passes: local rules, applied in execution order until none applies.

A rule looks at one operator, and through `Sweep` at what was already rebuilt before it, and answers with an operator
that computes the same results, or with a value that already holds its result. The real-valued function of the graph,
its inputs and the names of its outputs never change.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.ir import ops as o
from edgeq.ir.graph import Editor, Graph
from edgeq.ir.rename import renamed

Numbers = npt.NDArray[Any]
Rule = Callable[["Sweep", o.Op], "o.Op | o.Value | None"]

# Every rule makes the graph smaller or moves an operator one way, so this is never reached by a sound set of rules.
MAX_SWEEPS = 64
MAX_STEPS_PER_OP = 64
MAX_COMPARED = 4096  # elements of a constant worth comparing with others


class Sweep:
    """One pass over a graph: what rules may ask about the part rebuilt so far, and how they add to it."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.editor = Editor.like(graph)
        self.producer: dict[o.Value, o.Op] = {}
        self.computed: dict[o.Op, o.Value] = {}  # operators without result names -> result
        self.changed = False
        self._outputs = set(graph.outputs)
        self._readers = Counter(value for op in graph.ops for value in o.operands(op))
        self._equal: dict[tuple[object, ...], o.Value] = {}
        self._hints: dict[o.Value, o.Value] = {}  # new constant -> the name it would like to have

    # --- questions ------------------------------------------------------------------------------------------

    def made_by(self, value: o.Value | None) -> o.Op | None:
        """The operator that computes `value`; None for inputs, constants and None."""
        return self.producer.get(value) if value is not None else None

    def array(self, value: o.Value | None) -> Numbers | None:
        """The array of a constant, else None."""
        return self.editor.constants.get(value) if value is not None else None

    def shape(self, value: o.Value) -> tuple[int, ...]:
        """Shape of a value."""
        return self.editor.types[value].shape

    def number(self, value: o.Value) -> float | None:
        """The one entry of a constant with one element, else None."""
        array = self.array(value)
        return float(array.reshape(-1)[0]) if array is not None and array.size == 1 else None

    def is_real(self, value: o.Value) -> bool:
        """Whether `value` holds reals."""
        return self.editor.types[value].is_real

    def is_sole(self, value: o.Value) -> bool:
        """Whether exactly one operator reads `value` and nobody outside does."""
        return self._readers[value] == 1 and value not in self._outputs

    def canonical(self, value: o.Value) -> o.Value:
        """One name for all small constants with the same content; any other value itself."""
        array = self.array(value)
        if array is None or array.size > MAX_COMPARED:
            return value
        return self._equal.setdefault((array.shape, array.dtype.str, array.tobytes()), value)

    # --- additions ------------------------------------------------------------------------------------------

    def constant(self, array: Numbers, like: o.Value) -> o.Value:
        """A new constant that takes over the name `like` if nothing else needs that name in the end."""
        hint = self._hints.get(like, like)
        dtype = np.float32 if array.dtype.kind == "f" else array.dtype
        name = self.editor.constant(hint, np.array(array, dtype=dtype, order="C"))
        self._hints[name] = hint
        return name

    def emit(self, op: o.Op, like: o.Value) -> o.Value:
        """Add `op` with results named after `like`, and return the first."""
        op = o.rename(op, lambda _: self.editor.fresh(f"{like}.{type(op).__name__.lower()}"), where="results")
        self._count(op, 1)
        self._append(op)
        return o.results(op)[0]

    def _append(self, op: o.Op) -> None:
        self.editor.append(op)
        for value in o.results(op):
            self.producer[value] = op

    def _count(self, op: o.Op, change: int) -> None:
        for value in o.operands(op):
            self._readers[value] += change

    def place(self, op: o.Op, rules: Sequence[Rule]) -> None:
        """Add `op` of the old graph, rewritten as long as a rule applies."""
        op = o.rename(op, self.editor.resolve, where="operands")
        for _ in range(MAX_STEPS_PER_OP):
            found = self._first(op, rules)
            if found is None:
                break
            self.changed = True
            self._count(op, -1)
            if isinstance(found, str):
                out = o.results(op)[0]
                self._readers[found] += self._readers[out]
                self.editor.alias(out, found)
                return
            self._count(found, 1)
            op = found
        self._append(op)

    def _first(self, op: o.Op, rules: Sequence[Rule]) -> o.Op | o.Value | None:
        for rule in rules:
            found = rule(self, op)
            if found is not None and (not isinstance(found, str) or self._may_stand_for(found, o.results(op)[0])):
                return found
        return None

    def _may_stand_for(self, value: o.Value, out: o.Value) -> bool:
        """A graph output keeps its name, which only a computed value that is no other output can take over."""
        if out not in self._outputs:
            return True
        if value in self._outputs or value not in self.producer:
            return False
        self._outputs.add(value)
        return True

    def finished(self) -> Graph:
        """The new graph, without dead operators, under the old output names."""
        graph = self.editor.graph(self.graph.outputs)
        names = {new: old for new, old in zip(graph.outputs, self.graph.outputs, strict=True) if new != old}
        taken = {*graph.types, *names.values()} - {*names}
        for value in graph.types:
            hint = self._hints.get(value, value)
            if value not in names and hint not in taken:
                names[value] = hint
                taken.add(hint)
        return renamed(graph, names)


def sweep(graph: Graph, rules: Sequence[Rule]) -> tuple[Graph, bool]:
    """`graph` after one pass of `rules`, and whether any of them applied."""
    state = Sweep(graph)
    for op in graph.ops:
        state.place(op, rules)
    return state.finished(), state.changed


def rewrite(graph: Graph, rules: Sequence[Rule]) -> Graph:
    """`graph` after passes of `rules` until none applies."""
    for _ in range(MAX_SWEEPS):
        graph, changed = sweep(graph, rules)
        if not changed:
            break
    return graph


def factors(op: o.Op) -> tuple[tuple[o.Value, o.Value], ...]:
    """Both orders of the operands of a commutative operator."""
    match op:
        case o.Mul(a, b) | o.Add(a, b):
            return (a, b), (b, a)
        case _:
            return ()


def channel_vector(array: Numbers, shape: tuple[int, ...], axis: int) -> npt.NDArray[np.float64] | None:
    """`array`, which broadcasts against `shape`, as one entry per index of `axis`; None if it varies elsewhere."""
    if array.ndim > len(shape):
        return None
    full = (1,) * (len(shape) - array.ndim) + array.shape
    if any(size != 1 and k != axis for k, size in enumerate(full)) or full[axis] not in (1, shape[axis]):
        return None
    return np.broadcast_to(array.reshape(-1).astype(np.float64), (shape[axis],))
