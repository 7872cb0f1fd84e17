"""Lifting takes the worst first, pays no more than the budget, and stops when it is good enough."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgeq.ir import ops as o
from edgeq.ir.cost import macs, total_macs
from edgeq.ir.graph import Graph
from edgeq.quantize.lift import LEAST_SHARE, Lift, choose_lifts
from edgeq.quantize.plan import Plan
from edgeq.quantize.sensitivity import Noise
from edgeq.quantize.structure import analyse
from edgeq.target import Target
from tests.quantized import JETSON, ORT, Net, inputs_of, planned, recipe

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


def steps(graph: Graph, plan: Plan, noise: Noise, budget: float, target: Target = JETSON) -> list[Lift]:
    return choose_lifts(graph, plan, noise, replace(target, float_share=budget))


def lifted(chain: tuple[Graph, Plan], noise: Noise, budget: float) -> list[o.Value]:
    return [value for lift in steps(*chain, noise, budget) for value in lift.operators]


def test_worst_first(chain: tuple[Graph, Plan]) -> None:
    wild = noise(0.005, 0.9, 0.075, 0.02)
    assert lifted(chain, wild, 1.0) == ["b", "c", "y", "a"]
    found = steps(*chain, wild, 1.0)
    assert [step.noise_share for step in found] == pytest.approx([0.9, 0.075, 0.02, 0.005])
    assert [step.work_share for step in found] == pytest.approx([0.25] * 4)


def test_noise_of_weights_counts(chain: tuple[Graph, Plan]) -> None:
    found = Noise(dict.fromkeys(CLASSES, 0.01), {"a": 0.0, "b": 0.0, "c": 0.9, "y": 0.0})
    assert lifted(chain, found, 0.25) == ["c"]


@pytest.mark.parametrize(("budget", "count"), [(0.0, 0), (0.24, 0), (0.25, 1), (0.6, 2), (0.99, 3), (1.0, 4)])
def test_budget(chain: tuple[Graph, Plan], budget: float, count: int) -> None:
    names = lifted(chain, noise(0.005, 0.9, 0.075, 0.02), budget)
    graph = chain[0]
    work = sum(macs(op, graph) for op in graph.ops if o.results(op)[0] in names)
    assert len(names) == count and work <= budget * total_macs(graph)


def test_a_step_must_be_worth_its_work(chain: tuple[Graph, Plan]) -> None:
    wild = noise(0.005, 0.9, 0.075, 0.02)
    found = {least: steps(*chain, wild, 1.0, replace(JETSON, least_gain=least)) for least in (0.0, 0.09, 0.2, 4.0)}
    assert {least: len(taken) for least, taken in found.items()} == {0.0: 4, 0.09: 2, 0.2: 2, 4.0: 0}
    quiet = noise(*(1e-2 * power for power in (0.005, 0.9, 0.075, 0.02)))
    assert len(steps(*chain, quiet, 1.0, replace(JETSON, least_gain=0.09))) == 0


def test_small_gains_are_left(chain: tuple[Graph, Plan]) -> None:
    even = noise(LEAST_SHARE / 4, 0.5, LEAST_SHARE / 4, LEAST_SHARE / 4)
    assert lifted(chain, Noise(even.activations, {"b": 50.0}), 0.25) == ["b"]
    assert lifted(chain, noise(0.0, 0.0, 0.0, 0.0), 1.0) == []


def test_all_readers_of_a_class_are_lifted_together() -> None:
    net = Net(1, 8, 6, 6)
    shared = net.apply(net.conv("x", 8, "a"), "relu", "a1")
    graph = net.graph(net.conv(shared, 8, "left"), net.conv(shared, 4, "right"))
    _, _, plan = planned(graph, JETSON, inputs_of(graph))
    found = Noise({"x": 0.01, "a1": 0.5}, {})
    (step, *_) = steps(graph, plan, found, 1.0)
    assert step.operators == ("left", "right") and step.noise_share == pytest.approx(0.5 / 0.51)
    assert steps(graph, plan, Noise({"a1": 0.5}, {}), 0.4) == []


@pytest.fixture(scope="module")
def waiting() -> tuple[Graph, Plan]:
    """A small product behind a large 3x3 convolution, then a 1x1 convolution and another large one."""
    net = Net(1, 8, 8, 8)
    first = net.apply(net.conv("x", 16, "large"), "relu", "large1")
    second = net.apply(net.conv(first, 8, "small", kernel=1), "relu", "small1")
    third = net.apply(net.conv(second, 16, "product", kernel=1), "relu", "product1")
    graph = net.graph(net.conv(third, 8, "last"))
    _, _, plan = planned(graph, ORT, inputs_of(graph))
    return graph, plan


def test_what_loses_its_integer_kernel_is_lifted_and_paid_too(waiting: tuple[Graph, Plan]) -> None:
    graph, plan = waiting
    found = Noise({"large1": 0.9}, {"large": 0.05})
    quick = replace(ORT, conversion_macs=0)
    (step,) = steps(graph, plan, found, 1.0, quick)
    assert step.operators == ("large", "small") and step.noise_share == pytest.approx(1.0)
    work = {o.results(op)[0]: macs(op, graph) / total_macs(graph) for op in graph.ops}
    assert step.work_share == pytest.approx(work["large"] + work["small"])
    assert steps(graph, plan, found, work["small"] + 0.01, quick) == []
    (alone,) = steps(graph, plan, Noise({"large1": 0.9}, {"large": 0.0}), work["small"] + 0.01, JETSON)
    assert alone.operators == ("small",)  # TensorRT's integer kernels give reals
    (product,) = steps(graph, plan, Noise({"small1": 0.9}, {}), 1.0, quick)
    assert product.operators == ("product",)  # a 1x1 convolution has an integer kernel that gives reals


def test_the_closure_holds_what_the_runtime_computes_in_float(waiting: tuple[Graph, Plan]) -> None:
    graph, plan = waiting
    (step,) = steps(graph, plan, Noise({"large1": 0.9}, {"large": 0.05}), 1.0, replace(ORT, conversion_macs=0))
    after = analyse(graph, ORT, recipe(*step.operators))
    convolutions = {op.out for op in graph.ops if isinstance(op, o.Conv)}
    assert convolutions & after.integer == {"product", "last"}


def test_conversions_cost(waiting: tuple[Graph, Plan]) -> None:
    graph, plan = waiting
    sizes = {value: type_.size for value, type_ in graph.types.items()}

    def shares(noise: Noise, macs_each: int) -> list[float]:
        return [step.work_share for step in steps(graph, plan, noise, 1.0, replace(ORT, conversion_macs=macs_each))]

    inner = Noise({"small1": 0.9}, {})  # its product takes reals from the one before, which gives them
    (free,), (paid,) = shares(inner, 0), shares(inner, 1)
    assert (paid - free) * total_macs(graph) == pytest.approx(sizes["product1"])
    whole = Noise({"large1": 0.9}, {"large": 0.05})  # from the input on: the input is not rounded any more
    (free,), (paid,) = shares(whole, 0), shares(whole, 1)
    assert (paid - free) * total_macs(graph) == pytest.approx(sizes["small1"] - sizes["x"])
