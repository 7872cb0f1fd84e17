"""How far a runner's outputs are from the reference runner's, which needs no labels.

Three views: the signal (SQNR and the largest error of each tensor), the answer (same class, same boxes, same
depth), and both are taken on the same outputs that the accuracy is measured on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from edgeq.datasets.coco import BoxLabels, DetectionReader, evaluate
from edgeq.datasets.dataset import BOX_TASKS, Metric, Outputs, Task
from edgeq.datasets.depth import depth_map
from edgeq.datasets.detection import Detections
from edgeq.datasets.imagenet import ranking
from edgeq.datasets.preprocess import Placement, Preprocess

_SURE = 0.25  # least score at which the reference's detections count as true; Ultralytics' default for prediction


class Comparison(Protocol):
    """Accumulates a runner's outputs beside the reference's."""

    def add(self, placement: Placement, outputs: Outputs, reference: Outputs) -> None:
        """Both runners' outputs for one image."""

    def metrics(self) -> list[Metric]:
        """What has been measured so far; empty when the outputs cannot be compared."""


def comparisons(task: Task | None, preprocess: Preprocess, metadata: Mapping[str, str]) -> list[Comparison]:
    """Fresh comparisons for one runner on this task."""
    if task in BOX_TASKS:
        return [SignalComparison(), BoxComparison(preprocess, metadata)]
    if task == "classify":
        return [SignalComparison(), ClassComparison()]
    return [SignalComparison(), DepthComparison()] if task == "depth" else [SignalComparison()]


class SignalComparison:
    """sqnr = 10 log10(sum reference^2 / sum error^2) over all outputs and images, and the largest absolute
    error.

    Says nothing when the runners' outputs differ in number or shape.
    """

    def __init__(self) -> None:
        self._n, self._signal, self._noise, self._largest = 0, 0.0, 0.0, 0.0
        self._comparable = True

    def add(self, placement: Placement, outputs: Outputs, reference: Outputs) -> None:
        """Both runners' outputs for one image."""
        self._comparable &= [o.shape for o in outputs] == [r.shape for r in reference]
        if not self._comparable:
            return
        self._n += 1
        for output, wanted in zip(outputs, reference, strict=True):
            exact = wanted.astype(np.float64)
            error = output.astype(np.float64) - exact
            self._signal += float(np.sum(exact**2))
            self._noise += float(np.sum(error**2))
            self._largest = max(self._largest, float(np.abs(error).max(initial=0.0)))

    def metrics(self) -> list[Metric]:
        """sqnr in dB (infinite when equal) and max-error in the outputs' unit."""
        if not self._comparable or not self._n:
            return []
        with np.errstate(divide="ignore", invalid="ignore"):
            sqnr = float(10 * np.log10(np.float64(self._signal) / self._noise)) if self._noise else float("inf")
        return [
            Metric("sqnr", sqnr, "dB", self._n),
            Metric("max-error", self._largest, "output unit", self._n),
        ]


class ClassComparison:
    """top1-agreement: the fraction of images on which both rank the same class first."""

    def __init__(self) -> None:
        self._same: list[bool] = []

    def add(self, placement: Placement, outputs: Outputs, reference: Outputs) -> None:
        """Both runners' outputs for one image."""
        self._same.append(ranking(outputs)[0] == ranking(reference)[0])

    def metrics(self) -> list[Metric]:
        """Over the images added."""
        n = len(self._same)
        return [Metric("top1-agreement", sum(self._same) / n, "fraction", n)] if n else []


class BoxComparison:
    """map50-95-agreement: COCO accuracy with the reference's sure detections as the truth."""

    def __init__(self, preprocess: Preprocess, metadata: Mapping[str, str]) -> None:
        self._reader, self._reference = (DetectionReader(preprocess, metadata) for _ in range(2))
        self._found: list[Detections] = []
        self._wanted: list[BoxLabels] = []

    def add(self, placement: Placement, outputs: Outputs, reference: Outputs) -> None:
        """Both runners' outputs for one image."""
        sure = self._reference.read(placement, reference).above(_SURE)
        self._wanted.append(BoxLabels(sure.boxes.astype(np.float64), sure.classes))
        self._found.append(self._reader.read(placement, outputs))

    def metrics(self) -> list[Metric]:
        """Over the images added; empty when the reference is sure of nothing."""
        if not any(len(wanted.classes) for wanted in self._wanted):
            return []
        accuracy = evaluate(self._wanted, self._found)["map50-95"]
        return [Metric("map50-95-agreement", accuracy, "fraction", len(self._wanted))]


class DepthComparison:
    """absrel-agreement: the mean of |map - reference| / |reference|."""

    def __init__(self) -> None:
        self._errors: list[float] = []

    def add(self, placement: Placement, outputs: Outputs, reference: Outputs) -> None:
        """Both runners' outputs for one image."""
        wanted = depth_map(reference).astype(np.float64)
        floor = max(float(np.abs(wanted).mean()) * 1e-3, 1e-9)  # a map may touch zero
        self._errors.append(float(np.mean(np.abs(depth_map(outputs) - wanted) / np.maximum(np.abs(wanted), floor))))

    def metrics(self) -> list[Metric]:
        """Over the images added."""
        n = len(self._errors)
        return [Metric("absrel-agreement", float(np.mean(self._errors)), "fraction", n)] if n else []
