"""What runs on codes and which values share a type, on hand-made nets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from edgeq.calibrate.choose import choose
from edgeq.calibrate.estimators import Mse
from edgeq.calibrate.statistics import statistics_of
from edgeq.formats import INT8, INT16, UINT8
from edgeq.ir import ops as o
from edgeq.ir.bounds import SHARE_UNIT
from edgeq.quantize.coverage import coverage
from edgeq.quantize.operators import gated_function, is_expectation, never_negative
from edgeq.quantize.structure import analyse
from edgeq.reference.interpret import run
from edgeq.targets import find_target
from tests.c_nets import small_transformer
from tests.quantized import JETSON, ORT, TARGETS, Net, recipe


def test_narrow_where_a_weighted_operator_reads() -> None:
    net = Net(1, 6, 8, 8)
    hidden = net.apply(net.conv("x", 8, "hidden"), "silu", "active")
    graph = net.graph(net.conv(hidden, 4, "y"))
    found = analyse(graph, JETSON, recipe())
    assert {value: found.formats[found.key[value]] for value in found.key} == {
        "x": INT8, "hidden": INT16, "active": INT8
    }  # fmt: skip
    assert found.integer == {"hidden", "active", "y"} and found.held == frozenset()
    assert set(analyse(graph, ORT, recipe()).formats.values()) == {UINT8}
    assert found.through("hidden") == o.Function("silu") and found.through("active") is None


def test_moved_values_share_a_class_and_concat_where_the_target_says_so() -> None:
    net = Net(1, 6, 8, 8)
    a, b = net.conv("x", 6, "a"), net.conv("x", 6, "b")
    pooled = net.add(o.MaxPool(a, "pooled", (3, 3), (1, 1), (1, 1, 1, 1)))
    joined = net.add(o.Concat((pooled, b), "joined", 1))
    graph = net.graph(net.conv(joined, 4, "y"))
    for shared in (True, False):
        found = analyse(graph, replace(JETSON, same_scale_concat=shared), recipe())
        assert found.key["a"] == found.key["pooled"] and found.sources(found.key["a"])[0] == "a"
        assert (found.key["b"] == found.key["joined"] == found.key["a"]) == shared


def test_clamp_and_addition_take_the_accumulator() -> None:
    net = Net(1, 6, 8, 8)
    stem = net.apply(net.conv("x", 6, "stem"), "relu", "started")
    total = net.add(o.Add(started := stem, net.conv(started, 6, "branch"), "total"))
    graph = net.graph(net.conv(net.apply(total, "relu", "ended"), 4, "y"))
    assert analyse(graph, JETSON, recipe()).held == {"stem", "branch", "total"}
    assert analyse(graph, ORT, recipe()).held == {"stem", "total"}


def test_a_kernel_that_keeps_its_operands_scale_rounds_before_a_clamp() -> None:
    net = Net(1, 6, 8, 8)
    enlarged = net.add(o.Resize(net.conv("x", 6, "stem"), "enlarged", (16, 16), (2.0, 2.0), "linear", "half_pixel"))
    graph = net.graph(net.conv(net.apply(enlarged, "relu", "clamped"), 4, "y"))
    found = analyse(graph, find_target("tflite-int8"), recipe())
    assert not found.held and found.key["stem"] == found.key["enlarged"] != found.key["clamped"]
    assert analyse(graph, ORT, recipe()).held == {"enlarged"}


def test_element_wise_operators_of_real_values_stay_real() -> None:
    net = Net(1, 10, 16)
    normal = net.add(o.LayerNorm("x", None, None, "normal", 2, 1e-5))
    scaled = net.add(o.Mul(normal, net.reals(16), "scaled"))
    graph = net.graph(net.linear(scaled, 4, "y"))
    for target in TARGETS:
        assert analyse(graph, target, recipe()).integer == {"y"}
        assert analyse(graph, target, recipe("y")).integer == frozenset()
        found = coverage(graph, target, recipe())
        assert (found.integer_ops, found.all_ops, found.real) == (1, 3, {"LayerNorm": 1, "Mul": 1})
        assert found.integer_macs == found.all_macs == 640


def test_expectation_is_not_learned() -> None:
    net = Net(1, 4, 4, 9)
    soft = net.add(o.Softmax("x", "soft", 1))
    mean = net.add(o.Conv(soft, net.constant([[[[0]], [[1]], [[2]], [[3]]]]), None, "mean"))
    other = net.add(o.Conv(soft, net.constant([[[[0]], [[1]], [[2]], [[4]]]]), None, "other"))
    graph = net.graph(mean, other)
    assert [is_expectation(op, graph) for op in graph.ops] == [False, True, False]
    assert analyse(graph, JETSON, recipe()).integer == {"other"}


@pytest.mark.parametrize("length", [511, 512])
def test_softmax_of_more_shares_than_steps_stays_real_in_tflite(length: int) -> None:
    net = Net(1, 1, length)
    shares = net.add(o.Softmax("x", "shares", 2))
    graph = net.graph(net.linear(shares, 4, "y"))
    assert ("shares" in analyse(graph, find_target("tflite-int8"), recipe()).integer) == (length == 511)
    assert "shares" in analyse(graph, find_target("rpi-w8a16"), recipe()).integer


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_what_overshoots_may_become_negative(mode: o.ResizeMode) -> None:
    """A step from 0 to 1 between rows: cubic interpolation goes below."""
    net = Net(1, 2, 4, 4)
    large = net.add(o.Resize(net.apply("x", "relu", "positive"), "large", (8, 8), (2.0, 2.0), mode))
    graph = net.graph(large)
    step = np.zeros((1, 2, 4, 4), np.float32)
    step[:, :, 2:] = 1
    lowest = float(run(graph, {"x": step})["large"].min())
    assert never_negative(graph, "large") == (lowest >= 0) == (mode != "cubic")


def test_gates() -> None:
    gate, product = o.Apply("x", "g", o.Function("sigmoid")), o.Mul("x", "g", "y")
    assert gated_function([gate, product]) == o.Function("silu")
    assert gated_function([gate, o.Mul("x", "z", "y")]) is None and gated_function([gate]) is None


def test_streams_and_shares_have_sixteen_bits_in_c() -> None:
    graph = small_transformer()
    found = analyse(graph, find_target("c-int8"), recipe())
    wide = {value for key, format_ in found.formats.items() if format_ == INT16 for value in found.members[key]}
    assert wide == {"placed", "stream 0", "out 0", "stream 1", "out 1", "shares 0", "shares 1"}
    assert found.held == {"projected 0", "down 0", "projected 1", "down 1"}
    assert set(found.fixed.values()) == {(1 / SHARE_UNIT, 0)} and len(found.fixed) == 2
    assert all(found.runs_on_codes(op) for op in graph.ops)
    assert INT16 not in analyse(graph, ORT, recipe()).formats.values()


def test_a_sum_that_a_layer_reads_and_shares_that_leave_stay_narrow() -> None:
    net = Net(1, 5, 8)
    total = net.add(o.Add(net.linear("x", 8, "a"), net.linear("x", 8, "b"), "total"))
    normal = net.add(o.LayerNorm(total, None, None, "normal", 2, 1e-5))
    shares = net.add(o.Softmax(net.linear(normal, 6, "scores"), "shares", 2))
    graph = net.graph(net.linear(total, 4, "y"), shares)
    found = analyse(graph, find_target("c-int8"), recipe())
    assert set(found.formats.values()) == {INT8} and not found.fixed and not found.held


def test_scores_are_seen_through_the_exponential_so_that_masks_are_clipped() -> None:
    graph = small_transformer()
    found = analyse(graph, find_target("c-int8"), recipe())
    assert [found.through(found.key[value]) for value in ("scaled 0", "biased 1")] == [o.Function("exp")] * 2
    assert found.through(found.key["scaled 1"]) is None  # an addition reads it
    scores = torch.randn(100, 49) * 3 - 100 * (torch.rand(100, 49) < 0.4)
    statistics = statistics_of(scores)
    fine, coarse = (
        choose(statistics, INT8, symmetric=False, estimator=Mse(), through=f)[0] for f in (o.Function("exp"), None)
    )
    assert 256 * fine < 40 and 256 * coarse > 90
