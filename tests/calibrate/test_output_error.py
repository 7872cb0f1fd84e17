"""The choice by output error: its errors are the plain ones, and it sees what single-value estimators cannot."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from edgeq.calibrate.choose import choose
from edgeq.calibrate.estimators import MinMax, Mse, Percentile
from edgeq.calibrate.observe import observe
from edgeq.calibrate.output_error import CANDIDATES, Choice, Site, choose_by_output_error, rounded
from edgeq.calibrate.statistics import Statistics, merge_all
from edgeq.errors import DataError
from edgeq.formats import INT8, INT16, UINT8, Int
from edgeq.ir import ops as o
from edgeq.ir.graph import Editor, Graph, Type
from edgeq.reference.interpret import run
from tests.calibrate.small_net import INPUT, Images, images, small_net

UINT4 = Int(4, signed=False)
SITES = {
    INPUT: Site(UINT8, False),
    "pre": Site(UINT4, False, through=o.Function("silu")),
    "act": Site(UINT4, False),
    "sum": Site(UINT4, False, ("sum", "pool")),
    "joined": Site(UINT4, False),
    "flat": Site(UINT4, False),
}


def statistics_for(graph: Graph, sites: Mapping[str, Site], batches: Images) -> dict[str, Statistics]:
    found = observe(graph, batches)
    return {key: merge_all(found[v] for v in (site.members or (key,))) for key, site in sites.items()}


@pytest.fixture(scope="module")
def chosen() -> dict[str, Choice]:
    graph, batches = small_net(), images(4)
    return choose_by_output_error(graph, SITES, statistics_for(graph, SITES, batches), batches)


def test_every_choice_is_a_candidate_and_no_worse_than_minmax(chosen: dict[str, Choice]) -> None:
    graph, batches = small_net(), images(4)
    statistics = statistics_for(graph, SITES, batches)
    names = set()
    for key, choice in chosen.items():
        site = SITES[key]
        estimator = next(e for e in CANDIDATES if str(e) == choice.estimator)
        assert (choice.scale, choice.zero_point) == choose(
            statistics[key], site.format, symmetric=False, estimator=estimator, through=site.through
        )
        assert choice.gain >= 1
        assert 0 < choice.error < 0.1
        names.add(choice.estimator)
    assert len(names) > 1
    assert max(choice.gain for choice in chosen.values()) > 1.2


def plain_error(graph: Graph, batches: Images, key: str, choice: Choice) -> float:
    """Sum over the readers of `key` of |reader(rounded) - reader(float)|**2 / |reader(float)|**2, on whole maps."""
    difference: dict[str, float] = {}
    power: dict[str, float] = {}
    for batch in batches:
        values: dict[str, Tensor] = {}
        run(graph, batch, lambda name, tensor: values.__setitem__(name, tensor.clone()))  # noqa: B023
        for op in graph.consumers[key]:
            result = o.results(op)[0]
            coarse = {**values, key: rounded(values[key], SITES[key].format, choice.scale, choice.zero_point)}
            editor = Editor("reader", o.operands(op)[: 2 if isinstance(op, o.Add) else 1], graph.types)
            editor.constants.update(graph.constants)
            editor.append(op)
            reader = editor.graph([result])
            found = run(reader, {name: coarse[name] for name in reader.inputs})[result]
            difference[result] = difference.get(result, 0.0) + float(((found - values[result]).double() ** 2).sum())
            power[result] = power.get(result, 0.0) + float((values[result].double() ** 2).sum())
    return sum(difference[result] / power[result] for result in power)


@pytest.mark.parametrize("key", ["pre", "act", "joined", "flat"])
def test_errors_are_those_of_the_readers(chosen: dict[str, Choice], key: str) -> None:
    assert chosen[key].error == pytest.approx(plain_error(small_net(), images(4), key, chosen[key]), rel=1e-4)


def test_the_order_of_the_images_hardly_matters_and_repetition_not_at_all(chosen: dict[str, Choice]) -> None:
    graph, batches = small_net(), images(4)
    statistics = statistics_for(graph, SITES, batches)
    assert choose_by_output_error(graph, SITES, statistics, batches) == chosen
    backwards = choose_by_output_error(graph, SITES, statistics, batches[::-1])
    for key, choice in chosen.items():
        assert backwards[key].error == pytest.approx(choice.error, rel=0.05)


def net_with_a_loud_channel(weight: float) -> Graph:
    """Two channels, the second of which is a hundred times louder and read with `weight`."""
    editor = Editor("loud", ("x",), {"x": Type((1, 2, 40, 40))})
    louder = editor.constant("louder", np.array([1, 100], np.float32).reshape(1, 2, 1, 1))
    editor.append(o.Mul("x", louder, "uneven"))
    kernel = editor.constant("kernel", np.array([1.0, weight], np.float32).reshape(1, 2, 1, 1))
    editor.append(o.Conv("uneven", kernel, None, "out"))
    return editor.graph(["out"])


@pytest.mark.parametrize(("weight", "clips"), [(0.0, True), (1.0, False)])
def test_a_loud_channel_is_clipped_only_if_nobody_listens(weight: float, clips: bool) -> None:
    """No estimator that sees only the value can tell the two networks apart."""
    graph, random = net_with_a_loud_channel(weight), np.random.default_rng(0)
    batches = [{"x": random.normal(size=(1, 2, 40, 40)).astype(np.float32)} for _ in range(3)]
    sites = {"uneven": Site(INT8, True)}
    estimators = (MinMax(), Percentile(50.0), Mse())
    choice = choose_by_output_error(
        graph, sites, statistics_for(graph, sites, batches), batches, estimators=estimators
    )["uneven"]
    assert (choice.estimator == "percentile:50") == clips
    assert (choice.gain > 100) == clips


def test_inputs_and_wide_values_keep_their_range() -> None:
    graph, batches = small_net(), images(2)
    sites = {INPUT: Site(UINT8, False), "act": Site(INT16, True)}
    statistics = statistics_for(graph, sites, batches)
    found = choose_by_output_error(graph, sites, statistics, batches)
    assert [choice.estimator for choice in found.values()] == ["minmax", "minmax"]
    assert [choice.gain for choice in found.values()] == [1.0, 1.0]
    assert found[INPUT].scale == float(np.float32(1 / 255))
    assert found[INPUT].error < 1e-10


def test_quantized_weights_take_part() -> None:
    graph, batches = small_net(), images(2)
    sites = {"flat": Site(UINT8, False)}
    statistics = statistics_for(graph, sites, batches)
    exact = choose_by_output_error(graph, sites, statistics, batches)["flat"]
    rough = {"w4": np.round(graph.constants["w4"].astype(np.float32) * 4) / 4}
    coarse = choose_by_output_error(graph, sites, statistics, batches, constants=rough)["flat"]
    assert coarse.error > 10 * exact.error


def test_large_maps_are_judged_by_a_window() -> None:
    editor = Editor("wide", ("x",), {"x": Type((1, 1, 96, 130))})
    editor.append(o.Apply("x", "act", o.Function("silu")))
    kernel = editor.constant("kernel", np.ones((2, 1, 5, 5), np.float32))
    editor.append(o.Conv("act", kernel, None, "out", stride=(2, 2), padding=(2, 2, 2, 2)))
    graph, random = editor.graph(["out"]), np.random.default_rng(1)
    batches = [{"x": random.normal(size=(1, 1, 96, 130)).astype(np.float32)} for _ in range(4)]
    sites = {"act": Site(UINT4, False)}
    choice = choose_by_output_error(graph, sites, statistics_for(graph, sites, batches), batches)["act"]
    difference = power = 0.0
    for batch in batches:
        values: dict[str, Tensor] = {}
        run(graph, batch, values.__setitem__)
        coarse = rounded(values["act"], UINT4, choice.scale, choice.zero_point)
        found = torch.nn.functional.conv2d(coarse, torch.ones(2, 1, 5, 5), None, 2, 2)
        difference += float(((found - values["out"]) ** 2).sum())
        power += float((values["out"] ** 2).sum())
    assert choice.error == pytest.approx(difference / power, rel=0.25)


def test_no_sample_is_an_error_and_no_site_is_none() -> None:
    graph, batches = small_net(), images(1)
    with pytest.raises(DataError, match="image"):
        choose_by_output_error(graph, SITES, statistics_for(graph, SITES, batches), [])
    assert choose_by_output_error(graph, {}, {}, batches) == {}
