"""Decoding: every kind of head gives back boxes that were written into it, and equals Ultralytics' suppression."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgeq.datasets.detection import DetectionHead, Detections, Kind, Thresholds, detect
from edgeq.errors import UsageError

Array = npt.NDArray[np.float32]
INPUT = (64, 96)
CELLS = 8 * 12 + 4 * 6 + 2 * 3
NC = 3

# x0 y0 x1 y1, score, class
TRUTH = np.array(
    [[8, 10, 30, 40, 0.9, 2], [50, 5, 90, 60, 0.8, 0], [52, 6, 90, 60, 0.7, 1], [1, 1, 4, 4, 0.3, 1]], np.float32
)
# As 1, class and all, with a lower score: suppressed wherever there is suppression.
DOUBLE = np.array([[50, 5, 91, 60, 0.5, 0]], np.float32)


def centred(boxes: Array) -> Array:
    return np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], axis=1)


def one_hot(rows: Array) -> Array:
    scores = np.zeros((len(rows), NC), np.float32)
    scores[np.arange(len(rows)), rows[:, 5].astype(int)] = rows[:, 4]
    return scores


def scatter(rows: Array, n: int) -> Array:
    """The rows at scattered places among n rows of zeros."""
    full = np.zeros((n, rows.shape[1]), np.float32)
    full[np.random.default_rng(0).choice(n, len(rows), replace=False)] = rows
    return full


def yolov8(rows: Array) -> Array:
    return scatter(np.concatenate([centred(rows[:, :4]), one_hot(rows)], axis=1), CELLS).T[None]


def one2one(rows: Array) -> Array:
    return scatter(np.concatenate([rows[:, :4], one_hot(rows)], axis=1), CELLS).T[None]


def yolov5(rows: Array) -> Array:
    objectness = np.full((len(rows), 1), 0.5, np.float32)
    halves = np.concatenate([centred(rows[:, :4]), objectness, one_hot(rows) / 0.5], axis=1)
    return scatter(halves, 3 * CELLS)[None]


def yolox(rows: Array) -> Array:
    """The inverse of the decoding, cell by cell, with plain loops."""
    full = np.zeros((CELLS, 5 + NC), np.float32)
    cells = [(x, y, s) for s in (8, 16, 32) for y in range(INPUT[0] // s) for x in range(INPUT[1] // s)]
    places = np.random.default_rng(0).choice(CELLS, len(rows), replace=False)
    for place, (cx, cy, w, h), scores in zip(places, centred(rows[:, :4]), one_hot(rows), strict=True):
        x, y, stride = cells[place]
        full[place, :5] = cx / stride - x, cy / stride - y, np.log(w / stride), np.log(h / stride), 0.5
        full[place, 5:] = scores / 0.5
    return full[None]


def end2end(rows: Array) -> Array:
    return scatter(rows, 300)[None]


WRITERS: dict[Kind, Callable[[Array], Array]] = {
    "yolov8": yolov8, "one2one": one2one, "yolov5": yolov5, "yolox": yolox, "end2end": end2end
}  # fmt: skip


def head_of(kind: Kind) -> DetectionHead:
    return DetectionHead(kind, NC, channels_last=kind in ("yolov5", "yolox", "end2end"))


def as_rows(found: Detections) -> Array:
    return np.column_stack([found.boxes, found.scores, found.classes]).astype(np.float32)


@pytest.mark.parametrize("kind", WRITERS)
def test_each_kind_returns_what_was_written(kind: Kind) -> None:
    found = detect(head_of(kind), [WRITERS[kind](TRUTH)], INPUT)
    assert np.allclose(as_rows(found), TRUTH, atol=2e-3)


@pytest.mark.parametrize("kind", WRITERS)
def test_a_double_is_suppressed_where_there_is_suppression(kind: Kind) -> None:
    found = detect(head_of(kind), [WRITERS[kind](np.concatenate([TRUTH, DOUBLE]))], INPUT)
    assert len(found) == len(TRUTH) + (kind in ("one2one", "end2end"))


@pytest.mark.parametrize("kind", ["yolov8", "one2one", "yolov5", "end2end"])
def test_extra_channels_do_not_matter(kind: Kind) -> None:
    output = WRITERS[kind](TRUTH)
    axis = 1 if kind in ("yolov8", "one2one") else 2
    noise = np.random.default_rng(1).normal(size=[7 if i == axis else n for i, n in enumerate(output.shape)])
    wider = np.concatenate([output, noise.astype(np.float32)], axis=axis)
    head = DetectionHead(kind, NC, extra=7, channels_last=axis == 2)
    assert np.allclose(as_rows(detect(head, [wider], INPUT)), TRUTH, atol=2e-3)


def test_boxes_and_scores_may_be_two_outputs_and_fractions() -> None:
    output = yolov8(TRUTH)
    boxes, scores = output[:, :4], output[:, 4:]
    unit = (boxes / np.array([96, 64, 96, 64], np.float32)[None, :, None]).astype(np.float32)
    plain = detect(DetectionHead("yolov8", NC, outputs=(1, 0)), [scores, boxes], INPUT)
    fractions = detect(DetectionHead("yolov8", NC, outputs=(1, 0), unit_boxes=True), [scores, unit], INPUT)
    transposed = [np.ascontiguousarray(o.transpose(0, 2, 1)) for o in (scores, boxes)]
    last = detect(DetectionHead("yolov8", NC, outputs=(1, 0), channels_last=True), transposed, INPUT)
    assert np.allclose(as_rows(plain), TRUTH, atol=2e-3)
    assert np.allclose(as_rows(fractions), TRUTH, atol=2e-3)
    assert np.array_equal(as_rows(last), as_rows(plain))


def test_a_box_counts_once_for_each_class_or_for_its_best() -> None:
    output = yolov8(TRUTH[:1])
    row = int(np.nonzero(output[0, 6])[0][0])
    output[0, 4, row] = 0.4
    several = detect(head_of("yolov8"), [output], INPUT)
    best = detect(head_of("yolov8"), [output], INPUT, Thresholds(multi_label=False))
    assert several.classes.tolist() == [2, 0] and best.classes.tolist() == [2]


def test_values_that_are_not_finite_are_dropped() -> None:
    """A quantized network may overflow; exp of a large size must not become a box."""
    output = yolox(TRUTH)
    rows = np.nonzero(output[0, :, 4])[0]
    output[0, rows[0], 2] = 200.0
    output[0, rows[1], 0] = np.nan
    output[0, rows[2], 5:] = np.nan
    found = detect(head_of("yolox"), [output], INPUT)
    assert len(found) == 1 and np.isfinite(found.boxes).all()
    everything = detect(head_of("yolov8"), [np.full((1, 4 + NC, CELLS), np.inf, np.float32)], INPUT)
    assert len(everything) == 0


def test_nothing_is_found_in_silence() -> None:
    for kind, write in WRITERS.items():
        assert len(detect(head_of(kind), [np.zeros_like(write(TRUTH))], INPUT)) == 0


@pytest.mark.parametrize(
    "outputs",
    [[], [np.zeros((2, 7, CELLS), np.float32)], [np.zeros((1, 6, CELLS), np.float32)], [np.zeros(7, np.float32)]],
)
def test_outputs_of_another_shape_are_refused(outputs: list[Array]) -> None:
    with pytest.raises(UsageError):
        detect(head_of("yolov8"), outputs, INPUT)


def test_rows_that_do_not_fit_the_strides_are_refused() -> None:
    with pytest.raises(UsageError, match=str(CELLS)):
        detect(head_of("yolox"), [np.zeros((1, CELLS + 1, 5 + NC), np.float32)], INPUT)


@pytest.fixture(scope="module")
def ultralytics_nms(tmp_path_factory: pytest.TempPathFactory) -> Any:
    os.environ.update(
        YOLO_OFFLINE="true", YOLO_AUTOINSTALL="false", YOLO_CONFIG_DIR=str(tmp_path_factory.mktemp("ultralytics"))
    )
    from edgeq.frontend import torchvision_shim

    torchvision_shim.install()
    pytest.importorskip("ultralytics")
    from ultralytics.utils.nms import non_max_suppression

    return non_max_suppression


def noisy_head(seed: int, cells: int = 200, nc: int = 80) -> Array:
    """Clusters of overlapping boxes with several likely classes each, as a real head gives at a low threshold."""
    rng = np.random.default_rng(seed)
    centres = rng.uniform(40, 600, (60, 2))[rng.integers(0, 60, cells)] + rng.normal(0, 4, (cells, 2))
    sizes = rng.uniform(20, 200, (cells, 2))
    scores = rng.beta(0.05, 6, (cells, nc))
    return np.concatenate([centres, sizes, scores], axis=1).astype(np.float32).T[None]


@pytest.mark.parametrize("multi_label", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_equals_ultralytics(ultralytics_nms: Any, seed: int, multi_label: bool) -> None:
    import torch

    output = noisy_head(seed)
    expected = ultralytics_nms(torch.from_numpy(output.copy()), 0.001, 0.7, multi_label=multi_label, max_det=300)
    head = DetectionHead("yolov8", 80, ())
    found = detect(head, [output], (640, 640), Thresholds(0.001, 0.7, 300, multi_label))
    assert len(found) > 100
    assert np.array_equal(as_rows(found), expected[0].numpy())


def test_yolov5_equals_ultralytics_on_joined_scores(ultralytics_nms: Any) -> None:
    import torch

    plain = noisy_head(9)[0].T
    objectness = np.random.default_rng(9).uniform(0.2, 1, (len(plain), 1)).astype(np.float32)
    output = np.concatenate([plain[:, :4], objectness, plain[:, 4:]], axis=1)[None]
    joined = np.concatenate([plain[:, :4], plain[:, 4:] * objectness], axis=1).T[None]
    expected = ultralytics_nms(torch.from_numpy(joined.copy()), 0.001, 0.6, multi_label=True)
    found = detect(DetectionHead("yolov5", 80, (), channels_last=True), [output], (640, 640))
    assert np.array_equal(as_rows(found), expected[0].numpy())
