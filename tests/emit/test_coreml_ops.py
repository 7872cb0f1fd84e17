"""Every operator in every form that is written in its own way: the saved float package computes what it means."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from edgeq.emit.coreml import emit
from edgeq.errors import UnsupportedError
from edgeq.formats import INDEX
from edgeq.ir import ops as o
from edgeq.ir.graph import Type
from edgeq.passes.simplify import simplify
from edgeq.reference.interpret import run
from edgeq.runtimes.coreml import CoreMLRuntime
from edgeq.targets import find_target
from tests.coreml_tools import problems
from tests.quantized import Net, inputs_of
from tests.real_nets import PARAMETERS

X = (2, 4, 6, 7)
Make = Callable[[Net], o.Op]


def indices(net: Net, *content: int) -> o.Value:
    array = np.array(content, dtype=np.int64)
    return net.editor.constant("indices", array, Type(array.shape, INDEX))


def function(name: o.FunctionName) -> Make:
    def make(net: Net) -> o.Op:
        x = net.apply("x", "abs", "positive") if name in ("log", "sqrt", "reciprocal") else "x"
        return o.Apply(x, "out", o.Function(name, *PARAMETERS.get(name, (0.0, 0.0))))

    return make


def resize(mode: str, coordinates: str, size: o.Pair, nearest: str = "round_prefer_floor") -> Make:
    scale = (size[0] / X[2], size[1] / X[3])
    return lambda _: o.Resize("x", "out", size, scale, mode, coordinates, nearest)  # type: ignore[arg-type]


FUNCTIONS: dict[str, Make] = {name: function(name) for name in get_args(o.FunctionName) if name != "not"}
RESIZES: dict[str, Make] = {
    f"{mode}-{coordinates}-{size[0]}x{size[1]}": resize(mode, coordinates, size)
    for mode in get_args(o.ResizeMode)
    for coordinates in get_args(o.Coordinates)
    for size in ((12, 14), (9, 5), (3, 21))
}
BINARY: dict[str, Make] = {
    name: (lambda net, name=name: o.Binary("x", net.reals(4, 1, 1), "out", name))  # type: ignore[misc]
    for name in ("div", "maximum", "minimum", "mod")
}
OTHERS: dict[str, Make] = {
    "average pool that counts its padding": lambda _: o.AveragePool("x", "out", (3, 3), (2, 2), (1, 0, 1, 2)),
    "average pool that leaves it out": lambda _: o.AveragePool("x", "out", (3, 3), (2, 2), (1, 0, 1, 2), False),
    "max pool": lambda _: o.MaxPool("x", "out", (3, 2), (2, 1), (1, 0, 0, 1)),
    "dilated max pool": lambda _: o.MaxPool("x", "out", (2, 3), (1, 2), (1, 0, 2, 2), (3, 2)),
    "convolution": lambda n: o.Conv(
        "x", n.reals(6, 2, 3, 2), n.reals(6), "out", (2, 1), (1, 0, 2, 3), (1, 2), 2
    ),
    "convolution by computed weights": lambda n: o.Conv(
        "x", n.apply(n.reals(4, 4, 1, 1), "abs", "w"), n.apply(n.reals(4), "abs", "b"), "out"
    ),
    "transposed convolution": lambda n: o.ConvTranspose(
        "x", n.reals(4, 3, 3, 2), n.reals(3), "out", (2, 3), (1, 0, 0, 1), (0, 0), (2, 1)
    ),
    "transposed convolution with more rows": lambda n: o.ConvTranspose(
        "x", n.reals(4, 2, 2, 3), n.reals(4), "out", (3, 2), (0, 1, 1, 0), (2, 1), (1, 1), 2
    ),
    "linear over four axes": lambda n: o.Linear("x", n.reals(5, 7), n.reals(5), "out"),
    "linear by computed weights": lambda n: o.Linear("x", n.apply(n.reals(5, 7), "abs", "w"), n.reals(5), "out"),
    "group norm": lambda n: o.GroupNorm("x", n.reals(4), n.reals(4), "out", 2, 1e-5),
    "layer norm over two axes": lambda n: o.LayerNorm("x", n.reals(6, 7), n.reals(6, 7), "out", 2, 1e-3),
    "layer norm by computed numbers": lambda n: o.LayerNorm("x", n.apply(n.reals(7), "abs", "g"), None, "out", 3, 1e-3),
    "channel affine": lambda n: o.ChannelAffine("x", n.reals(4), n.reals(4), "out"),
    "softmax of channels": lambda _: o.Softmax("x", "out", 1),
    "backward slice": lambda _: o.Slice("x", "out", (0, 3, 0, 6), (2, -1, 6, 1), (1, -1, 2, -2)),
    "constant padding": lambda _: o.Pad("x", "out", (0, 1, 0, 2), (1, 0, 3, 0), 1.25),
    "reflection": lambda _: o.Pad("x", "out", (0, 0, 2, 1), (0, 0, 0, 3), mode="reflect"),
    "reflection of channels": lambda _: o.Pad("x", "out", (0, 2, 0, 1), (0, 1, 0, 0), mode="reflect"),
    "edge": lambda _: o.Pad("x", "out", (0, 0, 0, 4), (0, 0, 2, 0), mode="edge"),
    "expansion to more axes": lambda _: o.Expand("x", "out", (3, *X)),
    "gather from the end": lambda n: o.Gather("x", indices(n, -1, 0, -3), "out", 1),
    "sum": lambda _: o.Reduce("x", "out", "sum", (1, 3)),
    "norm": lambda _: o.Reduce("x", "out", "l2", (2,)),
    "smallest": lambda _: o.TopK("x", "out", "places", 3, 2, False),
    "cast to an index": lambda _: o.Cast("x", "out", "index"),
}  # fmt: skip


@pytest.mark.parametrize("name", [*FUNCTIONS, *RESIZES, *BINARY, *OTHERS])
@pytest.mark.parametrize("ios", [16, 18])
def test_operator(name: str, ios: int, tmp_path: Path) -> None:
    net = Net(*X, seed=3)
    op = {**FUNCTIONS, **RESIZES, **BINARY, **OTHERS}[name](net)
    net.editor.append(op)
    graph = net.graph(*o.results(op))
    inputs = {value: array * 2 for value, array in inputs_of(graph, 1).items()}
    artifact = emit(graph, replace(find_target("coreml-fp32"), ios=ios), tmp_path / "net", "net", {}, {})
    assert problems(artifact.primary) == []
    found = CoreMLRuntime(artifact.primary, interpret=True).run(inputs)
    for value, tensor in run(graph, inputs).items():
        wanted = tensor.numpy()
        assert found[value].shape == wanted.shape and math.prod(wanted.shape) > 0
        assert np.allclose(wanted, found[value], rtol=2e-5, atol=2e-5 * float(np.abs(wanted).max())), value
        assert len(np.unique(wanted)) > 1


def test_windows_of_six_axes(tmp_path: Path) -> None:
    """A partition into windows, which MIL's five axes do not hold as it comes."""
    net = Net(1, 8, 12, 3)
    net.add(o.Reshape("x", "split", (1, 2, 4, 3, 4, 3)))
    net.add(o.Transpose("split", "moved", (0, 1, 3, 2, 4, 5)))
    net.add(o.Reshape("moved", "y", (6, 16, 3)))
    graph = net.graph("y")
    with pytest.raises(UnsupportedError, match="five axes"):
        emit(graph, find_target("coreml-fp32"), tmp_path / "refused", "net", {}, {})
    artifact = emit(simplify(graph), find_target("coreml-fp32"), tmp_path / "net", "net", {}, {})
    inputs = inputs_of(graph, 1)
    found = CoreMLRuntime(artifact.primary, interpret=True).run(inputs)["y"]
    assert np.array_equal(found, run(graph, inputs)["y"].numpy()) and len(np.unique(found)) > 100


def test_whole_numbers_divide_toward_zero(tmp_path: Path) -> None:
    net = Net(1, 1, 4, 8)
    net.add(o.Cast("x", "places", "index"))
    net.add(o.Binary("places", indices(net, 3), "quotient", "div"))
    net.add(o.Binary("places", indices(net, 3), "rest", "mod"))
    graph = net.graph("quotient", "rest")
    inputs = {"x": np.arange(-16, 16, dtype=np.float32).reshape(1, 1, 4, 8)}
    artifact = emit(graph, find_target("coreml-fp32"), tmp_path / "net", "net", {}, {})
    found = CoreMLRuntime(artifact.primary, interpret=True).run(inputs)
    for value, tensor in run(graph, inputs).items():
        assert np.array_equal(found[value], tensor.numpy())
    assert {-5, 0, 5} <= set(found["quotient"].reshape(-1).tolist()) and found["rest"].min() == 0
