"""The embedded models: the files are those described, their accuracy is what zoo.json says, and the training works."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from edgeq import zoo
from edgeq.datasets.preprocess import Preprocess
from edgeq.datasets.scenes import CLASSES
from edgeq.errors import UsageError

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
NAMES = ("detector", "classifier", "depth")
LARGEST_BYTES = 3_000_000  # all models together
# What another processor's float32 may change on 100 scenes; for the classifier one image.
BANDS = {"map50-95": 0.005, "map50": 0.005, "top1": 0.01, "top5": 0.01, "absrel": 0.001, "rmse": 0.005, "delta1": 0.002}
WANTED = {"detector": ("map50-95", 0.5), "classifier": ("top1", 0.9), "depth": ("delta1", 0.9)}


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    """scripts/zoo_*.py import one another by name."""
    monkeypatch.syspath_prepend(str(SCRIPTS))


def test_names_and_paths() -> None:
    assert zoo.names() == NAMES
    assert all(zoo.path(name).is_file() for name in NAMES)
    assert {path.name for path in zoo.path("detector").parent.glob("*.onnx")} == {f"{name}.onnx" for name in NAMES}


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(UsageError, match=r"allowed: detector, classifier, depth\. Did you mean detector"):
        zoo.path("detecter")


@pytest.mark.parametrize("name", NAMES)
def test_the_file_is_the_one_described(name: str) -> None:
    assert hashlib.sha256(zoo.path(name).read_bytes()).hexdigest() == zoo.card(name)["sha256"]


def test_the_models_are_small() -> None:
    assert sum(zoo.path(name).stat().st_size for name in NAMES) < LARGEST_BYTES
    assert sum(zoo.card(name)["parameters"] for name in NAMES) < 750_000


@pytest.mark.parametrize("name", NAMES)
def test_the_file_is_plain_onnx(name: str) -> None:
    card, model = zoo.card(name), onnx.load(zoo.path(name))
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
    shape = [size.dim_value for size in model.graph.input[0].type.tensor_type.shape.dim]
    assert shape == [1, 3, card["size"], card["size"]]
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert facts["task"] == card["task"]
    assert facts["imgsz"] == str([card["size"]] * 2)
    assert json.loads(facts["edgeq.preprocess"]) == card["preprocess"]
    assert Preprocess.from_dict(card["preprocess"]).size == (card["size"], card["size"])


def test_the_detector_keeps_the_contract_of_ultralytics() -> None:
    model = onnx.load(zoo.path("detector"))
    (output,) = model.graph.output
    assert (model.graph.input[0].name, output.name) == ("images", "output0")
    cells = sum((160 // stride) ** 2 for stride in (8, 16, 32))
    assert [size.dim_value for size in output.type.tensor_type.shape.dim] == [1, 4 + len(CLASSES), cells]
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert (facts["stride"], facts["names"]) == ("32", str(dict(enumerate(CLASSES))))


@pytest.mark.parametrize("name", NAMES)
def test_the_figures_leave_room_both_ways(name: str) -> None:
    card = zoo.card(name)
    metric, least = WANTED[name]
    assert card["held_out"]["n"] >= 1000
    assert card["held_out"]["seed"] != card["training"]["seed"]
    assert least + 0.05 < card["held_out"]["metrics"][metric] < 0.99


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("scripts")
def test_onnx_runtime_reproduces_the_sample(name: str) -> None:
    from zoo_measure import measure  # type: ignore[import-not-found]

    card = zoo.card(name)
    sample = card["sample"]
    measured = measure(zoo.path(name), card["task"], sample["seed"], sample["n"])
    assert measured.keys() == sample["metrics"].keys()
    for metric, value in measured.items():
        assert value == pytest.approx(sample["metrics"][metric], abs=BANDS[metric]), metric


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("scripts")
def test_a_step_of_training_and_the_export(name: str, tmp_path: Path) -> None:
    """Not accuracy: the parts fit, the weights move, and the file computes what the module computes."""
    from zoo_data import make_examples  # type: ignore[import-not-found]
    from zoo_export import export  # type: ignore[import-not-found]
    from zoo_train import SPECS, train  # type: ignore[import-not-found]

    spec = replace(SPECS[name], batch=4)
    examples = make_examples(spec.task, 1, 8, spec.side, 1)
    model, epochs = train(spec, examples, 1, 5.0, "cpu")
    assert epochs == 1
    torch.manual_seed(0)
    fresh = spec.build().state_dict()
    assert sum(not torch.equal(fresh[key], value) for key, value in model.state_dict().items()) > len(fresh) / 2
    export(model, spec, tmp_path / "model.onnx")
    images = torch.rand(1, 3, spec.side, spec.side)
    (output,) = onnxruntime.InferenceSession(str(tmp_path / "model.onnx")).run(None, {"images": images.numpy()})
    with torch.no_grad():
        expected = model(images).numpy()
    assert len(np.unique(expected)) >= len(CLASSES)
    assert np.allclose(output, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("scripts")
def test_places_inside_an_object_answer_for_it() -> None:
    from zoo_losses import assign  # type: ignore[import-not-found]
    from zoo_models import grid  # type: ignore[import-not-found]

    centres, strides = grid(160)
    boxes = torch.tensor([[[20.0, 20.0, 60.0, 70.0], [100.0, 90.0, 150.0, 140.0], [0.0, 0.0, 0.0, 0.0]]])
    labels = torch.tensor([[2, 5, -1]])
    places = centres * strides[:, None]
    inside = ((places[:, None] > boxes[0, :, :2]) & (places[:, None] < boxes[0, :, 2:])).all(dim=2)
    corners = torch.where(inside[:, :1], boxes[0, 0], boxes[0, 1])[None]
    found = assign(torch.full((1, len(places), 8), 0.5), corners, places, boxes, labels)
    chosen = found.chosen[0]
    assert chosen.sum() == 20  # ten places for each of two objects
    assert (inside[:, 0] | inside[:, 1])[chosen].all()
    best = found.scores[0].amax(dim=0)
    assert best[[2, 5]].tolist() == pytest.approx([1.0, 1.0], abs=1e-5)  # perfect boxes deserve full scores
    assert best.sum() == pytest.approx(2.0, abs=1e-4)


@pytest.mark.usefixtures("scripts")
def test_overlap_of_boxes() -> None:
    from zoo_losses import complete_iou  # type: ignore[import-not-found]

    box = torch.tensor([10.0, 10.0, 30.0, 50.0])
    shifted = box + torch.tensor([10.0, 0.0, 10.0, 0.0])
    assert complete_iou(box, box).item() == pytest.approx(1, abs=1e-6)
    apart = 10**2 / (30**2 + 40**2)  # squared distance of the centres over the hull's diagonal
    assert complete_iou(box, shifted).item() == pytest.approx(1 / 3 - apart, abs=1e-6)
    assert complete_iou(box, box + 1000).item() < -0.5


def test_the_command_explains_itself() -> None:
    done = subprocess.run([sys.executable, SCRIPTS / "train-zoo", "--help"], capture_output=True, text=True, check=True)
    assert "--epochs" in done.stdout
    assert "--device" in done.stdout
