"""What a network is trained on and judged by: images with their labels, and some of both held out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from edgeq.calibrate.importance import DetectionWeights
from edgeq.datasets.batches import Batches
from edgeq.datasets.box_table import box_table
from edgeq.datasets.coco import BoxLabels
from edgeq.datasets.dataset import Dataset
from edgeq.datasets.detection import DetectionHead
from edgeq.datasets.detection_distance import corresponds
from edgeq.datasets.folder import read_image
from edgeq.errors import DataError, UsageError
from edgeq.flow.inputs import CalibrationSet
from edgeq.flow.processes import local_device, processes
from edgeq.flow.training import TrainingRun
from edgeq.ir.graph import Graph
from edgeq.quantize.sensitivity import Weigh

HELD_OUT = 0.05
MOST_HELD_OUT = 1000


@dataclass(frozen=True)
class Material:
    """Images to learn from, and those that decide; `classifies`: whether their labels are classes."""

    training: Batches
    held_out: Batches
    classifies: bool = False


def head_of(weigh: Weigh | None) -> DetectionHead | None:
    """The head of a detector whose places correspond to its teacher's."""
    return weigh.head if isinstance(weigh, DetectionWeights) and corresponds(weigh.head) else None


def unlabelled(seen: CalibrationSet, held: CalibrationSet, run: TrainingRun, rounds: int) -> Material:
    """Calibration images, of which those `seen` are shown `rounds` times in an epoch."""

    def part(images: CalibrationSet, rounds: int = 1) -> Batches:
        reads, options = [image.read for image in images.images], run.training
        return Batches(
            reads, None, images.preprocess, options.batch, options.workers, local_device(run.device), rounds=rounds
        )

    return Material(part(seen, rounds), part(held))


def labelled(graph: Graph, data: Dataset, weigh: Weigh | None, run: TrainingRun) -> Material:
    """Images of `data` to train on, and every so-manyth to hold out.

    Raises DataError where there are too few or their labels are not those of `graph`.
    """
    head, device = head_of(weigh), local_device(run.device)
    team = processes(device)
    _check_classes(graph, data, head)
    count, options = len(data.samples), run.training
    if count < 4:
        raise DataError("too few images to train on", where=data.name, value=count, allowed="4 or more")
    if min(options.batch, count) % team.world:
        raise UsageError(
            "the batch cannot be shared evenly", value=options.batch, allowed=f"a multiple of {team.world} processes"
        )
    held = max(1, min(int(count * HELD_OUT), MOST_HELD_OUT))
    out = {int(k) for k in np.linspace(0, count - 1, held)}
    labels = _labels(data, run, head)

    def part(rows: list[int]) -> Batches:
        reads = [partial(read_image, data.samples[k].path) for k in rows]
        own = None if labels is None else labels[rows]
        return Batches(reads, own, run.preprocess, options.batch, options.workers, device, team.rank, team.world)

    return Material(part([k for k in range(count) if k not in out]), part(sorted(out)), data.task == "classify")


def _labels(data: Dataset, run: TrainingRun, head: DetectionHead | None) -> Tensor | None:
    """Classes [images], or true boxes [images, M, 5] of a detector."""
    kinds = {type(sample.label) for sample in data.samples}
    if data.task == "classify" and kinds == {int}:
        return torch.tensor([sample.label for sample in data.samples])
    if head is not None and kinds == {BoxLabels}:
        return box_table(data.samples, run.preprocess, run.training.workers)  # type: ignore[arg-type]
    return None


def _check_classes(graph: Graph, data: Dataset, head: DetectionHead | None) -> None:
    """Raise DataError where the labels name classes that the network does not have."""
    labels = [sample.label for sample in data.samples]
    if head is not None:
        most = max((int(x.classes.max(initial=0)) for x in labels if isinstance(x, BoxLabels)), default=0)
        classes = head.nc
    elif data.task == "classify":
        most = max((x for x in labels if isinstance(x, int)), default=0)
        classes = graph.types[graph.outputs[0]].shape[-1]
    else:
        return
    if most >= classes:
        raise DataError(
            "the labels name more classes than the network has", where=data.name, value=most + 1, allowed=classes
        )
