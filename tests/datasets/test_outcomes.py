"""Outcomes survive being stored, and say how two runners differ."""

from __future__ import annotations

import numpy as np
import pytest

from edgeq.datasets.coco import BoxLabels
from edgeq.datasets.detection import Detections
from edgeq.datasets.imagenet import confidence
from edgeq.datasets.outcomes import BoxOutcomes, ClassOutcomes, DepthOutcomes, Outcomes, from_arrays
from edgeq.errors import DataError
from tests.datasets.test_precision import scene


def boxes(seed: int = 0) -> BoxOutcomes:
    truths, found = scene(seed)
    return BoxOutcomes(tuple(truths), tuple(found), tuple(range(5)))


CASES: list[Outcomes] = [
    boxes(),
    ClassOutcomes(np.array([0, 3, 7]), np.array([4, 5, 6]), np.array([0.9, 0.5, 0.4])),
    DepthOutcomes(np.random.default_rng(0).random((6, 3)), np.random.default_rng(1).random((6, 4, 5), np.float32)),
]


@pytest.mark.parametrize("outcomes", CASES, ids=lambda o: type(o).__name__)
def test_arrays_hold_everything(outcomes: Outcomes) -> None:
    again = from_arrays(outcomes.arrays())
    assert type(again) is type(outcomes) and len(again) == len(outcomes)
    weights = np.random.default_rng(1).integers(0, 3, (4, len(outcomes))).astype(float) + 0.5
    for name, values in outcomes.accuracy(weights).items():
        assert np.array_equal(values, again.accuracy(weights)[name])
    beside = outcomes.beside(again)  # type: ignore[arg-type]
    assert all((beside["same"] * 2 == beside["sure"]).all() and not beside["shift"].any() for _ in beside)


def test_other_arrays_are_refused() -> None:
    with pytest.raises(DataError):
        from_arrays({"boxes": np.zeros(3)})


def one(score: float, label: int = 0, box: tuple[int, ...] = (0, 0, 10, 10)) -> Detections:
    return Detections(np.array([box], np.float32), np.array([score], np.float32), np.array([label]))


def pair(mine: Detections, reference: Detections) -> dict[str, list[float]]:
    truth = (BoxLabels(np.array([[0.0, 0, 10, 10]]), np.array([0])),)
    found = BoxOutcomes(truth, (mine,), (0, 1)).beside(BoxOutcomes(truth, (reference,), (0, 1)))
    return {name: values.tolist() for name, values in found.items()}


def test_a_lowered_score_is_a_shift_and_a_lost_answer() -> None:
    assert pair(one(0.5), one(0.75)) == {"same": [1.0], "sure": [2.0], "shift": [-0.25]}
    assert pair(one(0.125), one(0.75)) == {"same": [0.0], "sure": [1.0], "shift": [-0.625]}
    assert pair(one(0.75, label=1), one(0.75)) == {"same": [0.0], "sure": [2.0], "shift": [0.0]}
    assert pair(one(0.75, box=(8, 8, 20, 20)), one(0.75))["same"] == [0.0]


def test_the_refit_threshold_restores_the_precision() -> None:
    outcomes = boxes(2)
    precision = outcomes.precision_above(0.6)
    assert 0.2 < precision < 0.95
    threshold = outcomes.threshold_for(precision)
    assert threshold is not None
    assert outcomes.precision_above(threshold - 1e-6) >= precision - 1e-9
    assert outcomes.threshold_for(1.1) is None


def test_confidence_of_logits_and_of_probabilities() -> None:
    logits = np.array([[1.0, 2.0, 3.0]], np.float32)
    softmax = np.exp(logits) / np.exp(logits).sum()
    assert abs(confidence([logits]) - softmax.max()) < 1e-6
    assert confidence([softmax.astype(np.float32)]) == pytest.approx(softmax.max())


def test_depth_maps_are_compared_as_ratios() -> None:
    """A map 1.2 times as deep agrees, one 1.3 times as deep does not; the shift is the log of the ratio."""
    reference = DepthOutcomes(np.zeros((3, 3)), np.linspace(1, 9, 60, dtype=np.float32).reshape(3, 4, 5))
    scales = np.array([1.0, 1.2, 1.3], np.float32)[:, None, None]
    found = DepthOutcomes(np.zeros((3, 3)), reference.maps * scales).beside(reference)
    assert found["same"].tolist() == [1.0, 1.0, 0.0]
    np.testing.assert_allclose(found["shift"], np.log([1.0, 1.2, 1.3]), rtol=1e-5, atol=1e-7)
