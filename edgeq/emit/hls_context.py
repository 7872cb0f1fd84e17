"""What the making of every stage shares: the graph and its proved widths, where tokens of a value lie, names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from edgeq.emit.c_layout import Axes, Loops, nest, places, to_memory
from edgeq.emit.hls_stage import Config, Fold, Stage, Stream, Table, Work
from edgeq.errors import UnsupportedError
from edgeq.formats import Int, IntArray
from edgeq.ir import ops as o
from edgeq.ir.bounds import Interval, level_bounds, signed_bits
from edgeq.ir.graph import Graph
from edgeq.passes.kernel import Program
from edgeq.passes.orders import row_values


@dataclass
class Builder:
    """The workbench on which a lowered graph becomes stages; `folds` are the parallel units of layers by their result."""

    graph: Graph
    folds: Mapping[o.Value, Fold]
    inputs: tuple[tuple[o.Value, o.Value], ...]
    outputs: tuple[tuple[o.Value, o.Value], ...]
    readers: dict[o.Value, int]
    alias: Mapping[o.Value, o.Value]
    stages: list[Stage] = field(default_factory=list)
    streams: list[Stream] = field(default_factory=list)
    waiting: dict[o.Value, list[Stream]] = field(default_factory=dict)
    preludes: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.bounds = level_bounds(self.graph)
        self.program = program_of(self.graph, self.inputs, self.outputs)

    # --- values -----------------------------------------------------------------------------------------------

    def root(self, value: o.Value) -> o.Value:
        """The value whose tokens `value` shows."""
        return self.alias.get(value, value)

    def axes(self, value: o.Value) -> Axes:
        """The order of axes in which tokens flow: of images rows, columns, channels."""
        return self.program.axes(value)

    def shape(self, value: o.Value) -> tuple[int, ...]:
        """Shape of a value."""
        return self.graph.types[value].shape

    def count(self, value: o.Value) -> int:
        """Tokens of a value."""
        return self.graph.types[value].size

    def bits(self, value: o.Value) -> int:
        """Bits of a token: those of the codes' format, or as many as the proof asks for."""
        format_ = self.graph.types[value].format
        proved = signed_bits(self.bounds[value])
        return format_.bits if isinstance(format_, Int) and format_.bits <= 16 else proved

    def is_signed(self, value: o.Value) -> bool:
        """Whether tokens of a value have a sign: all but codes of formats without one."""
        format_ = self.graph.types[value].format
        return not isinstance(format_, Int) or format_.signed or format_.bits > 16

    def stream_of(self, value: o.Value, bits: int, count: int) -> Stream:
        """A new stream of tokens of `value`."""
        stream = Stream(f"s_{len(self.streams)}", bits, count, self.is_signed(value))
        self.streams.append(stream)
        return stream

    def image(self, value: o.Value) -> tuple[int, int, int]:
        """Height, width and channels; of other ranks the last axis is the channels and all others lie in one row."""
        shape = self.shape(value)
        if len(shape) == 4 and value not in self.program.rows:
            return shape[2], shape[3], shape[1]
        return 1, int(np.prod(shape[:-1])), shape[-1]

    def levels(self, value: o.Value) -> IntArray:
        """Levels of a constant, in the order of tokens."""
        flat = to_memory(self.graph.constants[value], self.axes(value))
        return np.asarray(flat, dtype=np.int64) - self.graph.types[value].zero_point

    def sources(self, value: o.Value, like: o.Value) -> IntArray:
        """For every token of `like`: the token of `value` that broadcasting puts there."""
        own = places(self.shape(value), self.axes(value))
        return np.asarray(to_memory(np.broadcast_to(own, self.shape(like)), self.axes(like)), dtype=np.int64)

    # --- stages -----------------------------------------------------------------------------------------------

    def take(self, value: o.Value) -> Stream:
        """A stream of the tokens of `value`, which nobody else reads."""
        root = self.root(value)
        if root in self.graph.constants:
            return self._constant(root)
        return self.waiting[root].pop(0)

    def give(self, value: o.Value, stream: Stream) -> None:
        """`stream` carries `value`: to its reader, or through a fork to all of them."""
        count = self.readers.get(value, 0)
        if count <= 1:
            self.waiting[value] = [stream]
            return
        branches = [self.stream_of(value, stream.bits, stream.count) for _ in range(count)]
        self.waiting[value] = list(branches)
        names = (stream.name, *(branch.name for branch in branches))
        self.stages.append(
            Stage(
                self.name("fork"),
                "fork",
                value,
                "edgeq_join.h",
                "fork",
                {},
                (stream,),
                tuple(branches),
                names,
                (),
                Work(stream.count),
                str(stream.count),
            )
        )

    def add(
        self, kind: str, value: o.Value, header: str, function: str, config: Config, reads: tuple[Stream, ...],
        bits: int, work: Work, tables: tuple[Table, ...] = (), more: tuple[str, ...] = (), *, count: int | None = None,
        first: bool = False, template: str = "",
    ) -> Stream:  # fmt: skip
        """Append a stage that writes one stream of tokens of `bits`; `more` are arguments after the tables.

        With `first` the result's stream comes before the operands among the arguments.
        """
        out = self.stream_of(value, bits, self.count(value) if count is None else count)
        streams = (out, *reads) if first else (*reads, out)
        arguments = [stream.name for stream in streams] + [table.name for table in tables] + list(more)
        if first and tables:  # concat: counts come right after the result
            arguments = [out.name, *(t.name for t in tables), *(r.name for r in reads)]
        self.stages.append(
            Stage(self.name(kind), kind, value, header, function, config, reads, (out,), tuple(arguments), tables, work,
                  template)
        )  # fmt: skip
        return out

    def name(self, kind: str) -> str:
        """A C++ identifier for the next stage."""
        return f"{kind.replace(' ', '_')}_{len(self.stages) + 1}"

    def table_name(self, what: str) -> str:
        """A C++ identifier for a table of the next stage."""
        return f"{what}_{len(self.stages) + 1}"

    def _constant(self, value: o.Value) -> Stream:
        bits, levels = self.bits(value), self.levels(value)
        out = self.stream_of(value, bits, len(levels))
        table = Table(self.table_name("codes"), out.type, levels, bits)
        self.stages.append(
            Stage(self.name("constant"), "constant", value, "edgeq_join.h", "constant", {}, (), (out,),
                  (out.name, table.name), (table,), Work(len(levels)), str(len(levels)))
        )  # fmt: skip
        return out


def program_of(
    graph: Graph, inputs: tuple[tuple[o.Value, o.Value], ...], outputs: tuple[tuple[o.Value, o.Value], ...]
) -> Program:
    """What edgeq/emit/c_layout.py wants to know of the order of elements; no kernels."""
    rows = row_values(graph, [value for _, value in (*inputs, *outputs)])
    return Program(graph, (), inputs, outputs, 8, rows)


def power_above(number: int) -> int:
    """The least power of two that is not less."""
    return 1 << max(number - 1, 0).bit_length()


def loops(sources: IntArray, most: int, where: o.Value) -> Loops | None:
    """`sources` as `most` nested loops, filled up with loops of one round outside; None if they are no such loops."""
    found = nest([sources])
    if found is None or len(found) > most:
        return None
    return [(1, (0,))] * (most - len(found)) + found


def loop_config(found: Loops) -> dict[str, int | str]:
    """Sizes and strides of nested loops as fields of a configuration."""
    sizes = {f"size_{k}": count for k, (count, _) in enumerate(found)}
    return {**sizes, **{f"stride_{k}": strides[0] for k, (_, strides) in enumerate(found)}}


def refuse(op: o.Op, what: str, nearest: str) -> UnsupportedError:
    """The one line about an operator that no stage computes."""
    kind = type(op).__name__
    return UnsupportedError(f"a design has no {kind} {what}".rstrip(), where=o.results(op)[0], next_step=nearest)


def interval(bounds: Mapping[o.Value, Interval], value: o.Value) -> Interval:
    """The proved levels of a value, 0 among them: what padding adds."""
    low, high = bounds[value]
    return min(low, 0), max(high, 0)
