"""Keeping the few most disturbed operators in float, where the runtime can mix: the most noise for the least work.

A class of values stops being rounded when every weighted operator that reads it is lifted, or, where nothing weighted
reads it, the one that computes it. Lifting goes on while it removes a worthwhile share of the noise and the lifted
work stays within the budget.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgeq.ir import ops as o
from edgeq.ir.cost import macs, total_macs
from edgeq.ir.graph import Graph
from edgeq.quantize.plan import Plan
from edgeq.quantize.sensitivity import Noise
from edgeq.quantize.structure import Structure, accumulates, is_weighted

LEAST_SHARE = 0.03
"""A step must remove at least this share of the noise that is left."""


@dataclass(frozen=True)
class Lift:
    """One step: the results of the lifted operators, the share of noise it removes and of the work it costs."""

    operators: tuple[o.Value, ...]
    noise_share: float
    work_share: float


def choose_lifts(graph: Graph, plan: Plan, noise: Noise, budget: float, sufficient_db: float) -> list[Lift]:
    """Steps that keep at most `budget` (a share) of the multiply-accumulates in float, the best bargain first.

    They end once the noise that is left lies `sufficient_db` below the signal.
    """
    groups = {key: _operators_of(plan.structure, key) for key in noise.activations}
    work = {o.results(op)[0]: macs(op, graph) for op in graph.ops if is_weighted(op)}
    total = max(total_macs(graph), 1)
    lifted: set[o.Value] = set()
    chosen: list[Lift] = []
    left, initial, spent = noise.total, max(noise.total, 1e-300), 0
    while left > 10 ** (-sufficient_db / 10):
        best: tuple[float, frozenset[o.Value], float, int] | None = None
        for group in groups.values():
            fresh = group - lifted
            if not fresh:
                continue
            gain = _removed(groups, noise, lifted | group) - _removed(groups, noise, lifted)
            cost = sum(work.get(value, 0) for value in fresh)
            if gain < LEAST_SHARE * left or spent + cost > budget * total:
                continue
            if best is None or gain / max(cost, 1) > best[0]:
                best = (gain / max(cost, 1), fresh, gain, cost)
        if best is None:
            break
        _, fresh, gain, cost = best
        lifted |= fresh
        left, spent = left - gain, spent + cost
        chosen.append(Lift(tuple(sorted(fresh)), gain / initial, cost / total))
    return chosen


def _removed(groups: dict[o.Value, frozenset[o.Value]], noise: Noise, lifted: set[o.Value]) -> float:
    freed = sum(noise.activations[key] for key, group in groups.items() if group and group <= lifted)
    return freed + sum(noise.weights.get(value, 0.0) for value in lifted)


def _operators_of(structure: Structure, key: o.Value) -> frozenset[o.Value]:
    """Results of the operators whose lifting frees the class `key` from rounding."""
    graph, members = structure.graph, structure.members[key]
    readers = {
        o.results(op)[0]
        for value in members
        for op in graph.consumers.get(value, ())
        if is_weighted(op) and structure.runs_on_codes(op)
    }
    if readers:
        return frozenset(readers)
    makers = {o.results(_maker(structure, value))[0] for value in members if _maker(structure, value) is not None}  # type: ignore[arg-type]
    return frozenset(makers)


def _maker(structure: Structure, value: o.Value) -> o.Op | None:
    """The weighted operator that computes `value`, directly or through element-wise functions of it alone."""
    op = structure.graph.producer.get(value)
    while op is not None and not is_weighted(op):
        if not (isinstance(op, o.Apply) or (accumulates(op) and isinstance(op, o.Mul))):
            return None
        op = structure.graph.producer.get(o.operands(op)[0])
    return op if op is not None and structure.runs_on_codes(op) else None
