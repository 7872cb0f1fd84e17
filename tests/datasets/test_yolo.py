"""YOLO's layout: where images and labels are looked for, and what a label line may be."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeq.datasets.scenes import CLASSES, render, write_dataset
from edgeq.datasets.yolo import label_path, open_yolo, read_labels
from edgeq.errors import DataError


def image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", np.zeros((20, 40, 3), np.uint8))[1].tobytes())
    return path


def layout(root: Path, yaml: str) -> Path:
    for split, names in (("train", "abc"), ("val", "de")):
        for i, name in enumerate(names):
            image(root / "set" / "images" / split / f"{name}.png")
            label = root / "set" / "labels" / split / f"{name}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text(f"{i} 0.5 0.5 0.5 0.5\n")
    (root / "data.yaml").write_text(yaml)
    return root / "data.yaml"


def test_paths_are_relative_to_the_file_and_to_path(tmp_path: Path) -> None:
    path = layout(tmp_path, "path: set\ntrain: images/train\nval: [images/val]\nnames: {0: cat, 1: dog, 2: cow}\n")
    dataset = open_yolo(path)
    assert dataset.names == ("cat", "dog", "cow")
    assert [sample.path.stem for sample in dataset.samples] == ["d", "e"]
    assert len(open_yolo(path, split="train").samples) == 3
    assert len(open_yolo(path, split="train", limit=2).samples) == 2
    box = dataset.samples[1].label.in_pixels(20, 40)
    assert box.boxes.tolist() == [[10, 5, 30, 15]] and box.classes.tolist() == [1]


def test_a_list_of_images_may_be_the_split(tmp_path: Path) -> None:
    path = layout(tmp_path, "path: set\nval: few.txt\nnames: [cat, dog, cow]\n")
    (tmp_path / "set" / "few.txt").write_text("./images/train/c.png\n./images/val/d.png\n")
    assert [sample.label.classes.tolist() for sample in open_yolo(path).samples] == [[2], [0]]


def test_a_folder_without_description(tmp_path: Path) -> None:
    layout(tmp_path, "")
    assert [sample.path.stem for sample in open_yolo(tmp_path / "set").samples] == ["d", "e"]
    assert len(open_yolo(tmp_path / "set", split="other").samples) == 5


def test_rendered_scenes_are_read_back(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "scenes", 3, seed=1, size=64, kind="detect")
    dataset = open_yolo(folder / "data.yaml")
    assert dataset.names == CLASSES
    for i, sample in enumerate(dataset.samples):
        scene, label = render(1, i, 64), sample.label.in_pixels(64, 64)
        order = np.lexsort([*scene.boxes.T[::-1], scene.labels])
        assert sorted(label.classes.tolist()) == sorted(scene.labels.tolist())
        assert np.allclose(np.sort(label.boxes, axis=0), np.sort(scene.boxes[order], axis=0), atol=1e-3)
    assert sum(len(sample.label.classes) for sample in dataset.samples) > 3


@pytest.mark.parametrize(
    ("line", "task", "expected"),
    [
        ("2 0.5 0.5 0.2 0.4", "detect", [2, 0.4, 0.3, 0.6, 0.7]),
        ("0 0.1 0.2 0.3 0.2 0.3 0.6 0.1 0.6", "segment", [0, 0.1, 0.2, 0.3, 0.6]),
        ("0 0.1 0.2 0.3 0.2 0.3 0.6 0.1 0.6", "detect", [0, 0.1, 0.2, 0.3, 0.6]),
        ("0 0.5 0.5 0.2 0.4 9 9 2 9 9 2", "pose", [0, 0.4, 0.3, 0.6, 0.7]),
        ("1 0.5 0.5 1.005 1", "detect", [1, -0.0025, 0, 1.0025, 1]),
    ],
)
def test_label_lines(tmp_path: Path, line: str, task: str, expected: list[float]) -> None:
    (tmp_path / "a.txt").write_text(f"{line}\n\n{line}\n")
    labels = read_labels(tmp_path / "a.txt", task)  # type: ignore[arg-type]
    assert labels.unit and labels.classes.tolist() == [expected[0]]
    assert np.allclose(labels.boxes, [expected[1:]])


@pytest.mark.parametrize(
    "line", ["0 0.5 0.5 0.2", "cat 0.5 0.5 0.2 0.2", "-1 0.5 0.5 0.2 0.2", "0.5 0.5 0.5 0.2 0.2", "0 0.5 nan 0.2 0.2",
             "0 320 200 40 40"],
)  # fmt: skip
def test_malformed_lines_are_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "a.txt").write_text(f"0 0.5 0.5 0.1 0.1\n{line}\n")
    with pytest.raises(DataError, match=r"a\.txt:2"):
        read_labels(tmp_path / "a.txt", "detect")


def test_a_missing_or_empty_label_file_is_an_image_without_objects(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    for name in ("empty.txt", "none.txt"):
        labels = read_labels(tmp_path / name, "detect")
        assert labels.boxes.shape == (0, 4) and labels.classes.shape == (0,)


def test_labels_lie_where_the_last_images_folder_points() -> None:
    assert label_path(Path("/images/set/images/a.b.jpg")) == Path("/images/set/labels/a.b.txt")
    assert label_path(Path("flat/a.jpg")) == Path("flat/a.txt")


@pytest.mark.parametrize(
    "text",
    [
        "", "- a", "names: [a\n", "val: x\nnames: 3\n", "val: x\nnames: {1: a}\n", "train: x\nnames: [a]\n",
        "val: 3\nnames: [a]\n", "val: missing\nnames: [a]\n", "!!python/object/apply:os.getcwd []\n", "\x00",
    ],
)  # fmt: skip
def test_malformed_descriptions_are_data_errors(tmp_path: Path, text: str) -> None:
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(DataError) as caught:
        open_yolo(tmp_path / "data.yaml")
    assert "\n" not in str(caught.value)
