"""Average precision of any weighting of the images, from one matching: what a bootstrap over images needs.

Matching boxes does not depend on which other images are in the set, so pycocotools matches once, and every resample
only weighs the matches. With all weights 1 the figures are pycocotools' own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

_RECALLS = np.linspace(0.0, 1.0, 101)
_MOST_ELEMENTS = 1 << 23


@dataclass(frozen=True)
class ClassMatches:
    """The detections of one class in all images, best score first.

    image int64 [n]; true and false bool [thresholds, n]: matched to a true box, or to nothing (ignored ones are
    neither); truths float64 [images]: true boxes that count.
    """

    image: npt.NDArray[np.int64]
    true: npt.NDArray[np.bool_]
    false: npt.NDArray[np.bool_]
    truths: FloatArray


def matches_of(found: Sequence[dict[str, Any] | None], images: int, thresholds: int) -> list[ClassMatches]:
    """From COCOeval.evalImgs of one area range, ordered by class and then image; classes without truths are left out."""
    classes = []
    for start in range(0, len(found), images):
        matches = _class_matches(found[start : start + images], thresholds)
        if matches.truths.any():
            classes.append(matches)
    return classes


def _class_matches(found: Sequence[dict[str, Any] | None], thresholds: int) -> ClassMatches:
    truths = np.zeros(len(found))
    image, scores = [np.zeros(0, np.int64)], [np.zeros(0)]
    matched, ignored = [np.zeros((thresholds, 0), np.bool_)], [np.zeros((thresholds, 0), np.bool_)]
    for index, item in enumerate(found):
        if item is not None:
            truths[index] = np.sum(np.asarray(item["gtIgnore"]) == 0)
            image.append(np.full(len(item["dtScores"]), index, np.int64))
            scores.append(np.asarray(item["dtScores"], np.float64))
            matched.append(np.asarray(item["dtMatches"]).reshape(thresholds, len(item["dtScores"])) > 0)
            ignored.append(np.asarray(item["dtIgnore"], np.bool_).reshape(thresholds, len(item["dtScores"])))
    order = np.argsort(-np.concatenate(scores), kind="mergesort")
    hit, out = np.concatenate(matched, axis=1)[:, order], np.concatenate(ignored, axis=1)[:, order]
    return ClassMatches(np.concatenate(image)[order], hit & ~out, ~hit & ~out, truths)


def average_precision(classes: Sequence[ClassMatches], weights: FloatArray) -> FloatArray:
    """weights [resamples, images] -> [resamples, thresholds]: the mean over the classes with true boxes, 0 if none."""
    thresholds = classes[0].true.shape[0] if classes else 0
    total, counted = np.zeros((len(weights), thresholds)), np.zeros((len(weights), 1))
    for matches in classes:
        most = max(_MOST_ELEMENTS // max(matches.true.size, 1), 1)
        for start in range(0, len(weights), most):
            part = slice(start, start + most)
            present = weights[part] @ matches.truths
            total[part] += np.where(present[:, None] > 0, _class_precision(matches, weights[part], present), 0.0)
            counted[part, 0] += present > 0
    return np.asarray(total / np.maximum(counted, 1))


def _class_precision(matches: ClassMatches, weights: FloatArray, present: FloatArray) -> FloatArray:
    """[resamples, thresholds]: precision at 101 recalls, averaged.

    Precision rises and recall grows only where a true box is found, so only those places are looked at.
    """
    places = np.flatnonzero(matches.true.any(axis=0))
    if not places.size:
        return np.zeros((len(weights), len(matches.true)))
    weight = weights[:, matches.image]
    every = np.cumsum(weight, axis=1)[:, None, places]
    true = _weight_up_to(places, matches.true, weight)
    false = every - true - _weight_up_to(places, ~(matches.true | matches.false), weight)
    recall = true / np.maximum(present, 1e-9)[:, None, None]
    precision = true / (true + false + np.spacing(1))
    precision = np.maximum.accumulate(precision[..., ::-1], axis=2)[..., ::-1]
    reached = np.searchsorted(_RECALLS, recall, side="right")
    return np.asarray((precision * np.diff(reached, axis=2, prepend=0)).sum(axis=2) / len(_RECALLS))


def _weight_up_to(places: npt.NDArray[np.intp], kind: npt.NDArray[np.bool_], weight: FloatArray) -> FloatArray:
    """[resamples, thresholds, places]: the weight of the detections of a rare kind up to and with each place."""
    own = np.flatnonzero(kind.any(axis=0))
    counted = np.zeros((len(weight), len(kind), len(own) + 1))
    np.cumsum(weight[:, None, own] * kind[:, own], axis=2, out=counted[..., 1:])
    return counted[..., np.searchsorted(own, places, side="right")]
