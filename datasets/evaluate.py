"""One pass over the images, any number of runners, the same metrics for each.

Runners may be called here, one image after the other, or their outputs may be added as they arrive from
elsewhere. The first runner is the reference: the others are also compared with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeq.datasets.agreement import comparisons
from edgeq.datasets.dataset import Dataset, Metric, Outputs, Runner
from edgeq.datasets.folder import read_image
from edgeq.datasets.outcomes import Outcomes, outcomes_of
from edgeq.datasets.preprocess import Placement, Preprocess


@dataclass(frozen=True)
class Prepared:
    """Sample `index` of a data set, ready to run: the network's input, and where the image lies in it."""

    index: int
    tensor: npt.NDArray[np.float32]
    placement: Placement


Changes = Callable[[npt.NDArray[np.uint8], int], npt.NDArray[np.uint8]]
"""What is done to the image of sample k before it is prepared."""


def prepare(dataset: Dataset, preprocess: Preprocess, changes: Changes | None = None) -> Iterator[Prepared]:
    """Every sample in order; each image is decoded once. Raises DataError naming an image that cannot be
    read.
    """
    for index, sample in enumerate(dataset.samples):
        image = read_image(sample.path)
        image = image if changes is None else changes(image, index)
        yield Prepared(index, preprocess.apply(image), preprocess.placement(*image.shape[:2]))


class Evaluation:
    """Accumulates the outputs of several runners on one data set. The first runner is the reference."""

    def __init__(
        self, dataset: Dataset, preprocess: Preprocess, runners: Sequence[str], metadata: Mapping[str, str]
    ) -> None:
        self._reference = runners[0]
        self._meters = {name: dataset.meter(preprocess, metadata) for name in runners}
        self._comparisons = {name: comparisons(dataset.task, preprocess, metadata) for name in runners[1:]}

    def add(self, prepared: Prepared, outputs: Mapping[str, Outputs]) -> None:
        """The outputs of every runner for one sample."""
        for name, meter in self._meters.items():
            if meter is not None:
                meter.add(prepared.index, prepared.placement, outputs[name])
        for name, compared in self._comparisons.items():
            for comparison in compared:
                comparison.add(prepared.placement, outputs[name], outputs[self._reference])

    def outcomes(self) -> dict[str, Outcomes]:
        """By runner: what it answered on each image; empty without labels."""
        return {name: outcomes_of(meter) for name, meter in self._meters.items() if meter is not None}

    def metrics(self) -> dict[str, list[Metric]]:
        """By runner: accuracy against the labels, where there are any, then agreement with the reference."""
        return {
            name: [
                *(meter.metrics() if meter is not None else []),
                *(m for comparison in self._comparisons.get(name, []) for m in comparison.metrics()),
            ]
            for name, meter in self._meters.items()
        }


def evaluate(
    dataset: Dataset,
    preprocess: Preprocess,
    runners: Mapping[str, Runner],
    metadata: Mapping[str, str] | None = None,
) -> dict[str, list[Metric]]:
    """Run every runner on every image; see `Evaluation`. `metadata` is the model's (see `infer_head`)."""
    evaluation = Evaluation(dataset, preprocess, list(runners), metadata or {})
    for prepared in prepare(dataset, preprocess):
        evaluation.add(prepared, {name: run(prepared.tensor) for name, run in runners.items()})
    return evaluation.metrics()
