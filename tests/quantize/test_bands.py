"""Cuts between bands are the best there are, and follow the reach of channels that matter."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest

from edgeq.passes.bands import stretches
from edgeq.quantize.bands import Channels, Worth, _cut, _run_noise, best_bands, measure_channels
from edgeq.quantize.sensitivity import Objective
from edgeq.quantize.structure import analyse
from edgeq.recipe import Recipe
from edgeq.targets import find_target
from tests.passes.test_bands import separable


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("count", [2, 3])
def test_the_cuts_are_those_of_brute_force(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    size, least = 9, 2
    channels = Channels(np.exp2(rng.uniform(-4, 4, (2, size))), np.exp2(rng.uniform(-4, 4, (2, size))))
    order = rng.permutation(size).tolist()
    found = _cut(order, _run_noise(channels, order, least), count)
    assert sorted(channel for band in found for channel in band) == list(range(size))
    assert min(map(len, found)) >= least
    tried = []
    for inner in combinations(range(1, size), count - 1):
        ends = (0, *inner, size)
        runs = [order[a:b] for a, b in pairwise(ends)]
        if min(map(len, runs)) >= least:
            tried.append(sum(map(channels.noise, runs)))
    assert len(set(tried)) > 5
    assert sum(map(channels.noise, found)) == pytest.approx(min(tried))


def test_there_are_bands_where_narrow_channels_matter_and_none_where_all_are_alike() -> None:
    reach, importance = np.array([[100.0] * 4 + [1.0] * 8]), np.array([[1.0] * 4 + [50.0] * 8])
    assert best_bands(Channels(reach, importance)) == (tuple(range(4, 12)), (0, 1, 2, 3))
    assert best_bands(Channels(np.ones((1, 12)), importance)) is None
    assert best_bands(Channels(reach, importance), least=7) is None
    assert best_bands(Channels(np.array([[100.0] * 4 + [1.0] * 8]), np.array([[1.0] * 4 + [1e-9] * 8]))) is None


def test_there_are_more_bands_where_a_smaller_gain_is_asked() -> None:
    reach = np.array([[100.0] * 4 + [3.0] * 4 + [2.0] * 4 + [1.0] * 4])
    channels = Channels(reach, np.array([[1e-3] * 4 + [1.0] * 12]))
    usual, finer = best_bands(channels), best_bands(channels, worth=Worth(factor=1.05))
    assert usual is not None and finer is not None
    assert (len(usual), len(finer)) == (2, 4)
    most = best_bands(channels, worth=Worth(factor=1.05, most=2))
    assert most is not None and len(most) == 2


def test_reach_is_what_a_function_leaves_of_a_channel() -> None:
    graph = separable(5)
    structure = analyse(graph, find_target("onnx-int8"), Recipe())
    rng = np.random.default_rng(0)
    samples = [{"x": rng.normal(0, 2, (1, 3, 12, 12)).astype(np.float32)} for _ in range(3)]
    found = measure_channels(structure, Objective(graph.outputs), stretches(graph), samples)
    assert set(found) == {"stem", "mixed"}
    stem = found["stem"]
    assert stem.reach.shape == stem.importance.shape
    assert (stem.importance > 0).any()
    # the clip to 6 ends the reach of the layer before it
    assert 0 < stem.reach.max(1).min() <= 6
