"""What a data set is, and what measures on it: samples with labels, meters that accumulate, metrics that
come out.

A meter sees one image at a time, so any number of runners share one pass over the images, and each image is
decoded once. A meter never calls a network: outputs from a board can be added later, in the order of the
samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from edgeq.datasets.preprocess import Placement, Preprocess

Task = Literal["detect", "segment", "pose", "classify", "depth"]
BOX_TASKS: tuple[Task, ...] = ("detect", "segment", "pose")

Outputs = Sequence[npt.NDArray[np.float32]]
Runner = Callable[[npt.NDArray[np.float32]], Outputs]
Label_co = TypeVar("Label_co", covariant=True)


@dataclass(frozen=True)
class Metric:
    """One number measured on `n` images. Accuracies are fractions (unit "fraction"), not percent."""

    name: str
    value: float
    unit: str
    n: int


@dataclass(frozen=True)
class Sample(Generic[Label_co]):
    """One image and what is known about it."""

    path: Path
    label: Label_co


class Meter(Protocol):
    """Accumulates the outputs of one runner."""

    def add(self, index: int, placement: Placement, outputs: Outputs) -> None:
        """The outputs for sample `index`, whose image `placement` describes."""

    def metrics(self) -> list[Metric]:
        """What has been measured so far."""


class Dataset(Protocol):
    """Images and, when there are labels, a meter that knows them."""

    @property
    def name(self) -> str:
        """Where it came from, for reports."""

    @property
    def task(self) -> Task | None:
        """What the labels are for; None when there are none and nobody said."""

    @property
    def samples(self) -> Sequence[Sample[object]]:
        """In a fixed order."""

    def meter(self, preprocess: Preprocess, metadata: Mapping[str, str]) -> Meter | None:
        """A fresh meter against the labels for a model with this input and metadata; None without labels."""


@dataclass(frozen=True)
class UnlabelledSet:
    """Images alone: runners can be compared with each other, not with the truth."""

    name: str
    task: Task | None
    samples: tuple[Sample[None], ...]

    def meter(self, preprocess: Preprocess, metadata: Mapping[str, str]) -> Meter | None:
        """None: there is no truth."""
        return None
