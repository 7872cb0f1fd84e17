"""What competes to be the quantized network of a job, and which one is taken: the one that does best on images held out.

Every effort but `best` has one candidate. Those of `best` begin with `balanced` itself, so that it is never worse there.
`balanced` looks at positions that are drawn at random, and which codes it finds is chance to some degree: other draws
compete as well.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from edgeq.datasets.dataset import Dataset, Task
from edgeq.flow.accelerator import exact_arithmetic
from edgeq.flow.banding import banded
from edgeq.flow.effort import (
    ENOUGH_IMAGES,
    FEW_BITS,
    SETTINGS,
    activation_bits,
    has_few_activation_bits,
    has_few_bits,
    learned,
    migrated,
    output_loss,
)
from edgeq.flow.inputs import CalibrationSet, InputRule
from edgeq.flow.ranges import Quantization, quantize
from edgeq.flow.request import ExportRequest
from edgeq.flow.whole import trained_whole
from edgeq.frontend.model import Model
from edgeq.ir.file import digest
from edgeq.ir.graph import Graph
from edgeq.passes.copies import with_narrow_copies
from edgeq.passes.heads import SplitHead
from edgeq.progress import Progress
from edgeq.quantize.bands import Worth
from edgeq.quantize.plan import Plan
from edgeq.quantize.refine import Settings
from edgeq.recipe import Recipe
from edgeq.target import Target

DRAWS = 4
"""Of `balanced` in `best`."""

FINER = Worth(noise=2.5e-4, factor=1.5, most=6)
"""What bands must be worth in `best`, where many small gains are one large one (ACCURACY.md)."""

_APART = 1 << 20
"""Between the seeds of draws, so that none meets those of another's operators."""


@dataclass(frozen=True)
class Job:
    """One model on its way to one target: what was asked, the float graph `whole`, how images enter, labelled
    ones, and where images are computed."""

    request: ExportRequest
    target: Target
    model: Model
    whole: Graph
    head: SplitHead | None
    rule: InputRule
    task: Task | None
    data: Dataset | None
    progress: Progress
    device: torch.device

    @property
    def use_cache(self) -> bool:
        """Whether statistics and learned weights may come from earlier runs."""
        return not self.request.no_cache


@dataclass(frozen=True)
class Way:
    """How a candidate is learned: a name for people, the settings (None: those of the effort), and which draw."""

    name: str = "balanced"
    settings: Settings | None = None
    draw: int = 0


@dataclass(frozen=True)
class Candidate:
    """A network that is ready for quantization, a digest for its statistics, and the ways to learn it that compete."""

    graph: Graph
    recipe: Recipe
    source: str
    ways: tuple[Way, ...] = (Way(),)


@exact_arithmetic()
def candidates_of(
    job: Job, graph: Graph, recipe: Recipe, calibration: CalibrationSet, notes: list[str]
) -> tuple[Candidate, ...]:
    """What computes the same and is easier to quantize; for `best`, and where activations have few bits, with channels moved,
    and for `best` in finer bands.

    The ways of `best` begin with `balanced` itself, so that it is taken where nothing does better. Units are not
    descended on where activations have few bits: the whole network, which all of `best` ends with, gains more there.
    """
    effort, target, plain, given = job.request.effort, job.target, graph, recipe
    if target.is_integer and effort != "fast":
        graph, recipe = banded(graph, recipe, target, calibration, notes, job.progress)
        if activation_bits(graph, target, recipe) <= FEW_BITS:
            graph = migrated(graph, recipe, target, calibration, notes, job.progress)

    def item(graph: Graph, recipe: Recipe, *ways: Way) -> Candidate:
        source = job.model.digest if graph is plain else digest(graph)
        return Candidate(with_narrow_copies(graph, recipe), recipe, source, ways)

    if effort != "best" or not target.is_integer:
        return (item(graph, recipe, Way()),)
    draws = [Way(f"balanced (draw {k + 1})", SETTINGS["balanced"], k) for k in range(DRAWS)]
    if activation_bits(graph, target, recipe) <= FEW_BITS:
        return (item(graph, recipe, *draws),)
    found = [item(graph, recipe, *draws, Way("with descent on units", SETTINGS["best"]))]
    moved = migrated(graph, recipe, target, calibration, notes, job.progress)
    if moved is not graph:
        found.append(item(moved, recipe, Way("with channels moved and descent on units")))
    finer, rules = banded(plain, given, target, calibration, told := list[str](), job.progress, FINER)
    if digest(finer) != digest(graph):
        notes += [f"with finer bands: {note}" for note in told]
        found.append(item(finer, rules, Way("with finer bands", SETTINGS["balanced"])))
    return tuple(found)


@exact_arithmetic()
def winner_of(
    job: Job, candidates: tuple[Candidate, ...], calibration: CalibrationSet, notes: list[str]
) -> tuple[Graph, Quantization]:
    """The quantized network; of several the one that does best on images held out from all of them."""
    first = candidates[0]
    seen, held = calibration.parted()
    if sum(len(item.ways) for item in candidates) == 1 or not held.images:
        only = quantized(job, first, first.ways[0], calibration)
        if job.request.effort != "fast" and job.request.training is None:
            notes += _few_images(only.plan, calibration)
        return first.graph, only
    trials: list[tuple[Candidate, Way, Quantization]] = []
    for item in candidates:
        found = _ranged(job, item, seen)
        trials += [(item, way, _learned(job, item, found, way, seen)) for way in item.ways]
    losses = [output_loss(item.graph, found.plan, held, job.task) for item, _, found in trials]
    told = ", ".join(f"{way.name} {loss:.3g}" for (_, way, _), loss in zip(trials, losses, strict=True))
    notes.append(f"loss on {len(held.images)} images held out: {told}")
    item, way, found = trials[losses.index(min(losses))]
    if job.request.training is None and has_few_bits(found.plan):
        graph, trained = trained_whole(
            item.graph, found, seen, held, job.task, job.progress, half_scales=job.target.half_scales,
            seed=job.request.seed, use_cache=job.use_cache,
        )  # fmt: skip
        loss = output_loss(graph, trained.plan, held, job.task, teacher=item.graph)
        notes.append(f"loss of the best of these with the whole network trained: {loss:.3g}")
        notes += _few_images(found.plan, calibration)
        if loss < min(losses):
            return graph, trained
    return item.graph, quantized(job, item, way, calibration) if item is first and way.draw == 0 else found


def _few_images(plan: Plan, calibration: CalibrationSet) -> list[str]:
    """That more images would help where they would."""
    images = len(calibration.images)
    if images >= ENOUGH_IMAGES or not has_few_activation_bits(plan):
        return []
    return [f"{images} calibration images are few for these bits: --calib-images {ENOUGH_IMAGES} or more gains more"]


def quantized(job: Job, item: Candidate, way: Way, calibration: CalibrationSet) -> Quantization:
    """One candidate, learned one way from these images."""
    return _learned(job, item, _ranged(job, item, calibration), way, calibration)


def _ranged(job: Job, item: Candidate, calibration: CalibrationSet) -> Quantization:
    """Ranges of all values and corrected biases."""
    return quantize(
        item.graph, job.target, item.recipe, calibration, item.source, job.progress,
        use_cache=job.use_cache, quick=job.request.effort == "fast",
    )  # fmt: skip


def _learned(job: Job, item: Candidate, found: Quantization, way: Way, calibration: CalibrationSet) -> Quantization:
    """What `way` learns on top of `found`; training starts from the real weights instead."""
    if job.request.training is not None:
        return found
    return learned(
        item.graph, found, job.target, calibration, job.request.effort, job.progress, settings=way.settings,
        seed=job.request.seed + _APART * way.draw, use_cache=job.use_cache,
    )  # fmt: skip
