"""Splitting silu and hardswish keeps the function and touches nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from edgeq.ir import ops as o
from edgeq.ir.verify import verify
from edgeq.passes.decompose import decompose
from tests.quantized import Net, inputs_of, outputs_of


@pytest.mark.parametrize(("name", "gate"), [("silu", "sigmoid"), ("hardswish", "hardsigmoid")])
def test_product_of_a_gate(name: o.FunctionName, gate: str) -> None:
    net = Net(1, 4, 30, 30)
    scaled = net.add(o.Mul("x", net.constant(4.0), "scaled"))
    graph = net.graph(net.apply(scaled, name, "y"), net.apply("x", "relu", "z"))
    split = decompose(graph, ("silu", "hardswish"))
    verify(split)
    kinds = [op.function.name if isinstance(op, o.Apply) else type(op).__name__ for op in split.ops]
    assert kinds == ["Mul", gate, "Mul", "relu"] and split.outputs == graph.outputs
    for ours, theirs in zip(outputs_of(split, inputs_of(graph)), outputs_of(graph, inputs_of(graph)), strict=True):
        assert len(np.unique(theirs)) > 500
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_only_the_functions_asked_for() -> None:
    net = Net(1, 4, 3, 3)
    graph = net.graph(net.apply(net.apply("x", "silu", "a"), "gelu", "y"))
    others: tuple[tuple[o.FunctionName, ...], ...] = ((), ("hardswish",), ("gelu",))
    for functions in others:
        assert decompose(graph, functions).ops == graph.ops
