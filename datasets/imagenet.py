"""Classification: images with one class each, from a labels.csv or from folders named after the classes.

Classes are the model's output indices. A model with 1001 outputs on ImageNet keeps a background class at
index 0 (TensorFlow); anything else must match, because accuracy against shifted labels looks like a broken
network.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeq.datasets.dataset import Metric, Outputs, Sample, Task
from edgeq.datasets.folder import class_folders, list_images, read_bytes, spread
from edgeq.datasets.preprocess import Placement, Preprocess
from edgeq.errors import DataError

_HEADERS = ("file", "filename", "file_name", "image", "path", "name")
_IMAGENET_CLASSES = 1000


@dataclass(frozen=True)
class ClassificationSet:
    """Images with a class index each.

    names: of all the classes, by index; a model with another number of outputs does not fit. Empty when
    labels are output indices as they stand.
    """

    name: str
    samples: tuple[Sample[int], ...]
    names: tuple[str, ...] = ()
    task: Task = "classify"

    def meter(self, preprocess: Preprocess, metadata: Mapping[str, str]) -> ClassificationMeter:
        """Counts right answers."""
        return ClassificationMeter(self)

    def output_index(self, label: int, outputs: int) -> int:
        """Where a model with this many outputs answers `label`. Raises DataError when it cannot."""
        classes = len(self.names) or _IMAGENET_CLASSES
        background = outputs == classes + 1 == _IMAGENET_CLASSES + 1
        if outputs <= label or (self.names and outputs != classes and not background):
            raise DataError(
                "the data's classes are not the model's",
                where=self.name,
                value=f"{len(self.names) or f'label {label}'} against {outputs} outputs",
                next_step="List file,class pairs with the model's class indices in a labels.csv.",
            )
        return label + 1 if background else label


class ClassificationMeter:
    """top1 and, above five classes, top5: fractions of right answers. Equal scores rank by index."""

    def __init__(self, dataset: ClassificationSet) -> None:
        self._dataset = dataset
        self.ranks: list[int] = []
        self.answers: list[int] = []
        self.confidences: list[float] = []
        self._classes = 0

    def add(self, index: int, placement: Placement, outputs: Outputs) -> None:
        """The scores (or logits) for sample `index`."""
        order = ranking(outputs)
        self._classes = len(order)
        wanted = self._dataset.output_index(self._dataset.samples[index].label, len(order))
        self.ranks.append(order.index(wanted))
        self.answers.append(order[0])
        self.confidences.append(confidence(outputs))

    def metrics(self) -> list[Metric]:
        """top1 and top5 over the images added."""
        n = len(self.ranks)
        depths = (1, 5) if self._classes > 5 else (1,)
        return [Metric(f"top{k}", sum(r < k for r in self.ranks) / max(n, 1), "fraction", n) for k in depths]


def ranking(outputs: Outputs) -> list[int]:
    """Class indices from the best score down, from the first output with several values; NaN ranks last."""
    for output in outputs:
        if output.size > 1:
            scores = np.asarray(output, np.float64).ravel()
            return [int(i) for i in np.argsort(-np.nan_to_num(scores, nan=-np.inf), kind="stable")]
    raise DataError("the model has no output with class scores", value=[list(o.shape) for o in outputs])


def confidence(outputs: Outputs) -> float:
    """The probability of the best class; logits, which are no probabilities, go through softmax first."""
    scores = next(np.asarray(output, np.float64).ravel() for output in outputs if output.size > 1)
    scores = np.nan_to_num(scores, nan=-np.inf)
    if scores.min() >= 0 and abs(scores.sum() - 1) < 1e-2:
        return float(scores.max())
    finite = np.exp(np.clip(scores - scores.max(), -700, 0))
    return float(1 / finite.sum())


def open_labels(path: Path, limit: int | None = None) -> ClassificationSet:
    """A CSV file of `file,class` lines; files are relative to it, or to the folder images/ beside it.

    Classes are output indices, or names, which are numbered in alphabetical order. Raises DataError with the
    line when one is malformed.
    """
    rows = _read_rows(path)
    numbered = all(label.isdecimal() for _, label in rows)
    names = () if numbered else tuple(sorted({label for _, label in rows}))
    base = path.parent if (path.parent / rows[0][0]).exists() else path.parent / "images"
    chosen = [rows[i] for i in spread(len(rows), limit)]
    samples = (Sample(base / file, int(label) if numbered else names.index(label)) for file, label in chosen)
    return ClassificationSet(path.name, tuple(samples), names)


def open_class_folders(path: Path, limit: int | None = None) -> ClassificationSet:
    """A folder or zip file with one folder of images for each class.

    Folder names that are all numbers are output indices, other names are numbered in alphabetical order.
    Raises DataError when the class folders lie below more than one folder.
    """
    images = list_images(path)
    names = tuple(class_folders(images))
    numbered = all(name.isdecimal() for name in names)
    index = {name: int(name) if numbered else i for i, name in enumerate(names)}
    chosen: Sequence[Path] = [images[i] for i in spread(len(images), limit)]
    samples = tuple(Sample(image, index[image.parent.name]) for image in chosen)
    return ClassificationSet(path.name, samples, () if numbered else names)


def _read_rows(path: Path) -> list[tuple[str, str]]:
    """(file, class) of each line, without the header."""
    text = read_bytes(path).decode("utf-8-sig", "replace")
    rows: list[tuple[str, str]] = []
    try:
        for number, row in enumerate(csv.reader(text.splitlines()), start=1):
            cells = [cell.strip() for cell in row]
            if not any(cells) or (number == 1 and cells[0].lower() in _HEADERS):
                continue
            if len(cells) < 2 or not cells[0] or not cells[1]:
                raise DataError("label line is malformed", where=f"{path}:{number}", allowed="file,class")
            rows.append((cells[0], cells[1]))
    except csv.Error as error:
        raise DataError("not a CSV file", where=path, value=error) from error
    if not rows:
        raise DataError("no labels in the file", where=path, allowed="lines of file,class")
    return rows
