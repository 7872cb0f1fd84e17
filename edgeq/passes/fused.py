"""What one kernel computes together because memory has no room for the values in between.

Attention: scores, their softmax and the product with the values, row by row, so that no matrix of scores is ever
stored. A layer that joins a residual stream: its sums are added to the stream's 16-bit codes before any rounding to
codes of its own.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from edgeq.ir import ops as o
from edgeq.ir.graph import Graph


@dataclass(frozen=True)
class Scoring:
    """How the left operand of a matrix product comes about: shares = softmax(requantize(scores))."""

    scores: o.MatMul
    requantize: o.Requantize
    softmax: o.Softmax


@dataclass(frozen=True)
class Joining:
    """A layer whose sums, requantized to the unit of an addition, are one operand of it."""

    layer: o.Linear
    requantize: o.Requantize


@dataclass(frozen=True)
class Fused:
    """`scorings` by the matrix product that reads the shares, `joinings` by the addition (both by the name of their result).

    `inside` are the results that no kernel of its own computes.
    """

    scorings: dict[o.Value, Scoring] = field(default_factory=dict)
    joinings: dict[o.Value, Joining] = field(default_factory=dict)

    @property
    def inside(self) -> frozenset[o.Value]:
        """Results that no kernel of its own computes."""
        scored = (op for s in self.scorings.values() for op in (s.scores, s.requantize, s.softmax))
        joined = (op for j in self.joinings.values() for op in (j.layer, j.requantize))
        return frozenset(op.out for op in (*scored, *joined))


def find_fused(graph: Graph, kept: Collection[o.Value]) -> Fused:
    """What can be computed together in a lowered graph; `kept` are values that somebody outside wants."""
    found = Fused()
    for op in graph.ops:
        if isinstance(op, o.MatMul) and (scoring := _scoring(graph, op, kept)):
            found.scorings[op.out] = scoring
        elif isinstance(op, o.Add) and (joining := _joining(graph, op, kept)):
            found.joinings[op.out] = joining
    return found


def _sole_maker(graph: Graph, value: o.Value, kept: Collection[o.Value]) -> o.Op | None:
    """The operator that computes `value`, if one operator alone reads it."""
    is_sole = len(graph.consumers.get(value, ())) == 1 and value not in kept and value not in graph.outputs
    return graph.producer.get(value) if is_sole else None


def _scoring(graph: Graph, op: o.MatMul, kept: Collection[o.Value]) -> Scoring | None:
    softmax = _sole_maker(graph, op.a, kept)
    if not isinstance(softmax, o.Softmax) or softmax.axis != len(graph.types[softmax.x].shape) - 1:
        return None
    requantize = _sole_maker(graph, softmax.x, kept)
    if not isinstance(requantize, o.Requantize) or not graph.types[op.a].scale:
        return None
    scores = _sole_maker(graph, requantize.x, kept)
    if not isinstance(scores, o.MatMul) or not _same_batch(graph, scores, op):
        return None
    return Scoring(scores, requantize, softmax)


def _same_batch(graph: Graph, scores: o.MatMul, op: o.MatMul) -> bool:
    """Whether queries, keys and values have the same leading axes, so that heads follow one another in each."""
    return len({graph.types[value].shape[:-2] for value in (scores.a, scores.b, op.b)}) == 1


def _joining(graph: Graph, op: o.Add, kept: Collection[o.Value]) -> Joining | None:
    shapes = {graph.types[value].shape for value in (op.a, op.b, op.out)}
    for value in (op.b, op.a):
        requantize = _sole_maker(graph, value, kept)
        layer = _sole_maker(graph, requantize.x, kept) if isinstance(requantize, o.Requantize) else None
        if isinstance(requantize, o.Requantize) and isinstance(layer, o.Linear) and len(shapes) == 1:
            return Joining(layer, requantize)
    return None
