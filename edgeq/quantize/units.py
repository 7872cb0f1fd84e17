"""Units of reconstruction: regions of the graph that one value enters and one value leaves.

A residual block is such a region, and so is a chain of layers. They are found on the graph itself, by post-dominators:
the exits reachable from an entry are the operators that every path from it must pass. The largest region with few
enough weighted operators becomes a unit; where there is none, as between the branches of a neck, a layer stands alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from edgeq.ir import ops as o
from edgeq.ir.graph import Graph

LAYERS = 6
"""Most weighted operators in a unit: a transformer block has four, the C3 block of a detector five."""


@dataclass(frozen=True)
class Unit:
    """`ops` in execution order; they read `entry` and constants, and only `exits` are read outside."""

    entry: o.Value
    exits: tuple[o.Value, ...]
    ops: tuple[o.Op, ...]


def units(graph: Graph, learned: Collection[o.Value], layers: int = LAYERS) -> dict[o.Op, Unit]:
    """Disjoint units that hold all operators with results in `learned` where possible, by their first operator."""
    finder = _Finder(graph, learned, layers)
    covered: set[o.Op] = set()
    found: dict[o.Op, Unit] = {}
    for op in graph.ops:
        if op in covered or o.results(op)[0] not in learned:
            continue
        unit = finder.best(o.operands(op)[0], op, covered) or finder.alone(op, covered)
        if unit is not None:
            covered.update(unit.ops)
            found[unit.ops[0]] = unit
    return found


class _Finder:
    def __init__(self, graph: Graph, learned: Collection[o.Value], layers: int) -> None:
        self.graph, self.learned, self.layers = graph, learned, layers
        self.order = {op: index for index, op in enumerate(graph.ops)}
        self.next = self._post_dominators()

    def _post_dominators(self) -> list[int]:
        """For each operator the first that every path from it to the outputs passes; len(ops) stands for the end."""
        end = len(self.graph.ops)
        following = [end] * (end + 1)
        for index in range(end - 1, -1, -1):
            following[index] = self._meet(o.results(self.graph.ops[index]), following)
        return following

    def _meet(self, values: tuple[o.Value, ...], following: list[int]) -> int:
        """The nearest common post-dominator of everything that reads `values`."""
        end = len(self.graph.ops)
        if any(value in self.graph.outputs for value in values):
            return end
        readers = [self.order[op] for value in values for op in self.graph.consumers.get(value, ())]
        while len(set(readers)) > 1:
            lowest = min(readers)
            readers = [following[index] if index == lowest else index for index in readers]
        return readers[0] if readers else end

    def _exits(self, entry: o.Value) -> Iterator[int]:
        index = self._meet((entry,), self.next)
        while index < len(self.graph.ops):
            yield index
            index = self.next[index]

    def _region(self, entry: o.Value, last: int) -> tuple[o.Op, ...] | None:
        """The operators between `entry` and the operator `last`; None if anything else enters or leaves."""
        wanted: dict[o.Op, None] = {}
        front = [self.graph.ops[last]]
        while front:
            op = front.pop()
            if op in wanted:
                continue
            wanted[op] = None
            for value in o.operands(op):
                if value == entry or value in self.graph.constants:
                    continue
                maker = self.graph.producer.get(value)
                if maker is None or len(wanted) > 64 * self.layers:
                    return None
                front.append(maker)
        exit_ = self.graph.ops[last]
        leaving = {v for op in wanted if op is not exit_ for v in o.results(op)}
        if any(
            v in self.graph.outputs or any(r not in wanted for r in self.graph.consumers.get(v, ())) for v in leaving
        ):
            return None
        return tuple(sorted(wanted, key=self.order.__getitem__))

    def _weighted(self, ops: tuple[o.Op, ...]) -> int:
        return sum(o.results(op)[0] in self.learned for op in ops)

    def best(self, entry: o.Value, op: o.Op, covered: set[o.Op]) -> Unit | None:
        """The largest region from `entry` that holds `op`, or None."""
        best = None
        for last in self._exits(entry):
            ops = self._region(entry, last)
            if ops is None or len(o.results(self.graph.ops[last])) != 1:
                continue
            if self._weighted(ops) > self.layers or not covered.isdisjoint(ops):
                break
            if op in ops:
                best = Unit(entry, o.results(self.graph.ops[last]), ops)
        return best

    def alone(self, op: o.Op, covered: set[o.Op]) -> Unit:
        """`op` and what follows it before the next weighted operator."""
        (out, *_) = o.results(op)
        unit = Unit(o.operands(op)[0], (out,), (op,))
        for last in self._exits(out):
            ops = self._region(out, last)
            if ops is None or self._weighted(ops) or not covered.isdisjoint(ops):
                break
            if len(o.results(self.graph.ops[last])) == 1:
                unit = Unit(unit.entry, o.results(self.graph.ops[last]), (op, *ops))
        return unit
