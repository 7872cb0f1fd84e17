"""Opening whatever lies at a path, and one pass of several runners over it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from edgeq.datasets.dataset import Metric, Outputs, Task
from edgeq.datasets.evaluate import Evaluation, evaluate, prepare
from edgeq.datasets.folder import read_image
from edgeq.datasets.open import open_dataset
from edgeq.datasets.preprocess import Preprocess, preset
from edgeq.datasets.scenes import CLASSES, render, write_dataset
from edgeq.errors import DataError

SIZE = 64
SCENES = 4
YOLO = preset("yolo", (SIZE, SIZE))
Tensor = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scenes")
    for kind in ("detect", "classify", "depth"):
        write_dataset(root / kind, SCENES, seed=5, size=SIZE, kind=kind)
    return root


def by_name(metrics: list[Metric]) -> dict[str, float]:
    return {metric.name: metric.value for metric in metrics}


class TrueBoxes:
    """A runner that knows the scenes' boxes; `shift_px` spoils them."""

    def __init__(self, shift_px: float = 0.0) -> None:
        self.calls, self.shift_px = 0, shift_px

    def __call__(self, tensor: Tensor) -> Outputs:
        scene = render(5, self.calls, SIZE)
        self.calls += 1
        rows = np.zeros((300, 6), np.float32)
        rows[: len(scene.labels)] = np.column_stack(
            [scene.boxes + self.shift_px, np.full(len(scene.labels), 0.9), scene.labels]
        )
        return [rows[None]]


def test_runners_share_one_pass_and_each_image_is_decoded_once(scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[Path] = []

    def counted(path: Path) -> npt.NDArray[np.uint8]:
        decoded.append(path)
        return read_image(path)

    monkeypatch.setattr("edgeq.datasets.evaluate.read_image", counted)
    dataset = open_dataset(scenes / "detect", "detect")
    runners = {"fp32": TrueBoxes(), "same": TrueBoxes(), "moved": TrueBoxes(4.0)}
    result = evaluate(dataset, YOLO, runners, {"names": str(list(CLASSES))})
    assert len(decoded) == SCENES == len(set(decoded))
    assert by_name(result["fp32"]) == pytest.approx({"map50-95": 1.0, "map50": 1.0})
    assert by_name(result["same"]) == pytest.approx(
        {"map50-95": 1.0, "map50": 1.0, "sqnr": float("inf"), "max-error": 0.0, "map50-95-agreement": 1.0}
    )
    moved = by_name(result["moved"])
    assert moved["max-error"] == 4.0 and 0 < moved["sqnr"] < 40
    assert moved["map50-95"] < 0.9 and moved["map50-95-agreement"] == pytest.approx(moved["map50-95"], abs=1e-6)
    assert all(metric.n == SCENES for metrics in result.values() for metric in metrics)


def test_outputs_may_come_later_from_elsewhere(scenes: Path) -> None:
    dataset = open_dataset(scenes / "depth", "depth")
    process = Preprocess((SIZE, SIZE), scale=1.0)
    prepared = list(prepare(dataset, process))
    maps = [[render(5, i, SIZE).depth[None]] for i in range(SCENES)]
    whole = Evaluation(dataset, process, ["fp32", "board"], {})
    for item in prepared:
        whole.add(item, {"fp32": maps[item.index], "board": [maps[item.index][0] * np.float32(1.5)]})
    result = whole.metrics()
    assert by_name(result["fp32"])["absrel"] < 1e-3
    board = by_name(result["board"])
    assert board["absrel"] == pytest.approx(0.5, abs=1e-3)
    assert board["absrel-agreement"] == pytest.approx(0.5, abs=1e-6)
    assert board["sqnr"] == pytest.approx(20 * np.log10(2), abs=1e-4)


def test_unlabelled_images_still_compare_runners(scenes: Path) -> None:
    dataset = open_dataset(scenes / "classify" / "images", "classify")
    flip = np.array([[1, 2, 3, 4, 5, 6, 7]], np.float32)
    calls = iter(range(100))
    result = evaluate(dataset, YOLO, {"fp32": lambda x: [flip], "int8": lambda x: [flip if next(calls) else -flip]}, {})
    assert result["fp32"] == []
    assert by_name(result["int8"])["top1-agreement"] == 1 - 1 / SCENES


def test_outputs_of_other_shapes_have_no_sqnr_but_an_answer(scenes: Path) -> None:
    """An artifact may write boxes and scores apart."""
    dataset = open_dataset(scenes / "depth" / "images", "detect")
    rng = np.random.default_rng(0)
    joined = np.concatenate([rng.uniform(5, 60, (1, 4, 84)), rng.uniform(0, 1, (1, 3, 84))], axis=1).astype(np.float32)
    runners = {"fp32": lambda x: [joined], "int8": lambda x: [joined[:, :4], joined[:, 4:]]}
    metrics = by_name(evaluate(dataset, YOLO, runners, {})["int8"])
    assert metrics == {"map50-95-agreement": pytest.approx(1.0)}


def test_a_corrupt_image_stops_an_evaluation_by_name(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"text")
    with pytest.raises(DataError, match=r"bad\.png"):
        evaluate(open_dataset(tmp_path), YOLO, {"fp32": lambda x: []})


@pytest.mark.parametrize(
    ("where", "task", "opened", "labelled"),
    [
        ("detect", None, "detect", True),
        ("detect/data.yaml", "detect", "detect", True),
        ("detect/data.yaml", "pose", "pose", True),
        ("detect/images", None, None, False),
        ("detect/images", "detect", "detect", True),
        ("detect/images/000001.png", "depth", "depth", False),
        ("classify", "classify", "classify", True),
        ("classify/labels.csv", None, "classify", True),
        ("classify/images", "classify", "classify", False),
        ("depth", None, "depth", True),
        ("depth/images", "depth", "depth", False),
    ],
)
def test_what_lies_there_is_recognised(
    scenes: Path, where: str, task: Task | None, opened: Task | None, labelled: bool
) -> None:
    dataset = open_dataset(scenes / where, task)
    assert dataset.task == opened
    assert (dataset.meter(YOLO, {}) is not None) == labelled
    assert len(dataset.samples) == (1 if where.endswith("png") else SCENES)
    assert len(open_dataset(scenes / where, task, limit=1).samples) == 1


def test_class_folders_are_classes_only_for_a_classifier(tmp_path: Path) -> None:
    for name in ("cat/1.png", "dog/1.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(cv2.imencode(".png", np.zeros((4, 4, 3), np.uint8))[1].tobytes())
    assert open_dataset(tmp_path, "classify").meter(YOLO, {}) is not None
    assert open_dataset(tmp_path).meter(YOLO, {}) is None
    assert open_dataset(tmp_path, "depth").meter(YOLO, {}) is None


@pytest.mark.parametrize(("where", "task"), [("detect", "classify"), ("classify", "depth"), ("depth", "detect")])
def test_labels_for_another_task_are_refused(scenes: Path, where: str, task: Task) -> None:
    with pytest.raises(DataError, match="another task"):
        open_dataset(scenes / where, task)


def test_nothing_there_is_a_data_error(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none", tmp_path / "none.yaml", tmp_path / "none.zip", tmp_path / "none.json"):
        with pytest.raises(DataError):
            open_dataset(path)
