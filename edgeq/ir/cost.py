"""What a network costs: multiply-accumulates and stored weights."""

from __future__ import annotations

from math import prod

from edgeq.formats import bits_of
from edgeq.ir import ops as o
from edgeq.ir.graph import Graph


def macs(op: o.Op, graph: Graph) -> int:
    """Multiply-accumulates of a weighted operator (padding included), 0 for the others."""
    shape = {value: type_.shape for value, type_ in graph.types.items()}
    match op:
        case o.Conv():
            return prod(shape[op.out]) * prod(shape[op.weight][1:])
        case o.ConvTranspose():
            return prod(shape[op.x]) * prod(shape[op.weight][1:])
        case o.Linear():
            return prod(shape[op.out]) * shape[op.weight][1]
        case o.MatMul():
            return prod(shape[op.out]) * shape[op.a][-1]
        case _:
            return 0


def total_macs(graph: Graph) -> int:
    """Multiply-accumulates of one inference."""
    return sum(macs(op, graph) for op in graph.ops)


def parameters(graph: Graph) -> int:
    """Number of constant elements that weighted operators and normalizations read."""
    return sum(array.size for array in graph.constants.values() if array.dtype.kind != "i" or array.size > 1)


def constant_bytes(graph: Graph, real_bits: int = 32) -> int:
    """Bytes of all constants in their formats, densely packed; tables of functions are left out, as files compute them.

    Reals count with `real_bits`: 16 where the file keeps halves.
    """
    tables = {op.table for op in graph.ops if isinstance(op, o.Lookup)}
    kept = [graph.types[name] for name in graph.constants if name not in tables]
    bits = (real_bits if type_.is_real else bits_of(type_.format) for type_ in kept)
    return sum((type_.size * width + 7) // 8 for type_, width in zip(kept, bits, strict=True))
