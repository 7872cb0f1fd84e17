"""Gradient descent on the whole network from what was learned layer by layer: how `best` ends, by the loop of `edgeq train`.

The float network is the teacher and the calibration images are moved at random, so that no labels are needed. Images
are shown so often that it takes about as long on any network. Codes stay at last, and of the states then the one that does
best on images held out is taken; where none beats the start, one of before that does, or the start. State is kept after every epoch, as that of training is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgeq.calibrate import cache
from edgeq.datasets.dataset import Task
from edgeq.flow.effort import ENOUGH_IMAGES, has_few_activation_bits, judge_of, loss_of, mean_loss
from edgeq.flow.inputs import CalibrationSet
from edgeq.flow.ranges import ChosenRange, Quantization
from edgeq.flow.train import finished
from edgeq.flow.training import Training, TrainingRun
from edgeq.flow.training_data import unlabelled
from edgeq.flow.training_loop import Loop
from edgeq.ir.file import digest
from edgeq.ir.graph import Graph
from edgeq.passes.batch import Batches
from edgeq.passes.lower import lower
from edgeq.progress import Progress
from edgeq.quantize.distance import squared_error, weighed
from edgeq.quantize.distill import Follows, block_exits
from edgeq.quantize.grids import Strategy
from edgeq.quantize.latents import with_latents
from edgeq.quantize.plan import Plan

EPOCHS = 20
"""The loss on images held out is looked at so many times."""
LEAST_SHOWN, MOST_SHOWN = 4_000, 32_000
SHOWN_VALUES = 1e11
"""Images are shown as long as they make so many values: 7,500 of MobileNetV2, about 23 CPU minutes."""
MOST_ROUNDS, GPU_ROUNDS = 80, 160
"""No image is shown more often, since few images are learned by heart; on a GPU the second."""
BATCH_VALUES = 1 << 26
SMALLEST_BATCH, LARGEST_BATCH = 8, 32
ON_GPU = 8
"""So many times as many values are shown there, and in a batch, which still takes a fraction of the time."""
RATE = 1.5e-3
"""Peak of the learning rate where the outputs are all noise, with weights counted by their usual size."""
LEAST_RATE = 3e-4
HINT_WEIGHT, FEW_BITS_HINT_WEIGHT = 5.0, 20.0
"""What leaves blocks counts so much beside the outputs; the second where activations have few bits."""
DROP = 0.5
"""Share of elements that rounding passes over at first, where weights are learned and activations have few bits."""
SETTLE = 0.2
"""Codes stay over this last part of the training, from which the state is taken."""
FIXED_CODES_RATE, FIXED_CODES_HINT_WEIGHT = 1e-3, 60.0
"""Where biases and scales of values alone are learned, which are few and bear larger steps."""


@dataclass(frozen=True)
class Course:
    """What is learned, at which peak rate, how much what leaves blocks counts beside the outputs, and Training's `drop`.

    Scales of weights stay: they move a whole channel at every step, and few images do not say where to (ACCURACY.md).
    """

    learned: Strategy
    rate: float
    hint_weight: float
    drop: float = 0.0


def trained_whole(
    graph: Graph,
    found: Quantization,
    seen: CalibrationSet,
    held: CalibrationSet,
    task: Task | None,
    progress: Progress,
    *,
    half_scales: bool,
    seed: int = 0,
    use_cache: bool = True,
) -> tuple[Graph, Quantization]:
    """`found` for `graph` with everything trained together on the images `seen`, as the images `held` judge it.

    The real graph that comes back has the trained weights. Where operators would mix images both come back as they are.
    """
    if not Batches(graph).axes:
        return graph, found
    course = course_of(graph, found.plan, seen, held)
    options, rounds = _options(graph, seen, course, seed)
    start, plan = with_latents(graph, found.plan)
    run = TrainingRun(options, seen.preprocess, None, half_scales, seen.device)
    if use_cache:
        run = replace(run, state=_state(graph, found.plan, seen, options, rounds, course))
    material = unlabelled(seen, held, run, rounds)
    follows = Follows(
        graph, loss_of(graph, seen, task), judge_of(graph, seen, task), block_exits(graph, plan), course.hint_weight
    )
    trained = finished(Loop(start, plan, material, seen.weigh, run, follows), progress)
    return trained.graph, replace(found, plan=trained.plan, chosen=[_renamed(x, trained.plan) for x in found.chosen])


def course_of(graph: Graph, plan: Plan, seen: CalibrationSet, held: CalibrationSet) -> Course:
    """How to learn from here. Where activations have few bits it is their rounding that costs: scales and biases take much of it
    back, while weights, whose codes are good ones already, would learn few images by heart (ACCURACY.md).
    """
    few_bits = has_few_activation_bits(plan)
    if few_bits and len(seen.images) + len(held.images) < ENOUGH_IMAGES:
        return Course(Strategy(weights=False, weight_scales=False), FIXED_CODES_RATE, FIXED_CODES_HINT_WEIGHT)
    learned, rate = Strategy(weight_scales=False), _rate(graph, plan, held)
    if few_bits:
        return Course(learned, rate, FEW_BITS_HINT_WEIGHT, DROP)
    return Course(learned, rate, HINT_WEIGHT)


def _rate(graph: Graph, plan: Plan, held: CalibrationSet) -> float:
    """A peak rate at which steps disturb the outputs in proportion to the error that they have before.

    What a step does to the outputs goes with the rate, and the error with the root of its square: a network that is
    nearly right would only be shaken by steps that another one needs (ACCURACY.md). Pixels of boxes would hide the error
    of a detector's scores, so that its elements count as detections do.
    """
    error = mean_loss(graph, plan, held, squared_error if held.weigh is None else weighed(held.weigh))
    return float(np.clip(RATE * error**0.5, LEAST_RATE, RATE))


def _options(graph: Graph, seen: CalibrationSet, course: Course, seed: int) -> tuple[Training, int]:
    """How to train on these images, and how often an epoch shows each of them."""
    images, values, on_gpu = len(seen.images), _values(graph), seen.device.type == "cuda"
    more, most_rounds = (ON_GPU, GPU_ROUNDS) if on_gpu else (1, MOST_ROUNDS)
    shown = min(int(np.clip(SHOWN_VALUES / values, LEAST_SHOWN, MOST_SHOWN)) * more, most_rounds * images)
    batch = int(np.clip(BATCH_VALUES * more // values, SMALLEST_BATCH, LARGEST_BATCH))
    rounds = max(1, round(shown / EPOCHS / images))
    epochs = max(1, round(shown / (rounds * images)))
    training = Training(
        epochs=epochs, batch=batch, rate=course.rate, decay=0.0, seed=seed, learn=course.learned,
        settle=SETTLE, drop=course.drop,
    )  # fmt: skip
    return training, rounds


def _values(graph: Graph) -> int:
    """Elements that are computed for one image."""
    return sum(type_.size for value, type_ in graph.types.items() if value not in graph.constants)


def _state(graph: Graph, plan: Plan, seen: CalibrationSet, options: Training, rounds: int, course: Course) -> Path:
    return cache.state_file(
        model=digest(lower(graph, plan)),
        preprocess=seen.preprocess.to_dict(),
        images=[image.sha256 for image in seen.images],
        settings={**options.deciding(), "rounds": rounds, "hints": course.hint_weight, "float": digest(graph)},
        kind="whole",
    )


def _renamed(item: ChosenRange, plan: Plan) -> ChosenRange:
    scale = plan.types[item.key].scale[0]
    return (
        item if scale == item.scale else replace(item, scale=scale, estimator=f"{item.estimator}, trained", gain=None)
    )
