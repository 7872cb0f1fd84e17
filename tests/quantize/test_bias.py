"""Bias correction takes back the mean shift that one-sided rounding causes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from edgeq.ir import ops as o
from edgeq.ir.graph import Editor, Graph, Type
from edgeq.passes.lower import lower
from edgeq.quantize.assign import assign
from edgeq.quantize.bias import MOST, Excerpts, correct_biases, corrected_operands, operand_values
from edgeq.quantize.structure import analyse
from edgeq.recipe import Recipe
from edgeq.reference.interpret import run
from edgeq.targets import find_target
from tests.quantized import Net


def network(groups: int) -> Graph:
    rng = np.random.default_rng(5)
    editor = Editor("net", ("x",), {"x": Type((1, 8, 12, 12))})
    weight = editor.constant("w", rng.normal(0, 0.3, (16, 8 // groups, 1, 1)).astype(np.float32))
    bias = editor.constant("b", rng.normal(0, 1, 16).astype(np.float32))
    editor.append(o.Conv("x", weight, bias, "y", groups=groups))
    return editor.graph(["y"])


def test_clipped_values_no_longer_shift_the_mean() -> None:
    target = replace(find_target("jetson-int8"), integer_ops=frozenset({o.Conv}))
    rng = np.random.default_rng(6)
    samples = [{"x": rng.exponential(1.0, (1, 8, 12, 12)).astype(np.float32)} for _ in range(6)]
    for groups in (1, 2, 8):
        graph = network(groups)
        structure = analyse(graph, target, Recipe())
        plan = assign(structure, {"x": (1.0 / 127, 0)}, target)  # clips everything above 1
        corrected = correct_biases(graph, plan, operand_values(graph, samples))
        shifts = []
        for candidate in (plan, corrected):
            lowered = lower(graph, candidate)
            errors = [run(lowered, sample)["y"] - run(graph, sample)["y"] for sample in samples]
            shifts.append(torch.stack(errors).mean((0, 1, 3, 4)).abs().max().item())
        assert shifts[0] > 0.1
        assert shifts[1] < 0.01


def test_channels_of_a_linear_layer_are_last_whatever_the_axes() -> None:
    """Windows of a transformer have four axes, like maps, whose channels are second."""
    target = replace(find_target("jetson-int8"), integer_ops=frozenset({o.Linear}))
    net = Net(1, 6, 6, 8)
    graph = net.graph(net.linear("x", 16, "y"))
    spread = np.linspace(0.2, 2.0, 8, dtype=np.float32)
    samples = [{"x": np.random.default_rng(k).exponential(spread, (1, 6, 6, 8)).astype(np.float32)} for k in range(6)]
    plan = assign(analyse(graph, target, Recipe()), {"x": (1.0 / 127, 0)}, target)
    shifts = []
    for candidate in (plan, correct_biases(graph, plan, operand_values(graph, samples))):
        lowered = lower(graph, candidate)
        errors = [run(lowered, sample)["y"] - run(graph, sample)["y"] for sample in samples]
        shifts.append(torch.stack(errors).mean((0, 1, 2, 3)).abs().max().item())
    assert shifts[0] > 0.1 and shifts[1] < 0.01


def test_excerpts_of_large_values_correct_as_the_whole_does() -> None:
    target = replace(find_target("jetson-int8"), integer_ops=frozenset({o.Conv}))
    rng = np.random.default_rng(6)
    editor = Editor("net", ("x",), {"x": Type((1, 4, 300, 200))})
    weight = editor.constant("w", rng.normal(0, 0.3, (6, 4, 1, 1)).astype(np.float32))
    bias = editor.constant("b", rng.normal(0, 1, 6).astype(np.float32))
    editor.append(o.Conv("x", weight, bias, "y"))
    graph = editor.graph(["y"])
    samples = [{"x": rng.exponential(1.0, (1, 4, 300, 200)).astype(np.float32)} for _ in range(4)]
    plan = assign(analyse(graph, target, Recipe()), {"x": (1.0 / 127, 0)}, target)
    whole, excerpts = list(operand_values(graph, samples)), Excerpts(corrected_operands(graph), every=2)
    assert not excerpts.are_whole
    for values in whole:
        excerpts.note(values)
    assert (
        excerpts.are_whole
        and len(excerpts.images) == 2
        and excerpts.images[0]["x"].numel() < 2 * MOST < whole[0]["x"].numel()
    )
    by_excerpts, by_all = (correct_biases(graph, plan, images).biases["y"] for images in (excerpts.images, whole))
    moved = np.abs(by_all - plan.biases["y"])
    assert moved.max() > 50 and np.abs(by_excerpts - by_all).max() < 0.05 * moved.max()
