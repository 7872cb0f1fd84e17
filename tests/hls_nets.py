"""Graphs lowered for FPGA targets, their folders, and every value of a design beside the reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgeq.emit.artifact import Artifact
from edgeq.emit.hls import emit
from edgeq.ir import ops as o
from edgeq.ir.graph import Graph
from edgeq.runtimes.csim import HlsRuntime
from edgeq.targets import find_target
from tests.c_nets import every_value, extreme_inputs
from tests.lowering import lowered
from tests.quantized import Net, inputs_of

TARGETS = ("fpga-fx8", "fpga-int4", "fpga-e2m3", "fpga-post4")


def residual_network() -> Graph:
    """A convolution whose result a second one and a sum read; then a depthwise one, a pool and a dense layer."""
    n = Net(1, 3, 9, 8)
    x = n.apply(n.conv("x", 4, "first"), "relu", "a")
    y = n.apply(n.add(o.Add(n.conv(x, 4, "second"), x, "sum")), "relu", "b")
    weight = n.reals(4, 1, 3, 3, spread=0.4)
    y = n.add(o.Conv(y, weight, n.reals(4), "depthwise", (2, 2), (1, 1, 1, 1), groups=4))
    y = n.add(o.MaxPool(y, "pooled", (2, 2), (2, 2)))
    flat = n.add(o.Reshape(y, "flat", (1, 16)))
    return n.graph(n.linear(flat, 5, "scores"))


def folder_of(graph: Graph, name: str, folder: Path) -> tuple[Graph, Artifact]:
    """`graph` (real) lowered for a target and written as a design."""
    integer = lowered(graph, find_target(name), inputs_of(graph))
    return integer, emit(integer, find_target(name), folder, "net", {}, {})


def assert_equal_everywhere(graph: Graph, name: str, seed: int, folder: Path) -> int:
    """Every value of the design equals the reference, and it does not get stuck; the number of distinct codes seen."""
    integer, artifact = folder_of(graph, name, folder)
    runtime = HlsRuntime(artifact.primary).watching(artifact.tensors.values())
    distinct = set[int]()
    for inputs in extreme_inputs(graph, seed):
        wanted, found = every_value(integer, inputs), runtime.run(inputs)
        assert found.keys() >= set(integer.outputs)
        for value, codes in found.items():
            np.testing.assert_array_equal(codes, wanted[value], err_msg=value)
            if codes.dtype.kind == "i":
                distinct.update(codes.reshape(-1).tolist())
    frame = runtime.bounded(inputs_of(graph, seed))
    assert not frame.stuck and all(filling.peak <= filling.depth for filling in frame.streams.values())
    assert not any(filling.left for filling in frame.streams.values())
    return len(distinct)
