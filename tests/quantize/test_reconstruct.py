"""Learned rounding end to end: exact in the lowered graph, better on other images, repeatable, and it goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from edgeq.formats import INT4_NARROW, POST4, Float, Format
from edgeq.ir import ops as o
from edgeq.ir.graph import Array, Graph
from edgeq.passes.lower import lower
from edgeq.quantize.assign import assign
from edgeq.quantize.distance import relative, squared_error
from edgeq.quantize.frontier import Values, batches
from edgeq.quantize.importance import measure_importance
from edgeq.quantize.learned import packed, with_learned
from edgeq.quantize.operators import weight_of
from edgeq.quantize.plan import Plan
from edgeq.quantize.reconstruct import learn
from edgeq.quantize.refine import Settings
from edgeq.quantize.sensitivity import Objective
from edgeq.quantize.simulate import Simulation
from edgeq.quantize.structure import analyse
from edgeq.recipe import Formats, Recipe, Rule
from edgeq.reference.interpret import Interpreter, run
from edgeq.targets import find_target
from tests.residual_net import images, residual_net

SHORT = Settings(steps=8, images=4)


def plan_for(graph: Graph, samples: list[dict[o.Value, Array]], weight: Format) -> Plan:
    """Observed ranges, nearest rounding."""
    target = find_target("reference")
    structure = analyse(graph, target, Recipe(rules=(Rule("*", Formats(weight, None)),)))
    seen: dict[o.Value, float] = {}
    for sample in samples:
        Interpreter(graph)(sample, lambda n, x: seen.update({n: max(seen.get(n, 0.0), float(x.abs().max()))}))  # type: ignore[func-returns-value]
    ranges = {
        key: (max(seen[v] for v in members if v in seen) / 2 ** (structure.formats[key].bits - 1), 0)  # type: ignore[union-attr]
        for key, members in structure.members.items()
        if any(v in seen for v in members)
    }
    return assign(structure, ranges, target)


def error(graph: Graph, plan: Plan, samples: list[dict[o.Value, Array]]) -> float:
    """Squared error of the integer graph's outputs over the signal."""
    lowered, noise, signal = lower(graph, plan), 0.0, 0.0
    for sample in samples:
        for found, wanted in zip(run(lowered, sample).values(), run(graph, sample).values(), strict=True):
            noise += float((found - wanted).square().sum())
            signal += float(wanted.square().sum())
    return noise / signal


def residual_samples(count: int, seed: int) -> list[dict[o.Value, Array]]:
    return [images(seed + k) for k in range(count)]


CASES = (
    (INT4_NARROW, Settings()),
    (INT4_NARROW, replace(SHORT, method="adaquant")),
    (Float(2, 1), SHORT),
    (POST4, replace(SHORT, method="flexround")),
)


@pytest.mark.parametrize(("weight", "settings"), CASES, ids=str)
def test_learned_codes_are_the_lowered_ones_and_better(weight: Format, settings: Settings) -> None:
    graph, samples = residual_net(), residual_samples(12, 0)
    plan = plan_for(graph, samples, weight)
    learned = learn(graph, plan, samples, settings, seed=3)
    found = with_learned(plan, graph, learned)
    lowered = lower(graph, found)
    for op in graph.ops:
        name = weight_of(op)
        if name is None:
            continue
        (out, *_) = o.results(op)
        codes = lowered.constants[f"{name}.q"]
        assert np.array_equal(codes, found.codes[out])
        assert lowered.types[f"{name}.q"] == found.weights[out]
        assert len(np.unique(codes)) > 6
    others = residual_samples(8, 100)
    assert error(graph, found, others) < 0.8 * error(graph, plan, others)


def test_results_repeat_exactly_under_a_seed() -> None:
    graph, samples = residual_net(), residual_samples(8, 0)
    plan = plan_for(graph, samples, INT4_NARROW)
    first, again = (packed(learn(graph, plan, samples, SHORT, seed=1)) for _ in range(2))
    assert first.keys() == again.keys()
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert len(first["names"]) == len(plan.weights) > 5


class Memory:
    """Keeps what was learned; stops after some units."""

    def __init__(self, units: int) -> None:
        self.units, self.arrays = units, dict[str, Array]()

    def load(self) -> dict[str, Array]:
        return self.arrays

    def save(self, arrays: dict[str, Array]) -> None:
        self.arrays, self.units = arrays, self.units - 1
        if self.units == 0:
            raise KeyboardInterrupt


def test_an_interrupted_run_goes_on_where_it_was() -> None:
    graph, samples = residual_net(), residual_samples(8, 0)
    plan = plan_for(graph, samples, INT4_NARROW)
    settings = replace(SHORT, steps=4)
    whole = packed(learn(graph, plan, samples, settings, seed=5))
    memory = Memory(2)
    with pytest.raises(KeyboardInterrupt):
        learn(graph, plan, samples, settings, seed=5, store=memory)
    assert 0 < len(memory.arrays["names"]) < len(whole["names"])
    resumed = packed(learn(graph, plan, samples, settings, seed=5, store=memory))
    assert resumed.keys() == whole.keys()
    assert all(np.array_equal(resumed[name], whole[name]) for name in whole if not name.endswith("wanted"))


def test_never_worse_than_nearest_on_its_own_images() -> None:
    for seed in range(2):
        graph, samples = residual_net(seed), residual_samples(8, 0)
        for bits in (4, 8):
            plan = plan_for(graph, samples, replace(INT4_NARROW, bits=bits))
            found = with_learned(plan, graph, learn(graph, plan, samples, Settings(), seed=seed))
            assert error(graph, found, samples) <= 1.02 * error(graph, plan, samples)


def test_the_loss_is_relative() -> None:
    target = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0)) + 7
    constant = target.mean().expand_as(target)
    assert float(squared_error([constant], [target], [None])) == pytest.approx(1.0)
    assert float(squared_error([target], [target], [None])) == 0.0


def test_depth_is_judged_by_shares_and_without_forgiving_a_factor() -> None:
    depth = torch.rand(2, 1, 6, 6, generator=torch.Generator().manual_seed(0)) + torch.tensor([0.5, 8.0]).view(
        2, 1, 1, 1
    )

    def loss(found: torch.Tensor) -> float:
        return float(relative([found], [depth], [None]))

    assert loss(depth) == 0.0
    assert loss(1.1 * depth) == pytest.approx(0.1, rel=1e-4)
    step = 0.1 * torch.tensor([1.0, 0.0]).view(2, 1, 1, 1)
    assert loss(depth + step) > 5 * loss(depth + step.flip(0))
    nothing = torch.zeros_like(depth)
    assert float(relative([nothing + 1], [nothing], [None])) < np.inf


@pytest.mark.parametrize("weighed", [False, True])
def test_batches_that_are_taken_together_are_still_sets_of_their_own(
    weighed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, samples = residual_net(), residual_samples(19, 0)
    plan = plan_for(graph, samples, INT4_NARROW)
    exits = [o.results(op)[0] for op in graph.ops]
    importance = measure_importance(graph, Objective(graph.outputs), exits, samples) if weighed else None
    apart = learn(graph, plan, samples, Settings(), importance=importance)

    def joined(simulation: Simulation, samples: Sequence[Mapping[o.Value, Array]], **_: bool) -> list[Values]:
        """As an accelerator takes them: 16, then 3."""
        parts = batches(simulation, samples)
        return [{name: torch.cat([part[name] for part in parts[:-1]]) for name in parts[0]}, parts[-1]]

    monkeypatch.setattr("edgeq.quantize.reconstruct.batches", joined)
    together = learn(graph, plan, samples, Settings(), importance=importance)
    assert together.layers.keys() == apart.layers.keys() and len(apart.layers) > 2
    same = [(together.layers[name].levels == layer.levels).double().mean() for name, layer in apart.layers.items()]
    assert min(same) > 0.95 and len(apart.layers[next(iter(apart.layers))].levels.unique()) > 8
