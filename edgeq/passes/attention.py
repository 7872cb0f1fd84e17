"""Attention: where the scale of its scores goes, and which values of a graph play which part.

A scalar factor of the queries or keys becomes a factor of the scores, next to the product: there an integer lowering
takes it into a scale for nothing. It is not multiplied into the rows of a joint query-key-value layer, because those
rows share one activation scale with the others and would lose bits. A factor whose way back to a layer of its own is
free of other readers does go into that layer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from edgeq.ir import ops as o
from edgeq.ir.graph import Graph
from edgeq.passes.affine import Affine, absorb_after, has_constant_weights
from edgeq.passes.rewrite import Rule, Sweep, factors

Move = o.Reshape | o.Transpose | o.Slice


def scaled(s: Sweep, op: o.Op | None) -> tuple[o.Value, float] | None:
    """(x, number) if `op` is x * number."""
    if isinstance(op, o.Mul):
        for x, other in factors(op):
            number = s.number(other)
            if number is not None and s.shape(op.out) == s.shape(x) and s.array(x) is None:
                return x, number
    return None


def way_back(s: Sweep, value: o.Value) -> list[Move]:
    """The operators with one reader each that moved the elements of `value` to their places, last first."""
    way: list[Move] = []
    while s.is_sole(value):
        producer = s.made_by(value)
        if not isinstance(producer, o.Reshape | o.Transpose | o.Slice):
            break
        way.append(producer)
        value = producer.x
    return way


def moved(s: Sweep, x: o.Value, way: list[Move], like: o.Value) -> o.Value:
    """x moved as `way` says."""
    for move in reversed(way):
        x = s.emit(replace(move, x=x), like)
    return x


def scale_into_layer(s: Sweep, op: o.Op) -> o.Op | None:
    """number * move(layer(x)) = move(number * layer(x)), which the layer absorbs."""
    found = scaled(s, op)
    way = way_back(s, found[0]) if found else []
    if not found or not way or not s.is_sole(way[-1].x):
        return None
    layer = s.made_by(way[-1].x)
    if not isinstance(layer, o.Conv | o.ConvTranspose | o.Linear) or not has_constant_weights(s, layer):
        return None
    scale, (out,) = np.full((), found[1]), o.results(op)
    absorbed = absorb_after(s, layer, Affine(layer.out, scale, np.zeros(())), out)
    return replace(way[0], x=moved(s, s.emit(absorbed, out), way[1:], out), out=out) if absorbed else None


def scale_after_product(s: Sweep, op: o.Op) -> o.Op | None:
    """move(number * a) @ b = number * (move(a) @ b)."""
    if not isinstance(op, o.MatMul):
        return None
    for value, is_left in ((op.a, True), (op.b, False)):
        way = way_back(s, value)
        start = way[-1].x if way else value
        factor = s.made_by(start)
        found = scaled(s, factor) if s.is_sole(start) else None
        if found is None or factor is None:
            continue
        plain = moved(s, found[0], way, op.out)
        product = s.emit(replace(op, a=plain) if is_left else replace(op, b=plain), op.out)
        number = next(name for name in o.operands(factor) if name != found[0])
        return o.Mul(product, s.constant(s.editor.constants[number].reshape(()), number), op.out)
    return None


ATTENTION: tuple[Rule, ...] = (scale_into_layer, scale_after_product)


@dataclass(frozen=True)
class Attention:
    """softmax(scale * scores + biases) applied to v; scores = q @ k.

    `q`, `k`, `v` are the operands of the two products, in the layout that these have: rows of `scores` belong to q,
    columns to k. `output` = probabilities @ v, or v @ probabilities^T if `transposed`. `mask` selects scores by a
    truth value.
    """

    q: o.Value
    k: o.Value
    v: o.Value
    scores: o.Value
    logits: o.Value
    probabilities: o.Value
    output: o.Value
    scale: float
    biases: tuple[o.Value, ...] = ()
    mask: o.Value | None = None
    transposed: bool = False


@dataclass(frozen=True)
class _Scores:
    """What lies between the product of queries and keys and the softmax."""

    product: o.MatMul
    scale: float = 1.0
    biases: tuple[o.Value, ...] = ()
    mask: o.Value | None = None


def find_attention(graph: Graph) -> list[Attention]:
    """Every attention of a simplified graph, in execution order, recognised by its structure alone."""
    found = []
    for op in graph.ops:
        if isinstance(op, o.Softmax):
            scores, product = _scores(graph, op.x), _weighted_sum(graph, op.out)
            if scores is not None and product is not None:
                found.append(_attention(op, scores, *product))
    return found


def _attention(op: o.Softmax, scores: _Scores, product: o.MatMul, on_left: bool) -> Attention:
    return Attention(
        q=scores.product.a,
        k=scores.product.b,
        v=product.b if on_left else product.a,
        scores=scores.product.out,
        logits=op.x,
        probabilities=op.out,
        output=product.out,
        scale=scores.scale,
        biases=scores.biases,
        mask=scores.mask,
        transposed=not on_left,
    )


def _number(graph: Graph, value: o.Value) -> float | None:
    array = graph.constants.get(value)
    return float(array.reshape(-1)[0]) if array is not None and array.size == 1 else None


def _scores(graph: Graph, value: o.Value) -> _Scores | None:
    """The way from the softmax back to the product, or None if there is none."""
    op = graph.producer.get(value)
    match op:
        case o.MatMul() if op.a not in graph.constants and op.b not in graph.constants:
            return _Scores(op)
        case o.Reshape():
            return _scores(graph, op.x)
        case o.Mul():
            for x, other in factors(op):
                number = _number(graph, other)
                inner = _scores(graph, x) if number is not None else None
                if inner is not None and number is not None:
                    return replace(inner, scale=inner.scale * number)
        case o.Add():
            for x, bias in factors(op):
                inner = _scores(graph, x)
                if inner is not None:
                    return replace(inner, biases=(*inner.biases, bias))
        case o.Where():
            for x in (op.a, op.b):
                inner = _scores(graph, x)
                if inner is not None and inner.mask is None:
                    return replace(inner, mask=op.condition)
        case _:
            pass
    return None


def _weighted_sum(graph: Graph, value: o.Value) -> tuple[o.MatMul, bool] | None:
    """The product that the probabilities go into, and whether they are its left operand."""
    reader = graph.sole_consumer(value)
    while isinstance(reader, o.Transpose | o.Reshape):
        value = reader.out
        reader = graph.sole_consumer(value)
    return (reader, reader.a == value) if isinstance(reader, o.MatMul) else None
