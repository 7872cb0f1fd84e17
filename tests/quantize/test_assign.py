"""The plan gives one float32 scale to every value of a class, one per channel to weights, and exact zeros."""

from __future__ import annotations

import numpy as np
import pytest

from edgeq.formats import INT8, INT16, UINT8, encode
from edgeq.ir import ops as o
from edgeq.quantize.assign import assign, constant_range
from edgeq.quantize.structure import analyse
from edgeq.recipe import Recipe
from edgeq.target import Target
from tests.quantized import TARGETS, Net, inputs_of, planned


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_plan_of_a_network(target: Target) -> None:
    net = Net(1, 6, 8, 8)
    hidden = net.apply(net.conv("x", 8, "hidden"), "silu", "active")
    scaled = net.add(o.Mul(hidden, net.reals(8, 1, 1), "scaled"))
    graph = net.graph(net.conv(scaled, 4, "y"))
    graph, structure, plan = planned(graph, target, inputs_of(graph))
    assert plan.types.keys() == structure.key.keys() and len(plan.types) >= 5
    for value, type_ in plan.types.items():
        assert type_.shape == graph.types[value].shape
        assert type_.scale == (float(np.float32(type_.scale[0])),) and type_.scale[0] > 0
        assert type_.scale == plan.types[structure.key[value]].scale
    assert {name: len(type_.scale) for name, type_ in plan.weights.items()} == {"hidden": 8, "y": 4}
    convolutions = [op for op in graph.ops if isinstance(op, o.Conv) and op.bias]
    assert len(convolutions) == len(plan.biases) == 2
    for op in convolutions:
        assert op.bias is not None
        scale = plan.types[op.x].scale[0] * np.array(plan.weights[op.out].scale)
        levels, exact = plan.biases[op.out].astype(np.float64), graph.constants[op.bias].astype(np.float64)
        assert np.abs(levels * scale - exact).max() <= float(scale.max()) / 2 * 1.001


@pytest.mark.parametrize("content", [[-1.0, 3.0], [2.0, 5.0], [-4.0, -1.0], [0.0], [1e-30], [7.0]])
def test_constants_fit_and_zero_is_exact(content: list[float]) -> None:
    array = np.array(content, np.float32)
    for format, symmetric in ((INT8, True), (INT16, True), (UINT8, False)):
        scale, zero_point = constant_range(array, format, symmetric=symmetric)
        assert format.low <= zero_point <= format.high and (zero_point == 0 or not symmetric)
        levels = encode(format, array.astype(float) / scale, zero_point) - zero_point
        assert np.abs(levels * scale - array).max() <= scale * 0.5001 + 1e-9


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_sums_keep_away_from_ties(target: Target) -> None:
    """Beside a zero the other operand is requantized alone: at 1.5 steps of the result each second code were a tie."""
    net = Net(1, 6, 8, 8)
    left, right = net.apply(net.conv("x", 8, "left"), "relu", "l"), net.apply(net.conv("x", 8, "right"), "relu", "r")
    total = net.apply(net.add(o.Add(left, right, "sum")), "relu", "total")
    graph = net.graph(net.conv(total, 4, "y"))
    structure = analyse(graph, target, Recipe())
    ranges = dict.fromkeys(structure.members.keys() - structure.fixed.keys(), (0.5, 0))
    ranges |= {structure.key["l"]: (1.5, 0), structure.key["r"]: (0.75, 0)}
    plan = assign(structure, ranges, target)
    ratios = [plan.types[value].scale[0] / plan.types["total"].scale[0] for value in ("l", "r")]
    assert ratios == pytest.approx([3.0, 1.5], rel=0.01)
    codes = np.arange(1, 256)
    assert min(np.abs(codes * ratio - np.floor(codes * ratio) - 0.5).min() for ratio in ratios) > 1e-5
