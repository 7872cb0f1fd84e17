"""How a model's input and task are found out when nobody says them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeq import zoo
from edgeq.errors import UsageError
from edgeq.flow.inputs import calibration_set, choose_preprocess, evaluation_set, input_size, task_of
from edgeq.frontend.model import Model, open_model
from edgeq.ir.graph import Graph, Type
from tests.command_line import write_noise_images


def model_with(outputs: dict[str, tuple[int, ...]], metadata: dict[str, str] | None = None, size: int = 640) -> Model:
    types = {"images": Type((1, 3, size, size)), **{name: Type(shape) for name, shape in outputs.items()}}
    return Model("net", Graph("net", ("images",), tuple(outputs), (), types), "0" * 64, metadata or {})


@pytest.mark.parametrize(("name", "task"), [("detector", "detect"), ("classifier", "classify"), ("depth", "depth")])
def test_built_in_models_declare_everything(name: str, task: str) -> None:
    model = open_model(f"zoo:{name}")
    rule = choose_preprocess(None, model)
    assert rule.how == "declared by the model"
    assert rule.preprocess.to_dict() == zoo.card(name)["preprocess"]
    assert rule.preprocess.size == input_size(model)
    assert task_of(model) == task


@pytest.mark.parametrize(
    ("outputs", "size", "name"),
    [
        ({"output": (1, 25200, 85)}, 640, "yolo"),
        ({"output0": (1, 84, 8400)}, 640, "yolo"),
        ({"output": (1, 3549, 85)}, 416, "yolox"),
    ],
)
def test_a_known_head_implies_its_usual_input(outputs: dict[str, tuple[int, ...]], size: int, name: str) -> None:
    rule = choose_preprocess(None, model_with(outputs, size=size))
    assert (rule.preprocess.color == "BGR") == (name == "yolox")
    assert rule.preprocess.size == (size, size)
    assert task_of(model_with(outputs, size=size)) == "detect"


def test_an_unknown_input_is_asked_for() -> None:
    with pytest.raises(UsageError, match="--preprocess"):
        choose_preprocess(None, model_with({"logits": (1, 10)}, size=32))


def test_a_file_gives_the_preprocessing(tmp_path: Path) -> None:
    rules = tmp_path / "rules.json"
    rules.write_text(json.dumps({"resize": "stretch", "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}))
    found = choose_preprocess(str(rules), model_with({"logits": (1, 10)}, size=48)).preprocess
    assert (found.size, found.resize, found.mean) == ((48, 48), "stretch", (0.5, 0.5, 0.5))


def test_scenes_calibrate_and_measure_on_different_images() -> None:
    model = open_model("zoo:classifier")
    rule = choose_preprocess(None, model)
    calibration = calibration_set("scenes:6", 128, rule, "classify")
    data = evaluation_set("scenes:5", None, rule, "classify")
    assert (len(calibration.images), len(data.samples)) == (6, 5)
    assert len(set(calibration.hashes.values())) == 6
    assert next(calibration.tensors()).shape == (1, 3, 96, 96)


def test_rooms_calibrate_on_images_not_on_their_depth_maps() -> None:
    rule = choose_preprocess(None, open_model("zoo:depth"))
    calibration = calibration_set("scenes:6", 128, rule, "depth")
    assert [image.path.parent.name for image in calibration.images] == ["images"] * 6


def test_calibration_images_of_a_labelled_set_show_its_classes(tmp_path: Path) -> None:
    """Twelve images, of which the last alone shows the second class: a plain spread of three would miss it."""
    write_noise_images(tmp_path / "images" / "train", 12)
    labels = tmp_path / "labels" / "train"
    labels.mkdir(parents=True)
    for index in range(12):
        (labels / f"{index}.txt").write_text(f"{int(index == 7)} 0.5 0.5 0.2 0.2\n")
    (tmp_path / "data.yaml").write_text("train: images/train\nval: images/train\nnames: [common, rare]\n")
    rule = choose_preprocess("yolo", model_with({"output0": (1, 6, 8400)}))
    chosen = calibration_set(str(tmp_path / "data.yaml"), 3, rule, "detect").images
    assert len(chosen) == 3 and "7.png" in [image.path.name for image in chosen]
