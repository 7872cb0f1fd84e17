"""Weights and values in a form that the target's file has: the same levels and scales, in other codes.

A level is an integer, so a weight whose levels lie in ±127 is an INT8 weight, whatever its format was: integers of any
width, minifloats up to E2M4, POST, powers of two, codebooks. A value of fewer than eight bits is a byte that never
leaves the smaller range: every requantization says between which codes it keeps its result. What the network computes
does not change by a bit.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from edgeq.formats import (
    INT8,
    INT8_NARROW,
    Format,
    Int,
    Real,
    bits_of,
    code_range,
    decode,
    fits_in_bytes,
    is_table,
    level_range,
    looks_up,
    looks_up_wide,
)  # fmt: skip
from edgeq.ir import ops as o
from edgeq.ir.graph import Array, Editor, Graph, Type
from edgeq.target import Target

_WEIGHTED = (o.Conv, o.ConvTranspose, o.Linear)


def is_own(target: Target, format_: Format) -> bool:
    """Whether files of `target` have weights of this format itself; one with a code more holds a narrow one, too.

    A design for an FPGA has a type for every width and a unit for every table.
    """
    if target.emitter == "hls":
        return not isinstance(format_, Real)
    if target.runtime == "onnxruntime" and target.is_integer and looks_up_wide(format_):
        return True  # single precision holds the levels, and a Gather looks them up
    own = ((target.weight,) if target.is_integer else ()) + target.more_weights
    full = replace(format_, narrow=False) if isinstance(format_, Int) else format_
    return format_ in own or full in own


def kept_table(target: Target, formats: Iterable[Format]) -> Format | None:
    """Of the `formats` of all weights the one table of up to four bits that stays as it is, if there is just one.

    Generated C knows one decoding of packed weights in a model; integers of so few bits have another.
    """
    few = {f for f in formats if not isinstance(f, Real) and bits_of(f) <= 4 and not looks_up_wide(f)}
    found = next(iter(few)) if len(few) == 1 else None
    return found if target.looks_up and found is not None and looks_up(found) else None


def as_held(graph: Graph, target: Target) -> Graph:
    """The lowered `graph` with weights and values that files of `target` do not have as bytes of the same levels.

    Levels beyond ±127 are left as they are. So are activations of table formats: their levels are the codes of INT8.
    """
    if target.emitter == "graph" or not target.is_integer:
        return graph
    graph = graph if _has_every_width(target) else _with_values_in_bytes(graph, target.rounding)
    types, constants = dict(graph.types), dict(graph.constants)
    weights = [op.weight for op in graph.ops if isinstance(op, _WEIGHTED) and op.weight in graph.constants]
    table = kept_table(target, (graph.types[weight].format for weight in weights))
    for weight in weights:
        type_ = graph.types[weight]
        own = is_own(target, type_.format) or type_.format == table
        if type_.scale and not own and fits_in_bytes(type_.format):
            types[weight], constants[weight] = _in_bytes(type_, graph.constants[weight])
    for op in graph.ops:
        if isinstance(op, o.Lookup) and (held := table_type(types[op.out].format)):
            levels = decode(types[op.out].format, constants[op.table])
            types[op.out] = replace(types[op.out], format=held[0], zero_point=held[1])
            types[op.table] = replace(types[op.table], format=held[0], zero_point=held[1])
            constants[op.table] = (levels + held[1]).astype(np.int8)
    return replace(graph, types=types, constants=constants)


def table_type(format_: Format) -> tuple[Int, int] | None:
    """The integers of 8 bits, and their zero point, that stand for the levels of a table format; None if none do."""
    if not is_table(format_):
        return None
    low, high = level_range(format_)
    if fits_in_bytes(format_):
        return INT8, 0
    return (INT8, INT8.low) if low >= 0 and high <= INT8.high - INT8.low else None


def _in_bytes(type_: Type, codes: Array) -> tuple[Type, Array]:
    return replace(type_, format=INT8_NARROW), decode(type_.format, codes).astype(codes.dtype)


def _has_every_width(target: Target) -> bool:
    """Whether files have values of any number of bits: as streams of a design, Quant nodes, or bytes behind a Clip."""
    return target.emitter in ("hls", "onnx")


def _with_values_in_bytes(graph: Graph, rounding: o.Rounding) -> Graph:
    weights = {op.weight for op in graph.ops if isinstance(op, _WEIGHTED)}
    few = {name for name, type_ in graph.types.items() if name not in weights and _has_few_bits(type_)}
    if not few:
        return graph
    editor = Editor.like(graph)
    editor.types |= {name: _as_bytes(graph.types[name]) for name in few}
    for op in graph.ops:
        types = [_as_bytes(graph.types[name]) if name in few else graph.types[name] for name in o.results(op)]
        match op:
            case o.Quantize() if op.out in few:  # which saturates where its type does
                whole = editor.append(replace(op, out=editor.fresh(f"{op.out}.byte")), types[0])
                low, high = code_range(graph.types[op.out].format)
                editor.append(o.Requantize(whole, op.out, (1 << 30,), (1,), rounding, low, high), types[0])  # times 1
            case o.Lookup() | o.Softmax() if op.x in few and op.table is not None:
                entries = _widened(graph.constants[op.table], graph.types[op.x].format, isinstance(op, o.Lookup))
                type_ = replace(editor.types[op.table], shape=entries.shape)
                table = editor.constant(f"{op.table}.bytes", entries, type_)
                editor.append(replace(op, table=table), types[0])
            case _:
                editor.append(op, *types)
    return editor.graph(graph.outputs)


def _has_few_bits(type_: Type) -> bool:
    return bool(type_.scale) and isinstance(type_.format, Int) and type_.format.bits < 8


def _as_bytes(type_: Type) -> Type:
    assert isinstance(type_.format, Int), type_
    return replace(type_, format=Int(8, signed=type_.format.signed))


def _widened(table: Array, format: Format, from_lowest: bool) -> Array:
    """A table for codes of fewer bits, `from_lowest` or by differences, as one for bytes; what it adds is never read."""
    assert isinstance(format, Int), format
    whole = Int(8, signed=format.signed)
    below = format.low - whole.low if from_lowest else 0
    return np.pad(table, (below, 256 - len(table) - below), mode="edge")
