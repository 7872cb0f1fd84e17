"""Box accuracy as COCO defines it, and data sets in COCO's JSON.

Whatever the labels came from, they become COCO structures in memory and pycocotools computes the figure: at
most 100 detections of a class in an image, 101 recall points, IoU 0.50 to 0.95. Classes are the model's
indices throughout; COCO's ids with gaps (80 classes in 1..90) exist only in the file.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.datasets.dataset import Metric, Outputs, Sample, Task
from edgeq.datasets.detection import DetectionHead, Detections, Thresholds, detect
from edgeq.datasets.detection_head import infer_head
from edgeq.datasets.folder import read_bytes, spread
from edgeq.datasets.preprocess import Placement, Preprocess
from edgeq.errors import DataError

_NAMES = (
    "person;bicycle;car;motorcycle;airplane;bus;train;truck;boat;traffic light;fire hydrant;stop sign;"
    "parking meter;bench;bird;cat;dog;horse;sheep;cow;elephant;bear;zebra;giraffe;backpack;umbrella;"
    "handbag;tie;suitcase;frisbee;skis;snowboard;sports ball;kite;baseball bat;baseball glove;"
    "skateboard;surfboard;tennis racket;bottle;wine glass;cup;fork;knife;spoon;bowl;banana;apple;"
    "sandwich;orange;broccoli;carrot;hot dog;pizza;donut;cake;chair;couch;potted plant;bed;"
    "dining table;toilet;tv;laptop;mouse;remote;keyboard;cell phone;microwave;oven;toaster;sink;"
    "refrigerator;book;clock;vase;scissors;teddy bear;hair drier;toothbrush"
)
COCO_NAMES = tuple(_NAMES.split(";"))


@dataclass(frozen=True)
class BoxLabels:
    """True boxes of one image: float64 [n, 4] (x0 y0 x1 y1), classes int64 [n].

    Pixels, or fractions of the image when `unit`. crowd bool [n] and area float64 [n] are COCO's; the area
    of a box without a mask is its own.
    """

    boxes: npt.NDArray[np.float64]
    classes: npt.NDArray[np.int64]
    unit: bool = False
    crowd: npt.NDArray[np.bool_] | None = None
    area: npt.NDArray[np.float64] | None = None

    def in_pixels(self, height: int, width: int) -> BoxLabels:
        """The same boxes in pixels of an image of this size."""
        if not self.unit:
            return self
        return BoxLabels(self.boxes * np.array([width, height] * 2), self.classes, False, self.crowd, self.area)


@dataclass(frozen=True)
class DetectionSet:
    """Images with boxes. `names` by class index of the labels. `thresholds` replace the head's protocol."""

    name: str
    task: Task
    samples: tuple[Sample[BoxLabels], ...]
    names: tuple[str, ...] = ()
    thresholds: Thresholds | None = None

    def meter(self, preprocess: Preprocess, metadata: Mapping[str, str]) -> BoxMeter:
        """Accumulates detections for `evaluate`."""
        return BoxMeter(self, DetectionReader(preprocess, metadata, self.thresholds))


class DetectionReader:
    """Turns one runner's outputs into detections in image pixels; the head is inferred from the first
    outputs.
    """

    def __init__(
        self, preprocess: Preprocess, metadata: Mapping[str, str], thresholds: Thresholds | None = None
    ) -> None:
        self._size, self._metadata, self._thresholds = preprocess.size, metadata, thresholds
        self.head: DetectionHead | None = None

    def read(self, placement: Placement, outputs: Outputs) -> Detections:
        """The detections in one image. Raises UnsupportedError when no known head has these outputs."""
        if self.head is None:
            self.head = infer_head([output.shape for output in outputs], self._size, self._metadata)
        found = detect(self.head, outputs, self._size, self._thresholds)
        return Detections(placement.to_image(found.boxes), found.scores, found.classes)


class BoxMeter:
    """Detections against the labels of a set: map50-95 and map50."""

    def __init__(self, dataset: DetectionSet, reader: DetectionReader) -> None:
        self._dataset, self._reader = dataset, reader
        self._labels: list[BoxLabels] = []
        self.detections: list[Detections] = []

    def add(self, index: int, placement: Placement, outputs: Outputs) -> None:
        """The raw outputs for sample `index`."""
        label = self._dataset.samples[index].label
        self.detections.append(self._reader.read(placement, outputs))
        self._labels.append(label.in_pixels(placement.image_height, placement.image_width))

    def metrics(self) -> list[Metric]:
        """map50-95 and map50 over the images added. Raises DataError when they hold no object."""
        truths, classes = self.truths()
        accuracy = evaluate(truths, self.detections, classes)
        return [Metric(name, value, "fraction", len(truths)) for name, value in accuracy.items()]

    def truths(self) -> tuple[list[BoxLabels], list[int]]:
        """The true boxes of the images added, in pixels and in the model's classes; and the classes that count.

        Raises DataError when no image was added or the classes are not the model's.
        """
        head = self._reader.head
        if head is None:
            raise DataError("no image was evaluated", where=self._dataset.name)
        names = self._dataset.names
        seen = 1 + max((int(c) for truth in self._labels for c in truth.classes), default=0)
        to_model = class_map(names, head.names, head.nc or len(names) or seen)
        return [_with_classes(truth, to_model, self._dataset.name) for truth in self._labels], to_model.tolist()


def evaluate(
    truths: Sequence[BoxLabels], detections: Sequence[Detections], classes: Iterable[int] | None = None
) -> dict[str, float]:
    """{"map50-95", "map50"} of the detections in each image, both in pixels, by pycocotools' protocol.

    Only `classes` count (default: those of the truths). Raises DataError when there is no true box.
    """
    protocol = cocoeval(truths, detections, classes)
    with contextlib.redirect_stdout(io.StringIO()):
        protocol.accumulate()
    precision = protocol.eval["precision"]  # [iou, recall, class, area, detections]; -1 for a class without truth
    return {"map50-95": _mean(precision), "map50": _mean(precision[:1])}


def cocoeval(
    truths: Sequence[BoxLabels], detections: Sequence[Detections], classes: Iterable[int] | None = None
) -> Any:
    """pycocotools' COCOeval of the arguments of `evaluate`, with every box matched. Raises DataError without truth."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    if not any(len(truth.classes) for truth in truths):
        raise DataError(
            "no labelled objects in the images evaluated", next_step="Check the labels, or raise the limit."
        )
    present = classes if classes is not None else {int(c) for truth in truths for c in truth.classes}
    frame = {
        "images": [{"id": i + 1} for i in range(len(truths))],
        "categories": [{"id": c + 1} for c in sorted(present)],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth_index, found_index = COCO(), COCO()
        truth_index.dataset = {**frame, "annotations": _true_annotations(truths)}
        found_index.dataset = {**frame, "annotations": _found_annotations(detections)}
        truth_index.createIndex()
        found_index.createIndex()
        protocol = COCOeval(truth_index, found_index, "bbox")
        protocol.params.maxDets = [100]
        protocol.params.areaRng, protocol.params.areaRngLbl = [[0, 1e10]], ["all"]
        protocol.evaluate()
    return protocol


def class_map(labels: tuple[str, ...], model: tuple[str, ...], nc: int) -> npt.NDArray[np.int64]:
    """Model class index for each label class: by name where both are named, else by position.

    Unnamed models with 80 classes are COCO's. Raises DataError when the classes cannot be matched.
    """
    plain_labels = [name.strip().lower() for name in labels]
    plain_model = [name.strip().lower() for name in model or (COCO_NAMES if nc == 80 else ())]
    named = len(set(plain_model)) == len(plain_model) and set(plain_labels) <= set(plain_model)
    if named and plain_labels:
        return np.array([plain_model.index(name) for name in plain_labels], np.int64)
    if not labels or len(labels) == nc:
        return np.arange(nc)
    missing = tuple(name for name in plain_labels if name not in plain_model)
    raise DataError(
        "the data's classes are not the model's",
        value=f"{len(labels)} classes against {nc}, the first without a match is {(missing or labels)[0]}",
        next_step="Name the classes in the model's metadata, or use data with the same classes.",
    )


def open_coco(path: Path, task: Task = "detect", images: Path | None = None, limit: int | None = None) -> DetectionSet:
    """A COCO annotation file and the folder of its images, looked for around the file when not given.

    Label classes are the categories in the order of their ids. Raises DataError when the file is malformed
    or the images are not found.
    """
    try:
        content = json.loads(read_bytes(path))
        names, samples = _coco_samples(content, path, images, limit)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError("not a COCO annotation file", where=path, value=repr(error)) from error
    return DetectionSet(path.name, task, samples, names)


def _coco_samples(
    content: Any, path: Path, images: Path | None, limit: int | None
) -> tuple[tuple[str, ...], tuple[Sample[BoxLabels], ...]]:
    categories = sorted(content["categories"], key=lambda category: int(category["id"]))
    index = {int(category["id"]): i for i, category in enumerate(categories)}
    entries = sorted(content["images"], key=lambda entry: str(entry["file_name"]))
    entries = [entries[i] for i in spread(len(entries), limit)]
    if not entries:
        raise DataError("no images in the annotation file", where=path)
    folder = images or _image_folder(path, str(entries[0]["file_name"]))
    by_image: dict[Any, list[Any]] = {entry["id"]: [] for entry in entries}
    for annotation in content["annotations"]:
        if annotation["image_id"] in by_image:
            by_image[annotation["image_id"]].append(annotation)
    samples = (Sample(folder / entry["file_name"], _coco_labels(by_image[entry["id"]], index)) for entry in entries)
    return tuple(str(category["name"]) for category in categories), tuple(samples)


def _coco_labels(annotations: list[Any], index: Mapping[int, int]) -> BoxLabels:
    boxes = np.array([a["bbox"] for a in annotations], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return BoxLabels(
        boxes,
        np.array([index[a["category_id"]] for a in annotations], np.int64),
        crowd=np.array([bool(a.get("iscrowd", 0)) for a in annotations], np.bool_),
        area=np.array([a.get("area", a["bbox"][2] * a["bbox"][3]) for a in annotations], np.float64),
    )


def _image_folder(path: Path, first: str) -> Path:
    """The folder near the annotation file that holds the image `first`."""
    near = [path.parent, path.parent.parent, path.parent.parent / "images"]
    below = [child for folder in near if folder.is_dir() for child in sorted(folder.iterdir()) if child.is_dir()]
    for folder in near + below:
        if (folder / first).is_file():
            return folder
    raise DataError("the images of the annotation file are not near it", where=path, value=first)


def _with_classes(truth: BoxLabels, to_model: npt.NDArray[np.int64], name: str) -> BoxLabels:
    if len(truth.classes) and truth.classes.max() >= len(to_model):
        raise DataError(
            "a label's class is out of range",
            where=name,
            value=truth.classes.max(),
            allowed=len(to_model) - 1,
        )
    return BoxLabels(truth.boxes, to_model[truth.classes], False, truth.crowd, truth.area)


def _true_annotations(truths: Sequence[BoxLabels]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for image, truth in enumerate(truths):
        sizes = truth.boxes[:, 2:] - truth.boxes[:, :2]
        areas = sizes.prod(axis=1) if truth.area is None else truth.area
        crowd = np.zeros(len(areas), np.bool_) if truth.crowd is None else truth.crowd
        for box, size, label, area, many in zip(truth.boxes, sizes, truth.classes, areas, crowd, strict=True):
            row = _annotation(len(rows), image, [*box[:2].tolist(), *size.tolist()], int(label), float(area))
            rows.append({**row, "iscrowd": int(many)})
    return rows


def _found_annotations(detections: Sequence[Detections]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for image, found in enumerate(detections):
        boxes = found.boxes.astype(np.float64)
        sizes = boxes[:, 2:] - boxes[:, :2]
        for box, size, score, label in zip(boxes, sizes, found.scores, found.classes, strict=True):
            row = _annotation(len(rows), image, [*box[:2].tolist(), *size.tolist()], int(label), float(size.prod()))
            rows.append({**row, "iscrowd": 0, "score": float(score)})
    return rows


def _annotation(row: int, image: int, bbox: list[float], label: int, area: float) -> dict[str, Any]:
    """Ids count from 1: pycocotools takes a match with id 0 for none."""
    return {"id": row + 1, "image_id": image + 1, "category_id": label + 1, "bbox": bbox, "area": area}


def _mean(precision: npt.NDArray[np.float64]) -> float:
    measured = precision[precision > -1]
    return float(measured.mean()) if measured.size else 0.0
