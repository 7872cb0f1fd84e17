"""What a network is trained on and judged by: images with their labels, and some of both held out."""

from __future__ import annotations

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
from edgeq.errors import DataError, UsageError
from edgeq.flow.processes import Processes
from edgeq.flow.training import TrainingRun
from edgeq.ir.graph import Graph
from edgeq.quantize.sensitivity import Weigh

HELD_OUT = 0.05
MOST_HELD_OUT = 1000


def head_of(weigh: Weigh | None) -> DetectionHead | None:
    """The head of a detector whose places correspond to its teacher's."""
    return weigh.head if isinstance(weigh, DetectionWeights) and corresponds(weigh.head) else None


def split(
    data: Dataset, run: TrainingRun, device: torch.device, team: Processes, head: DetectionHead | None
) -> tuple[Batches, Batches]:
    """Images to train on, and every so-manyth to hold out."""
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
        paths, own = [data.samples[k].path for k in rows], None if labels is None else labels[rows]
        return Batches(paths, own, run.preprocess, options.batch, options.workers, device, team.rank, team.world)

    return part([k for k in range(count) if k not in out]), part(sorted(out))


def _labels(data: Dataset, run: TrainingRun, head: DetectionHead | None) -> Tensor | None:
    """Classes [images], or true boxes [images, M, 5] of a detector."""
    kinds = {type(sample.label) for sample in data.samples}
    if data.task == "classify" and kinds == {int}:
        return torch.tensor([sample.label for sample in data.samples])
    if head is not None and kinds == {BoxLabels}:
        return box_table(data.samples, run.preprocess, run.training.workers)  # type: ignore[arg-type]
    return None


def check_classes(graph: Graph, data: Dataset, head: DetectionHead | None) -> None:
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
