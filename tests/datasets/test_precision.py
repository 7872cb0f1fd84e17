"""Weighted average precision is pycocotools' own where all weights are 1, and where an image is there twice."""

from __future__ import annotations

import numpy as np
import pytest

from edgeq.datasets.coco import BoxLabels, cocoeval, evaluate
from edgeq.datasets.detection import Detections
from edgeq.datasets.outcomes import BoxOutcomes
from edgeq.datasets.precision import average_precision, matches_of


def scene(seed: int, images: int = 24, classes: int = 5) -> tuple[list[BoxLabels], list[Detections]]:
    """True boxes, some crowds, and detections that hit, miss, repeat and tie in score."""
    rng = np.random.default_rng(seed)
    truths, found = [], []
    for _ in range(images):
        n = int(rng.integers(0, 7))
        corner, size = rng.uniform(0, 200, (n, 2)), rng.uniform(10, 80, (n, 2))
        boxes, labels = np.concatenate([corner, corner + size], 1), rng.integers(0, classes, n)
        truths.append(BoxLabels(boxes, labels, crowd=rng.random(n) < 0.1))
        shaken = np.concatenate([boxes + rng.normal(0, 6, boxes.shape), boxes, rng.uniform(0, 200, (5, 4))])
        shaken[:, 2:] = np.maximum(shaken[:, 2:], shaken[:, :2] + 1)
        kinds = np.concatenate([labels, rng.integers(0, classes, n), rng.integers(0, classes, 5)])
        scores = np.sort(np.round(rng.random(len(shaken)), 1))[::-1].copy()
        found.append(Detections(shaken.astype(np.float32), scores.astype(np.float32), kinds.astype(np.int64)))
    return truths, found


@pytest.mark.parametrize("seed", range(4))
def test_ones_are_pycocotools(seed: int) -> None:
    truths, found = scene(seed)
    wanted = evaluate(truths, found)
    accuracy = BoxOutcomes(tuple(truths), tuple(found), tuple(range(5))).accuracy(np.ones((1, len(truths))))
    assert 0.1 < wanted["map50-95"] < 0.9
    for name, value in wanted.items():
        assert abs(accuracy[name][0] - value) < 1e-12


def test_a_class_that_nobody_detects_counts_as_zero() -> None:
    truths, found = scene(1)
    found = [detections[detections.classes != 2] for detections in found]
    wanted = evaluate(truths, found, range(5))
    accuracy = BoxOutcomes(tuple(truths), tuple(found), tuple(range(5))).accuracy(np.ones((2, len(truths))))
    assert any(2 in truth.classes for truth in truths)
    assert accuracy["map50-95"] == pytest.approx([wanted["map50-95"]] * 2)
    nothing = [detections[:0] for detections in found]
    assert BoxOutcomes(tuple(truths), tuple(nothing), tuple(range(5))).accuracy(np.ones((1, 24)))["map50"] == [0.0]


def test_weights_are_copies() -> None:
    """Scores tie across images, so copies are put where pycocotools' stable order keeps them beside their original."""
    truths, found = scene(7)
    distinct = [Detections(d.boxes, d.scores - np.float32(1e-4) * k, d.classes) for k, d in enumerate(found)]
    weights = np.random.default_rng(0).integers(0, 3, (5, len(truths)))
    protocol = cocoeval(truths, distinct, range(5))
    by_threshold = average_precision(matches_of(protocol.evalImgs, len(truths), 10), weights.astype(float))
    for row, precision in zip(weights, by_threshold, strict=True):
        chosen = [k for k, copies in enumerate(row) for _ in range(copies)]
        wanted = evaluate([truths[k] for k in chosen], [distinct[k] for k in chosen], range(5))
        assert abs(precision.mean() - wanted["map50-95"]) < 2e-3
        assert abs(precision[0] - wanted["map50"]) < 2e-3


def test_a_resample_without_truths_is_zero() -> None:
    truths, found = scene(3)
    empty = np.array([[float(len(truth.classes) == 0) for truth in truths]])
    assert empty.any() and BoxOutcomes(tuple(truths), tuple(found), tuple(range(5))).accuracy(empty)["map50"] == [0.0]
