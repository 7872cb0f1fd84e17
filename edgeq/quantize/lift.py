"""Keeping the few most disturbed operators in float, where the runtime can mix: the most noise for the least work.

A class of values stops being rounded when every weighted operator that reads it is lifted, or, where nothing weighted
reads it, the one that computes it. What a step costs is what the runtime then pays: the lifted work, that of operators
which have no integer kernel any more because nobody rounds their result (they are lifted too, as it costs nothing
further), and the conversions between codes and reals. Lifting goes on while a step removes enough noise for its cost
and the cost stays within the budget.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from edgeq.ir import ops as o
from edgeq.ir.cost import macs, total_macs
from edgeq.ir.graph import Graph
from edgeq.quantize.integer_part import integer_part, read_as_codes
from edgeq.quantize.operators import accumulates, is_matrix_product, is_weighted
from edgeq.quantize.plan import Plan
from edgeq.quantize.sensitivity import Noise
from edgeq.quantize.structure import Structure
from edgeq.target import Target

LEAST_SHARE = 0.03
"""A step must remove at least this share of the noise that is left."""
Values = frozenset[o.Value]


@dataclass(frozen=True)
class Lift:
    """One step: the results of the lifted operators, the share of noise it removes and of the work it costs."""

    operators: tuple[o.Value, ...]
    noise_share: float
    work_share: float


@dataclass(frozen=True)
class _Step:
    lifted: Values
    gain: float
    cost: float


def choose_lifts(graph: Graph, plan: Plan, noise: Noise, target: Target) -> list[Lift]:
    """Steps that cost at most `target.float_share` of the multiply-accumulates, the best bargain first."""
    costs, total = _Costs(graph, plan.structure.integer, target), max(total_macs(graph), 1)
    groups = {key: _operators_of(plan.structure, key) for key in noise.activations}
    now, left, chosen = _Step(frozenset(), 0.0, 0.0), noise.total, list[Lift]()
    while left > 0.0:
        steps = (
            _step(costs, groups, noise, now, group) for group in dict.fromkeys(groups.values()) if group - now.lifted
        )
        bargains = [step for step in steps if _pays(step, now, left, total, target)]
        if not bargains:
            break
        best = max(bargains, key=lambda step: step.gain / max(step.cost - now.cost, 1.0))
        fresh = tuple(sorted(best.lifted - now.lifted))
        chosen.append(Lift(fresh, best.gain / noise.total, (best.cost - now.cost) / total))
        now, left = best, left - best.gain
    return chosen


def _step(costs: _Costs, groups: Mapping[o.Value, Values], noise: Noise, now: _Step, group: Values) -> _Step:
    lifted = costs.closure(now.lifted | group)
    return _Step(lifted, _removed(groups, noise, lifted) - _removed(groups, noise, now.lifted), costs.of(lifted))


def _pays(step: _Step, now: _Step, left: float, total: int, target: Target) -> bool:
    least = max(LEAST_SHARE * left, target.least_gain * (step.cost - now.cost) / total)
    return step.gain >= least and step.cost <= target.float_share * total


@dataclass(frozen=True)
class _Costs:
    """What a runtime pays for operators in float, in multiply-accumulates; `integer` are those on codes without lifts."""

    graph: Graph
    integer: Values
    target: Target

    @cached_property
    def work(self) -> dict[o.Value, int]:
        """Multiply-accumulates of each weighted operator by its result."""
        return {o.results(op)[0]: macs(op, self.graph) for op in self.graph.ops if is_weighted(op)}

    @cached_property
    def _stuck_anyway(self) -> Values:
        return self._stuck(self.integer)

    @cached_property
    def _conversions_anyway(self) -> int:
        return self._conversions(self.integer)

    def closure(self, lifted: Values) -> Values:
        """`lifted` and the operators that run in float because of it."""
        while fresh := self._stuck(self._integer_without(lifted)) - self._stuck_anyway - lifted:
            lifted = lifted | fresh
        return lifted

    def of(self, lifted: Values) -> float:
        """The cost of `lifted`, which is a closure."""
        conversions = self._conversions(self._integer_without(lifted)) - self._conversions_anyway
        return sum(self.work.get(value, 0) for value in lifted) + self.target.conversion_macs * conversions

    @cached_property
    def _parts(self) -> dict[Values, Values]:
        return {}

    def _integer_without(self, lifted: Values) -> Values:
        if lifted not in self._parts:
            self._parts[lifted] = integer_part(self.graph, self.target, self.integer - lifted)
        return self._parts[lifted]

    def _stuck(self, integer: Values) -> Values:
        """Operators on codes whose result nobody rounds, though their kernel can only give codes."""
        if self.target.real_results:
            return frozenset()
        return frozenset(
            result
            for op in self.graph.ops
            if (result := o.results(op)[0]) in integer and is_weighted(op)
            if not is_matrix_product(op, self.graph) and not read_as_codes(op, self.graph, integer)
        )

    def _conversions(self, integer: Values) -> int:
        """Elements that are read as codes, and are computed as reals or read as reals too."""
        if not self.target.conversion_macs:
            return 0
        found = 0
        for value, readers in self.graph.consumers.items():
            on_codes = {o.results(reader)[0] in integer for reader in readers}
            mixed = True in on_codes and (value not in integer or False in on_codes)
            found += self.graph.types[value].size if mixed and value not in self.graph.constants else 0
        return found


def _removed(groups: Mapping[o.Value, Values], noise: Noise, lifted: Values) -> float:
    freed = sum(noise.activations[key] for key, group in groups.items() if group and group <= lifted)
    return freed + sum(noise.weights.get(value, 0.0) for value in lifted)


def _operators_of(structure: Structure, key: o.Value) -> Values:
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
