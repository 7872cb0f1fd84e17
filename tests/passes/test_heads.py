"""Cutting a head off gives two graphs that are together the original, bit for bit, and tells what each output holds."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from edgeq.errors import UnsupportedError
from edgeq.frontend.model import open_model
from edgeq.ir import ops as o
from edgeq.ir.graph import Array, Graph
from edgeq.ir.verify import verify
from edgeq.passes.heads import SplitHead, split_head
from edgeq.passes.simplify import simplify
from edgeq.quantize.operators import is_expectation, is_weighted
from edgeq.reference.interpret import run
from tests.quantized import Net, inputs_of, outputs_of


def composed(graph: Graph, inputs: Mapping[o.Value, Array]) -> SplitHead:
    """The split head, after checking that trunk and decode together give what `graph` gives."""
    head = split_head(graph)
    verify(head.trunk)
    verify(head.decode)
    raw = {name: tensor.numpy() for name, tensor in run(head.trunk, inputs).items()}
    assert list(raw) == [item.value for item in head.outputs]
    found = run(head.decode, raw)
    assert tuple(found) == graph.outputs
    for name, wanted in run(graph, inputs).items():
        assert wanted.numel() < 8 or len(np.unique(wanted.numpy())) > 4
        np.testing.assert_array_equal(found[name].numpy(), wanted.numpy())
    assert not any(is_weighted(op) and not is_expectation(op, graph) for op in head.decode.ops)
    return head


@pytest.mark.parametrize("name", ["detector", "classifier", "depth"])
def test_zoo(name: str) -> None:
    graph = simplify(open_model(f"zoo:{name}").graph)
    head = composed(graph, inputs_of(graph))
    assert len(head.trunk.ops) > len(head.decode.ops)
    if name == "detector":
        assert len(head.outputs) >= 2 and {"scores"} < {item.role for item in head.outputs}
        assert all(item.stride in (8, 16, 32) for item in head.outputs)


def detection_head(*, distribution: bool) -> Graph:
    net = Net(1, 6, 16, 16)
    feature = net.apply(net.conv("x", 8, "feature", stride=2), "relu", "active")
    sides, scores = net.conv(feature, 16 if distribution else 4, "sides"), net.conv(feature, 3, "scores")
    flat = net.add(o.Reshape(sides, "flat", (1, 16 if distribution else 4, 64)))
    if distribution:
        bins = net.add(o.Transpose(net.add(o.Reshape(flat, "bins", (1, 4, 4, 64))), "turned", (0, 2, 1, 3)))
        soft = net.add(o.Softmax(bins, "soft", 1))
        expectation = net.constant(np.arange(4).reshape(1, 4, 1, 1))
        flat = net.add(o.Reshape(net.add(o.Conv(soft, expectation, None, "mean")), "lengths", (1, 4, 64)))
    boxes = net.add(o.Mul(net.add(o.Add(flat, net.reals(1, 4, 64), "offset")), net.constant(2.0), "boxes"))
    chance = net.apply(net.add(o.Reshape(scores, "flat2", (1, 3, 64))), "sigmoid", "chance")
    return net.graph(net.add(o.Concat((boxes, chance), "y", 1)))


@pytest.mark.parametrize("distribution", [True, False])
def test_roles_of_a_detection_head(distribution: bool) -> None:
    graph = detection_head(distribution=distribution)
    head = composed(graph, inputs_of(graph))
    assert {(item.value, item.role, item.stride) for item in head.outputs} == {
        ("sides", "distribution" if distribution else "boxes", 2),
        ("scores", "scores", 2),
    }


def test_boxes_and_scores_in_one_convolution() -> None:
    net = Net(1, 6, 16, 16)
    raw = net.conv("x", 7, "raw", stride=2)
    flat = net.add(o.Reshape(raw, "flat", (1, 7, 64)))
    sides = net.add(o.Slice(flat, "sides", (0, 0, 0), (1, 4, 64), (1, 1, 1)))
    boxes = net.add(o.Mul(sides, net.constant(8.0), "boxes"))
    scores = net.apply(net.add(o.Slice(flat, "logits", (0, 4, 0), (1, 7, 64), (1, 1, 1))), "sigmoid", "scores")
    graph = net.graph(net.add(o.Concat((boxes, scores), "y", 1)))
    (item,) = composed(graph, inputs_of(graph)).outputs
    assert (item.value, item.role, item.stride) == ("raw", "boxes and scores", 2)


def test_logits_are_features_and_a_trained_tail_is_not_decode() -> None:
    net = Net(1, 6, 8, 8)
    pooled = net.add(o.Reshape(net.add(o.Mean(net.conv("x", 8, "a"), "pooled", (2, 3))), "flat", (1, 8)))
    graph = net.graph(net.linear(pooled, 20, "logits"))
    head = composed(graph, inputs_of(graph))
    assert [(item.value, item.role, item.stride) for item in head.outputs] == [("logits", "features", 0)]
    assert head.decode.ops == () and len(head.trunk.ops) == len(graph.ops)


def test_nothing_learned() -> None:
    net = Net(1, 3, 4, 4)
    with pytest.raises(UnsupportedError, match="no learned head"):
        split_head(net.graph(net.apply("x", "relu", "y")))


def test_document() -> None:
    graph = detection_head(distribution=True)
    head = split_head(graph)
    document = head.document(dict(head.trunk.types), "text")
    assert document["schema"] == "edgeq.head/1" and document["results"] == ["y"] and document["decode"] == "text"
    assert {tuple(entry["shape"]) for entry in document["outputs"]} == {(1, 16, 8, 8), (1, 3, 8, 8)}
    assert outputs_of(graph, inputs_of(graph))[0].shape == (1, 7, 64)
