"""Values, their types, and the graph: an ordered list of operators over named values.

A graph is immutable. Passes build a new one; `Editor` is the small mutable workbench they use for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from edgeq.formats import REAL, Format, Real
from edgeq.ir.infer import result_kinds, result_shapes
from edgeq.ir.ops import Op, Value, operands, rename, results

Array = npt.NDArray[np.generic]


@dataclass(frozen=True)
class Type:
    """What a value holds: shape, number format, and for codes the scale(s), zero point and channel axis.

    `scale` has one entry, or one per index of `axis`. Real values have none. A weight may also change its scale every
    `block` input channels: `axis` (0 or 1) then holds the output channels, the blocks run along the other one of the
    first two axes, and `scale` lists the blocks of the first output channel, then of the next.
    """

    shape: tuple[int, ...]
    format: Format = REAL
    scale: tuple[float, ...] = ()
    zero_point: int = 0
    axis: int | None = None
    block: int = 0

    @property
    def scales(self) -> npt.NDArray[np.float64]:
        """`scale` as an array that broadcasts against the value."""
        flat = np.array(self.scale, dtype=np.float64)
        shape = [1] * len(self.shape)
        if self.axis is None or len(flat) == 1:
            return flat.reshape(shape)
        if not self.block:
            shape[self.axis] = -1
            return flat.reshape(shape)
        inputs = 1 - self.axis
        shape[self.axis], shape[inputs] = self.shape[self.axis], self.shape[inputs]
        repeated = flat.reshape(shape[self.axis], -1).repeat(self.block, axis=1)
        return (repeated if self.axis == 0 else repeated.T).reshape(shape)

    @property
    def is_real(self) -> bool:
        """Whether the value is float32 rather than codes."""
        return isinstance(self.format, Real)

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))


@dataclass(frozen=True, eq=False)
class Graph:
    """A network: `ops` in execution order; `types` for every value; `constants` as arrays (float32 reals or codes)."""

    name: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    ops: tuple[Op, ...]
    types: Mapping[Value, Type]
    constants: Mapping[Value, Array] = field(default_factory=dict)

    @cached_property
    def producer(self) -> dict[Value, Op]:
        """The op that computes each value (inputs and constants have none)."""
        return {value: op for op in self.ops for value in results(op)}

    @cached_property
    def consumers(self) -> dict[Value, tuple[Op, ...]]:
        """The ops that read each value, in execution order; values nobody reads are absent."""
        found: dict[Value, list[Op]] = {}
        for op in self.ops:
            for value in dict.fromkeys(operands(op)):
                found.setdefault(value, []).append(op)
        return {value: tuple(ops) for value, ops in found.items()}

    def sole_consumer(self, value: Value) -> Op | None:
        """The only op that reads `value`, or None if several do, none does, or it is a graph output."""
        readers = self.consumers.get(value, ())
        return readers[0] if len(readers) == 1 and value not in self.outputs else None


class Editor:
    """A graph under construction: append ops, add constants, rename, then `graph()` removes what became dead."""

    def __init__(self, name: str, inputs: Iterable[Value] = (), types: Mapping[Value, Type] | None = None) -> None:
        self.name = name
        self.inputs = tuple(inputs)
        self.ops: list[Op] = []
        self.types: dict[Value, Type] = dict(types or {})
        self.constants: dict[Value, Array] = {}
        self._alias: dict[Value, Value] = {}

    @classmethod
    def like(cls, graph: Graph) -> Editor:
        """An editor with the inputs, types and constants of `graph` and none of its ops."""
        editor = cls(graph.name, graph.inputs, graph.types)
        editor.constants.update(graph.constants)
        return editor

    def append(self, op: Op, *types: Type) -> Value:
        """Add `op` with operands resolved through aliases and return its first result.

        `types` are its results' types; without them they are inferred (real, index or truth value).
        """
        op = rename(op, self.resolve, where="operands")
        self.ops.append(op)
        for value, type_ in zip(results(op), types or self._inferred(op), strict=True):
            self.types[value] = type_
        return results(op)[0]

    def _inferred(self, op: Op) -> list[Type]:
        shapes = result_shapes(op, lambda value: self.types[value].shape)
        kinds = result_kinds(op, lambda value: self.types[value].format)
        return [Type(shape, kind) for shape, kind in zip(shapes, kinds, strict=True)]

    def constant(self, name: str, array: Array, type_: Type | None = None) -> Value:
        """Add a constant under a fresh name like `name`."""
        name = self.fresh(name)
        self.constants[name] = array
        self.types[name] = type_ or Type(tuple(array.shape))
        return name

    def fresh(self, name: str) -> Value:
        """`name`, or `name.1`, `name.2` … if it is taken."""
        candidate, count = name, 0
        while candidate in self.types:
            count += 1
            candidate = f"{name}.{count}"
        return candidate

    def alias(self, old: Value, new: Value) -> None:
        """From here on, readers of `old` read `new`."""
        self._alias[old] = self.resolve(new)

    def resolve(self, value: Value) -> Value:
        """The value that stands for `value` now."""
        return self._alias.get(value, value)

    def graph(self, outputs: Iterable[Value]) -> Graph:
        """The finished graph, without ops and constants that no output needs."""
        outputs = tuple(self.resolve(value) for value in outputs)
        live, kept = set(outputs), []
        for op in reversed(self.ops):
            if live.intersection(results(op)):
                live.update(operands(op))
                kept.append(op)
        live.update(self.inputs)
        for op in kept:
            live.update(results(op))
        return Graph(
            self.name,
            self.inputs,
            outputs,
            tuple(reversed(kept)),
            {value: t for value, t in self.types.items() if value in live},
            {value: a for value, a in self.constants.items() if value in live},
        )


def trimmed(graph: Graph, outputs: Iterable[Value]) -> Graph:
    """The part of `graph` that computes `outputs`."""
    editor = Editor.like(graph)
    for op in graph.ops:
        editor.append(op, *(graph.types[value] for value in results(op)))
    return editor.graph(outputs)


def observed(graph: Graph, values: Iterable[Value]) -> Graph:
    """The part of `graph` that computes `values`; those that it reads itself are no outputs, so they need not be kept."""
    part = trimmed(graph, sorted(values))
    return replace(part, outputs=tuple(value for value in part.outputs if value not in part.consumers))


def with_constants(graph: Graph, constants: Mapping[Value, Array]) -> Graph:
    """`graph` with some constants replaced by arrays of the same shape."""
    return replace(graph, constants={**graph.constants, **constants})
