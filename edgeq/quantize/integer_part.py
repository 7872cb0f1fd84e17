"""Which operators run on codes.

An operator stays real when the target has no integer form of it, or (unless the target knows nothing else) when only
real operators read its result: the decode of a detector, the residual stream between layer norms.
"""

from __future__ import annotations

from collections.abc import Collection

from edgeq.ir import ops as o
from edgeq.ir.graph import Graph
from edgeq.quantize.operators import CLAMPS, WEIGHTED, is_expectation, moves_codes
from edgeq.recipe import Recipe
from edgeq.target import Target

TFLITE_SOFTMAX_LIMIT = 512
"""So many equal shares are each half a step of LiteRT's 1/256, where its reference kernel shifts by 32 bits and aborts."""


def _fits_integers(op: o.Op, graph: Graph, target: Target) -> bool:
    if type(op) not in target.integer_ops or not all(graph.types[v].is_real for v in o.results(op)):
        return False
    match op:
        case o.Conv() | o.ConvTranspose() | o.Linear():
            constants = [v for v in (op.weight, op.bias) if v is not None]
            channels = graph.types[op.x].shape[-1 if isinstance(op, o.Linear) else 1]
            fits = all(v in graph.constants for v in constants) and channels >= target.least_channels
            return fits and not is_expectation(op, graph)
        case o.LayerNorm():
            return all(v in graph.constants for v in (op.gamma, op.beta) if v is not None)
        case o.AveragePool():
            return op.count_padding or not any(op.padding)
        case o.Resize():
            return op.mode != "cubic"
        case o.Pad():
            return moves_codes(op)
        case o.Softmax():
            narrow = target.kernels == "tflite" and target.narrow.bits <= 8
            return not narrow or graph.types[op.x].shape[op.axis] < TFLITE_SOFTMAX_LIMIT
        case o.Apply():
            return target.narrow.bits <= 8 or op.function.name in (*CLAMPS, *target.wide_functions)
        case o.Add() | o.Sub() | o.Mul():
            return not all(v in graph.constants for v in (op.a, op.b))
        case _:
            return True


def integer_results(graph: Graph, target: Target, recipe: Recipe) -> frozenset[o.Value]:
    """Results of the operators that run on codes."""
    able = {
        o.results(op)[0]
        for op in graph.ops
        if _fits_integers(op, graph, target) and not recipe.keeps_real(o.results(op)[0])
    }
    return integer_part(graph, target, able)


def integer_part(graph: Graph, target: Target, able: Collection[o.Value]) -> frozenset[o.Value]:
    """Results of the operators that run on codes, out of those that could."""
    found: set[o.Value] = set()
    for op in reversed(graph.ops):
        result = o.results(op)[0]
        if result not in able:
            continue
        leaves_as_codes = target.ports == "codes" and result in graph.outputs and not _mixes_kinds(result, graph)
        if leaves_as_codes or isinstance(op, WEIGHTED) or read_as_codes(op, graph, found):
            found.add(result)
    return frozenset(_without_real_arithmetic(graph, found))


def read_as_codes(op: o.Op, graph: Graph, integer: Collection[o.Value]) -> bool:
    """Whether an operator on codes, by its result in `integer`, reads a result of `op`."""
    return any(o.results(reader)[0] in integer for value in o.results(op) for reader in graph.consumers.get(value, ()))


def _mixes_kinds(value: o.Value, graph: Graph) -> bool:
    """Whether a decode puts different things, such as boxes and scores, into one tensor, which one scale cannot hold."""
    op = graph.producer.get(value)
    if op is None or isinstance(op, WEIGHTED):
        return False
    return isinstance(op, o.Concat) or any(_mixes_kinds(operand, graph) for operand in o.operands(op))


def _without_real_arithmetic(graph: Graph, integer: set[o.Value]) -> set[o.Value]:
    """`integer` less element-wise operators whose operands real operators compute: rounding waits for their result."""
    kept = set(integer)
    for op in graph.ops:
        if o.results(op)[0] in kept and isinstance(op, o.Apply | o.Mul | o.Add | o.Sub):
            computed = [value for value in o.operands(op) if value in graph.producer]
            if computed and not any(value in kept for value in computed):
                kept.discard(o.results(op)[0])
    return kept
