"""Data sets in YOLO's layout: a data.yaml, or images/ beside labels/ with one text file for each image.

A label line is `class x y w h` in fractions of the image; a longer line is a polygon (segment) whose bounds
are the box, or, for pose, a box followed by keypoints.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.datasets.coco import BoxLabels, DetectionSet
from edgeq.datasets.dataset import Sample, Task
from edgeq.datasets.folder import list_images, read_bytes, spread
from edgeq.errors import DataError

_SLACK = 0.01  # coordinates this far outside the image are accepted, as by Ultralytics


def open_yolo(path: Path, task: Task = "detect", split: str = "val", limit: int | None = None) -> DetectionSet:
    """A data.yaml file, or a folder or list of images with labels beside them.

    `split` picks train, val or test of a data.yaml, or the subfolder of that name where one exists. An image
    without a label file has no objects. Raises DataError when nothing is found or a label is malformed.
    """
    if path.suffix.lower() in (".yaml", ".yml"):
        description = read_description(path)
        names = _names(description, path)
        paths = [image for source in _sources(description, path, split) for image in list_images(source)]
    else:
        names = ()
        images = path / "images" if (path / "images").is_dir() else path
        paths = list_images(images / split if (images / split).is_dir() else images)
    chosen = [paths[i] for i in spread(len(paths), limit)]
    samples = tuple(Sample(image, read_labels(label_path(image), task)) for image in chosen)
    return DetectionSet(path.name, task, samples, names)


def read_description(path: Path) -> Mapping[str, Any]:
    """The mapping in a data.yaml. Raises DataError when it is not one."""
    import yaml

    try:
        content = yaml.safe_load(read_bytes(path))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise DataError("not a YAML file", where=path, value=error) from error
    if not isinstance(content, dict):
        raise DataError("not a data description", where=path, allowed="a mapping with path, train, val and names")
    return content


def label_path(image: Path) -> Path:
    """The label file of an image: its last folder `images` becomes `labels`, its suffix .txt.

    >>> label_path(Path("set/images/val/a.jpg")).as_posix()
    'set/labels/val/a.txt'
    """
    parts = list(image.parts)
    folders = [i for i, part in enumerate(parts[:-1]) if part == "images"]
    if folders:
        parts[folders[-1]] = "labels"
    return Path(*parts).with_suffix(".txt")


def read_labels(path: Path, task: Task) -> BoxLabels:
    """The boxes in a label file, in fractions of the image; none when the file does not exist.

    Repeated lines count once, as in Ultralytics. Raises DataError with file and line when one is malformed.
    """
    if not path.is_file():
        return BoxLabels(np.zeros((0, 4)), np.zeros(0, np.int64), unit=True)
    lines = read_bytes(path).decode("utf-8", "replace").splitlines()
    rows = [_read_line(line, f"{path}:{i + 1}", task) for i, line in enumerate(lines) if line.strip()]
    unique = np.unique(np.array(rows, np.float64).reshape(-1, 5), axis=0)
    return BoxLabels(unique[:, 1:], unique[:, 0].astype(np.int64), unit=True)


def _read_line(line: str, where: str, task: Task) -> list[float]:
    """[class, x0, y0, x1, y1]."""
    try:
        values = np.array(line.split(), np.float64)
    except ValueError as error:
        raise DataError("label is not a line of numbers", where=where, value=line[:40]) from error
    if len(values) < 5 or values[0] < 0 or values[0] % 1 or not _in_image(values[1:], task):
        raise DataError(
            "label is malformed",
            where=where,
            value=line[:40],
            allowed="class x y w h, coordinates from 0 to 1",
        )
    if len(values) > 6 and task != "pose":
        points = values[1 : 1 + (len(values) - 1) // 2 * 2].reshape(-1, 2)
        return [values[0], *points.min(axis=0), *points.max(axis=0)]
    x, y, width, height = values[1:5]
    return [values[0], x - width / 2, y - height / 2, x + width / 2, y + height / 2]


def _in_image(values: npt.NDArray[np.float64], task: Task) -> bool:
    coordinates = values[:4] if task == "pose" else values
    return bool(((coordinates >= -_SLACK) & (coordinates <= 1 + _SLACK)).all())


def _names(description: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    names = description.get("names")
    if isinstance(names, dict) and sorted(names) == list(range(len(names))):
        names = [names[i] for i in range(len(names))]
    if not isinstance(names, list):
        raise DataError("names are missing", where=path, allowed="a list, or a mapping from 0, 1, 2, ...")
    return tuple(str(name) for name in names)


def _sources(description: Mapping[str, Any], path: Path, split: str) -> list[Path]:
    """What the split names: folders, lists or images, relative to the file's `path` or to the file."""
    entry = description.get(split)
    entries = entry if isinstance(entry, list) else [entry]
    named = [e for e in entries if isinstance(e, str) and e]
    if not named or len(named) < len(entries):
        splits = [key for key in ("train", "val", "test") if description.get(key)]
        raise DataError("the data description lacks the split", where=path, value=split, allowed=", ".join(splits))
    root = path.parent / str(description.get("path") or "")
    return [root / e if (root / e).exists() else path.parent / e for e in named]
