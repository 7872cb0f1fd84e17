"""What the integer form of an operator is like: products or moves, where its weight lies, and what can become negative."""

from __future__ import annotations

import numpy as np

from edgeq.ir import ops as o
from edgeq.ir.graph import Graph

WEIGHTED = (o.Conv, o.ConvTranspose, o.Linear, o.MatMul)
CLAMPS = ("relu", "clip")
"""Functions that the clamp of a requantization computes."""
POSITIVE = ("relu", "sigmoid", "hardsigmoid", "softplus", "exp", "sqrt", "abs")
"""Functions without negative results; clip may be one."""


def is_weighted(op: o.Op) -> bool:
    """Whether `op` is a convolution or matrix product."""
    return isinstance(op, WEIGHTED)


def weight_of(op: o.Op) -> o.Value | None:
    """The weight operand of a weighted operator with learned weights."""
    return op.weight if isinstance(op, o.Conv | o.ConvTranspose | o.Linear) else None


def is_matrix_product(op: o.Op, graph: Graph) -> bool:
    """Whether `op` with learned weights is a matrix product of rows, as a 1x1 convolution is."""
    if not isinstance(op, o.Conv):
        return isinstance(op, o.Linear)
    kernel = graph.types[op.weight].shape[2:]
    return (kernel, op.stride, op.padding, op.groups) == ((1, 1), (1, 1), (0, 0, 0, 0), 1)


def is_expectation(op: o.Op, graph: Graph) -> bool:
    """Whether `op` sums k p_k over a distribution (weights 0, 1, 2 …), as box-distribution decoders do."""
    weight = weight_of(op)
    if weight is None or weight not in graph.constants:
        return False
    array = graph.constants[weight].reshape(-1)
    return graph.types[weight].shape[0] == 1 and len(array) > 2 and bool(np.all(array == np.arange(len(array))))


def moves_codes(op: o.Op) -> bool:
    """Whether `op` only moves or selects elements, so that its result has its operand's type."""
    match op:
        case o.MaxPool() | o.Slice() | o.Reshape() | o.Transpose() | o.Expand() | o.Gather():
            return True
        case o.Pad():
            return op.mode != "constant" or op.value == 0.0
        case o.Resize():
            return op.mode == "nearest"
        case _:
            return False


def accumulates(op: o.Op) -> bool:
    """Whether the integer form of `op` yields a wide accumulator that is requantized afterwards."""
    if isinstance(op, o.Resize):
        return op.mode == "linear"
    return isinstance(op, (*WEIGHTED, o.Add, o.Sub, o.Mul, o.AveragePool, o.Mean, o.Softmax, o.LayerNorm))


def gated_function(readers: list[o.Op]) -> o.Function | None:
    """silu or hardswish, when `readers` are the two halves of x g(x)."""
    match readers:
        case [
            o.Apply(function=o.Function(name="sigmoid" | "hardsigmoid" as name)) as gate,
            o.Mul() as product,
        ]:
            if {product.a, product.b} == {gate.x, gate.out}:
                return o.Function("silu" if name == "sigmoid" else "hardswish")
    return None


def never_negative(graph: Graph, value: o.Value) -> bool:
    """Whether the operators behind a value say that it is at least zero: a ReLU, whatever only moves, picks or averages it."""
    maker = graph.producer.get(value)
    match maker:
        case o.Softmax():
            return True
        case o.Apply(function=o.Function(name="clip") as clip):
            return clip.a >= 0 or never_negative(graph, maker.x)
        case o.Apply():
            return maker.function.name in POSITIVE
        case o.Concat():
            return all(never_negative(graph, x) for x in maker.xs)
        case o.Resize():
            return maker.mode != "cubic" and never_negative(graph, maker.x)  # which overshoots
        case o.MaxPool() | o.AveragePool() | o.Mean():
            return never_negative(graph, maker.x)
        case o.Add():
            return never_negative(graph, maker.a) and never_negative(graph, maker.b)
        case None:
            return False
        case _:
            return moves_codes(maker) and never_negative(graph, o.operands(maker)[0])
