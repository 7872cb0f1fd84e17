"""The reference interpreter against nested loops over Python integers, on random lowered graphs in every format."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from edgeq.ir import ops as o
from edgeq.ir.graph import Array, Graph
from edgeq.reference.interpret import run
from tests.draws import random_inputs
from tests.nets import integer_graphs
from tests.plain_graph import Number, evaluate


def plainly(graph: Graph, inputs: dict[o.Value, Array]) -> dict[o.Value, list[Number]]:
    return evaluate(graph, {name: list(map(Fraction, array.reshape(-1).tolist())) for name, array in inputs.items()})


def numbers(tensor: Tensor) -> list[Number]:
    return [Fraction(x) for x in tensor.reshape(-1).tolist()]


def test_every_value_of_random_graphs() -> None:
    distinct: list[int] = []

    @settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
    @given(integer_graphs(), st.integers(0, 1000))
    def check(graph: Graph, seed: int) -> None:
        inputs = random_inputs(graph, seed)
        expected = plainly(graph, inputs)
        seen: dict[o.Value, Tensor] = {}
        run(graph, inputs, seen.__setitem__)
        for op in graph.ops:
            for name in o.results(op):
                assert numbers(seen[name]) == expected[name], f"{type(op).__name__} {name!r}"
                assert tuple(seen[name].shape) == graph.types[name].shape
                distinct.append(len(set(expected[name])))

    check()
    assert sum(count >= 4 for count in distinct) > len(distinct) // 3
    assert max(distinct) > 50
