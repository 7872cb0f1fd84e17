"""Training under rounding: what `edgeq train` does between the choice of ranges and lowering.

The plan of post-training quantization is the start, the float network the teacher. The state with the least loss on
held-out images wins, and never loses to the start. State is saved after every epoch, so that a killed run goes on
where it was.
"""

from __future__ import annotations

from edgeq.datasets.dataset import Dataset
from edgeq.flow.training import Trained, TrainingRun
from edgeq.flow.training_data import labelled
from edgeq.flow.training_loop import Loop
from edgeq.ir.graph import Graph
from edgeq.progress import Progress
from edgeq.quantize.distill import Follows, block_exits
from edgeq.quantize.plan import Plan
from edgeq.quantize.sensitivity import Weigh


def train(
    graph: Graph, plan: Plan, data: Dataset, weigh: Weigh | None, run: TrainingRun, progress: Progress
) -> Trained:
    """Train `graph` under `plan` on the images of `data`; labels count for classifiers and detectors.

    Raises DataError when there are too few images or the labels are not the network's, and UsageError when the loss is
    not a number or the saved state is another's.
    """
    weight = run.training.features
    follows = Follows(graph, hints=block_exits(graph, plan), weight=weight) if weight else None
    return finished(Loop(graph, plan, labelled(graph, data, weigh, run), weigh, run, follows), progress)


def finished(loop: Loop, progress: Progress) -> Trained:
    """What comes of `loop`, from where an interrupted run of the same left it."""
    loop.resume()
    while not loop.is_finished:
        loop.one_epoch(progress)
    loop.processes.leave()
    return loop.result()
