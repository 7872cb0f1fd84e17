"""Narrow copies: where sums, concatenations, functions or the caller read what convolutions read in few bits; same reals."""

from __future__ import annotations

import numpy as np
import pytest

from edgeq.ir import ops as o
from edgeq.ir.graph import Graph
from edgeq.passes.copies import with_narrow_copies
from edgeq.recipe import Recipe, parse_rule
from tests.quantized import Net, inputs_of, outputs_of


def skip_net() -> Graph:
    """An encoder step: v is pooled and convolved, and concatenated with what comes back."""
    net = Net(1, 4, 8, 8)
    v = net.apply(net.conv("x", 6, "first"), "relu", "v")
    pooled = net.add(o.MaxPool(v, "pooled", (2, 2), (2, 2)))
    deep = net.apply(net.conv(pooled, 6, "deep"), "relu", "deeper")
    grown = net.add(o.Resize(deep, "grown", (8, 8), (2.0, 2.0)))
    joined = net.add(o.Concat((v, grown), "joined", 1))
    return net.graph(net.conv(joined, 3, "y"))


def copied(graph: Graph, *rules: str) -> dict[str, str]:
    """Copy of each value, and its one reader's result."""
    found = with_narrow_copies(graph, Recipe(rules=tuple(map(parse_rule, rules))))
    inputs = inputs_of(graph)
    assert all(np.array_equal(a, b) for a, b in zip(outputs_of(graph, inputs), outputs_of(found, inputs), strict=True))
    return {
        op.x: ",".join(o.results(reader)[0] for reader in found.consumers[op.out])
        for op in found.ops
        if isinstance(op, o.Apply) and op.out.endswith(".narrow")
    }


def test_what_is_moved_belongs_to_its_source() -> None:
    assert copied(skip_net(), "*=w4a4") == {"pooled": "deep"}
    assert copied(skip_net(), "*=w4a8") == {} and copied(skip_net(), "y=w4a4") == {}


@pytest.mark.parametrize("other", ["sum", "function", "output", "norm"])
def test_every_other_reader_counts(other: str) -> None:
    net = Net(1, 4, 5, 5)
    v = net.apply(net.conv("x", 4, "first"), "relu", "v")
    y = net.conv(v, 4, "y")
    outputs = [y]
    if other == "sum":
        outputs = [net.add(o.Add(y, v, "sum"))]
    elif other == "function":
        outputs.append(net.apply(v, "sigmoid", "gate"))
    elif other == "norm":
        outputs.append(net.add(o.Softmax(v, "soft", 1)))
    else:
        outputs.append(v)
    graph = net.graph(*outputs)
    assert copied(graph, "*=w4a4") == {"v": "y"}


def test_readers_of_the_same_bits_share_a_copy() -> None:
    net = Net(1, 4, 5, 5)
    v = net.apply(net.conv("x", 4, "first"), "relu", "v")
    a, b, c = (net.conv(v, 4, name) for name in "abc")
    graph = net.graph(net.add(o.Add(net.add(o.Add(a, b, "ab")), net.add(o.Mul(c, v, "cv")), "y")))
    assert copied(graph, "c=w8a8", "*=w4a4") == {"v": "a,b"}
