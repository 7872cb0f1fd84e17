"""Risks order candidates as their definitions say; intervals cover what they should."""

from __future__ import annotations

import numpy as np
import torch

from edgeq.calibrate.estimators import central_width
from edgeq.calibrate.output_noise import Weighed, choose_by_output_noise, weighed_passes
from edgeq.calibrate.robust import Interval, Risk, bootstrap_mean, resamples
from edgeq.calibrate.statistics import Statistics, statistics_of
from edgeq.quantize.sensitivity import Objective
from tests.calibrate.small_net import INPUT, images, small_net
from tests.calibrate.test_output_noise import sites_of, statistics_for, structure_of

# Three easy images and one hard: the first candidate is better on average, the second where it is hard.
NOISE = np.array([[1.0, 3.0], [1.0, 3.0], [1.0, 3.0], [8.0, 4.0]])


def test_each_risk_is_its_definition() -> None:
    assert Risk().of(NOISE).tolist() == [2.75, 3.25]
    assert Risk("cvar").of(NOISE).tolist() == [8.0, 4.0]
    groups = ("clean", "clean", "blur", "blur")
    assert Risk("worst", groups).of(NOISE).tolist() == [4.5, 3.5]


def test_an_image_counts_by_its_signal() -> None:
    """An image that shows nothing has a huge relative noise; it must not decide."""
    noise = np.array([[1.0, 2.0], [1.0, 2.0], [900.0, 1.0], [1.0, 2.0]])
    assert Risk("cvar").of(noise).argmin() == 1 and Risk().of(noise).argmin() == 1
    signals = [30.0, 40.0, 0.01, 30.0]
    assert Risk("cvar", signals=signals).of(noise).argmin() == 0 and Risk(signals=signals).of(noise).argmin() == 0


def test_cvar_lies_between_mean_and_maximum() -> None:
    noise = np.random.default_rng(0).lognormal(size=(40, 6))
    cvar = Risk("cvar").of(noise)
    assert (noise.mean(0) < cvar).all() and (cvar < noise.max(0)).all()
    assert np.allclose(cvar, np.sort(noise, axis=0)[30:].mean(0))


def test_intervals_cover_the_mean_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    found = [bootstrap_mean(rng.normal(1.0, 2.0, 40), seed) for seed in range(200)]
    covered = sum(interval.low <= 1.0 <= interval.high for interval in found)
    assert 180 <= covered <= 199
    assert bootstrap_mean(np.full(5, 2.5)) == Interval(2.5, 2.5, 2.5)


def test_resamples_draw_every_image_equally() -> None:
    weights = resamples(30)
    assert (weights.sum(1) == 30).all() and np.abs(weights.mean(0) - 1).max() < 0.15
    assert np.array_equal(weights, resamples(30))


def test_dark_images_are_guarded() -> None:
    """Where dark images are few, the mean ignores them; the worst group does not, and has grids of their own."""
    graph = small_net()
    structure = structure_of(graph)
    bright, dark = images(12), [{INPUT: batch[INPUT] * np.float32(0.06)} for batch in images(3, seed=5)]
    sites = sites_of(structure)
    parts = {"clean": statistics_for(structure, sites, bright), "degraded": statistics_for(structure, sites, dark)}
    both = statistics_for(structure, sites, [*bright, *dark])
    groups = ("clean",) * 12 + ("dim",) * 3
    weighed = Weighed(apart=True)
    for _, image in weighed_passes(structure, Objective(graph.outputs), sites, [*bright, *dark]):
        weighed.add(image)

    def chosen(risk: Risk, shown: dict[str, dict[str, Statistics]] | None) -> dict[str, float]:
        found = choose_by_output_noise(structure, sites, both, weighed, parts=shown, risk=risk)
        return {key: choice.scale for key, choice in found.items()}

    mean, guarded = chosen(Risk(), None), chosen(Risk("worst", groups), parts)
    finer = [key for key in mean if guarded[key] < 0.9 * mean[key]]
    assert mean.keys() == guarded.keys() and len(finer) >= 2, "nothing was guarded"


def test_central_width_leaves_out_what_is_rare() -> None:
    x = torch.cat([torch.linspace(0, 1, 100_000), torch.tensor([50.0])])
    assert abs(central_width(statistics_of(x)) - 1.0) < 0.01
