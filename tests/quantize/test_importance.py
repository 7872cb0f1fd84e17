"""Importance is where errors reach the outputs, and it steers rounding there."""

from __future__ import annotations

import numpy as np
import torch

from edgeq.formats import INT4_NARROW
from edgeq.ir import ops as o
from edgeq.ir.graph import Array, Editor, Graph, Type
from edgeq.quantize.importance import EVEN, measure_importance
from edgeq.quantize.second_order import Moments, Problem, fit
from edgeq.quantize.sensitivity import Objective
from edgeq.quantize.sweeps import Grid


def half_seen() -> Graph:
    """A convolution of which the output reads the left half alone, the first channel ten times as strongly."""
    rng = np.random.default_rng(0)
    editor = Editor("net", ("x",), {"x": Type((1, 3, 8, 8))})
    weight = editor.constant("w", rng.normal(0, 1, (4, 3, 1, 1)).astype(np.float32))
    editor.append(o.Conv("x", weight, None, "y"))
    editor.append(o.Slice("y", "left", (0, 0, 0, 0), (1, 4, 8, 4), (1, 1, 1, 1)))
    gain = editor.constant("gain", np.array([10, 1, 1, 1], np.float32).reshape(1, 4, 1, 1))
    editor.append(o.Mul("left", gain, "out"))
    return editor.graph(["out"])


def test_only_what_reaches_the_outputs_is_important() -> None:
    graph, rng = half_seen(), np.random.default_rng(1)
    samples: list[dict[o.Value, Array]] = [{"x": rng.normal(0, 1, (1, 3, 8, 8)).astype(np.float32)} for _ in range(5)]
    found = measure_importance(graph, Objective(("out",)), {"y"}, samples)["y"]
    assert found.positions.shape == (5, 1, 8, 8) and found.channels.shape == (1, 4, 1, 1)
    assert torch.allclose(found.positions[..., 4:], torch.tensor(EVEN))
    assert float(found.positions[..., :4].mean()) > 1.2
    assert float(found.channels[0, 0]) > 1.5 > float(found.channels[0, 1:].max())
    assert abs(float(found.positions.mean()) - 1) < 1e-5
    assert found.flat().shape == (5, 64)


def test_heavy_positions_are_fitted_best() -> None:
    generator = torch.Generator().manual_seed(3)
    kinds = [torch.randn(1, 12, 600, generator=generator) * torch.rand(1, 12, 1, generator=generator) for _ in range(2)]
    both, rows = torch.cat(kinds, 2), torch.randn(1, 6, 12, generator=generator)
    scales = rows.double().abs().amax(2, keepdim=True) / 7
    errors = []
    for heavy in (0, 1):
        weight = torch.full((1200,), 0.01)
        weight[600 * heavy : 600 * (heavy + 1)] = 1.0
        problem = Problem.of(rows, Moments.of(rows, both, both, weight), centred=False)
        found = fit(problem, scales, Grid(INT4_NARROW, free_scale=False), 0.01)
        errors.append([float(((found.rows - rows) @ kind.double()).square().mean()) for kind in kinds])
    assert errors[0][0] < errors[1][0] and errors[1][1] < errors[0][1]
