"""Weights in a form that the target's file has: the same levels and scales, in other codes.

A level is an integer, so a weight whose levels lie in ±127 is an INT8 weight, whatever its format was: integers of any
width, minifloats up to E2M4, POST, powers of two, codebooks. What the network computes does not change by a bit.
"""

from __future__ import annotations

from dataclasses import replace

from edgeq.formats import INT8_NARROW, Format, Int, decode, fits_in_bytes
from edgeq.ir import ops as o
from edgeq.ir.graph import Array, Graph, Type
from edgeq.target import Target


def is_own(target: Target, format_: Format) -> bool:
    """Whether files of `target` have weights of this format itself; one with a code more holds a narrow one, too."""
    own = ((target.weight,) if target.is_integer else ()) + target.more_weights
    full = replace(format_, narrow=False) if isinstance(format_, Int) else format_
    return format_ in own or full in own


def as_held(graph: Graph, target: Target) -> Graph:
    """The lowered `graph` with weights that files of `target` do not have as codes of INT8 with the same levels.

    Levels beyond ±127 are left as they are.
    """
    if target.emitter == "graph" or not target.is_integer:
        return graph
    types, constants = dict(graph.types), dict(graph.constants)
    for op in graph.ops:
        if isinstance(op, o.Conv | o.ConvTranspose | o.Linear) and op.weight in graph.constants:
            type_ = graph.types[op.weight]
            if type_.scale and not is_own(target, type_.format) and fits_in_bytes(type_.format):
                types[op.weight], constants[op.weight] = _in_bytes(type_, graph.constants[op.weight])
    return replace(graph, types=types, constants=constants)


def _in_bytes(type_: Type, codes: Array) -> tuple[Type, Array]:
    return replace(type_, format=INT8_NARROW), decode(type_.format, codes).astype(codes.dtype)
