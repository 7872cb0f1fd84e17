"""Joint layers come apart, with the same function and without copies."""

from __future__ import annotations

import numpy as np
import pytest

from edgeq.frontend.model import open_model
from edgeq.ir import ops as o
from edgeq.ir.graph import Graph
from edgeq.ir.verify import verify
from edgeq.passes.attention import find_attention
from edgeq.passes.separate import separate
from edgeq.passes.simplify import simplify
from tests.c_nets import small_transformer
from tests.quantized import Net, inputs_of, outputs_of


def assert_same(graph: Graph, found: Graph) -> None:
    verify(found)
    assert found.outputs == graph.outputs
    inputs = inputs_of(graph)
    for wanted, values in zip(outputs_of(graph, inputs), outputs_of(found, inputs), strict=True):
        np.testing.assert_allclose(values, wanted, rtol=1e-4, atol=1e-4 * float(np.abs(wanted).max()))


def count(graph: Graph, kind: type[o.Op]) -> int:
    return sum(isinstance(op, kind) for op in graph.ops)


@pytest.mark.parametrize("name", ["small", "zoo"])
def test_queries_keys_and_values_get_layers_of_their_own(name: str) -> None:
    graph = simplify(small_transformer() if name == "small" else open_model("zoo:classifier").graph)
    found = separate(graph)
    assert_same(graph, found)
    blocks = len(find_attention(graph))
    assert count(found, o.Linear) == count(graph, o.Linear) + 2 * blocks and count(found, o.Mul) == 0
    assert count(graph, o.Slice) - count(found, o.Slice) == 3 * blocks
    assert len(find_attention(found)) == blocks and all(a.scale == 1.0 for a in find_attention(found))


def test_a_layer_that_is_also_read_whole_stays() -> None:
    net = Net(1, 5, 8)
    joint = net.linear("x", 12, "joint")
    cut = net.add(o.Slice(joint, "cut", (0, 0, 4), (1, 5, 8), (1, 1, 1)))
    graph = net.graph(net.add(o.Apply(joint, "whole", o.Function("relu"))), net.linear(cut, 3, "y"))
    assert separate(graph).ops == graph.ops


def test_cuts_that_do_not_follow_the_channels_stay() -> None:
    net = Net(1, 6, 8)
    joint = net.linear("x", 12, "joint")
    tokens = net.add(o.Slice(joint, "tokens", (0, 1, 0), (1, 3, 12), (1, 1, 1)))
    split = net.add(o.Reshape(net.linear("x", 12, "other"), "split", (1, 6, 4, 3)))
    inner = net.add(o.Slice(split, "inner", (0, 0, 0, 1), (1, 6, 4, 2), (1, 1, 1, 1)))
    graph = net.graph(net.linear(tokens, 3, "y"), inner)
    assert separate(graph).ops == graph.ops


def test_overlapping_cuts_of_channels() -> None:
    net = Net(2, 6, 8)
    joint = net.linear("x", 12, "joint")
    cuts = [net.add(o.Slice(joint, f"c{a}", (0, 0, a), (2, 6, a + 6), (1, 1, 1))) for a in (0, 3, 6)]
    graph = net.graph(*cuts)
    found = separate(graph)
    assert_same(graph, found)
    assert count(found, o.Linear) == 3 and count(found, o.Slice) == 0
