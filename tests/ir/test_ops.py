"""Operators as data: their operands, results and attributes, and renaming, for every one of them."""

from __future__ import annotations

from dataclasses import fields

from hypothesis import HealthCheck, given, settings

from edgeq.ir import ops as o
from edgeq.ir.graph import Graph
from edgeq.ir.text import attribute_fields, operand_fields, result_fields
from tests.nets import integer_graphs
from tests.real_nets import real_graphs


def test_every_field_is_operand_result_or_attribute() -> None:
    for kind in o.OPS:
        parts = [*operand_fields(kind), *result_fields(kind), *attribute_fields(kind)]
        assert sorted(parts) == sorted(field.name for field in fields(kind))
        assert result_fields(kind)


def test_a_missing_operand_is_left_out() -> None:
    op = o.Conv("x", "w", None, "y")
    assert (o.operands(op), o.results(op)) == (("x", "w"), ("y",))
    assert o.attributes(op) == {"stride": (1, 1), "padding": (0, 0, 0, 0), "dilation": (1, 1), "groups": 1}


def test_several_operands_and_results() -> None:
    assert o.operands(o.Concat(("a", "b", "a"), "y", 1)) == ("a", "b", "a")
    assert o.results(o.TopK("x", "best", "where", 1, 0)) == ("best", "where")


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(integer_graphs() | real_graphs())
def test_renaming_changes_names_and_nothing_else(graph: Graph) -> None:
    for op in graph.ops:
        both = o.rename(op, lambda name: f"{name}'")
        assert o.operands(both) == tuple(f"{name}'" for name in o.operands(op))
        assert o.results(both) == tuple(f"{name}'" for name in o.results(op))
        assert o.attributes(both) == o.attributes(op)
        halves = o.rename(
            o.rename(op, lambda name: f"{name}'", where="operands"), lambda name: f"{name}'", where="results"
        )
        assert halves == both
        assert o.rename(both, lambda name: name[:-1]) == op
