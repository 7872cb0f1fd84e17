"""Several images in one pass are each computed as if alone, and inputs are joined in order."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgeq.calibrate.observe import observe
from edgeq.ir import ops as o
from edgeq.ir.graph import Graph, Type
from edgeq.passes.together import Together, images_at_once, joined
from edgeq.quantize.bias import Excerpts, corrected_operands, operand_values
from edgeq.quantize.sensitivity import Objective, backward_passes
from tests.calibrate.small_net import INPUT, images, small_net

COUNT, TOGETHER = 7, 3


@pytest.fixture(scope="module")
def graph() -> Graph:
    return small_net()


def mixing() -> Graph:
    """A network whose second value has images and channels along one axis."""
    types = {"x": Type((1, 3, 4, 4)), "y": Type((48,))}
    return Graph("net", ("x",), ("y",), (o.Reshape("x", "y", (48,)),), types)


def test_inputs_are_joined_in_order() -> None:
    alone = images(COUNT)
    found = list(joined(alone, TOGETHER))
    assert [len(sample[INPUT]) for sample in found] == [3, 3, 1]
    assert np.array_equal(np.concatenate([s[INPUT] for s in found]), np.concatenate([s[INPUT] for s in alone]))


def test_interpreters_are_told_by_how_many_images_they_take(graph: Graph) -> None:
    together = Together(graph, "cpu")
    (sample,) = joined(images(TOGETHER), TOGETHER)
    assert together.count(sample) == TOGETHER and together.of(TOGETHER) is together.of(TOGETHER)
    apart = [together.of(1)(image) for image in images(TOGETHER)]
    for name, value in together.of(TOGETHER)(sample).items():
        wanted = torch.cat([image[name] for image in apart])
        torch.testing.assert_close(value, wanted, rtol=1e-5, atol=1e-6)
        assert len(wanted.unique()) > 5


def test_a_cpu_takes_one_image_at_once(graph: Graph) -> None:
    assert images_at_once(graph, "cpu") == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_takes_many_images_unless_they_would_be_mixed(graph: Graph) -> None:
    assert images_at_once(graph, "cuda") > 1
    assert images_at_once(mixing(), "cuda") == 1


@pytest.mark.parametrize("least", [None, 400])
def test_statistics_do_not_depend_on_it(graph: Graph, least: int | None) -> None:
    alone = observe(graph, images(COUNT), least=least)
    together = observe(graph, joined(images(COUNT), TOGETHER), least=least)
    done: list[int] = []
    observe(graph, joined(images(COUNT), TOGETHER), progress=done.append)
    assert done == [3, 6, 7]
    assert alone.keys() == together.keys() and len({s.count for s in alone.values()}) > 2
    for value, wanted in alone.items():
        found = together[value]
        assert found.count == wanted.count
        assert found.channel_minimum == pytest.approx(wanted.channel_minimum, rel=1e-4, abs=1e-5)
        assert found.histogram.top == wanted.histogram.top
        moved = np.abs(found.histogram.counts.cumsum() - wanted.histogram.counts.cumsum()).max()
        assert moved <= 1e-3 * wanted.count + 2, value


def test_slopes_are_those_of_each_image_alone(graph: Graph) -> None:
    kept = {value for value, type_ in graph.types.items() if type_.is_real and value not in graph.constants}
    objective = Objective(graph.outputs)
    alone = list(backward_passes(graph, objective, kept, images(COUNT)))
    together = list(backward_passes(graph, objective, kept, joined(images(COUNT), TOGETHER)))
    assert len(together) == 3
    for name in alone[0][1]:
        wanted = torch.cat([slopes[name] for _, slopes in alone])
        found = torch.cat([slopes[name] for _, slopes in together])
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5 * float(wanted.abs().max()))
        assert wanted.abs().max() > 0


@pytest.mark.parametrize("every", [1, 2])
def test_excerpts_note_the_same_images(graph: Graph, every: int) -> None:
    alone, together = (Excerpts(corrected_operands(graph), every) for _ in range(2))
    for image in operand_values(graph, images(COUNT)):
        alone.note(image)
    for some, sample in zip(
        operand_values(graph, joined(images(COUNT), TOGETHER)), joined(images(COUNT), 3), strict=True
    ):
        together.note(some, len(sample[INPUT]))
    assert alone.are_whole and together.are_whole and len(alone.images) > len(together.images)
    for value in corrected_operands(graph):
        one, other = (torch.cat([image[value] for image in part.images]) for part in (alone, together))
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
        assert len(one) == -(-COUNT // every)
