"""The whole network trained on calibration images: better on images held out, exact in integers, and it goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edgeq.datasets.folder import list_images, read_images
from edgeq.datasets.scenes import write_dataset
from edgeq.flow.effort import ENOUGH_IMAGES, loss_of, mean_loss, output_loss
from edgeq.flow.inputs import CalibrationSet
from edgeq.flow.ranges import ChosenRange, Quantization
from edgeq.flow.statistics import inputs_of
from edgeq.flow.training import Training, TrainingRun
from edgeq.flow.training_data import unlabelled
from edgeq.flow.training_loop import Loop
from edgeq.flow.whole import LEAST_RATE, ON_GPU, Course, _options, _rate, course_of, trained_whole
from edgeq.formats import IntArray
from edgeq.ir.file import digest
from edgeq.ir.graph import Graph
from edgeq.ir.ops import Conv
from edgeq.passes.lower import lower
from edgeq.progress import Progress, silent
from edgeq.quantize.distance import relative
from edgeq.quantize.distill import Follows
from edgeq.quantize.grids import Strategy
from edgeq.quantize.latents import with_latents
from edgeq.quantize.plan import Plan
from edgeq.quantize.simulate import Simulation
from edgeq.reference.interpret import run
from edgeq.targets import find_target
from tests.flow.test_train import PREPROCESS, network
from tests.quantized import inputs_of as example
from tests.quantized import planned


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CalibrationSet:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("edgeq.flow.whole.MOST_SHOWN", 1200)
    monkeypatch.setattr("edgeq.flow.whole.LEAST_SHOWN", 1200)
    monkeypatch.setattr("edgeq.flow.whole.EPOCHS", 4)
    monkeypatch.setattr("edgeq.flow.whole.RATE", 2e-2)  # so few weights bear large steps
    monkeypatch.setattr("edgeq.flow.whole.FIXED_CODES_RATE", 1e-2)
    write_dataset(tmp_path / "scenes", 32, 5, 64, "classify")
    found, _ = read_images(list_images(tmp_path / "scenes"))
    return CalibrationSet(tuple(found), (), PREPROCESS)


def start() -> tuple[Graph, Quantization]:
    graph, plan = network()
    chosen = [
        ChosenRange(key, plan.types[key].scale[0], plan.types[key].zero_point, str(format), "largest")
        for key, format in plan.structure.formats.items()
    ]
    return graph, Quantization(plan, chosen, [])


def trained(
    images: CalibrationSet, progress: Progress = silent, *, use_cache: bool = False
) -> tuple[Graph, Quantization]:
    graph, found = start()
    return trained_whole(
        graph, found, *images.parted(), "classify", progress, half_scales=False, seed=3, use_cache=use_cache
    )


def codes_of(graph: Graph, plan: Plan) -> dict[str, IntArray]:
    """Of the weights of convolutions, by result."""
    return {op.out: plan.weight_codes(op.out, graph.constants[op.weight]) for op in graph.ops if isinstance(op, Conv)}


def test_it_does_better_on_images_held_out_and_says_what_it_learned(images: CalibrationSet) -> None:
    (graph, before), (learned, after) = start(), trained(images)
    held = images.parted()[1]
    assert output_loss(learned, after.plan, held, "classify", graph) < 0.7 * output_loss(
        graph, before.plan, held, "classify"
    )
    scales = [{out: type_.scale for out, type_ in plan.weights.items()} for plan in (before.plan, after.plan)]
    assert len(scales[0]) > 1 and scales[0] == scales[1]  # too few images say where a whole channel should go
    wanted, found = codes_of(graph, before.plan), codes_of(learned, after.plan)
    assert len(wanted) > 1 and all(np.array_equal(found[out], codes) for out, codes in wanted.items())
    assert all(not np.array_equal(after.plan.biases[out], before.plan.biases[out]) for out in wanted)
    told = {item.key: item.estimator for item in after.chosen}
    assert "largest, trained" in told.values()
    assert all(item.scale == after.plan.types[item.key].scale[0] for item in after.chosen)


@pytest.mark.parametrize("enough", [10_000, 1], ids=["codes stay", "weights learn"])
def test_the_integer_graph_computes_what_was_trained(
    images: CalibrationSet, monkeypatch: pytest.MonkeyPatch, enough: int
) -> None:
    monkeypatch.setattr("edgeq.flow.whole.ENOUGH_IMAGES", enough)
    monkeypatch.setattr("edgeq.flow.whole.RATE", 0.5)  # codes are a quarter of a level and more from changing
    (graph, before), (learned, found) = start(), trained(images)
    wanted = codes_of(graph, before.plan)
    changed = sum(int((codes != wanted[out]).sum()) for out, codes in codes_of(learned, found.plan).items())
    assert (changed == 0) if enough > 1 else (changed > 10)
    simulation, lowered = Simulation.of(learned, found.plan, torch.device("cpu")), lower(learned, found.plan)
    equal, codes = 0, set[float]()
    samples = list(inputs_of(learned, images))
    for sample in samples:
        (wanted,) = simulation.outputs({name: torch.from_numpy(array) for name, array in sample.items()})
        (integers,) = run(lowered, sample).values()
        equal += bool(torch.allclose(integers, wanted, atol=1e-4))
        codes |= set(np.round(integers.flatten().tolist(), 5))
    assert equal >= 0.9 * len(samples)  # near ties are rounded either way
    assert len(codes) > 20


def test_images_held_out_decide_by_the_measure_of_the_contest(images: CalibrationSet) -> None:
    graph, found = start()
    real, plan = with_latents(graph, found.plan)
    run = TrainingRun(Training(epochs=1, batch=8, workers=1), PREPROCESS, None)
    seen, held = images.parted()
    loop = Loop(
        real, plan, unlabelled(seen, held, run, 1), None, run, Follows(graph, loss_of(graph, seen, "depth"), relative)
    )
    assert loop.start == pytest.approx(output_loss(graph, found.plan, held, "depth"), rel=0.02)
    assert loop.start != pytest.approx(mean_loss(graph, found.plan, held, loss_of(graph, held, "depth")), rel=0.1)


@pytest.mark.parametrize("enough", [10_000, 1], ids=["codes stay", "weights learn"])
def test_an_interrupted_run_goes_on_and_results_repeat(
    images: CalibrationSet, monkeypatch: pytest.MonkeyPatch, enough: int
) -> None:
    monkeypatch.setattr("edgeq.flow.whole.ENOUGH_IMAGES", enough)

    def interrupt(stage: str, done: int, total: int) -> None:
        if done > 0.6 * total:
            raise KeyboardInterrupt

    whole = [digest(lower(graph, found.plan)) for graph, found in (trained(images), trained(images))]
    with pytest.raises(KeyboardInterrupt):
        trained(images, interrupt, use_cache=True)
    seen: list[float] = []
    graph, found = trained(images, lambda stage, done, total: seen.append(done / total), use_cache=True)
    assert min(seen) > 0.4
    assert {*whole, digest(lower(graph, found.plan))} == {whole[0]}
    before, plan = start()
    assert whole[0] != digest(lower(before, plan.plan))


def test_steps_are_smaller_where_less_is_wrong(images: CalibrationSet) -> None:
    graph, coarse = network()
    _, _, fine = planned(graph, find_target("reference"), {"x": np.abs(example(graph)["x"])})
    held = images.parted()[1]
    assert LEAST_RATE <= _rate(graph, fine, held) < 0.5 * _rate(graph, coarse, held) < 0.01
    assert course_of(graph, fine, *images.parted()).rate == _rate(graph, fine, held)


def test_weights_keep_their_codes_where_bits_and_images_are_few(images: CalibrationSet) -> None:
    graph, few = network()
    _, _, many = planned(graph, find_target("reference"), {"x": np.abs(example(graph)["x"])})
    seen, held = images.parted()
    more = replace(seen, images=seen.images * ENOUGH_IMAGES)
    courses = [course_of(graph, plan, shown, held) for plan, shown in ((few, seen), (few, more), (many, seen))]
    assert [course.learned.weights for course in courses] == [False, True, True]
    assert courses[0].hint_weight > courses[1].hint_weight > courses[2].hint_weight
    assert [course.drop > 0 for course in courses] == [False, True, False]


def test_a_gpu_is_shown_more_in_larger_batches(images: CalibrationSet, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, _ = network()
    for name, value in (
        ("GPU_ROUNDS", 10_000),
        ("BATCH_VALUES", 8 * sum(type_.size for type_ in graph.types.values())),
    ):
        monkeypatch.setattr(f"edgeq.flow.whole.{name}", value)
    seen, shown, batches = images.parted()[0], list[int](), list[int]()
    for device in ("cpu", "cuda"):
        course = Course(Strategy(), 1e-3, 1.0)
        options, rounds = _options(graph, replace(seen, device=torch.device(device)), course, 0)
        shown.append(options.epochs * rounds * len(seen.images))
        batches.append(options.batch)
    assert shown[1] == pytest.approx(ON_GPU * shown[0], rel=0.1) and 8 <= batches[0] < batches[1]
