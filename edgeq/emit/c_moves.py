"""Operators that only move codes, as C layers."""

from __future__ import annotations

import numpy as np

from edgeq.emit.c_layer import Fields, Layer, LayerContext, initializers
from edgeq.emit.c_layout import nest, places, source_places, to_memory
from edgeq.errors import UnsupportedError
from edgeq.formats import IntArray, encode
from edgeq.ir import ops as o


def concat(this: LayerContext, op: o.Concat) -> Layer:
    """Operands one after another along an axis: one copy each."""
    order = this.program.axes(this.kernel.out)
    found = places(this.types[this.kernel.out].shape, order)
    start, descriptors, calls = 0, [], []
    for index, x in enumerate(op.xs):
        size = this.types[x].shape[op.axis]
        part = np.take(found, range(start, start + size), op.axis)
        source = to_memory(places(this.types[x].shape, this.program.axes(x)), order).astype(np.int64)
        into = to_memory(part, order).astype(np.int64)
        name = f"{this.name}_{index}"
        walk, first = walk_of(this, name, source, into)
        descriptors.append(walk)
        calls.append(f"edgeq_copy_walk(&{name}, {this.read(x)}, {this.written()} + {first[1]})")
        start += size
    return this.layer("edgeq_copy.h", "".join(descriptors), calls, "concatenation")


def move(this: LayerContext, op: o.Op) -> Layer:
    """An operator that copies codes by a fixed map: nested loops, or a list of runs."""
    x, kind = this.kernel.x, "moved" if this.kernel.moves else type(op).__name__.lower()
    source = source_places(this.kernel, this.program)
    unit = this.program.bits_of(x) // this.program.bits
    inside = np.flatnonzero(source >= 0)
    calls = []
    if isinstance(op, o.Pad) and len(inside) < len(source):
        type_ = this.types[x]
        code = int(encode(type_.format, [op.value / type_.scale[0]], type_.zero_point)[0])
        into = f"edgeq_fill({this.written()}" if unit == 1 else f"edgeq_fill_stream({this.written_wide()}"
        calls.append(f"{into}, {code}, {len(source)})")
    if not len(inside):
        return this.layer("edgeq_copy.h", "", calls, kind)
    loops = nest([source[inside], inside])
    if loops is not None and len(loops) <= 5 + int(loops[-1][1] == (1, 1)):
        walk, (f, t) = walk_of(this, this.name, source[inside], inside)
        calls.append(f"edgeq_copy_walk(&{this.name}, {this.read(x)} + {f}, {this.written()} + {t})")
        return this.layer("edgeq_copy.h", walk, calls, kind)
    if len(inside) < len(source):
        raise UnsupportedError("this padding is not written for C", where=o.results(op)[0])
    run = _common_run(source)
    starts = this.bank.words(f"starts_{this.number}", unit * source[::run], "where each run of codes begins")
    calls.append(f"edgeq_copy_listed({starts}, {len(source) // run}, {run * unit}, {this.read(x)}, {this.written()})")
    return this.layer("edgeq_copy.h", "", calls, kind)


def walk_of(this: LayerContext, name: str, source: IntArray, into: IntArray) -> tuple[str, tuple[int, int]]:
    """A descriptor that copies bytes `source` to bytes `into`, and where both begin."""
    loops = nest([source, into])
    if loops is None:
        raise UnsupportedError("this move is not written for C", where=this.kernel.out)
    run = loops.pop()[0] if loops and loops[-1][1] == (1, 1) else 1
    if len(loops) > 5:
        raise UnsupportedError("this move has too many axes for C", where=this.kernel.out)
    loops = [(1, (0, 0))] * (5 - len(loops)) + loops
    unit = this.program.bits_of(this.kernel.out) // this.program.bits
    fields: Fields = {
        "run": run * unit,
        "size": [count for count, _ in loops],
        "from_stride": [strides[0] * unit for _, strides in loops],
        "to_stride": [strides[1] * unit for _, strides in loops],
    }
    first = int(source[0]) * unit, int(into[0]) * unit
    return f"static const edgeq_walk {name} = {{\n{initializers(fields)}}};\n", first


def _common_run(source: IntArray) -> int:
    """The largest number of consecutive bytes that the whole map copies at a time."""
    breaks = np.flatnonzero(np.diff(source) != 1) + 1
    return int(np.gcd.reduce([len(source), *breaks]))
