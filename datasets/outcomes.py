"""What a runner answered on each image of a labelled set, as plain arrays: enough for every figure, ever after.

Outcomes are stored and compared without running a network again. Accuracy is a function of the weight of each image,
so a bootstrap over images is one call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeq.datasets.coco import BoxLabels, BoxMeter, cocoeval
from edgeq.datasets.dataset import Meter
from edgeq.datasets.depth import DepthMeter
from edgeq.datasets.detection import Detections
from edgeq.datasets.imagenet import ClassificationMeter
from edgeq.datasets.precision import average_precision, matches_of
from edgeq.errors import DataError, UnsupportedError

Array = npt.NDArray[np.generic]
FloatArray = npt.NDArray[np.float64]

SURE = 0.25
"""Least score of a detection that a user would see; Ultralytics' default for prediction."""
SAME_BOX = 0.5
_LEAST = 1e-3
"""Depths (or disparities) are compared as ratios above it."""


@dataclass(frozen=True)
class BoxOutcomes:
    """Detections and true boxes of each image, in image pixels and in the model's classes."""

    truths: tuple[BoxLabels, ...]
    found: tuple[Detections, ...]
    classes: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.truths)

    def accuracy(self, weights: FloatArray) -> dict[str, FloatArray]:
        """map50-95 and map50 for weights [resamples, images]."""
        protocol = cocoeval(self.truths, self.found, self.classes)
        thresholds = len(protocol.params.iouThrs)
        by_threshold = average_precision(matches_of(protocol.evalImgs, len(self), thresholds), weights)
        if not by_threshold.size:
            by_threshold = np.zeros((len(weights), 1))
        return {"map50-95": by_threshold.mean(1), "map50": by_threshold[:, 0]}

    def beside(self, reference: BoxOutcomes) -> dict[str, FloatArray]:
        """By image: same (sure boxes that both found), sure (both runners' counts summed), shift (of their scores)."""
        rows = [_same_boxes(a, b) for a, b in zip(self.found, reference.found, strict=True)]
        same, sure, shift = np.array(rows, np.float64).reshape(-1, 3).T
        return {"same": same, "sure": sure, "shift": shift}

    def threshold_for(self, precision: float) -> float | None:
        """The least score at which the share of true boxes among the detections reaches `precision`; None if never."""
        hits = [_hits(truth, found) for truth, found in zip(self.truths, self.found, strict=True)]
        scores = np.concatenate([found.scores for found in self.found])
        order = np.argsort(-scores, kind="stable")
        right = np.concatenate(hits)[order]
        share = np.cumsum(right) / np.arange(1, len(right) + 1)
        reached = np.flatnonzero(share >= precision)
        return float(scores[order][reached[-1]]) if reached.size else None

    def precision_above(self, score: float) -> float:
        """The share of true boxes among detections above `score`; NaN without any."""
        hits = [_hits(truth, found)[found.scores > score] for truth, found in zip(self.truths, self.found, strict=True)]
        right = np.concatenate(hits)
        return float(right.mean()) if right.size else float("nan")

    def arrays(self) -> dict[str, Array]:
        """For an npz file; `from_arrays` is the inverse."""
        crowd = [np.zeros(len(t.classes), np.bool_) if t.crowd is None else t.crowd for t in self.truths]
        area = [(t.boxes[:, 2:] - t.boxes[:, :2]).prod(axis=1) if t.area is None else t.area for t in self.truths]
        return {
            "class_list": np.array(self.classes, np.int64),
            "truth_count": np.array([len(t.classes) for t in self.truths], np.int64),
            "truth_boxes": np.concatenate([t.boxes for t in self.truths]),
            "truth_classes": np.concatenate([t.classes for t in self.truths]),
            "truth_crowd": np.concatenate(crowd),
            "truth_area": np.concatenate(area),
            "count": np.array([len(d) for d in self.found], np.int64),
            "boxes": np.concatenate([d.boxes for d in self.found]),
            "scores": np.concatenate([d.scores for d in self.found]),
            "classes": np.concatenate([d.classes for d in self.found]),
        }


def _overlaps(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> FloatArray:
    """Intersection over union [n, m] of boxes [n, 4] and [m, 4]."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    inside = np.clip(high - low, 0, None).prod(2)
    areas = [(x[:, 2:] - x[:, :2]).clip(0).prod(1) for x in (a, b)]
    return np.asarray(inside / np.maximum(areas[0][:, None] + areas[1][None] - inside, 1e-9))


def pairs(boxes: tuple[Array, Array], others: tuple[Array, Array], least: float = SAME_BOX) -> list[tuple[int, int]]:
    """Boxes and classes matched one to one: in the order of `boxes`, each to the free one that it overlaps most."""
    overlaps = _overlaps(boxes[0].astype(np.float64), others[0].astype(np.float64))
    overlaps[boxes[1][:, None] != others[1][None]] = 0.0
    found = []
    for index, row in enumerate(overlaps):
        if len(row) and row.max() >= least:
            best = int(row.argmax())
            overlaps[:, best] = 0.0
            found.append((index, best))
    return found


def _same_boxes(mine: Detections, reference: Detections) -> tuple[float, float, float]:
    """The reference's sure boxes are looked for among all of mine, so that a lowered score is seen as a shift."""
    wanted, surely = reference.above(SURE), mine.above(SURE)
    matched = pairs((wanted.boxes, wanted.classes), (mine.boxes, mine.classes))
    shift = sum(float(mine.scores[j] - wanted.scores[i]) for i, j in matched)
    same = sum(bool(mine.scores[j] > SURE) for _, j in matched)
    return float(same), float(len(wanted) + len(surely)), shift / max(len(matched), 1)


def _hits(truth: BoxLabels, found: Detections) -> npt.NDArray[np.bool_]:
    right = np.zeros(len(found), np.bool_)
    right[[i for i, _ in pairs((found.boxes, found.classes), (truth.boxes, truth.classes))]] = True
    return right


@dataclass(frozen=True)
class ClassOutcomes:
    """Per image: the rank of the true class, the class answered, and its probability."""

    ranks: npt.NDArray[np.int64]
    answers: npt.NDArray[np.int64]
    confidences: FloatArray

    def __len__(self) -> int:
        return len(self.ranks)

    def accuracy(self, weights: FloatArray) -> dict[str, FloatArray]:
        """top1 and top5 for weights [resamples, images]."""
        total = weights.sum(1)
        return {f"top{k}": np.asarray(weights @ (self.ranks < k) / total) for k in (1, 5)}

    def beside(self, reference: ClassOutcomes) -> dict[str, FloatArray]:
        """By image: same (1 where both answer alike), sure (2: one answer each), shift of the confidence."""
        same = (self.answers == reference.answers).astype(np.float64)
        return {"same": same, "sure": np.full(len(self), 2.0), "shift": self.confidences - reference.confidences}

    def arrays(self) -> dict[str, Array]:
        """For an npz file; `from_arrays` is the inverse."""
        return {"ranks": self.ranks, "answers": self.answers, "confidences": self.confidences}


@dataclass(frozen=True)
class DepthOutcomes:
    """Per image: absrel, rmse and delta1, float64 [images, 3], and a small map of what was predicted."""

    errors: FloatArray
    maps: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.errors)

    def accuracy(self, weights: FloatArray) -> dict[str, FloatArray]:
        """absrel, rmse and delta1 for weights [resamples, images]."""
        means = weights @ self.errors / weights.sum(1, keepdims=True)
        return {name: np.asarray(means[:, k]) for k, name in enumerate(("absrel", "rmse", "delta1"))}

    def beside(self, reference: DepthOutcomes) -> dict[str, FloatArray]:
        """By image: same (share of the map where the ratio of both is below 1.25), sure (2), shift (mean log ratio)."""
        ratio = np.log(np.maximum(self.maps, _LEAST) / np.maximum(reference.maps, _LEAST)).reshape(len(self), -1)
        same = np.mean(np.abs(ratio) < np.log(1.25), axis=1)
        return {"same": same, "sure": np.full(len(self), 2.0), "shift": ratio.mean(axis=1)}

    def arrays(self) -> dict[str, Array]:
        """For an npz file; `from_arrays` is the inverse."""
        return {"errors": self.errors, "maps": self.maps}


Outcomes = BoxOutcomes | ClassOutcomes | DepthOutcomes


def outcomes_of(meter: Meter) -> Outcomes:
    """What `meter` has seen. Raises UnsupportedError for a meter whose images cannot be told apart."""
    if isinstance(meter, BoxMeter):
        truths, classes = meter.truths()
        return BoxOutcomes(tuple(truths), tuple(meter.detections), tuple(classes))
    if isinstance(meter, ClassificationMeter):
        return ClassOutcomes(*(np.array(part) for part in (meter.ranks, meter.answers, meter.confidences)))
    if isinstance(meter, DepthMeter):
        return DepthOutcomes(np.array(meter.errors, np.float64), np.array(meter.maps, np.float32))
    raise UnsupportedError("these labels have no accuracy by image", value=type(meter).__name__)


def from_arrays(arrays: Mapping[str, Array]) -> Outcomes:
    """The outcomes that `arrays` describe. Raises DataError if they describe none."""
    try:
        if "ranks" in arrays:
            return ClassOutcomes(
                arrays["ranks"].astype(np.int64),
                arrays["answers"].astype(np.int64),
                arrays["confidences"].astype(np.float64),
            )
        if "errors" in arrays:
            return DepthOutcomes(arrays["errors"].astype(np.float64), arrays["maps"].astype(np.float32))
        return _boxes_from(arrays)
    except (KeyError, ValueError, IndexError) as error:
        raise DataError("these arrays are not outcomes", value=error) from error


def _boxes_from(arrays: Mapping[str, Array]) -> BoxOutcomes:
    def split(counts: str, *names: str) -> list[Sequence[Array]]:
        ends = np.cumsum(arrays[counts].astype(np.int64))[:-1]
        return [np.split(arrays[name], ends) for name in names]

    truths = zip(*split("truth_count", "truth_boxes", "truth_classes", "truth_crowd", "truth_area"), strict=True)
    found = zip(*split("count", "boxes", "scores", "classes"), strict=True)
    return BoxOutcomes(
        tuple(
            BoxLabels(b.astype(np.float64), c.astype(np.int64), False, w.astype(np.bool_), a.astype(np.float64))
            for b, c, w, a in truths
        ),
        tuple(Detections(b.astype(np.float32), s.astype(np.float32), c.astype(np.int64)) for b, s, c in found),
        tuple(arrays["class_list"].astype(int).tolist()),
    )
