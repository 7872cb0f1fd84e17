"""Observation of a network: each value exactly once per image, independent of order, and clear errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgeq.calibrate.observe import observe
from edgeq.calibrate.statistics import merge_maps, statistics_of
from edgeq.errors import DataError, UsageError
from edgeq.reference.interpret import run
from tests.calibrate.small_net import INPUT, images, small_net


def test_every_real_value_is_observed_over_all_images() -> None:
    graph, batches = small_net(), images(3)
    found = observe(graph, batches)
    assert set(found) == {v for v in graph.types if v not in graph.constants}
    seen: dict[str, list[torch.Tensor]] = {}
    for batch in batches:
        run(graph, batch, lambda name, tensor: seen.setdefault(name, []).append(tensor.clone()))
    for value, parts in seen.items():
        assert found[value].count == 3 * graph.types[value].size
        assert found[value].minimum == min(float(part.min()) for part in parts)
        assert found[value].maximum == max(float(part.max()) for part in parts)
    assert np.array_equal(found["act"].histogram.counts, statistics_of(torch.cat(seen["act"])).histogram.counts)


def test_order_and_split_do_not_matter() -> None:
    graph, batches = small_net(), images(5)
    together, backwards = observe(graph, batches), observe(graph, batches[::-1])
    in_two = merge_maps(observe(graph, batches[:2]), observe(graph, batches[2:]))
    assert len({s.histogram.counts.tobytes() for s in together.values()}) > 8
    for other in (backwards, in_two):
        for value, expected in together.items():
            found = other[value]
            assert np.array_equal(found.histogram.counts, expected.histogram.counts)
            assert np.array_equal(found.channel_minimum, expected.channel_minimum)
            assert np.array_equal(found.channel_maximum, expected.channel_maximum)
            assert (found.count, found.zeros, found.histogram.top) == (
                expected.count, expected.zeros, expected.histogram.top
            )  # fmt: skip


def test_only_the_wanted_values_are_kept_and_progress_is_told() -> None:
    done: list[int] = []
    found = observe(small_net(), iter(images(3)), ["act", INPUT], progress=done.append)
    assert set(found) == {"act", INPUT}
    assert done == [1, 2, 3]


def test_of_large_maps_some_rows_are_looked_at_in_every_image() -> None:
    graph, batches = small_net(), images(3)
    found, all_ = observe(graph, batches, least=20), observe(graph, batches)
    larger = [
        value for value, type_ in graph.types.items() if value in all_ and len(type_.shape) == 4 and type_.size >= 40
    ]
    assert len(larger) > 3
    for value, item in all_.items():
        assert (found[value].minimum, found[value].maximum) == (item.minimum, item.maximum)
        same = np.array_equal(found[value].histogram.counts, item.histogram.counts)
        assert same == (value not in larger) or not item.histogram.counts.any()


@pytest.mark.parametrize("value", ["nothing", "w1"])
def test_a_value_that_is_not_computed_is_an_error(value: str) -> None:
    with pytest.raises(UsageError, match=value):
        observe(small_net(), images(1), [value])


def test_no_image_is_an_error() -> None:
    with pytest.raises(DataError, match="image"):
        observe(small_net(), [])


def test_a_network_that_computes_nan_is_an_error_that_names_the_first_value() -> None:
    bad = images(1)
    bad[0][INPUT][0, 0, 3, 3] = np.nan
    with pytest.raises(DataError, match=INPUT):
        observe(small_net(), bad)
