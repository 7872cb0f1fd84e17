"""Units are disjoint regions with one way in and one way out."""

from __future__ import annotations

from edgeq.ir import ops as o
from edgeq.ir.graph import Graph
from edgeq.quantize.columns import Weighted
from edgeq.quantize.units import units
from tests.calibrate.small_net import small_net
from tests.residual_net import residual_net


def learned(graph: Graph) -> set[o.Value]:
    return {op.out for op in graph.ops if isinstance(op, Weighted)}


def check(graph: Graph, layers: int) -> None:
    found = units(graph, learned(graph), layers)
    seen: set[o.Op] = set()
    for first, unit in found.items():
        assert first is unit.ops[0]
        assert seen.isdisjoint(unit.ops)
        seen.update(unit.ops)
        made = {v for op in unit.ops for v in o.results(op)}
        read = {v for op in unit.ops for v in o.operands(op)} - made - set(graph.constants)
        assert read == {unit.entry}
        outside = {v for op in graph.ops if op not in unit.ops for v in o.operands(op)} | set(graph.outputs)
        assert made & outside <= set(unit.exits)
        assert len(unit.exits) == 1
    assert learned(graph) <= {v for op in seen for v in o.results(op)}


def test_regions_of_the_test_networks() -> None:
    for graph in (residual_net(), small_net()):
        for layers in (1, 2, 4, 8):
            check(graph, layers)


def test_a_residual_block_is_one_unit() -> None:
    found = units(small_net(), learned(small_net()), 2)
    assert any({op.out for op in unit.ops if isinstance(op, Weighted)} >= {"pre", "mid"} for unit in found.values())
    assert len(units(small_net(), learned(small_net()), 9)) == 1
