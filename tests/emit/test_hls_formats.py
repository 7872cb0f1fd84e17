"""Every format of weights: the largest sums that a layer can reach are those that are proved, and the design gives them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeq.formats import code_range, decode
from edgeq.ir import ops as o
from edgeq.ir.bounds import level_bounds
from edgeq.ir.graph import Array, Graph
from edgeq.target import Target
from edgeq.targets import find_target
from tests.c_nets import every_value
from tests.hls_formats import FORMATS
from tests.hls_nets import simulation
from tests.lowering import lowered
from tests.quantized import Net, inputs_of


def target_of(name: str) -> Target:
    """The target with weights of the format in every layer."""
    return replace(find_target("fpga-int4"), weight=FORMATS[name])


def one_layer(seed: int = 0) -> Graph:
    """A convolution of the whole image: one sum for each output channel."""
    n = Net(1, 6, 3, 3, seed=seed)
    weight = n.reals(5, 6, 3, 3, spread=0.3)
    return n.graph(n.add(o.Conv("x", weight, n.reals(5), "y")))


@pytest.mark.parametrize("name", ["e4m3", *(pytest.param(n, marks=pytest.mark.slow) for n in FORMATS if n != "e4m3")])
def test_sums_reach_the_width_that_is_proved(name: str, tmp_path: Path) -> None:
    """Of every output channel the input that makes its sum largest: it is the proved bound, and the design gives it."""
    graph = one_layer()
    integer = lowered(graph, target_of(name), inputs_of(graph))
    made = simulation(integer, {}, tmp_path / "out")
    (layer,) = (op for op in integer.ops if isinstance(op, o.Conv))
    type_ = integer.types[layer.weight]
    levels = decode(type_.format, integer.constants[layer.weight])
    low, high = code_range(integer.types[layer.x].format)
    reached = list[int]()
    for channel, sign in ((c, s) for c in range(len(levels)) for s in (1, -1)):
        codes = np.where(sign * levels[channel] > 0, high, low)[None].astype(np.int64)
        values = made.values(codes)
        wanted = every_value(integer, {integer.inputs[0]: _real(integer, codes)})
        np.testing.assert_array_equal(values[layer.out], wanted[layer.out])
        reached.append(int(values[layer.out].reshape(-1)[channel]))
    assert (min(reached), max(reached)) == level_bounds(integer)[layer.out]
    assert len(set(reached)) == 2 * len(levels)


def _real(integer: Graph, codes: NDArray[np.int64]) -> Array:
    (first,) = integer.consumers[integer.inputs[0]]
    assert isinstance(first, o.Quantize)
    return np.asarray(codes * integer.types[first.out].scale[0], dtype=np.float32)
