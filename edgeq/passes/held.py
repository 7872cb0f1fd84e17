"""Weights in a form that the target's file has: the same levels and scales, in other codes.

A level is an integer, so a weight whose levels lie in ±127 is an INT8 weight, whatever its format was: integers of any
width, minifloats up to E2M4, POST, powers of two, codebooks. What the network computes does not change by a bit.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from edgeq.formats import INT8_NARROW, Format, Int, Real, bits_of, decode, fits_in_bytes, looks_up, looks_up_wide
from edgeq.ir import ops as o
from edgeq.ir.graph import Array, Graph, Type
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
    """The lowered `graph` with weights that files of `target` do not have as codes of INT8 with the same levels.

    Levels beyond ±127 are left as they are.
    """
    if target.emitter == "graph" or not target.is_integer:
        return graph
    types, constants = dict(graph.types), dict(graph.constants)
    weights = [op.weight for op in graph.ops if isinstance(op, _WEIGHTED) and op.weight in graph.constants]
    table = kept_table(target, (graph.types[weight].format for weight in weights))
    for weight in weights:
        type_ = graph.types[weight]
        own = is_own(target, type_.format) or type_.format == table
        if type_.scale and not own and fits_in_bytes(type_.format):
            types[weight], constants[weight] = _in_bytes(type_, graph.constants[weight])
    return replace(graph, types=types, constants=constants)


def _in_bytes(type_: Type, codes: Array) -> tuple[Type, Array]:
    return replace(type_, format=INT8_NARROW), decode(type_.format, codes).astype(codes.dtype)
