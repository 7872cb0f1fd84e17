"""The channel rewrite preserves the real function, and refuses what would not."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeq.errors import UsageError
from edgeq.ir import ops as o
from edgeq.ir.graph import Editor, Graph, Type
from edgeq.passes.transform import Move, seams, transform
from edgeq.reference.interpret import Interpreter, run

CHANNELS = 6
CEILING = 7.0


class _Net:
    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.editor = Editor("net", ("x",), {"x": Type((1, 4, 9, 9))})

    def constant(self, name: str, *shape: int) -> o.Value:
        return self.editor.constant(name, self.rng.normal(0, 0.5, shape).astype(np.float32))

    def conv(self, x: o.Value, out: o.Value, outputs: int, kernel: int, groups: int = 1, pad: int = 0) -> o.Value:
        inputs = self.editor.types[x].shape[1] // groups
        weight, bias = self.constant(f"{out}.w", outputs, inputs, kernel, kernel), self.constant(f"{out}.b", outputs)
        return self.editor.append(o.Conv(x, weight, bias, out, padding=(pad, pad, pad, pad), groups=groups))


def chain(seed: int, between: str, pad: int, groups: int) -> Graph:
    """conv, something, two readers (one grouped), whose results are the outputs."""
    net = _Net(seed)
    value = net.conv("x", "made", CHANNELS, 3)
    if between == "relu":
        value = net.editor.append(o.Apply(value, "active", o.Function("relu")))
    elif between == "pool":
        value = net.editor.append(o.MaxPool(value, "pooled", (2, 2), (2, 2)))
    elif between == "clip":
        value = net.editor.append(o.Apply(value, "active", o.Function("clip", 0.0, CEILING)))
    elif between == "hardtanh":
        value = net.editor.append(o.Apply(value, "active", o.Function("clip", -1.0, 1.0)))
    elif between == "silu":
        value = net.editor.append(o.Apply(value, "active", o.Function("silu")))
    return net.editor.graph([net.conv(value, "a", 4, 3, 1, pad), net.conv(value, "b", CHANNELS, 1, groups)])


def normalized(seed: int) -> Graph:
    """A layer norm read by two linear layers, as in a transformer."""
    rng = np.random.default_rng(seed)
    editor = Editor("norm", ("x",), {"x": Type((1, 7, CHANNELS))})

    def constant(name: str, *shape: int) -> o.Value:
        return editor.constant(name, rng.normal(0, 0.5, shape).astype(np.float32))

    gamma, beta = constant("gamma", CHANNELS), constant("beta", CHANNELS)
    editor.append(o.LayerNorm("x", gamma, beta, "made", 2, 1e-5))
    editor.append(o.Linear("made", constant("wa", 5, CHANNELS), constant("ba", 5), "a"))
    editor.append(o.Linear("made", constant("wb", 3, CHANNELS), None, "b"))
    return editor.graph(["a", "b"])


def move(seed: int, *, shift: bool) -> Move:
    rng = np.random.default_rng(seed)
    return Move(rng.normal(0, 2, CHANNELS) * shift, np.exp2(rng.uniform(-3, 3, CHANNELS)))


def difference(graph: Graph, moved: Graph, seed: int) -> float:
    """Largest error over the outputs relative to their largest magnitude."""
    rng = np.random.default_rng(seed)
    inputs = {name: rng.normal(0, 1, graph.types[name].shape).astype(np.float32) for name in graph.inputs}
    before, after = run(graph, inputs), run(moved, inputs)
    assert all(float(before[name].abs().max()) > 0.1 for name in graph.outputs)
    return max(float((after[n] - before[n]).abs().max() / before[n].abs().max()) for n in graph.outputs)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.sampled_from(["none", "relu", "pool"]), st.integers(0, 1), st.sampled_from([1, 2, 6]))
def test_the_function_stays(seed: int, between: str, pad: int, groups: int) -> None:
    graph = chain(seed, between, pad, groups)
    (seam,) = seams(graph).values()
    assert seam.shifts == (between != "relu" and pad == 0)
    moved = transform(graph, {"made": move(seed, shift=seam.shifts)})
    assert difference(graph, moved, seed) < 1e-5
    assert not np.allclose(moved.constants["made.w"], graph.constants["made.w"])
    assert (moved.outputs, moved.inputs) == (graph.outputs, graph.inputs)


def test_a_layer_norm_takes_shift_and_scale() -> None:
    for seed in range(5):
        graph = normalized(seed)
        assert seams(graph)["made"].shifts
        assert difference(graph, transform(graph, {"made": move(seed, shift=True)}), seed) < 1e-5


def test_below_the_bound_of_a_clip_the_function_stays() -> None:
    for seed in range(5):
        graph = chain(seed, "clip", 1, 6)
        (seam,) = seams(graph).values()
        assert (seam.ceiling, seam.shifts) == (CEILING, False)
        reach = reached(graph, seed)
        assert reach.min() < 0.95 * CEILING and reach.max() == CEILING  # the bound is met, though not by every channel
        kept = np.clip(1.001 * reach / CEILING, 1e-3, 1.0)
        assert difference(graph, transform(graph, {"made": Move(np.zeros(CHANNELS), kept)}), seed) < 1e-5
        assert difference(graph, transform(graph, {"made": Move(np.zeros(CHANNELS), 0.5 * kept)}), seed) > 1e-2


def reached(graph: Graph, seed: int) -> npt.NDArray[np.float64]:
    """How far each channel behind the clip reaches on the input that `difference` draws."""
    rng, found = np.random.default_rng(seed), list[npt.NDArray[np.float64]]()
    inputs = {name: rng.normal(0, 1, graph.types[name].shape).astype(np.float32) for name in graph.inputs}

    def watch(name: o.Value, tensor: torch.Tensor) -> None:
        if name == "active":
            found.append(tensor.amax((0, 2, 3)).double().numpy())

    Interpreter(graph)(inputs, watch)
    return found[0]


def test_several_seams_at_once() -> None:
    net = _Net(3)
    net.conv("x", "first", CHANNELS, 3)
    net.editor.append(o.Apply("first", "r1", o.Function("relu")))
    net.conv("r1", "deep", CHANNELS, 3, CHANNELS, pad=1)
    net.editor.append(o.Apply("deep", "r2", o.Function("leaky_relu", 0.1)))
    graph = net.editor.graph([net.conv("r2", "last", 5, 1)])
    assert set(seams(graph)) == {"first", "deep"}
    moves = {"first": move(1, shift=False), "deep": move(2, shift=False)}
    assert difference(graph, transform(graph, moves), 4) < 1e-5


def test_what_does_not_commute_is_no_seam() -> None:
    assert not seams(chain(0, "silu", 0, 1))
    assert not seams(chain(0, "hardtanh", 0, 1))
    net = _Net(0)
    net.conv("x", "made", CHANNELS, 3)
    net.editor.append(o.Add("made", "made", "sum"))
    assert not seams(net.editor.graph([net.conv("sum", "a", 3, 1)]))
    net = _Net(0)
    net.conv("x", "made", CHANNELS, 3)
    assert not seams(net.editor.graph([net.conv("made", "a", 3, 1), "made"]))  # the value itself is an output


def test_illegal_moves_are_refused() -> None:
    graph = chain(0, "relu", 1, 1)
    with pytest.raises(UsageError, match="shift"):
        transform(graph, {"made": move(0, shift=True)})
    with pytest.raises(UsageError, match="cannot be moved"):
        transform(graph, {"a": move(0, shift=False)})
    with pytest.raises(UsageError, match="positive"):
        transform(graph, {"made": Move(np.zeros(CHANNELS), np.full(CHANNELS, -1.0))})
    with pytest.raises(UsageError, match="above one"):
        transform(chain(0, "clip", 1, 1), {"made": Move(np.zeros(CHANNELS), np.full(CHANNELS, 1.5))})
