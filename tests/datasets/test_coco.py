"""Box accuracy on cases that can be worked out by hand, COCO's JSON, and the matching of classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgeq.datasets.coco import COCO_NAMES, BoxLabels, class_map, evaluate, open_coco
from edgeq.datasets.detection import Detections
from edgeq.errors import DataError


def truth(*rows: tuple[float, float, float, float, int]) -> BoxLabels:
    table = np.array(rows, np.float64).reshape(-1, 5)
    return BoxLabels(table[:, :4], table[:, 4].astype(np.int64))


def found(*rows: tuple[float, float, float, float, float, int]) -> Detections:
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].astype(np.int64))


def test_a_perfect_answer_is_one() -> None:
    accuracy = evaluate([truth((0, 0, 10, 10, 3))], [found((0, 0, 10, 10, 0.9, 3))])
    assert accuracy == pytest.approx({"map50-95": 1.0, "map50": 1.0})


def test_no_answer_is_zero() -> None:
    assert evaluate([truth((0, 0, 10, 10, 3))], [found()]) == {"map50-95": 0.0, "map50": 0.0}


def test_a_box_of_overlap_three_quarters() -> None:
    """IoU 0.75 counts at 0.50, 0.55, ..., 0.75: six of ten thresholds."""
    accuracy = evaluate([truth((0, 0, 100, 100, 0))], [found((0, 0, 100, 75, 0.9, 0))])
    assert accuracy["map50"] == pytest.approx(1.0) and accuracy["map50-95"] == pytest.approx(0.6)


def test_precision_and_recall_by_hand() -> None:
    """Class 0: hit, miss, hit for two objects, precision 1 up to recall 0.5 and 2/3 beyond; 51 and 50 of 101 points.

    Class 1: one of two objects, so 51 of 101 points. Class 2 has no object and does not count.
    """
    truths = [truth((0, 0, 10, 10, 0), (50, 0, 60, 10, 1)), truth((0, 0, 10, 10, 0), (50, 0, 60, 10, 1))]
    answers = [
        found((0, 0, 10, 10, 0.9, 0), (80, 80, 90, 90, 0.8, 0), (50, 0, 60, 10, 0.7, 1), (0, 0, 10, 10, 0.9, 2)),
        found((0, 0, 10, 10, 0.7, 0)),
    ]
    first, second = (51 + 50 * 2 / 3) / 101, 51 / 101
    accuracy = evaluate(truths, answers)
    assert accuracy["map50"] == pytest.approx((first + second) / 2)
    assert accuracy["map50-95"] == pytest.approx((first + second) / 2)


def test_a_second_answer_for_one_object_is_wrong() -> None:
    boxes = truth((0, 0, 10, 10, 0), (20, 0, 30, 10, 0))
    twice = found((0, 0, 10, 10, 0.9, 0), (0, 0, 10, 10, 0.8, 0), (20, 0, 30, 10, 0.7, 0))
    assert evaluate([boxes], [twice])["map50"] == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_a_crowd_neither_helps_nor_hurts() -> None:
    one = truth((0, 0, 10, 10, 0), (20, 0, 80, 60, 0))
    crowd = BoxLabels(one.boxes, one.classes, crowd=np.array([False, True]))
    answers = [found((0, 0, 10, 10, 0.9, 0), (30, 10, 40, 20, 0.95, 0))]
    assert evaluate([crowd], answers)["map50"] == pytest.approx(1.0)
    assert evaluate([one], answers)["map50"] < 0.5


def test_images_without_objects_count_against_what_is_found_there() -> None:
    truths = [truth((0, 0, 10, 10, 0)), truth()]
    assert evaluate(truths, [found((0, 0, 10, 10, 0.5, 0)), found()])["map50"] == pytest.approx(1.0)
    assert evaluate(truths, [found((0, 0, 10, 10, 0.5, 0)), found((5, 5, 9, 9, 0.9, 0))])["map50"] == 0.5


def test_no_object_at_all_is_a_data_error() -> None:
    with pytest.raises(DataError, match="no labelled objects"):
        evaluate([truth()], [found((0, 0, 1, 1, 0.5, 0))])


def test_evaluation_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    evaluate([truth((0, 0, 10, 10, 3))], [found((0, 0, 10, 10, 0.9, 3))])
    assert capfd.readouterr() == ("", "")


def write_coco(folder: Path, **changes: Any) -> Path:
    """Two images, three boxes, categories with gaps in their ids."""
    (folder / "images" / "val").mkdir(parents=True)
    (folder / "annotations").mkdir()
    for name in ("a.png", "b.png"):
        (folder / "images/val" / name).write_bytes(cv2.imencode(".png", np.zeros((50, 80, 3), np.uint8))[1].tobytes())
    content = {
        "images": [{"id": 7, "file_name": "b.png"}, {"id": 5, "file_name": "a.png"}],
        "categories": [{"id": 90, "name": "toothbrush"}, {"id": 1, "name": "person"}, {"id": 13, "name": "stop sign"}],
        "annotations": [
            {"id": 1, "image_id": 5, "category_id": 90, "bbox": [10, 20, 30, 5]},
            {"id": 2, "image_id": 7, "category_id": 13, "bbox": [0, 0, 4, 4], "area": 9.5, "iscrowd": 1},
            {"id": 3, "image_id": 7, "category_id": 1, "bbox": [1, 2, 3, 4], "area": 12},
        ],
        **changes,
    }
    path = folder / "annotations" / "instances.json"
    path.write_text(json.dumps(content))
    return path


def test_json_is_read_and_its_images_found(tmp_path: Path) -> None:
    dataset = open_coco(write_coco(tmp_path))
    assert dataset.names == ("person", "stop sign", "toothbrush")
    assert [sample.path.name for sample in dataset.samples] == ["a.png", "b.png"]
    first, second = (sample.label for sample in dataset.samples)
    assert first.boxes.tolist() == [[10, 20, 40, 25]] and first.classes.tolist() == [2]
    assert second.classes.tolist() == [1, 0] and second.crowd is not None and second.area is not None
    assert second.crowd.tolist() == [True, False] and second.area.tolist() == [9.5, 12]
    assert len(open_coco(tmp_path / "annotations/instances.json", limit=1).samples) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"images": None},
        {"images": []},
        {"images": [{"id": 5}]},
        {"images": [{"id": 5, "file_name": "none.png"}]},
        {"categories": "person"},
        {"categories": [{"id": 2, "name": "bicycle"}]},
        {"annotations": [{"image_id": 5, "category_id": 1, "bbox": [1, 2, 3]}]},
        {"annotations": [{"image_id": 5, "category_id": 1, "bbox": "box"}]},
        {"annotations": [{"image_id": 5, "category_id": 1}]},
    ],
)
def test_malformed_json_is_a_data_error(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="json"):
        open_coco(write_coco(tmp_path, **changes))


@pytest.mark.parametrize("text", ["", "[1, 2]", "{", "[" * 100000, "\xff"])
def test_other_text_is_a_data_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match=r"x\.json"):
        open_coco(tmp_path / "x.json")


def test_classes_match_by_name_then_by_position() -> None:
    assert class_map(("dog", "Cat"), ("cat", "dog", "cow"), 3).tolist() == [1, 0]
    assert class_map(("a", "b"), (), 2).tolist() == [0, 1]
    assert class_map((), (), 4).tolist() == [0, 1, 2, 3]
    assert class_map(("a", "b"), ("x", "y"), 2).tolist() == [0, 1]
    assert class_map(("toothbrush", "person"), (), 80).tolist() == [79, 0]
    with pytest.raises(DataError, match="zebra"):
        class_map(("zebra", "cat"), ("cat", "dog", "cow"), 3)


def test_coco_has_eighty_classes_in_the_order_of_its_ids() -> None:
    assert len(set(COCO_NAMES)) == 80
    assert [COCO_NAMES[i] for i in (0, 11, 12, 24, 45, 59, 60, 61, 79)] == [
        "person", "stop sign", "parking meter", "backpack", "bowl", "bed", "dining table", "toilet", "toothbrush"
    ]  # fmt: skip
