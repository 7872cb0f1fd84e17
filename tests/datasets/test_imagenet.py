"""Classification sets and their counting."""

from __future__ import annotations

import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeq.datasets.imagenet import ClassificationSet, open_class_folders, open_labels, ranking
from edgeq.datasets.preprocess import Placement, preset
from edgeq.datasets.scenes import write_dataset
from edgeq.errors import DataError

NOWHERE = Placement(1, 1, 1, 1, 0, 0)
PNG = cv2.imencode(".png", np.zeros((4, 4, 3), np.uint8))[1].tobytes()


def write(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(PNG)


def labels_of(dataset: ClassificationSet) -> list[tuple[str, int]]:
    return [(sample.path.name, sample.label) for sample in dataset.samples]


def test_csv_beside_its_images_and_above_them(tmp_path: Path) -> None:
    for folder, text in (("a", "x.png,3\ny.png,7\n"), ("a/images", ""), ("b", "")):
        (tmp_path / folder).mkdir(exist_ok=True, parents=True)
        (tmp_path / folder / "labels.csv").write_text(text or "file,class\nx.png,3\ny.png,7\n")
    write(tmp_path / "a/images/x.png")
    write(tmp_path / "b/x.png")
    for folder, parent in (("a", "images"), ("b", "b")):
        dataset = open_labels(tmp_path / folder / "labels.csv")
        assert labels_of(dataset) == [("x.png", 3), ("y.png", 7)] and dataset.names == ()
        assert dataset.samples[0].path.parent.name == parent


def test_csv_with_names_and_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("\ufefffilename,label,note\nx.png,dog,\n\ny.png, cat ,old\n", "utf-8")
    dataset = open_labels(tmp_path / "labels.csv")
    assert dataset.names == ("cat", "dog") and labels_of(dataset) == [("x.png", 1), ("y.png", 0)]


@pytest.mark.parametrize("text", ["", "file,class\n", "x.png\n", "x.png,\n", ",3\n", '"x.png,3\n' * 2 + "\0"])
def test_malformed_csv_is_a_data_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(DataError, match=r"labels\.csv"):
        open_labels(tmp_path / "labels.csv")


def test_class_folders_are_numbered_in_alphabetical_order(tmp_path: Path) -> None:
    for name in ("val/dog/1.png", "val/cat/2.png", "val/cat/1.png"):
        write(tmp_path / name)
    dataset = open_class_folders(tmp_path / "val")
    assert dataset.names == ("cat", "dog")
    assert [(s.path.parent.name, s.label) for s in dataset.samples] == [("cat", 0), ("cat", 0), ("dog", 1)]
    write(tmp_path / "train/dog/1.png")
    with pytest.raises(DataError, match="more than one place"):
        open_class_folders(tmp_path)


def test_numbered_folders_are_output_indices(tmp_path: Path) -> None:
    for name in ("10/a.png", "2/b.png"):
        write(tmp_path / name)
    assert labels_of(open_class_folders(tmp_path)) == [("a.png", 10), ("b.png", 2)]


def test_a_zip_of_class_folders_and_a_balanced_limit(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for label in ("a", "b", "c"):
            for i in range(10):
                archive.writestr(f"test/{label}/{i}.png", PNG)
    dataset = open_class_folders(tmp_path / "set.zip", limit=6)
    assert [sample.label for sample in dataset.samples] == [0, 0, 1, 1, 2, 2]


def test_rendered_scenes_are_read_back(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "scenes", 6, seed=1, size=32, kind="classify")
    dataset = open_labels(folder / "labels.csv")
    assert len(dataset.samples) == 6 and all(sample.path.is_file() for sample in dataset.samples)
    assert len({sample.label for sample in dataset.samples}) > 1


def dataset_of(labels: list[int], names: tuple[str, ...] = ()) -> ClassificationSet:
    from edgeq.datasets.dataset import Sample

    return ClassificationSet("hand", tuple(Sample(Path("x"), label) for label in labels), names)


def test_top1_and_top5_by_hand() -> None:
    """Scores fall with the class index, so label k is at rank k: two of five first, four of five in the first five."""
    meter = dataset_of([0, 0, 4, 3, 7]).meter(preset("imagenet"), {})
    for index in range(5):
        meter.add(index, NOWHERE, [-np.arange(8, dtype=np.float32).reshape(1, 8, 1, 1)])
    assert [(m.name, m.value, m.n) for m in meter.metrics()] == [("top1", 0.4, 5), ("top5", 0.8, 5)]


def test_equal_scores_rank_by_index_and_nan_last() -> None:
    scores = np.array([[1, 5, np.nan, 5, -np.inf]], np.float32)
    assert ranking([scores])[:3] == [1, 3, 0]


def test_an_output_more_for_the_background() -> None:
    scores = np.zeros((1, 1001), np.float32)
    scores[0, 8] = 1
    meter = dataset_of([7]).meter(preset("tf"), {})
    meter.add(0, NOWHERE, [scores])
    assert meter.metrics()[0].value == 1.0


@pytest.mark.parametrize(("labels", "names", "outputs"), [([12], (), 10), ([0], ("a", "b"), 3), ([0], ("a", "b"), 11)])
def test_classes_that_do_not_fit_are_refused(labels: list[int], names: tuple[str, ...], outputs: int) -> None:
    meter = dataset_of(labels, names).meter(preset("imagenet"), {})
    with pytest.raises(DataError, match="classes"):
        meter.add(0, NOWHERE, [np.zeros((1, outputs), np.float32)])


def test_a_model_without_scores_is_refused() -> None:
    with pytest.raises(DataError):
        ranking([np.zeros((1, 1), np.float32)])
