"""A graph for several images gives every image what the graph for one gives it; what would mix images is refused."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from edgeq.errors import UnsupportedError
from edgeq.frontend.model import open_model
from edgeq.ir import ops as o
from edgeq.ir.graph import Array, Graph
from edgeq.ir.verify import verify
from edgeq.passes.batch import with_batch
from edgeq.passes.simplify import simplify
from edgeq.reference.interpret import run
from edgeq.targets import find_target
from tests.lowering import lowered
from tests.quantized import Net, inputs_of

COUNT = 3


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """How threads share out an operator on reals decides its last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def images(graph: Graph, count: int) -> list[dict[o.Value, Array]]:
    return [inputs_of(graph, seed) for seed in range(count)]


def together(inputs: list[dict[o.Value, Array]]) -> dict[o.Value, Array]:
    return {name: np.concatenate([one[name] for one in inputs]) for name in inputs[0]}


@pytest.mark.parametrize("model", ["zoo:classifier", "zoo:detector", "zoo:depth"])
@pytest.mark.parametrize("integers", [False, True])
def test_a_batch_gives_every_image_its_own_outputs(model: str, integers: bool) -> None:
    """The transformer moves the batch through splits, transposes and a class token."""
    graph = simplify(open_model(model).graph)
    graph = lowered(graph, find_target("onnx-int8"), inputs_of(graph)) if integers else graph
    inputs = images(graph, COUNT)
    batched = with_batch(graph, COUNT)
    verify(batched)
    found = run(batched, together(inputs))
    singles = [run(graph, one) for one in inputs]
    for name in graph.outputs:
        wanted = np.concatenate([one[name].numpy() for one in singles])
        assert not np.array_equal(*(one[name].numpy() for one in singles[:2]))
        assert found[name].shape == wanted.shape
        if integers:  # codes decide, so batches may not even change the order of sums
            assert np.array_equal(found[name].numpy(), wanted)
        else:
            assert np.abs(found[name].numpy() - wanted).max() <= 1e-4 * np.abs(wanted).max()


def test_one_image_leaves_the_graph_as_it_is() -> None:
    graph = simplify(open_model("zoo:classifier").graph)
    batched = with_batch(graph, 1)
    inputs = inputs_of(graph)
    assert all(batched.types[value] == type_ for value, type_ in graph.types.items())
    assert [t.tolist() for t in run(batched, inputs).values()] == [t.tolist() for t in run(graph, inputs).values()]


def split_over_images(net: Net) -> o.Value:
    """Reshape that would put halves of two images into one row: the axis before the images' is not whole."""
    moved = net.add(o.Transpose("x", "t", (1, 0, 2, 3)))
    return net.add(o.Reshape(moved, "y", (4, 3, 6)))


REFUSED = {
    "softmax over images": lambda net: net.add(o.Softmax("x", "y", 0)),
    "mean over images": lambda net: net.add(o.Mean("x", "y", (0,))),
    "joined along images": lambda net: net.add(o.Concat(("x", "x"), "y", 0)),
    "part of the images": lambda net: net.add(o.Slice("x", "y", (0, 0, 0, 0), (1, 6, 4, 3), (2, 1, 1, 1))),
    "padded with images": lambda net: net.add(o.Pad("x", "y", (1, 0, 0, 0), (0, 0, 0, 0))),
    "product of images": lambda net: net.add(
        o.MatMul(net.add(o.Reshape("x", "a", (1, 72))), net.add(o.Transpose("a", "b", (1, 0))), "y")
    ),
    "images across a reshape": split_over_images,
    "moved images": lambda net: net.add(o.Conv(net.add(o.Transpose("x", "t", (1, 0, 2, 3))), net.reals(2, 1, 1, 1), None, "y")),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_operators_that_would_mix_images_are_refused_by_name(name: str) -> None:
    net = Net(1, 6, 4, 3)
    graph = net.graph(REFUSED[name](net))
    run(graph, inputs_of(graph))  # fine for one image
    with pytest.raises(UnsupportedError, match="would mix images; at y"):
        with_batch(graph, 2)
