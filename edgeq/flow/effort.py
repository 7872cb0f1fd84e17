"""How much work goes into accuracy: fast rounds to the nearest, balanced and best learn from the calibration images.

    fast       ranges and bias correction, weighed on eight images, of whose large maps some rows are looked at; every
               weight is rounded to the nearest
    balanced   codes, scales and biases by second moments, layer by layer: minutes on two cores
    best       balanced in several draws, and beside it with gradient descent on every unit, with channels moved and in
               finer bands: the one that does best on images held out, from which the whole network is trained where
               bits are few

What was learned is kept beside the calibration statistics unit by unit, so that an interrupted run goes on where it was.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch

from edgeq.calibrate import cache
from edgeq.datasets.dataset import Task
from edgeq.flow.inputs import CalibrationSet
from edgeq.flow.ranges import ChosenRange, Quantization
from edgeq.flow.statistics import inputs_of, objective_of
from edgeq.formats import bits_of
from edgeq.ir.file import digest
from edgeq.ir.graph import Array, Graph
from edgeq.ir.ops import Value
from edgeq.passes.lower import lower
from edgeq.passes.together import images_at_once
from edgeq.passes.transform import transform
from edgeq.progress import Progress
from edgeq.quantize.assign import assign
from edgeq.quantize.distance import Loss, distribution, relative, scale_invariant, squared_error, weighed
from edgeq.quantize.frontier import batches, images_that_fit
from edgeq.quantize.importance import Importance, measure_importance
from edgeq.quantize.learned import Learned, with_learned
from edgeq.quantize.migrate import Grids, choose_moves
from edgeq.quantize.plan import Plan
from edgeq.quantize.reconstruct import learn
from edgeq.quantize.refine import Settings
from edgeq.quantize.simulate import Simulation
from edgeq.quantize.structure import analyse
from edgeq.quantize.units import units
from edgeq.recipe import Recipe
from edgeq.target import Target

Effort = Literal["fast", "balanced", "best"]
EFFORTS: tuple[Effort, ...] = get_args(Effort)

SETTINGS: dict[Effort, Settings] = {
    "fast": Settings(),
    "balanced": Settings(),
    "best": Settings(steps=200, drop=0.0),
}

MOVE_IMAGES = 4
REACH_IMAGES = 128
"""How far channels reach is seen on so many, since what reaches further is cut off; moves are judged on the few before."""

FEW_BITS = 6
"""Up to here rounding to the nearest costs accuracy, and learning is the default."""
ENOUGH_IMAGES = 256
"""What is learned from fewer costs accuracy where activations have few bits (ACCURACY.md)."""


@dataclass(frozen=True)
class LearnedFile:
    """What an interrupted run has learned so far, as one npz file that is replaced after every unit."""

    path: Path

    def load(self) -> dict[str, Array]:
        """The arrays that were stored; none where there is no file or it is damaged."""
        try:
            with self.path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        except Exception:  # absent or damaged: what numpy and zlib raise on damaged bytes has no complete list
            return {}

    def save(self, arrays: dict[str, Array]) -> None:
        """Replace the file; a cache that cannot be written costs time, not results."""
        temporary = None
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.path.parent, suffix=".tmp", delete=False) as file:
                temporary = Path(file.name)
                np.savez(file, allow_pickle=False, **arrays)
            os.replace(temporary, self.path)
            temporary = None
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def activation_bits(graph: Graph, target: Target, recipe: Recipe) -> int:
    """The fewest bits of any value that is rounded."""
    structure = analyse(graph, target, recipe)
    return min((bits_of(structure.formats[key]) for key in structure.members), default=target.narrow.bits)


def has_few_bits(plan: Plan) -> bool:
    """Whether rounding costs so much that the whole network is trained by `best`."""
    weights = (type_.format for type_ in plan.weights.values())
    return has_few_activation_bits(plan) or any(bits_of(format_) <= FEW_BITS for format_ in weights)


def has_few_activation_bits(plan: Plan) -> bool:
    """Whether rounding of any value costs accuracy."""
    return any(bits_of(format_) <= FEW_BITS for format_ in plan.structure.formats.values())


def migrated(
    graph: Graph,
    recipe: Recipe,
    target: Target,
    calibration: CalibrationSet,
    notes: list[str],
    progress: Progress,
) -> Graph:
    """`graph` with channels moved where that helps its quantized readers, and a line in `notes` on it."""
    progress("moving channels", 0, 0)
    bits = min(activation_bits(graph, target, recipe), target.narrow.bits)
    grids = Grids(replace(target.narrow, bits=bits), target.weight, target.symmetric)
    together = images_at_once(graph, calibration.device)
    samples = list(inputs_of(graph, calibration.sample(MOVE_IMAGES), together))
    more = inputs_of(graph, calibration.sample(REACH_IMAGES), together)
    found = choose_moves(graph, samples, grids, calibration.device, more=more)
    if not found:
        return graph
    names = ", ".join(f"{value} ({item.strategy}, {item.gain:.2f}x)" for value, item in list(found.items())[:4])
    notes.append(f"channels moved at {names}" + (f" and {len(found) - 4} more" if len(found) > 4 else ""))
    return transform(graph, {value: item.move for value, item in found.items()})


def learned(
    graph: Graph,
    found: Quantization,
    target: Target,
    calibration: CalibrationSet,
    effort: Effort | None,
    progress: Progress,
    *,
    settings: Settings | None = None,
    seed: int = 0,
    use_cache: bool = True,
) -> Quantization:
    """`found` with what the effort is worth: learned codes, scales and biases; itself for `fast`.

    Without an effort, weights of few bits are learned (balanced) and others rounded (fast). `settings` are those of the
    effort unless given.
    """
    effort = effort or _usual(found.plan)
    settings = settings or SETTINGS[effort]
    if effort == "fast" or not found.plan.weights:
        return found
    store = LearnedFile(_state(graph, found.plan, calibration, settings, seed)) if use_cache else None
    samples = list(inputs_of(graph, calibration.sample(images_that_fit(graph))))
    result = learn(
        graph,
        found.plan,
        samples,
        settings,
        importance=_importance(graph, found.plan, calibration, samples, progress) if settings.steps else None,
        half=target.half_scales,
        seed=seed,
        device=calibration.device,
        store=store,
        progress=progress,
    )
    return _with(found, graph, target, result)


def output_loss(
    graph: Graph, plan: Plan, calibration: CalibrationSet, task: Task | None, teacher: Graph | None = None
) -> float:
    """How far the quantized network's outputs are from those of the float `teacher` (`graph` itself by default), as the
    task counts it; averaged over images."""
    return mean_loss(graph, plan, calibration, judge_of(graph, calibration, task), teacher)


@torch.no_grad()
def mean_loss(graph: Graph, plan: Plan, calibration: CalibrationSet, loss: Loss, teacher: Graph | None = None) -> float:
    """`loss` between the quantized network's outputs and those of the float `teacher` (`graph` itself by default)."""
    simulation, total = Simulation.of(graph, plan, calibration.device), 0.0
    original = simulation if teacher is None else Simulation.of(teacher, plan, calibration.device)
    for images in batches(simulation, list(inputs_of(graph, calibration))):
        wanted, found = original.outputs(images, real=True), simulation.outputs(images)
        total += float(loss(found, wanted, [None] * len(wanted))) * len(wanted[0])
    return total / len(calibration.images)


def _usual(plan: Plan) -> Effort:
    return "balanced" if any(bits_of(type_.format) <= FEW_BITS for type_ in plan.weights.values()) else "fast"


def _state(graph: Graph, plan: Plan, calibration: CalibrationSet, settings: Settings, seed: int) -> Path:
    return cache.state_file(
        model=digest(lower(graph, plan)),
        preprocess=calibration.preprocess.to_dict(),
        images=[image.sha256 for image in calibration.images],
        settings={**asdict(settings), "seed": seed},
        kind="rounding",
        suffix=".npz",
    )


def _importance(
    graph: Graph,
    plan: Plan,
    calibration: CalibrationSet,
    samples: Sequence[Mapping[Value, Array]],
    progress: Progress,
) -> dict[Value, Importance]:
    """Where errors matter to the task, for a detector; elsewhere it gained nothing."""
    if calibration.weigh is None:
        return {}
    progress("weighing positions", 0, 0)
    exits = {name for unit in units(graph, plan.weights.keys()).values() for name in unit.exits}
    objective = objective_of(plan.structure, calibration.weigh)
    return measure_importance(graph, objective, exits | plan.weights.keys(), samples, device=calibration.device)


def loss_of(graph: Graph, calibration: CalibrationSet, task: Task | None) -> Loss:
    """What descent on the whole network follows."""
    if calibration.weigh is not None:
        return weighed(calibration.weigh)
    one_row = len(graph.outputs) == 1 and len(graph.types[graph.outputs[0]].shape) == 2
    if task == "classify" and one_row:
        return distribution
    return scale_invariant if task == "depth" else squared_error


def judge_of(graph: Graph, calibration: CalibrationSet, task: Task | None) -> Loss:
    """What images held out decide by. Of depth it is the error over the depth: what descent follows forgives a factor."""
    return relative if task == "depth" else loss_of(graph, calibration, task)


def _with(found: Quantization, graph: Graph, target: Target, result: Learned) -> Quantization:
    """The plan with everything learned, and the ranges that say so."""
    plan, structure = found.plan, found.plan.structure
    if result.scales:
        grids: dict[Value, tuple[float, int]] = {}
        for key in structure.members:
            type_ = plan.types[key]
            grids[key] = (result.scales.get(key, type_.scale[0]), type_.zero_point)
        moved = assign(structure, grids, target)
        plan = replace(moved, output_codes=plan.output_codes, biases=plan.biases)
    chosen = [_renamed(item, plan, result) for item in found.chosen]
    return replace(found, plan=with_learned(plan, graph, result, half=target.half_scales), chosen=chosen)


def _renamed(item: ChosenRange, plan: Plan, result: Learned) -> ChosenRange:
    if item.key not in result.scales:
        return item
    return replace(item, scale=plan.types[item.key].scale[0], estimator=f"{item.estimator}, learned", gain=None)
