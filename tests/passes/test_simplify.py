"""Simplification keeps the real function, the inputs and the outputs' names of any graph, and reaches a fixed point."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeq.ir import ops as o
from edgeq.ir.graph import Editor, Graph, Type
from edgeq.ir.text import to_text
from edgeq.ir.verify import verify
from edgeq.passes.simplify import simplify
from tests.draws import Draw, Draws
from tests.onnx_text import Arrays, graph_outputs
from tests.real_nets import real_graphs


class _FoldableNet(Draws):
    """A chain with branches of what the rules look for; `value` is the end of the chain, of four axes."""

    def __init__(self, draw: Draw) -> None:
        super().__init__(draw)
        self.value, shape = "x", (self.integer(1, 2), self.integer(1, 4), self.integer(2, 6), self.integer(2, 6))
        self.editor = Editor("foldable", ["x"], {"x": Type(shape)})
        self.kept: list[o.Value] = []

    @property
    def shape(self) -> tuple[int, ...]:
        return self.editor.types[self.value].shape

    def reals(self, *shape: int) -> o.Value:
        return self.editor.constant("c", self.rng.uniform(0.5, 1.5, shape).astype(np.float32))

    def add(self, op: o.Op) -> o.Value:
        return self.editor.append(o.rename(op, lambda _: self.editor.fresh("v"), where="results"))

    def step(self, op: o.Op) -> None:
        self.value = self.add(op)

    def affine(self) -> None:
        _, channels, height, width = self.shape
        shape = self.one_of(
            (), (1,), (channels, 1, 1), (1, channels, 1, 1), (width,), (height, 1), (channels, height, width)
        )
        constant, x = self.reals(*shape), self.value
        self.step(
            self.one_of(
                o.Mul(x, constant, ""), o.Mul(constant, x, ""), o.Add(x, constant, ""), o.Sub(x, constant, ""),
                o.Sub(constant, x, ""), o.Binary(x, constant, "", "div"), o.Apply(x, "", o.Function("neg")),
                o.ChannelAffine(x, self.reals(channels), self.reals(channels), ""),
            )
        )  # fmt: skip

    def weighted(self) -> None:
        _, channels, height, width = self.shape
        outputs, padding = channels * self.integer(1, 2), self.one_of((0, 0, 0, 0), (1, 0, 1, 2))
        groups = self.one_of(1, channels)
        if self.chance():
            self.step(o.Linear(self.value, self.reals(3, width), self.one_of(None, self.reals(3)), ""))
        elif self.chance():
            weight = self.reals(channels, outputs // groups, 2, 1)
            self.step(o.ConvTranspose(self.value, weight, None, "", groups=groups))
        elif height + padding[0] >= 2:
            weight = self.reals(outputs, channels // groups, 2, 1)
            self.step(
                o.Conv(self.value, weight, self.one_of(None, self.reals(outputs)), "", padding=padding, groups=groups)
            )

    def activation(self) -> None:
        x = self.value
        gate = self.add(o.Apply(x, "", o.Function(self.one_of("sigmoid", "tanh", "relu"))))
        self.step(self.one_of(o.Mul(x, gate, ""), o.Mul(gate, x, ""), o.Add(x, gate, "")))

    def normalization(self) -> None:
        axes = self.one_of((3,), (1,), (2, 3), (1, 2, 3))
        if math.prod(self.shape[axis] for axis in axes) < 3:
            return
        centered = self.add(o.Sub(self.value, self.add(o.Mean(self.value, "", axes)), ""))
        variance = self.add(o.Mean(self.add(o.Mul(centered, centered, "")), "", axes))
        epsilon = self.editor.constant("epsilon", np.float32(1e-2).reshape(()))
        root = self.add(o.Apply(self.add(o.Add(variance, epsilon, "")), "", o.Function("sqrt")))
        self.step(o.Binary(centered, root, "", "div"))

    def movement(self) -> None:
        x, shape = self.value, self.shape
        merged = (shape[0], shape[1], shape[2] * shape[3], 1)
        self.step(
            self.one_of(
                o.Transpose(x, "", self.one_of((0, 2, 3, 1), (0, 3, 1, 2), (0, 1, 3, 2))),
                o.Reshape(x, "", merged),
                o.Slice(x, "", (0, 0, 0, 0), (*shape[:3], max(1, shape[3] - 1)), (1, 1, 1, 1)),
                o.Concat((x, x), "", self.integer(1, 3)),
                o.Pad(x, "", (0, 0, 1, 0), (0, 0, 0, 1)),
                o.Expand(x, "", tuple(2 if size == 1 else size for size in shape)),
            )
        )

    def graph(self) -> Graph:
        kinds = (self.affine, self.affine, self.weighted, self.activation, self.normalization, self.movement)
        for _ in range(self.integer(2, 9)):
            if math.prod(self.shape) < 4000:
                self.one_of(*kinds)()
            if self.integer(0, 7) == 0 and self.value != "x":
                self.kept.append(self.value)
        return self.editor.graph(dict.fromkeys([*self.kept, self.value]))


@st.composite
def foldable_graphs(draw: Draw) -> Graph:
    return _FoldableNet(draw).graph()


def smooth_parts_agree(graph: Graph, small: Graph, inputs: Arrays, tolerance: float) -> None:
    """Equal up to rounding, except where the graph itself turns rounding of its input into a step."""
    nudged = {name: (array * (1 + 1e-6)).astype(np.float32) for name, array in inputs.items()}
    with np.errstate(all="ignore"):
        expected, moved, found = (
            {name: array.astype(np.float64) for name, array in graph_outputs(g, given).items()}
            for g, given in ((graph, inputs), (graph, nudged), (small, inputs))
        )
        for name, reference in expected.items():
            assert found[name].shape == reference.shape
            finite = np.isfinite(reference) & np.isfinite(moved[name]) & (np.abs(reference) < 1e30)
            size = np.abs(reference[finite]).max(initial=1e-3)
            smooth = np.abs(moved[name] - reference) < 10 * tolerance * size
            assert (np.abs(found[name] - reference) <= tolerance * size)[finite & smooth].all(), name


def check(graph: Graph, tolerance: float) -> None:
    small = simplify(graph)
    verify(small)
    assert (small.inputs, small.outputs) == (graph.inputs, graph.outputs)
    assert to_text(simplify(small)) == to_text(small)
    rng = np.random.default_rng(3)
    inputs: Arrays = {name: rng.normal(0, 1, graph.types[name].shape).astype(np.float32) for name in graph.inputs}
    smooth_parts_agree(graph, small, inputs, tolerance)


@given(foldable_graphs())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_foldable_graphs(graph: Graph) -> None:
    check(graph, 1e-4)


@given(real_graphs())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_graph(graph: Graph) -> None:
    check(graph, 1e-3)


@pytest.mark.parametrize(("split", "permutation", "joined", "axes"), [
    ((2, 3, 4, 2, 4, 5), (0, 1, 3, 2, 4, 5), (12, 16, 5), 4),  # Swin's windows
    ((1, 2, 3, 5, 4, 4, 2), (0, 3, 4, 1, 2, 5, 6), (5, 4, 48), 3),
    ((1, 10, 2, 3, 4, 4), (0, 1, 4, 2, 5, 3), (10, 8, 12), 5),  # pixels of a larger image
    ((2, 3, 4, 2, 4, 5), (5, 4, 3, 2, 1, 0), (960,), 6),  # nothing to merge
])  # fmt: skip
def test_moving_many_axes_takes_few(split: o.Ints, permutation: o.Ints, joined: o.Ints, axes: int) -> None:
    editor = Editor("windows", ["x"], {"x": Type((960,))})
    editor.append(o.Reshape("x", "split", split))
    editor.append(o.Transpose("split", "moved", permutation))
    editor.append(o.Reshape("moved", "y", joined))
    graph = editor.graph(["y"])
    small, inputs = simplify(graph), {"x": np.arange(960, dtype=np.float32)}
    verify(small)
    assert max(len(type_.shape) for type_ in small.types.values()) == max(axes, len(joined))
    assert len(small.ops) == len(graph.ops)
    wanted = graph_outputs(graph, inputs)["y"]
    np.testing.assert_array_equal(graph_outputs(small, inputs)["y"], wanted)
    assert not np.array_equal(wanted.reshape(-1), inputs["x"])


def test_the_drawn_graphs_are_simplified() -> None:
    """Vacuity guard: simplification changes most of the drawn graphs, and makes them smaller."""
    sizes: list[tuple[int, int]] = []

    @given(foldable_graphs())
    @settings(max_examples=60, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
    def collect(graph: Graph) -> None:
        sizes.append((len(graph.ops), len(simplify(graph).ops)))

    collect()
    assert sum(after < before for before, after in sizes) > len(sizes) / 2
    assert sum(after for _, after in sizes) < 0.8 * sum(before for before, _ in sizes)
