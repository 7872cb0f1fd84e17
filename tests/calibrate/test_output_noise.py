"""The choice by noise at the outputs: its noise is the real one, and it sees what single-value estimators cannot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch

from edgeq.calibrate import output_noise
from edgeq.calibrate.choose import choose
from edgeq.calibrate.estimators import MinMax, Mse, Percentile
from edgeq.calibrate.observe import observe
from edgeq.calibrate.output_noise import CANDIDATES, Choice, Site, choose_by_output_noise
from edgeq.calibrate.robust import MEAN
from edgeq.calibrate.statistics import Statistics, merge_all, statistics_of
from edgeq.errors import DataError
from edgeq.formats import INT8, INT16, UINT8, Int
from edgeq.ir import ops as o
from edgeq.ir.graph import Editor, Graph, Type
from edgeq.quantize.sensitivity import Objective, rounded
from edgeq.quantize.structure import Structure, analyse
from edgeq.recipe import Recipe
from edgeq.reference.interpret import Interpreter
from edgeq.targets import find_target
from tests.calibrate.small_net import INPUT, Images, images, small_net

UINT4 = Int(4, signed=False)
COUNT = 24
TARGET = replace(find_target("onnx-int8"), least_channels=1)
FORMATS = {INPUT: UINT8}


def structure_of(graph: Graph) -> Structure:
    return analyse(graph, TARGET, Recipe())


def sites_of(structure: Structure) -> dict[str, Site]:
    return {
        key: Site(FORMATS.get(key, UINT4), False, structure.through(key))
        for key, members in structure.members.items()
        if members[0] not in structure.graph.constants
    }


def statistics_for(structure: Structure, sites: Mapping[str, Site], batches: Images) -> dict[str, Statistics]:
    found = observe(structure.graph, batches)
    constants = structure.graph.constants
    found |= {v: statistics_of(torch.from_numpy(a)) for v, a in constants.items() if v not in found}
    return {key: merge_all(found[v] for v in structure.sources(key)) for key in sites}


def chosen_for(graph: Graph, batches: Images) -> dict[str, Choice]:
    structure = structure_of(graph)
    sites = sites_of(structure)
    statistics = statistics_for(structure, sites, batches)
    return choose_by_output_noise(structure, Objective(graph.outputs), sites, statistics, batches)


@pytest.fixture(scope="module")
def chosen() -> dict[str, Choice]:
    return chosen_for(small_net(), images(COUNT))


def test_work_in_parts_changes_nothing(chosen: dict[str, Choice], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_noise, "IN_CACHE", 1)  # one channel at a time
    found = chosen_for(small_net(), images(COUNT))
    assert {key: (c.scale, c.zero_point, c.estimator) for key, c in found.items()} == {
        key: (c.scale, c.zero_point, c.estimator) for key, c in chosen.items()
    }
    for key, choice in chosen.items():
        assert found[key].noise == pytest.approx(choice.noise, rel=1e-5)
    assert sum(choice.noise > 0 for choice in chosen.values()) > 3


def test_every_choice_is_a_candidate_and_no_worse_than_minmax(chosen: dict[str, Choice]) -> None:
    structure = structure_of(small_net())
    sites = sites_of(structure)
    statistics = statistics_for(structure, sites, images(COUNT))
    names = set()
    assert chosen.keys() == sites.keys() and len(chosen) >= 6
    for key, choice in chosen.items():
        estimator = next(e for e in CANDIDATES if str(e) == choice.estimator)
        wanted = choose(
            statistics[key], sites[key].format, symmetric=False, estimator=estimator, through=sites[key].through
        )
        assert (choice.scale, choice.zero_point) == wanted
        assert choice.gain >= 1
        names.add(choice.estimator)
    assert len(names) > 1
    assert max(choice.gain for choice in chosen.values()) > 1.2


def true_noise(graph: Graph, members: tuple[str, ...], choice: Choice, format: Int, batches: Images) -> float:
    """Noise over signal at the output when the members alone are rounded."""
    interpreter, powers = Interpreter(graph), []
    for batch in batches:

        def watch(name: str, tensor: torch.Tensor) -> torch.Tensor | None:
            return rounded(tensor, format, choice.scale, choice.zero_point) if name in members else None

        with torch.no_grad():
            (wanted,), (found,) = interpreter(batch).values(), interpreter(batch, watch).values()
        powers.append(float((found - wanted).square().sum() / wanted.square().sum()))
    return float(np.mean(powers))


def test_noise_is_that_of_the_outputs(chosen: dict[str, Choice]) -> None:
    """To first order and from few projections: within a factor, over values whose noise differs far more."""
    graph = small_net()
    structure = structure_of(graph)
    compared = {}
    for key, choice in chosen.items():
        if choice.noise > 0:
            members = structure.sources(key)
            compared[key] = (choice.noise, true_noise(graph, members, choice, UINT4, images(COUNT)))
    assert len(compared) >= 4
    for key, (predicted, true) in compared.items():
        assert true / 6 < predicted < true * 6, (key, predicted, true)


def test_the_order_of_the_images_hardly_matters_and_repetition_not_at_all(chosen: dict[str, Choice]) -> None:
    assert chosen_for(small_net(), images(COUNT)) == chosen
    backwards = chosen_for(small_net(), images(COUNT)[::-1])
    assert sum(backwards[key].estimator == chosen[key].estimator for key in chosen) >= len(chosen) // 2


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
    structure = structure_of(graph)
    (key,) = (key for key, members in structure.members.items() if "uneven" in members)
    sites = {key: Site(INT8, True)}
    statistics = statistics_for(structure, sites, batches)
    choice = choose_by_output_noise(
        structure, Objective(("out",)), sites, statistics, batches, estimators=(MinMax(), Percentile(50.0), Mse())
    )[key]
    assert (choice.estimator == "percentile:50") == clips
    assert (choice.gain > 100) == clips


def test_errors_that_the_objective_does_not_count_are_free() -> None:
    graph, batches = small_net(), images(2)
    structure = structure_of(graph)
    sites = sites_of(structure)
    statistics = statistics_for(structure, sites, batches)
    deaf = Objective(graph.outputs, lambda outputs: [torch.zeros_like(y) for y in outputs])
    found = choose_by_output_noise(structure, deaf, sites, statistics, batches)
    assert {choice.noise for choice in found.values()} == {0.0}
    assert {choice.estimator for choice in found.values()} == {"minmax"}


def test_inputs_and_wide_values_keep_their_range() -> None:
    graph, batches = small_net(), images(2)
    structure = structure_of(graph)
    sites = {key: Site(UINT8 if key == INPUT else INT16, key != INPUT) for key in sites_of(structure)}
    found = choose_by_output_noise(
        structure, Objective(graph.outputs), sites, statistics_for(structure, sites, batches), batches
    )
    assert {choice.estimator for choice in found.values()} == {"minmax"}
    assert {choice.gain for choice in found.values()} == {1.0}
    assert found[INPUT].scale == float(np.float32(1 / 255))


def test_no_sample_is_an_error_and_no_site_is_none() -> None:
    graph = small_net()
    structure = structure_of(graph)
    sites = sites_of(structure)
    statistics = statistics_for(structure, sites, images(1))
    with pytest.raises(DataError, match="image"):
        choose_by_output_noise(structure, Objective(graph.outputs), sites, statistics, [])
    assert choose_by_output_noise(structure, Objective(graph.outputs), {}, {}, images(1)) == {}


def test_hopeless_grids_are_given_up_after_the_first_images() -> None:
    """The noise of each image is drawn about that of its grid; the winner is the one of all images."""
    grids = {(0.1 * k, 0): f"grid {k}" for k in range(1, 7)}
    level = np.array([9.0, 1.3, 30.0, 1.0, 4.5, 2.0])
    rng = np.random.default_rng(0)
    contest = output_noise._Contest(tuple(grids))
    measured = []
    for _ in range(12):
        contest.begin()
        measured.append(list(contest.open))
        contest.add(level[contest.open] * rng.uniform(0.8, 1.2, len(contest.open)))
        contest.give_up_hopeless()
    first = output_noise.TRIAL_IMAGES
    assert measured[0] == measured[first - 1] == list(range(6)) and measured[first] == measured[-1] == [1, 3, 5]
    choice = contest.choice(grids, MEAN)
    assert choice.estimator == "grid 4" and 7 < choice.gain < 11 and 0.9 < choice.noise < 1.1


def test_one_grid_left_is_measured_no_more() -> None:
    contest = output_noise._Contest(((0.1, 0), (0.2, 0)))
    for noise in ([8.0, 1.0], [9.0, 1.0]):
        contest.begin()
        contest.add(np.array(noise))
        contest.give_up_hopeless()
    contest.begin()
    assert contest.open_grids == []
    assert contest.choice({(0.1, 0): "wide", (0.2, 0): "tight"}, MEAN) == Choice(0.2, 0, "tight", 1.0, 8.5)
