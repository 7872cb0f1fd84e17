"""Channels that cannot matter are left out, and every value that is left holds the codes that it held before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeq.emit.c import emit
from edgeq.ir import ops as o
from edgeq.ir.graph import Graph, with_constants
from edgeq.ir.verify import verify
from edgeq.passes.idle_channels import without_idle_channels
from edgeq.runtimes.native import NativeRuntime
from edgeq.targets import find_target
from tests.c_nets import every_value, extreme_inputs, pruned, small_network, target
from tests.code_nets import code_nets
from tests.lowering import lowered
from tests.quantized import Net, inputs_of


def compare(whole: Graph, reduced: Graph, inputs_from: Graph) -> set[int]:
    """The codes seen; every value of `reduced` holds channels that the same value of `whole` holds, outputs all."""
    seen = set[int]()
    for inputs in extreme_inputs(inputs_from, 5):
        wanted, found = every_value(whole, inputs), every_value(reduced, inputs)
        for value in reduced.outputs:
            np.testing.assert_array_equal(found[value], wanted[value])
        for value, codes in found.items():
            if codes.shape == wanted[value].shape:
                np.testing.assert_array_equal(codes, wanted[value], err_msg=value)
            else:
                rows = {row.tobytes() for row in wanted[value].swapaxes(0, 1) + 0}  # -0 is 0
                assert all(row.tobytes() in rows for row in codes.swapaxes(0, 1) + 0), value
            seen.update(np.unique(codes.astype(np.int64)).tolist()[:256])
    return seen


def chain() -> Graph:
    """A stem, a depthwise block with padding, a residual, a pool, a linear layer: as in MobileNet."""
    n = Net(1, 3, 12, 11)
    x = n.apply(n.conv("x", 16, "first", stride=2), "relu", "a")
    for k in range(2):
        depthwise = n.reals(16, 1, 3, 3, spread=0.4)
        y = n.add(o.Conv(x, depthwise, n.reals(16), f"depthwise {k}", (1, 1), (1, 1, 1, 1), groups=16))
        y = n.conv(n.apply(y, "relu", f"b {k}"), 16, f"pointwise {k}", kernel=1)
        x = n.apply(n.add(o.Add(x, y, f"residual {k}")), "relu", f"c {k}")
    flat = n.add(o.Reshape(n.add(o.Mean(n.conv(x, 24, "last", kernel=1), "means", (2, 3))), "flat", (1, 24)))
    return n.graph(n.linear(flat, 7, "scores"))


@pytest.mark.parametrize("name", ["c-int8", "cortex-m4-int8", "c-w8a16", "reference"])
def test_what_is_left_is_equal(name: str) -> None:
    graph = chain()
    whole = pruned(lowered(graph, find_target(name), inputs_of(graph)), 1)
    reduced = without_idle_channels(whole)
    verify(reduced.graph)
    assert reduced.left_out > reduced.channels / 5
    assert len(compare(whole, reduced.graph, graph)) > 100


def test_a_graph_without_idle_channels_stays_as_it_is() -> None:
    graph = small_network()
    whole = lowered(graph, target("c-int8"), inputs_of(graph))
    found = without_idle_channels(whole)
    assert found.left_out == 0 and found.graph is whole and found.channels > 50


def test_padding_keeps_a_channel_whose_level_is_not_zero() -> None:
    """A constant beside zeros of padding is no constant after a 3x3 layer, but it is after a 1x1 layer."""
    for kernel, left in ((3, 6), (1, 5)):
        n = Net(1, 3, 6, 6)
        x = n.conv("x", 6, "first", kernel=1)
        graph = n.graph(n.conv(x, 4, "second", kernel=kernel))
        whole = lowered(graph, target("c-int8"), inputs_of(graph))
        first = next(op for op in whole.ops if isinstance(op, o.Conv))
        assert first.bias is not None
        weight, bias = whole.constants[first.weight].copy(), whole.constants[first.bias].astype(np.int32)
        weight[2], bias[2] = 0, 20 * abs(int(bias.max())) + 1000
        whole = with_constants(whole, {first.weight: weight, first.bias: bias})
        reduced = without_idle_channels(whole).graph
        assert reduced.types["first"].shape[1] == left
        compare(whole, reduced, graph)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(code_nets(8), st.integers(0, 1 << 16))
def test_random_networks(graph: Graph, seed: int) -> None:
    whole = pruned(lowered(graph, target("c-int8"), inputs_of(graph)), seed)
    reduced = without_idle_channels(whole).graph
    verify(reduced)
    compare(whole, reduced, graph)


@pytest.mark.parametrize("name", ["c-int8", "cortex-m55-int8", "rv64gcv-int8", "c-w4a8"])
def test_generated_c_of_odd_channels(name: str, tmp_path: Path) -> None:
    graph = chain()
    whole = pruned(lowered(graph, target(name), inputs_of(graph)), 2)
    reduced = without_idle_channels(whole).graph
    artifact = emit(reduced, target(name), tmp_path / "out", "net", {}, {})
    runtime = NativeRuntime(artifact.primary, artifact.tensors.values())
    for inputs in extreme_inputs(graph, 4):
        found, wanted = runtime.run(inputs), every_value(whole, inputs)
        for value in whole.outputs:
            np.testing.assert_array_equal(found[value], wanted[value])
        assert len(np.unique(found[whole.outputs[0]])) > 3
