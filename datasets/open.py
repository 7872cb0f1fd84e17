"""Opens a data set from whatever lies at a path, so that a command needs one option, `--data`."""

from __future__ import annotations

from pathlib import Path

from edgeq.datasets.coco import open_coco
from edgeq.datasets.dataset import BOX_TASKS, Dataset, Sample, Task, UnlabelledSet
from edgeq.datasets.depth import open_depth
from edgeq.datasets.folder import class_folders, list_images, spread
from edgeq.datasets.imagenet import open_class_folders, open_labels
from edgeq.datasets.yolo import label_path, open_yolo
from edgeq.errors import DataError


def open_dataset(path: Path, task: Task | None = None, limit: int | None = None, split: str = "val") -> Dataset:
    """The data set at `path`, with at most `limit` images spread evenly over it.

        data.yaml, or a folder with one       boxes in YOLO's format (the `split` of it)
        images/ with labels/                  the same without class names
        a COCO annotation .json               boxes; images are looked for around the file
        labels.csv, or a folder with one      classes
        images/ with depth/                   depth maps
        a folder or zip of class folders      classes, when `task` is "classify"
        any other folder, zip, list or image  no labels

    Raises DataError when nothing usable is there, or when the labels are for another task than `task`.
    """
    path = Path(path)
    dataset = _open_labelled(path, task, limit, split)
    if dataset is None:
        return _open_unlabelled(path, task, limit)
    if task is not None and dataset.task != task:
        raise DataError(
            "the data's labels are for another task",
            where=path,
            value=dataset.task,
            allowed=task,
            next_step="Give a plain folder of images to compare outputs without labels.",
        )
    return dataset


def _open_labelled(path: Path, task: Task | None, limit: int | None, split: str) -> Dataset | None:
    boxes: Task = task if task in BOX_TASKS else "detect"
    suffix = path.suffix.lower()
    if path.is_dir():
        return _open_folder(path, task, limit, split)
    if suffix in (".yaml", ".yml"):
        return open_yolo(path, boxes, split, limit)
    if suffix == ".json":
        return open_coco(path, boxes, limit=limit)
    if suffix == ".csv":
        return open_labels(path, limit)
    if suffix == ".txt" and task in BOX_TASKS and _has_labels(path):
        return open_yolo(path, boxes, split, limit)
    return open_class_folders(path, limit) if suffix == ".zip" and _has_classes(path, task) else None


def _open_folder(path: Path, task: Task | None, limit: int | None, split: str) -> Dataset | None:
    boxes: Task = task if task in BOX_TASKS else "detect"
    if (path / "data.yaml").is_file():
        return open_yolo(path / "data.yaml", boxes, split, limit)
    if (path / "labels.csv").is_file():
        return open_labels(path / "labels.csv", limit)
    if (path / "images").is_dir() and (path / "depth").is_dir():
        return open_depth(path, limit)
    if (path / "images").is_dir() and (path / "labels").is_dir():
        return open_yolo(path, boxes, split, limit)
    if task in BOX_TASKS and _has_labels(path):
        return open_yolo(path, boxes, split, limit)
    return open_class_folders(path, limit) if _has_classes(path, task) else None


def _open_unlabelled(path: Path, task: Task | None, limit: int | None) -> UnlabelledSet:
    images = list_images(path)
    return UnlabelledSet(path.name, task, tuple(Sample(images[i], None) for i in spread(len(images), limit)))


def _has_labels(path: Path) -> bool:
    """Whether an image has a YOLO label file."""
    return any(label_path(image).is_file() for image in list_images(path))


def _has_classes(path: Path, task: Task | None) -> bool:
    return task == "classify" and len(class_folders(list_images(path))) > 1
