"""One run of each image serves statistics and slopes: neither changes by being taken with the other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeq.calibrate.observe import observe
from edgeq.datasets.preprocess import preset
from edgeq.flow.inputs import CalibrationSet, InputRule, calibration_set
from edgeq.flow.ranges import sites_of
from edgeq.flow.statistics import Observed, Weighing, collect_statistics, inputs_of, watched_values
from edgeq.ir.graph import Graph
from edgeq.progress import silent
from edgeq.quantize.structure import Structure, analyse
from edgeq.recipe import Recipe
from edgeq.targets import find_target
from tests.calibrate.small_net import small_net
from tests.command_line import write_noise_images

TARGET = find_target("onnx-int8")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> CalibrationSet:
    folder = tmp_path_factory.mktemp("images")
    write_noise_images(folder, 6)
    graph = small_net()
    height, width = graph.types[graph.inputs[0]].shape[2:]
    return calibration_set(str(folder), 6, InputRule(preset("yolo", (height, width)), ""), "classify")


@pytest.fixture(scope="module")
def graph() -> Graph:
    return small_net()


@pytest.fixture(scope="module")
def structure(graph: Graph) -> Structure:
    return analyse(graph, TARGET, Recipe())


def collected(structure: Structure, images: CalibrationSet, weighing: Weighing | None, *, cached: bool) -> Observed:
    values = watched_values(structure)
    return collect_statistics(structure.graph, values, images, "digest", silent, use_cache=cached, weighing=weighing)


def weighing_of(structure: Structure, images: CalibrationSet) -> Weighing:
    return Weighing(structure, sites_of(structure, TARGET), images.sample(4))


def assert_same(found: Observed, structure: Structure, images: CalibrationSet) -> None:
    wanted = observe(structure.graph, inputs_of(structure.graph, images), watched_values(structure))
    (seen,) = found.values()
    assert seen.keys() == wanted.keys() and len(wanted) > 4
    for value, item in wanted.items():
        assert (seen[value].count, seen[value].zeros) == (item.count, item.zeros)
        assert np.array_equal(seen[value].histogram.counts, item.histogram.counts)
        assert np.array_equal(seen[value].channel_maximum, item.channel_maximum)


def test_statistics_are_of_every_image_once(structure: Structure, images: CalibrationSet) -> None:
    weighing = weighing_of(structure, images)
    found = collected(structure, images, weighing, cached=False)
    assert_same(found, structure, images)
    assert weighing.weighed.images == 4 and len(weighing.weighed.weights) == 1


def test_images_whose_statistics_are_known_are_weighed_alike(
    structure: Structure, images: CalibrationSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first, second = weighing_of(structure, images), weighing_of(structure, images)
    collected(structure, images, first, cached=True)
    assert_same(collected(structure, images, second, cached=True), structure, images)
    ((place, one), *more), (other,) = first.weighed.weights[0].items(), second.weighed.weights
    assert len(more) > 3 and other.keys() == first.weighed.weights[0].keys()
    assert np.array_equal(one.counts, other[place].counts) and one.counts.any()
