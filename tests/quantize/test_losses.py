"""Losses of formats: first order meets the truth where rounding is fine, every kind falls with bits, and what costs what."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from edgeq.errors import UsageError
from edgeq.formats import Format, Int
from edgeq.ir import ops as o
from edgeq.ir.graph import Array, Type
from edgeq.quantize.allocate import groups_of
from edgeq.quantize.costs import BYTES, MILLISECONDS, WORK, costs_of, layer_key, read_latency_table
from edgeq.quantize.items import build_items, choices_of, read_classes, ties, weighted_results
from edgeq.quantize.losses import KINDS, Kind, Losses, measure_losses, weight_errors
from edgeq.quantize.sensitivity import Objective, backward_passes
from edgeq.quantize.structure import Structure, analyse
from edgeq.recipe import Recipe, parse_formats, parse_rule
from tests.format_nets import LAYERS, REFERENCE, residual
from tests.quantized import Net, inputs_of

BITS = (3, 4, 6, 8)


def structure() -> Structure:
    return analyse(residual(), REFERENCE, Recipe())


def samples(graph_structure: Structure, count: int = 24) -> list[dict[o.Value, Array]]:
    return [inputs_of(graph_structure.graph, seed) for seed in range(count)]


def measured(kind: Kind, found: Structure) -> Losses:
    formats: dict[str, list[Format]] = {name: [Int(bits, narrow=True) for bits in BITS] for name in LAYERS}
    grids = {}
    for name in LAYERS:
        for key in read_classes(found, name):
            for bits in BITS:
                grids[key, bits] = Type(found.graph.types[key].shape, Int(bits), (16 / 2.0**bits,), 0)
    objective = Objective(found.graph.outputs)
    return measure_losses(found, weight_errors(found, formats), grids, samples(found), objective, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_more_bits_lose_less(kind: Kind) -> None:
    losses = measured(kind, structure())
    for name in LAYERS:
        found = [losses.weights[name, Int(bits, narrow=True)] for bits in BITS]
        assert all(a > b > 0 for a, b in pairwise(found)), (kind, name)
    assert len(losses.activations) == len(BITS) * 4
    for key in {key for key, _ in losses.activations}:
        assert losses.activations[key, 3] > losses.activations[key, 8] > 0


@pytest.mark.parametrize("kind", ["noise", "hessian", "fisher"])
def test_first_order_is_near_what_is_measured(kind: Kind) -> None:
    found = structure()
    truth, estimate = measured("measured", found), measured(kind, found)
    fine = Int(8, narrow=True)
    ratios = [estimate.weights[name, fine] / truth.weights[name, fine] for name in LAYERS]
    ratios += [estimate.activations[key] / truth.activations[key] for key in truth.activations if key[1] == 8]
    spread = {"noise": 3.0, "hessian": 12.0, "fisher": 12.0}[kind]
    assert all(1 / spread < ratio < spread for ratio in ratios), ratios


def test_relevance_is_conserved_through_layers_without_bias() -> None:
    """Of a chain of linear maps every layer's weights have the relevance of the output itself, before magnitudes."""
    net = Net(1, 6, 5, 5)
    weights = [net.reals(7, 6, 3, 3), net.reals(4, 7, 3, 3)]
    first = net.add(o.Conv("x", weights[0], None, "first"))
    graph = net.graph(net.add(o.Conv(first, weights[1], None, "last")))
    found = analyse(graph, REFERENCE, Recipe())
    kept = {"first", "last"}
    objective = Objective(graph.outputs)
    for values, slopes in backward_passes(graph, objective, kept, samples(found, 1), weights=weights):
        relevance = [float((slopes[name] * values[name]).detach().sum()) for name in sorted(kept)]
        relevance += [float((slopes[n] * torch.from_numpy(graph.constants[n])).sum()) for n in weights]
        assert abs(relevance[0]) > 1e-3
        assert relevance == pytest.approx([relevance[0]] * 4, rel=1e-3)


def test_readers_of_one_value_are_tied_and_share_its_cost() -> None:
    net = Net(1, 6, 5, 5)
    shared = net.apply(net.conv("x", 6, "first"), "relu", "shared")
    graph = net.graph(net.conv(shared, 5, "left"), net.conv(shared, 7, "right"))
    found = analyse(graph, REFERENCE, Recipe())
    assert ties(found)["left"] == ties(found)["right"] != ties(found)["first"]
    offered = [parse_formats("w4a4"), parse_formats("w4a8")]
    losses = Losses({}, {("shared", 4): 5.0, ("shared", 8): 1.0})
    items = build_items(found, choices_of(found, Recipe(), offered), losses)
    assert [choice.loss for item in items for choice in item.choices] == [0, 0, 5, 1, 0, 0]
    assert sorted(map(len, groups_of(items))) == [1, 2]
    assert weighted_results(found) == ["first", "left", "right"]


def test_operators_that_rules_name_have_one_choice() -> None:
    found = structure()
    recipe = Recipe(rules=(parse_rule("stem=w8a8"), parse_rule("r*=post4/int6")))
    offered = [parse_formats(text) for text in ("w2a4", "w4a4", "w4a8")]
    choices = choices_of(found, recipe, offered)
    assert [list(map(str, choices[name])) for name in ("stem", "left", "last")] == [
        ["w8a8"], ["w2a4", "w4a4", "w4a8"], ["w2a4", "w4a4", "w4a8"]
    ]  # fmt: skip
    assert len(choices["right"]) == 1 and choices["right"][0].activation == Int(6)


def test_products_of_activations_join_their_classes() -> None:
    net = Net(1, 4, 6, 6)
    left, right = net.conv("x", 4, "left"), net.conv("x", 4, "right")
    product = net.add(o.MatMul(left, right, "product"))
    graph = net.graph(net.conv(product, 3, "y"), net.conv(right, 3, "z"))
    found = analyse(graph, REFERENCE, Recipe())
    assert read_classes(found, "product") == ("left", "right")
    assert ties(found)["product"] == ties(found)["z"]
    choices = choices_of(found, Recipe(), [parse_formats("w4a8"), parse_formats("w8a8"), parse_formats("w8a4")])
    assert [f.weight for f in choices["product"]] == [None, None] and len(choices["y"]) == 3


def test_costs_and_the_table_of_latencies(tmp_path: Path) -> None:
    graph = residual()
    op = graph.producer["left"]
    assert layer_key(op, graph) == "Conv 3x3 s1 g1 6x6x6 6x6x6"
    path = tmp_path / "board.json"
    path.write_text(json.dumps({"layers": {layer_key(op, graph): {"w4a8": 1.5}, "right": {"w4a8": 0.5}}}))
    table = read_latency_table(path)
    costs = costs_of(op, graph, parse_formats("w4a8"), ["stem.relu"], table)
    assert costs[BYTES] == 6 * 6 * 9 // 2 and costs[WORK] == 36 * 6 * 54 * 32 and costs[MILLISECONDS] == 1.5
    assert costs_of(graph.producer["right"], graph, parse_formats("w4a8"), [], table)[MILLISECONDS] == 0.5
    with pytest.raises(UsageError, match=r"does not know these formats.*w4a8"):
        table.milliseconds(op, graph, parse_formats("w8a8"))
    with pytest.raises(UsageError, match="does not know this operator"):
        table.milliseconds(graph.producer["last"], graph, parse_formats("w4a8"))
    for content in (
        "",
        "[]",
        '{"layers": {"a": 1}}',
        '{"layers": {"a": {"w4a8": -1}}}',
        '{"layers": {"a": {"w4a8": "x"}}}',
    ):
        path.write_text(content)
        with pytest.raises(UsageError):
            read_latency_table(path)
    assert np.isfinite(costs[WORK])
