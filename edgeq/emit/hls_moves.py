"""Operators that only move codes, joins of streams, and linear interpolation as stages."""

from __future__ import annotations

import numpy as np

from edgeq.emit.c_layout import source_places
from edgeq.emit.hls_context import Builder, loop_config, loops, power_above, refuse
from edgeq.emit.hls_stage import Stream, Table, Work
from edgeq.formats import IntArray, encode
from edgeq.ir import ops as o
from edgeq.ir.bounds import signed_bits
from edgeq.passes.kernel import Kernel, Program
from edgeq.reference.meaning import RESIZE_WEIGHT_BITS, interpolation_matrix

Moving = o.Reshape | o.Transpose | o.Slice | o.Expand | o.Pad | o.Gather | o.Resize
MOST_LOOPS = 6


def moved_sources(op: Moving, program: Program) -> IntArray:
    """For every token of the result: the operand's token, or -1."""
    return source_places(Kernel(op, o.results(op)[0]), program)


def move(this: Builder, op: Moving) -> Stream:
    """A stage that moves codes; what a constant padding adds is a level."""
    fill = 0
    if isinstance(op, o.Pad) and op.mode == "constant":
        type_ = this.graph.types[op.x]
        fill = int(encode(type_.format, [op.value / type_.scale[0]])[0])
    return gathered(this, op.x, this.take(op.x), moved_sources(op, this.program), op.out, fill)


def gathered(this: Builder, x: o.Value, stream: Stream, sources: IntArray, value: o.Value, fill: int = 0) -> Stream:
    """A stage whose tokens are those of `stream` at `sources`, or `fill` where that is -1."""
    ring = power_above(_live(sources))
    config = {"ring": ring, "in_count": stream.count, "out_count": len(sources)}
    cycles, kept = stream.count + 2 * len(sources), ((ring, stream.bits),)
    out = len(sources)
    shown = value if value in this.graph.types else x
    if sources.min() >= 0 and (found := loops(sources, MOST_LOOPS, value)) is not None:
        nested = {**config, **loop_config(found), "first": int(sources[0])}
        return this.add(
            "move",
            shown,
            "edgeq_move.h",
            "move_in_loops",
            nested,
            (stream,),
            stream.bits,
            Work(cycles, kept),
            count=out,
        )
    bits = signed_bits((-1, int(sources.max())))
    table = Table(this.table_name("sources"), f"ap_int<{bits}>", sources, bits)
    return this.add(
        "move", shown, "edgeq_move.h", "move", config, (stream,), stream.bits, Work(cycles, kept), (table,),
        (f"{stream.type}({fill})",), count=out,
    )  # fmt: skip


def _live(sources: IntArray) -> int:
    """Tokens between the newest that was read and the oldest that is wanted again, at the worst moment."""
    wanted = np.where(sources < 0, np.iinfo(np.int64).max, sources)
    oldest = np.minimum.accumulate(wanted[::-1])[::-1]
    newest = np.maximum.accumulate(sources)
    spans = np.where(oldest <= newest, newest - oldest + 1, 1)
    return int(spans.max(initial=1))


def concat(this: Builder, op: o.Concat) -> Stream:
    """Chunks of each operand in turn: everything inside the axis of the concatenation."""
    axes, shape = this.axes(op.out), this.shape(op.out)
    inner = axes[axes.index(op.axis) + 1 :]
    rounds = int(np.prod([shape[axis] for axis in axes[: axes.index(op.axis)]]))
    chunk = int(np.prod([shape[axis] for axis in inner]))
    counts = np.array([this.shape(x)[op.axis] * chunk for x in op.xs], dtype=np.int64)
    reads = tuple(this.take(x) for x in op.xs)
    if len({stream.type for stream in reads}) > 1:
        raise refuse(op, "of codes of several widths", "Give its operands one format.")
    table = Table(this.table_name("counts"), "int", counts, 32)
    config = {"rounds": rounds}
    work = Work(this.count(op.out))
    return this.add(
        "concat", op.out, "edgeq_join.h", "concat", config, reads, reads[0].bits, work, (table,), first=True
    )


def resize(this: Builder, op: o.Resize) -> Stream:
    """Linear interpolation: for each axis the two positions and how far the result lies behind the first."""
    if op.mode != "linear":
        return move(this, op)
    height, width, channels = this.image(op.x)
    rows, columns = (_between(op, k, size) for k, size in ((0, height), (1, width)))
    x = this.take(op.x)
    both = rows[:, [0, 1, 0]]  # the lower row is still needed when the higher one is there
    ring = power_above(int(_live(both.reshape(-1))))
    config = {"in_h": height, "in_w": width, "in_c": channels, "out_h": op.size[0], "out_w": op.size[1], "rows": ring}
    tables = (
        Table(this.table_name("rows"), "edgeq::interpolation", rows, 32),
        Table(this.table_name("columns"), "edgeq::interpolation", columns, 32),
    )
    work = Work(
        x.count + 2 * this.count(op.out),
        ((ring * width * channels, x.bits),),
        ((x.bits, 11),) * 4 + ((x.bits + 12, 11),) * 2,
    )
    return this.add("resize", op.out, "edgeq_resize.h", "resize", config, (x,), this.bits(op.out), work, tables)


def _between(op: o.Resize, axis: int, size: int) -> IntArray:
    """[result positions, 3]: lower and higher source, and the weight of the higher one in units of 2^-10."""
    matrix = interpolation_matrix(size, op.size[axis], op.scale[axis], "linear", op.coordinates, True).numpy()
    found = np.zeros((len(matrix), 3), dtype=np.int64)
    for k, row in enumerate(matrix):
        taps = np.flatnonzero(row)
        lower, higher = int(taps[0]), int(taps[-1])
        found[k] = lower, higher, int(row[higher]) if higher > lower else 0
    assert np.all(matrix.sum(1) == 1 << RESIZE_WEIGHT_BITS)
    return found
