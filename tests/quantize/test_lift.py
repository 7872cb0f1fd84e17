"""Lifting takes the worst first, pays no more than the budget, and stops when it is good enough."""

from __future__ import annotations

import pytest

from edgeq.ir import ops as o
from edgeq.ir.cost import macs, total_macs
from edgeq.ir.graph import Graph
from edgeq.quantize.lift import LEAST_SHARE, choose_lifts
from edgeq.quantize.plan import Plan
from edgeq.quantize.sensitivity import Noise
from tests.quantized import JETSON, Net, inputs_of, planned

CLASSES = ("x", "a1", "b1", "c1")
READERS = {"x": "a", "a1": "b", "b1": "c", "c1": "y"}


@pytest.fixture(scope="module")
def chain() -> tuple[Graph, Plan]:
    """Four convolutions of equal cost."""
    net = Net(1, 8, 6, 6)
    value = "x"
    for name in "abc":
        value = net.apply(net.conv(value, 8, name), "relu", f"{name}1")
    graph = net.graph(net.conv(value, 8, "y"))
    _, _, plan = planned(graph, JETSON, inputs_of(graph))
    return graph, plan


def noise(*activations: float, weights: float = 0.0) -> Noise:
    return Noise(dict(zip(CLASSES, activations, strict=True)), dict.fromkeys(READERS.values(), weights))


def lifted(chain: tuple[Graph, Plan], noise: Noise, budget: float, sufficient_db: float = 200.0) -> list[o.Value]:
    return [value for lift in choose_lifts(*chain, noise, budget, sufficient_db) for value in lift.operators]


def test_worst_first(chain: tuple[Graph, Plan]) -> None:
    assert lifted(chain, noise(0.1, 0.4, 0.3, 0.2), 1.0) == ["b", "c", "y", "a"]
    steps = choose_lifts(*chain, noise(0.1, 0.4, 0.3, 0.2), 1.0, 200.0)
    assert [step.noise_share for step in steps] == pytest.approx([0.4, 0.3, 0.2, 0.1])
    assert [step.work_share for step in steps] == pytest.approx([0.25] * 4)


def test_noise_of_weights_counts(chain: tuple[Graph, Plan]) -> None:
    found = Noise(dict.fromkeys(CLASSES, 0.1), {"a": 0.0, "b": 0.0, "c": 0.9, "y": 0.0})
    assert lifted(chain, found, 0.25) == ["c"]


@pytest.mark.parametrize(("budget", "count"), [(0.0, 0), (0.24, 0), (0.25, 1), (0.6, 2), (0.99, 3), (1.0, 4)])
def test_budget(chain: tuple[Graph, Plan], budget: float, count: int) -> None:
    names = lifted(chain, noise(0.1, 0.4, 0.3, 0.2), budget)
    graph = chain[0]
    work = sum(macs(op, graph) for op in graph.ops if o.results(op)[0] in names)
    assert len(names) == count and work <= budget * total_macs(graph)


def test_good_enough(chain: tuple[Graph, Plan]) -> None:
    quiet = noise(1e-6, 4e-3, 1e-6, 1e-6)
    assert lifted(chain, quiet, 1.0, 20.0) == []
    assert lifted(chain, quiet, 1.0, 50.0) == ["b"]
    assert len(lifted(chain, quiet, 1.0, 70.0)) > 1


def test_small_gains_are_left(chain: tuple[Graph, Plan]) -> None:
    even = noise(LEAST_SHARE / 4, 0.5, LEAST_SHARE / 4, LEAST_SHARE / 4, weights=1.0)
    assert lifted(chain, Noise(even.activations, {"b": 50.0}), 0.25) == ["b"]
    assert lifted(chain, noise(0.0, 0.0, 0.0, 0.0), 1.0) == []


def test_all_readers_of_a_class_are_lifted_together() -> None:
    net = Net(1, 8, 6, 6)
    shared = net.apply(net.conv("x", 8, "a"), "relu", "a1")
    graph = net.graph(net.conv(shared, 8, "left"), net.conv(shared, 4, "right"))
    _, _, plan = planned(graph, JETSON, inputs_of(graph))
    found = Noise({"x": 0.01, "a1": 0.5}, {})
    (step, *_) = choose_lifts(graph, plan, found, 1.0, 30.0)
    assert step.operators == ("left", "right") and step.noise_share == pytest.approx(0.5 / 0.51)
    assert choose_lifts(graph, plan, Noise({"a1": 0.5}, {}), 0.4, 30.0) == []
