"""Training goes on from what was learned: latent weights are rounded to its codes, in every kind of format."""

from __future__ import annotations

import numpy as np
import pytest

from edgeq.formats import INT4_NARROW, POST4, Float, Format
from edgeq.ir import ops as o
from edgeq.passes.lower import lower
from edgeq.quantize.latents import with_latents
from edgeq.quantize.learned import with_learned
from edgeq.quantize.operators import weight_of
from edgeq.quantize.qat import QatModule
from edgeq.quantize.reconstruct import learn
from edgeq.quantize.refine import Settings
from tests.quantize.test_reconstruct import plan_for, residual_samples
from tests.residual_net import residual_net


@pytest.mark.parametrize("weight", [INT4_NARROW, POST4, Float(2, 1)], ids=str)
def test_a_module_starts_from_what_was_learned(weight: Format) -> None:
    graph, samples = residual_net(), residual_samples(8, 0)
    nearest = plan_for(graph, samples, weight)
    plan = with_learned(nearest, graph, learn(graph, nearest, samples, Settings()))
    wanted, plain = lower(graph, plan), lower(graph, nearest)
    start, open_plan = with_latents(graph, plan)
    assert not open_plan.codes
    found = QatModule(start, open_plan).convert()
    assert found.types == wanted.types
    moved = 0
    for name, array in wanted.constants.items():
        assert np.array_equal(found.constants[name], array), name
        moved += array.shape == plain.constants[name].shape and not np.array_equal(plain.constants[name], array)
    assert moved > 5
    weights = {name for op in graph.ops if (name := weight_of(op)) is not None and o.results(op)[0] in plan.weights}
    assert all(len(np.unique(wanted.constants[f"{name}.q"])) > 6 for name in weights)
