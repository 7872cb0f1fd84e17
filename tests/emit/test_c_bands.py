"""Layers in bands of rows: less memory, the same codes."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from edgeq.emit.c_bands import Banded
from edgeq.emit.c_place import place
from edgeq.ir import ops as o
from edgeq.ir.graph import Graph
from edgeq.passes.kernels import program
from tests.c_nets import C_TARGETS, PACKED_TARGETS, equal_codes, folder_of, target
from tests.code_nets import code_nets
from tests.lowering import lowered
from tests.quantized import Net, inputs_of


def high_resolution() -> Graph:
    """Large images first, as in every classifier: strides, padding of any side, dilation, a depthwise layer, a pool."""
    n = Net(1, 3, 45, 22)
    x = n.apply(n.conv("x", 9, "first"), "relu", "a")
    depthwise = n.reals(9, 1, 3, 3, spread=0.4)
    x = n.add(o.Conv(x, depthwise, n.reals(9), "depthwise", (1, 1), (1, 1, 1, 1), groups=9))
    x = n.apply(n.conv(n.apply(x, "silu", "b"), 12, "pointwise", kernel=1), "clip", "c", 0.0, 6.0)
    x = n.add(o.Conv(x, n.reals(11, 12, 3, 3, spread=0.1), None, "dilated", (2, 1), (2, 2, 2, 2), (2, 2)))
    x = n.add(o.MaxPool(x, "pooled", (3, 3), (2, 2), (0, 0, 1, 1)))
    return n.graph(n.conv(x, 5, "map", kernel=1))


def check(graph: Graph, name: str, ram_bytes: int, folder: Path) -> set[int]:
    """The codes seen, all equal to the reference."""
    integer, artifact = folder_of(graph, replace(target(name), ram_bytes=ram_bytes), folder)
    return equal_codes(graph, integer, artifact, 3)


@pytest.mark.parametrize("name", [*C_TARGETS, *PACKED_TARGETS])
def test_bands_save_memory_and_change_no_code(name: str, tmp_path: Path) -> None:
    graph = high_resolution()
    found, kernels = program(lowered(graph, target(name), inputs_of(graph))), target(name).instructions
    whole, banded = place(found, kernels), place(found, kernels, 1)
    (chain,) = [work for _, work in banded.kernels if isinstance(work, Banded)]
    assert len(chain.kernels) > 2 and len(chain.bands) > 3 and len({k.op for b in chain.bands for k in b.kernels}) > 6
    assert banded.memory.arena_bytes < 0.7 * whole.memory.arena_bytes
    assert banded.memory.arena_bytes <= 1.05 * banded.memory.lower_bound
    assert len(check(graph, name, 1, tmp_path / "out")) > 100


def test_bands_are_as_few_as_the_limit_allows() -> None:
    graph = high_resolution()
    found = program(lowered(graph, target("c-int8"), inputs_of(graph)))
    plain = place(found, "portable").memory.arena_bytes
    assert all(not isinstance(work, Banded) for _, work in place(found, "portable", plain).kernels)
    work = []
    for limit in (plain - 1, int(0.8 * plain), 1):
        placed = place(found, "portable", limit)
        assert placed.memory.arena_bytes <= max(limit, 0.7 * plain)
        work.append(sum(w.macs for _, w in placed.kernels if isinstance(w, Banded)))
    assert work == sorted(work)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(code_nets(8))
def test_random_networks_in_bands(graph: Graph) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        assert len(check(graph, "c-int8", 1, Path(temporary) / "out")) > 3
