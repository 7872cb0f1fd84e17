"""The choice by noise at the outputs: its noise is the real one, and it sees what single-value estimators cannot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import reduce

import numpy as np
import pytest
import torch

from edgeq.calibrate.choose import choose
from edgeq.calibrate.estimators import MinMax, Mse, Percentile
from edgeq.calibrate.observe import observe
from edgeq.calibrate.output_noise import (
    CANDIDATES,
    LEAST_SEEN,
    Choice,
    Site,
    Weighed,
    choose_by_output_noise,
    probes_of,
    weighed_passes,
)
from edgeq.calibrate.statistics import Histogram, Statistics, merge_all, statistics_of
from edgeq.errors import DataError
from edgeq.formats import INT8, INT16, UINT8, Int
from edgeq.ir import ops as o
from edgeq.ir.graph import Editor, Graph, Type
from edgeq.quantize.sensitivity import Objective, backward_passes, rounded
from edgeq.quantize.structure import Structure, analyse
from edgeq.recipe import Recipe
from edgeq.reference.interpret import Interpreter
from edgeq.reference.meaning import apply_function
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


def weighed(structure: Structure, objective: Objective, sites: Mapping[str, Site], batches: Images) -> Weighed:
    found = Weighed()
    for _, image in weighed_passes(structure, objective, sites, batches):
        found.add(image)
    return found


def chosen_for(graph: Graph, batches: Images) -> dict[str, Choice]:
    structure = structure_of(graph)
    sites = sites_of(structure)
    statistics = statistics_for(structure, sites, batches)
    return choose_by_output_noise(
        structure, sites, statistics, weighed(structure, Objective(graph.outputs), sites, batches)
    )


@pytest.fixture(scope="module")
def chosen() -> dict[str, Choice]:
    return chosen_for(small_net(), images(COUNT))


def averaged(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """For each element the mean weight of the LEAST_SEEN of its side that are about as far out."""
    found = torch.zeros_like(weights)
    for side in (x < 0, x > 0):
        far = torch.argsort(x[side].abs(), descending=True)
        rank = torch.arange(len(far), dtype=torch.float64) + 0.5
        group = (rank / LEAST_SEEN).long()
        means = torch.bincount(group, weights[side][far].double()) / torch.bincount(group).clamp_min(1)
        part = torch.zeros(len(far), dtype=weights.dtype)
        part[far] = means[group].to(weights.dtype)
        found[side] = part
    return found


def noise_of(chosen: dict[str, Choice]) -> dict[str, tuple[float, float]]:
    """Of each choice that has noise: the sum of squares of slope times error, with averaged slopes and with their own."""
    graph = small_net()
    structure = structure_of(graph)
    slopes_of = {v for key in chosen for member in structure.sources(key) for v, _ in probes_of(graph, member)}
    passes = list(
        backward_passes(graph, Objective(graph.outputs), slopes_of, images(COUNT), watched={*slopes_of, *structure.key})
    )
    noises = {}
    for key, choice in chosen.items():
        if not choice.noise:
            continue
        members, total, plain = structure.sources(key), 0.0, 0.0
        x = torch.cat([values[member].detach().flatten() for member in members for values, _ in passes])
        coarse = rounded(x, UINT4, choice.scale, choice.zero_point)
        for member in members:
            for place, function in probes_of(graph, member):
                squares = torch.cat(
                    [
                        slopes[place].square().flatten() * (other == member)
                        for other in members
                        for (_, slopes) in passes
                    ]
                )
                exact = x if function is None else apply_function(function, x)
                found = coarse if function is None else apply_function(function, coarse)
                total += float((averaged(x, squares) * (found - exact).square()).sum()) / COUNT
                plain += float((squares * (found - exact).square()).sum()) / COUNT
        noises[key] = total, plain
    assert len(noises) >= 4
    assert any(total != pytest.approx(plain, rel=0.02) for total, plain in noises.values()), "averages change nothing"
    return noises


def test_noise_is_the_sum_of_squares_of_slope_times_error(chosen: dict[str, Choice]) -> None:
    """Which histograms tell without the elements, wherever functions alone read a value; slopes of what is rare averaged."""
    for key, (total, _) in noise_of(chosen).items():
        assert chosen[key].noise == pytest.approx(total, rel=0.02), key


def test_slopes_of_many_images_are_not_averaged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeq.calibrate.output_noise.MANY_IMAGES", COUNT)
    chosen = chosen_for(small_net(), images(COUNT))
    for key, (_, plain) in noise_of(chosen).items():
        assert chosen[key].noise == pytest.approx(plain, rel=0.02), key


def test_images_apart_come_to_their_sum() -> None:
    graph, batches = small_net(), images(3)
    structure = structure_of(graph)
    sites = sites_of(structure)
    together, apart = Weighed(), Weighed(apart=True)
    for _, image in weighed_passes(structure, Objective(graph.outputs), sites, batches):
        together.add(image)
        apart.add(image)
    assert len(apart.weights) == together.images == 3 and len(together.weights) == 1
    (one,) = together.weights
    assert len(one) > 3
    for place, histogram in one.items():
        other = reduce(Histogram.merged, (image[place] for image in apart.weights))
        assert histogram.top == other.top and histogram.counts.any()
        assert np.allclose(histogram.counts, other.counts, rtol=1e-6)


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


def test_what_other_images_hold_is_not_clipped() -> None:
    """A few images are weighed; statistics are of more, in which values reach further."""
    graph, random = net_with_a_loud_channel(1.0), np.random.default_rng(0)
    batches = [{"x": random.normal(size=(1, 2, 160, 160)).astype(np.float32)} for _ in range(8)]
    for batch in batches[2:]:
        batch["x"][0, 1, :10] *= 4
    structure = structure_of(graph)
    (key,) = (key for key, members in structure.members.items() if "uneven" in members)
    sites = {key: Site(INT8, True)}
    few = weighed(structure, Objective(("out",)), sites, batches[:2])
    alone, among = (
        choose_by_output_noise(structure, sites, statistics_for(structure, sites, seen), few)[key].scale
        for seen in (batches[:2], batches)
    )
    assert among > 1.5 * alone


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
    editor = Editor("loud", ("x",), {"x": Type((1, 2, 160, 160))})
    louder = editor.constant("louder", np.array([1, 100], np.float32).reshape(1, 2, 1, 1))
    editor.append(o.Mul("x", louder, "uneven"))
    kernel = editor.constant("kernel", np.array([1.0, weight], np.float32).reshape(1, 2, 1, 1))
    editor.append(o.Conv("uneven", kernel, None, "out"))
    return editor.graph(["out"])


@pytest.mark.parametrize(("weight", "clips"), [(0.0, True), (1.0, False)])
def test_a_loud_channel_is_clipped_only_if_nobody_listens(weight: float, clips: bool) -> None:
    """No estimator that sees only the value can tell the two networks apart."""
    graph, random = net_with_a_loud_channel(weight), np.random.default_rng(0)
    batches = [{"x": random.normal(size=(1, 2, 160, 160)).astype(np.float32)} for _ in range(3)]
    structure = structure_of(graph)
    (key,) = (key for key, members in structure.members.items() if "uneven" in members)
    sites = {key: Site(INT8, True)}
    statistics = statistics_for(structure, sites, batches)
    choice = choose_by_output_noise(
        structure,
        sites,
        statistics,
        weighed(structure, Objective(("out",)), sites, batches),
        estimators=(MinMax(), Percentile(50.0), Mse()),
    )[key]
    assert (choice.estimator == "percentile:50") == clips
    assert (choice.gain > 100) == clips


def test_errors_that_the_objective_does_not_count_are_free() -> None:
    graph, batches = small_net(), images(2)
    structure = structure_of(graph)
    sites = sites_of(structure)
    statistics = statistics_for(structure, sites, batches)
    deaf = Objective(graph.outputs, lambda outputs: [torch.zeros_like(y) for y in outputs])
    found = choose_by_output_noise(structure, sites, statistics, weighed(structure, deaf, sites, batches))
    assert {choice.noise for choice in found.values()} == {0.0}
    assert {choice.estimator for choice in found.values()} == {"minmax"}


def test_inputs_and_wide_values_keep_their_range() -> None:
    graph, batches = small_net(), images(2)
    structure = structure_of(graph)
    sites = {key: Site(UINT8 if key == INPUT else INT16, key != INPUT) for key in sites_of(structure)}
    found = choose_by_output_noise(
        structure,
        sites,
        statistics_for(structure, sites, batches),
        weighed(structure, Objective(graph.outputs), sites, batches),
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
        choose_by_output_noise(structure, sites, statistics, Weighed())
    assert choose_by_output_noise(structure, {}, {}, Weighed()) == {}
