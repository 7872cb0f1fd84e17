"""A small residual network under formats asked for by name, quantized with plain ranges."""

from __future__ import annotations

from edgeq.ir import ops as o
from edgeq.ir.graph import Graph
from edgeq.ir.verify import verify
from edgeq.passes.copies import with_narrow_copies
from edgeq.passes.lower import lower
from edgeq.quantize.asked import Asked, with_formats
from edgeq.quantize.assign import assign
from edgeq.quantize.structure import Structure, analyse
from edgeq.recipe import Recipe
from edgeq.target import Target
from edgeq.targets import find_target
from tests.lowering import ranges_on
from tests.quantized import Net, inputs_of

REFERENCE = find_target("reference")
LAYERS = ("stem", "left", "right", "last")


def residual() -> Graph:
    """stem, then left and right around a sum that also reads the stem, then last; 6 channels."""
    net = Net(1, 3, 6, 6, seed=3)
    stem = net.apply(net.conv("x", 6, "stem"), "relu", "stem.relu")
    left = net.apply(net.conv(stem, 6, "left"), "relu", "left.relu")
    total = net.add(o.Add(net.conv(left, 6, "right"), stem, "sum"))
    return net.graph(net.conv(net.apply(total, "relu", "sum.relu"), 4, "last", kernel=1))


def structured(asked: Asked, target: Target = REFERENCE, graph: Graph | None = None) -> tuple[Structure, list[str]]:
    """The structure of `graph` (default: the residual network) under `asked`, and the notes."""
    graph = residual() if graph is None else graph
    recipe, notes = with_formats(Recipe("minmax"), asked, graph, target)
    return analyse(with_narrow_copies(graph, recipe), target, recipe), notes


def quantized(asked: Asked, target: Target = REFERENCE, graph: Graph | None = None) -> Graph:
    """`graph` lowered and verified under `asked`, with the ranges that its values have on one input."""
    structure, _ = structured(asked, target, graph)
    inputs = inputs_of(structure.graph)
    lowered = lower(structure.graph, assign(structure, ranges_on(structure, target, inputs), target))
    verify(lowered)
    return lowered
