"""The simulation computes several images at once as it does one by one, also where every image gets a class token."""

from __future__ import annotations

import numpy as np
import torch

from edgeq.formats import INT4_NARROW
from edgeq.ir import ops as o
from edgeq.ir.graph import Array, Editor, Graph, Type
from edgeq.passes.lower import lower
from edgeq.quantize.learned import with_learned
from edgeq.quantize.reconstruct import learn
from edgeq.quantize.refine import Settings
from edgeq.quantize.simulate import Simulation
from edgeq.reference.interpret import run
from tests.quantize.test_reconstruct import plan_for

WIDTH, PATCHES = 12, 16
CPU = torch.device("cpu")


def with_class_token(seed: int = 0) -> Graph:
    """Patches of an image and a class token beside them, mixed by layers and averaged."""
    rng = np.random.default_rng(seed)
    editor = Editor("vit", ("x",), {"x": Type((1, 3, 16, 16))})

    def constant(name: str, *shape: int) -> o.Value:
        return editor.constant(name, rng.normal(0, 0.4, shape).astype(np.float32))

    editor.append(o.Conv("x", constant("w0", WIDTH, 3, 4, 4), constant("b0", WIDTH), "patches", stride=(4, 4)))
    editor.append(o.Reshape("patches", "flat", (1, WIDTH, PATCHES)))
    editor.append(o.Transpose("flat", "tokens", (0, 2, 1)))
    editor.append(o.Concat((constant("token", 1, 1, WIDTH), "tokens"), "all", 1))
    editor.append(o.Add("all", constant("places", 1, PATCHES + 1, WIDTH), "placed"))
    editor.append(o.Linear("placed", constant("w1", 24, WIDTH), constant("b1", 24), "hidden"))
    editor.append(o.Apply("hidden", "active", o.Function("relu")))
    editor.append(o.Linear("active", constant("w2", WIDTH, 24), constant("b2", WIDTH), "mixed"))
    editor.append(o.Mean("mixed", "mean", (1,)))
    editor.append(o.Reshape("mean", "row", (1, WIDTH)))
    editor.append(o.Linear("row", constant("w3", 5, WIDTH), constant("b3", 5), "classes"))
    return editor.graph(["classes"])


def samples(count: int, seed: int) -> list[dict[o.Value, Array]]:
    rng = np.random.default_rng(seed)
    return [{"x": rng.normal(0, 1, (1, 3, 16, 16)).astype(np.float32)} for _ in range(count)]


def outputs(simulation: Simulation, x: torch.Tensor, *, real: bool) -> torch.Tensor:
    values, step = {"x": x}, simulation.real if real else simulation.quantized
    for op in simulation.graph.ops:
        values.update(zip(o.results(op), step(op, values.__getitem__), strict=True))
    return values["classes"]


def test_images_together_are_images_one_by_one() -> None:
    graph, images = with_class_token(), samples(5, 1)
    simulation = Simulation.of(graph, plan_for(graph, images, INT4_NARROW), CPU)
    together = torch.cat([torch.from_numpy(image["x"]) for image in images])
    for real in (True, False):
        found = outputs(simulation, together, real=real)
        alone = torch.cat([outputs(simulation, x[None], real=real) for x in together])
        assert len(alone.unique()) > 10
        assert torch.allclose(found, alone, atol=1e-5)


def test_a_network_with_a_class_token_is_learned_as_a_whole() -> None:
    graph, images = with_class_token(), samples(12, 2)
    plan = plan_for(graph, images, INT4_NARROW)
    found = learn(graph, plan, images, Settings(steps=6, images=4))
    assert found.layers.keys() == plan.weights.keys()
    lowered = lower(graph, with_learned(plan, graph, found))
    near, far, other = 0.0, 0.0, lower(graph, plan)
    for sample in samples(8, 3):
        wanted = run(graph, sample)["classes"]
        near += float((run(lowered, sample)["classes"] - wanted).square().sum())
        far += float((run(other, sample)["classes"] - wanted).square().sum())
    assert near < far
