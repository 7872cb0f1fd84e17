"""Heads from shapes and metadata alone."""

from __future__ import annotations

import pytest

from edgeq.datasets.detection import DetectionHead
from edgeq.datasets.detection_head import class_names, infer_head
from edgeq.errors import UnsupportedError

VGA = (640, 640)
COCO = {"names": str({i: f"class {i}" for i in range(80)})}
PERSON = {"names": "{0: 'person'}", "task": "pose", "head": "Pose"}


@pytest.mark.parametrize(
    ("shapes", "size", "metadata", "expected"),
    [
        ([[1, 84, 8400]], VGA, {}, DetectionHead("yolov8", 80)),
        ([[1, 84, 2100]], (320, 320), COCO, DetectionHead("yolov8", 80)),
        ([[1, 84, 6300]], (480, 640), {}, DetectionHead("yolov8", 80)),
        ([[1, 21, 21]], (32, 32), {}, DetectionHead("yolov8", 17)),
        ([[1, 84, 33600 + 400]], VGA, {}, DetectionHead("yolov8", 80, (4, 8, 16, 32))),
        ([[1, 84, 8500]], VGA, {}, DetectionHead("yolov8", 80, (8, 16, 32, 64))),
        ([[1, 116, 8400], [1, 32, 160, 160]], VGA, {}, DetectionHead("yolov8", 80, extra=32)),
        ([[1, 116, 8400], [1, 32, 160, 160]], VGA, COCO, DetectionHead("yolov8", 80, extra=32)),
        ([[1, 32, 160, 160], [1, 116, 8400]], VGA, COCO, DetectionHead("yolov8", 80, extra=32, outputs=(1,))),
        ([[1, 56, 8400]], VGA, PERSON, DetectionHead("yolov8", 1, extra=51)),
        ([[1, 8400, 84]], VGA, COCO, DetectionHead("yolov8", 80, channels_last=True)),
        ([[1, 84, 8400]], VGA, {**COCO, "end2end": "True"}, DetectionHead("one2one", 80)),
        ([[1, 25200, 85]], VGA, {}, DetectionHead("yolov5", 80, channels_last=True)),
        ([[1, 25200, 117], [1, 32, 160, 160]], VGA, {}, DetectionHead("yolov5", 80, extra=32, channels_last=True)),
        ([[1, 3549, 85]], (416, 416), {}, DetectionHead("yolox", 80, channels_last=True)),
        ([[1, 21, 85]], (32, 32), {}, DetectionHead("yolox", 80, channels_last=True)),
        ([[1, 8400, 6]], VGA, {}, DetectionHead("yolox", 1, channels_last=True)),
        ([[1, 8400, 85]], VGA, {"edgeq.head": "yolov5"}, DetectionHead("yolov5", 80, channels_last=True)),
        ([[1, 300, 6]], VGA, {}, DetectionHead("end2end", 0, (), channels_last=True)),
        ([[1, 300, 6]], (480, 640), {}, DetectionHead("end2end", 0, (), channels_last=True)),
        (
            [[1, 300, 38], [1, 32, 160, 160]],
            VGA,
            {**COCO, "end2end": "True"},
            DetectionHead("end2end", 80, (), 32, channels_last=True),
        ),
        ([[1, 4, 8400], [1, 80, 8400]], VGA, {}, DetectionHead("yolov8", 80, outputs=(0, 1))),
        ([[1, 80, 8400], [1, 4, 8400]], VGA, {}, DetectionHead("yolov8", 80, outputs=(1, 0))),
        ([[1, 8400, 4], [1, 8400, 80]], VGA, {}, DetectionHead("yolov8", 80, outputs=(0, 1), channels_last=True)),
        ([[1, 4, 8400], [1, 4, 8400]], VGA, {}, DetectionHead("yolov8", 4, outputs=(0, 1))),
    ],
)
def test_head(
    shapes: list[list[int]], size: tuple[int, int], metadata: dict[str, str], expected: DetectionHead
) -> None:
    head = infer_head(shapes, size, metadata)
    assert DetectionHead(**{**vars(head), "names": ()}) == expected
    assert head.names in ((), class_names(metadata))


@pytest.mark.parametrize(
    ("shapes", "metadata"),
    [
        ([[1, 1000]], {}),
        ([[1, 84, 8401]], {}),
        ([[2, 84, 8400]], {}),
        ([[1, 4, 8400]], {}),
        ([[1, 3, 640, 640]], {}),
        ([], {}),
        ([[1, 20, 21504]], {"task": "obb"}),
    ],
)
def test_anything_else_is_unsupported(shapes: list[list[int]], metadata: dict[str, str]) -> None:
    with pytest.raises(UnsupportedError):
        infer_head(shapes, VGA, metadata)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{0: 'cat', 1: 'dog'}", ("cat", "dog")),
        ("{1: 'dog', 0: 'cat'}", ("cat", "dog")),
        ("['cat', 'dog']", ("cat", "dog")),
        ("{1: 'cat'}", ()),
        ("__import__('os').getcwd()", ()),
        ("((((", ()),
        ("'cat'", ()),
        ("{'a': 1}", ()),
        ("(" * 5000, ()),
    ],
)
def test_names_are_read_as_data(text: str, expected: tuple[str, ...]) -> None:
    assert class_names({"names": text}) == expected
