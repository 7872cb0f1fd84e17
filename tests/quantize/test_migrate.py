"""Every strategy is a legal move, and the one that is chosen lowers the error of the quantized readers."""

from __future__ import annotations

import numpy as np
import torch

from edgeq.formats import INT4_NARROW, INT8, INT8_NARROW, Int
from edgeq.ir import ops as o
from edgeq.ir.graph import Array, Editor, Graph, Type
from edgeq.passes.transform import seams, transform
from edgeq.quantize.migrate import Grids, channels_of, choose_moves, proposals
from edgeq.reference.interpret import Interpreter, run

CHANNELS = 16


def uneven(seed: int) -> Graph:
    """A layer norm with outlier channels read by a linear layer, and a relu between convolutions of uneven channels."""
    rng = np.random.default_rng(seed)
    editor = Editor("net", ("x", "image"), {"x": Type((1, 20, CHANNELS)), "image": Type((1, 4, 8, 8))})

    def constant(name: str, array: Array) -> o.Value:
        return editor.constant(name, array.astype(np.float32))

    gamma, beta = rng.uniform(0.5, 1.5, CHANNELS), rng.normal(0, 0.3, CHANNELS)
    gamma[3], beta[5] = 40.0, 25.0
    editor.append(o.LayerNorm("x", constant("gamma", gamma), constant("beta", beta), "normed", 2, 1e-5))
    editor.append(o.Linear("normed", constant("w", rng.normal(0, 0.3, (12, CHANNELS))), None, "tokens"))
    first = rng.normal(0, 0.3, (CHANNELS, 4, 3, 3)) * np.exp2(rng.uniform(-4, 4, (CHANNELS, 1, 1, 1)))
    editor.append(o.Conv("image", constant("w1", first), constant("b1", rng.normal(0, 0.1, CHANNELS)), "made"))
    editor.append(o.Apply("made", "active", o.Function("relu")))
    editor.append(o.Conv("active", constant("w2", rng.normal(0, 0.3, (6, CHANNELS, 1, 1))), None, "map"))
    return editor.graph(["tokens", "map"])


def samples(graph: Graph, count: int, seed: int) -> list[dict[o.Value, Array]]:
    rng = np.random.default_rng(seed)
    return [{n: rng.normal(0, 1, graph.types[n].shape).astype(np.float32) for n in graph.inputs} for _ in range(count)]


def test_every_proposal_preserves_the_function() -> None:
    graph = uneven(0)
    seen: list[dict[o.Value, torch.Tensor]] = []
    for sample in samples(graph, 2, 1):
        values: dict[o.Value, torch.Tensor] = {}
        Interpreter(graph)(sample, lambda name, tensor, values=values: values.update({name: tensor}))  # type: ignore[misc]
        seen.append(values)
    known = seams(graph)
    assert set(known) == {"normed", "made"}
    for value, seam in known.items():
        found = proposals(channels_of(graph, seam, seen))
        assert len(found) > 10
        for move in found.values():
            moved = transform(graph, {value: move})
            for sample in samples(graph, 2, 7):
                before, after = run(graph, sample), run(moved, sample)
                assert all(float((after[n] - before[n]).abs().max() / before[n].abs().max()) < 1e-5 for n in before)


def test_the_chosen_moves_help_on_other_inputs() -> None:
    graph = uneven(0)
    chosen = choose_moves(graph, samples(graph, 4, 1), Grids(INT8, INT8_NARROW, symmetric=False))
    assert set(chosen) == {"normed", "made"}
    assert all(item.gain > 2 for item in chosen.values())
    narrow = choose_moves(graph, samples(graph, 4, 1), Grids(INT8, INT4_NARROW, symmetric=True))
    assert all(item.gain > 1.05 for item in narrow.values())


def below_a_clip(seed: int) -> Graph:
    """A convolution of uneven channels behind whose clip a depthwise one and a pointwise one read."""
    rng = np.random.default_rng(seed)
    editor = Editor("net", ("image",), {"image": Type((1, 4, 8, 8))})

    def constant(name: str, array: Array) -> o.Value:
        return editor.constant(name, array.astype(np.float32))

    first = rng.normal(0, 0.3, (CHANNELS, 4, 3, 3)) * np.exp2(rng.uniform(-4, 1, (CHANNELS, 1, 1, 1)))
    editor.append(o.Conv("image", constant("w1", first), constant("b1", rng.normal(0, 0.1, CHANNELS)), "made"))
    editor.append(o.Apply("made", "active", o.Function("clip", 0.0, 6.0)))
    deep = constant("w2", rng.normal(0, 0.3, (CHANNELS, 1, 3, 3)) / np.abs(first).max((1, 2, 3), keepdims=True))
    editor.append(o.Conv("active", deep, None, "deep", groups=CHANNELS))
    editor.append(o.Conv("active", constant("w3", rng.normal(0, 0.3, (6, CHANNELS, 1, 1))), None, "map"))
    return editor.graph(["deep", "map"])


def test_channels_move_below_a_clip_as_far_as_they_ever_reach() -> None:
    graph, grids = below_a_clip(0), Grids(Int(4), INT4_NARROW, symmetric=False)
    seen, others = samples(graph, 4, 1), samples(graph, 24, 50)
    found = choose_moves(graph, seen, grids, more=others)["made"]
    assert found.gain > 1.5 and found.move.scale.max() == 1.0 and 1 / 16 <= found.move.scale.min() < 0.3
    moved = transform(graph, {"made": found.move})
    for sample in others:
        before, after = run(graph, sample), run(moved, sample)
        assert all(float((after[n] - before[n]).abs().max() / before[n].abs().max()) < 1e-5 for n in before)
    far = [{"image": 3 * sample["image"]} for sample in others]
    assert np.all(choose_moves(graph, seen, grids, more=far)["made"].move.scale >= found.move.scale)
