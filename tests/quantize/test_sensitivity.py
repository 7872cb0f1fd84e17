"""The predicted noise of each rounding beside the noise that it makes when it is the only one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgeq.ir import ops as o
from edgeq.ir.graph import Graph
from edgeq.quantize.plan import Plan
from edgeq.quantize.scale import dequantize_weight, quantize_weight
from edgeq.quantize.sensitivity import Noise, integer_outputs, measure_noise
from edgeq.reference.interpret import Interpreter
from tests.quantized import JETSON, Net, inputs_of, planned


def chain() -> Graph:
    """Four convolutions; one channel of `b1` is so loud that eight bits are coarse for the others."""
    net = Net(1, 6, 12, 12)
    a = net.apply(net.conv("x", 8, "a"), "relu", "a1")
    loud = net.add(o.Mul(net.conv(a, 8, "b"), net.constant([[[10.0]]] + [[[0.3]]] * 7), "b1"))
    c = net.apply(net.conv(loud, 8, "c"), "silu", "c1")
    return net.graph(net.conv(c, 5, "y"))


SAMPLES = 12


@pytest.fixture(scope="module")
def measured() -> tuple[Graph, Plan, Noise]:
    graph, _, plan = planned(chain(), JETSON, inputs_of(chain()))
    return graph, plan, measure_noise(graph, plan, [inputs_of(graph, seed) for seed in range(SAMPLES)])


def noise_of(graph: Graph, plan: Plan, value: o.Value | None, weight: o.Value | None = None) -> float:
    """Output noise over signal when `value` alone is rounded, or `weight` alone."""
    powers = []
    for seed in range(SAMPLES):
        exact, rounded = Interpreter(graph), Interpreter(graph)
        if weight is not None:
            reader = next(o.results(op)[0] for op in graph.ops if weight in o.operands(op))
            type_ = plan.weights[reader]
            levels = dequantize_weight(quantize_weight(graph.constants[weight], type_), type_)
            rounded.constants[weight] = torch.from_numpy(levels.astype(np.float32))

        def replace(name: o.Value, tensor: torch.Tensor) -> torch.Tensor | None:
            if name != value:
                return None
            type_ = plan.types[name]
            codes = torch.clamp(torch.round(tensor / type_.scale[0]), -128, 127)
            return codes * type_.scale[0]

        inputs = inputs_of(graph, seed)
        with torch.no_grad():
            (wanted,), (found,) = exact(inputs).values(), rounded(inputs, replace).values()
        powers.append(float((found - wanted).square().sum() / wanted.square().sum()))
    return float(np.mean(powers))


def test_activations(measured: tuple[Graph, Plan, Noise]) -> None:
    graph, plan, noise = measured
    true = {key: noise_of(graph, plan, key) for key in noise.activations}
    assert len(true) >= 4 and max(true.values()) > 4 * min(true.values())
    for key, power in true.items():
        assert power / 3 < noise.activations[key] < power * 3, (key, power, noise.activations)
    assert max(true, key=true.__getitem__) == max(noise.activations, key=noise.activations.__getitem__) == "b1"


def test_weights(measured: tuple[Graph, Plan, Noise]) -> None:
    graph, plan, noise = measured
    assert noise.weights.keys() == plan.weights.keys() and len(noise.weights) == 4
    for op in graph.ops:
        if isinstance(op, o.Conv):
            power = noise_of(graph, plan, None, op.weight)
            assert power / 3 < noise.weights[op.out] < power * 3, op.out


def test_total_and_repeatability(measured: tuple[Graph, Plan, Noise]) -> None:
    graph, plan, noise = measured
    assert noise.total == pytest.approx(sum((*noise.activations.values(), *noise.weights.values())))
    again = measure_noise(graph, plan, [inputs_of(graph, seed) for seed in range(SAMPLES)])
    assert again == noise
    assert measure_noise(graph, plan, [inputs_of(graph)], seed=1) != noise
    assert Noise().total == 0.0


def test_where_noise_is_measured(measured: tuple[Graph, Plan, Noise]) -> None:
    _, plan, _ = measured
    assert integer_outputs(plan.structure) == ("y",)
