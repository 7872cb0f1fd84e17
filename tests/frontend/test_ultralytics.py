"""Ultralytics checkpoints: read safely, exported as Ultralytics does, and readable by Ultralytics again."""

from __future__ import annotations

import ast
import copy
import importlib
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from edgeq.errors import MissingDependencyError, UnsupportedError, UntrustedInputError, UsageError
from edgeq.frontend import torch_file, ultralytics
from edgeq.frontend.safe_load import load_pickled
from edgeq.frontend.torch_export import ExportedModel
from tests.architectures import ARCHITECTURES

TOLERANCE = 1e-4  # of the largest output; the runtime sums in another order
EVERY_RUN = ("yolov8n-seg", "yolo11n-cls", "yolo26n-pose")
NETWORKS = [
    pytest.param(name, marks=() if name in EVERY_RUN else pytest.mark.slow)
    for name, architecture in ARCHITECTURES.items()
    if architecture.kind == "ultralytics"
]
ANCHORS = 12 * 12 + 6 * 6 + 3 * 3  # of a 96 x 96 image at strides 8, 16, 32
EXTRA = {"detect": 0, "segment": 32, "pose": 17 * 3, "obb": 1}
IMAGE_SIZE = 96


def build(name: str) -> tuple[Any, Tensor]:
    return ARCHITECTURES[name].build()


def save(network: nn.Module, path: Path) -> Path:
    """A checkpoint as Ultralytics trainers write it: half precision, options and bookkeeping beside the network."""
    options = {"imgsz": 96, "data": "coco.yaml", "project": None}
    results = {"fitness": np.float64(0.25), "save_dir": Path("runs/train"), "epoch": [1, 2]}
    torch.save(
        {"epoch": -1, "ema": None, "model": copy.deepcopy(network).half(), "train_args": options, **results}, path
    )
    return path


def eager(network: Any, image: Tensor) -> list[np.ndarray]:
    """Ultralytics' own outputs for deployment, from the unfused network."""
    network = copy.deepcopy(network)
    head = network.model[-1]
    head.export, head.format, head.end2end = True, "onnx", getattr(head, "one2one_cv2", None) is not None
    with torch.no_grad():
        out = network(image)
    return [t.numpy() for t in (out if isinstance(out, tuple | list) else [out])]


def yolo(*args: Any, **kwargs: Any) -> Any:
    """Ultralytics' own reader of models."""
    ultralytics.import_ultralytics()
    return importlib.import_module("ultralytics").YOLO(*args, **kwargs)


def run(exported: ExportedModel, image: Tensor) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(exported.proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, {"images": image.numpy()}))


def documented_shapes(metadata: Mapping[str, Any]) -> list[tuple[int, ...]]:
    """What Ultralytics' documentation says the outputs of this head are, without the batch."""
    task, classes = str(metadata["task"]), len(metadata["names"])
    if task == "classify":
        return [(classes,)]
    anchors = (ANCHORS, 6 + EXTRA[task]) if metadata["end2end"] else (4 + classes + EXTRA[task], ANCHORS)
    return [anchors, (32, 24, 24)] if task == "segment" else [anchors]


@pytest.mark.parametrize("name", NETWORKS)
def test_an_exported_network_equals_ultralytics(name: str) -> None:
    network, image = build(name)
    exported = ultralytics.export(network, IMAGE_SIZE)
    onnx.checker.check_model(exported.proto)
    assert not any(tensor.external_data for tensor in exported.proto.graph.initializer)
    computed, expected = run(exported, image), eager(network, image)
    assert [a.shape[1:] for a in computed] == documented_shapes(exported.metadata)
    assert exported.metadata["end2end"] is (name.startswith("yolo26") and not name.endswith("cls"))
    for a, b in zip(computed, expected, strict=True):
        allowed = TOLERANCE * np.abs(b).max()
        if exported.metadata["end2end"] and b.ndim == 3:
            assert np.abs(a[..., 4] - b[..., 4]).max() <= TOLERANCE  # scores fall in the same order
            nearest = [np.abs(a[0] - row).max(axis=1).min() for row in b[0]]  # rows of nearly equal score may swap
            assert max(nearest) <= allowed
        else:
            assert np.abs(a - b).max() <= allowed
        assert len(np.unique(b.round(6))) > 100


@pytest.fixture(scope="module")
def detector() -> tuple[Any, Tensor]:
    return build("yolov8n")


@pytest.fixture(scope="module")
def end2end_detector() -> tuple[Any, Tensor]:
    return build("yolo26n")


def test_a_checkpoint_loads_safely_and_carries_its_training_size(tmp_path: Path, detector: tuple[Any, Tensor]) -> None:
    network, image = detector
    exported = ultralytics.load(save(network, tmp_path / "best.pt"))
    assert exported.metadata["imgsz"] == [96, 96]
    half = copy.deepcopy(network).half().float()
    np.testing.assert_allclose(run(exported, image)[0], eager(half, image)[0], rtol=1e-3, atol=1e-3)
    assert exported.proto == torch_file.load(tmp_path / "best.pt").proto


def test_loading_leaves_no_file_and_prints_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    detector: tuple[Any, Tensor],
) -> None:
    file = save(detector[0], tmp_path / "best.pt")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    ultralytics.load(file)
    assert capfd.readouterr() == ("", "")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["best.pt", "work"]


def test_metadata_is_what_ultralytics_reads(detector: tuple[Any, Tensor]) -> None:
    exported = ultralytics.export(detector[0], (64, 96))
    props = {p.key: p.value for p in exported.proto.metadata_props}
    assert set(props) == {
        "description", "author", "version", "license", "docs", "stride", "task", "head", "batch", "imgsz", "names",
        "args", "channels", "end2end",
    }  # fmt: skip
    assert (props["task"], props["stride"], props["batch"], props["head"]) == ("detect", "32", "1", "Detect")
    assert ast.literal_eval(props["imgsz"]) == [64, 96]
    assert ast.literal_eval(props["names"])[79] == "79"
    assert (props["end2end"], props["channels"]) == ("False", "3")
    dims = exported.proto.graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_value for d in dims] == [1, 3, 64, 96]


@pytest.mark.parametrize("name", EVERY_RUN)
def test_ultralytics_predicts_with_the_exported_file(tmp_path: Path, name: str) -> None:
    network, _ = build(name)
    exported = ultralytics.export(network, IMAGE_SIZE)
    onnx.save(exported.proto, tmp_path / "net.onnx")
    image = np.random.default_rng(0).integers(0, 256, (70, 96, 3), dtype=np.uint8)
    model = yolo(str(tmp_path / "net.onnx"), task=str(exported.metadata["task"]))
    result = model.predict(image, imgsz=IMAGE_SIZE, conf=0.3, verbose=False, device="cpu")[0]
    assert len(result.names) == len(exported.metadata["names"])
    if name.endswith("cls"):
        assert result.probs.data.shape == (1000,)
    else:
        assert len(result.boxes) > 0
    assert name.endswith("seg") is (result.masks is not None)
    assert name.endswith("pose") is (result.keypoints is not None)
    assert exported.metadata.get("kpt_shape") == ([17, 3] if name.endswith("pose") else None)


def test_the_one_to_many_head_can_be_chosen(end2end_detector: tuple[Any, Tensor]) -> None:
    network, image = end2end_detector
    exported = ultralytics.export(network, IMAGE_SIZE, end2end=False)
    assert exported.metadata["end2end"] is False
    assert run(exported, image)[0].shape == (1, 84, ANCHORS)


def test_exporting_leaves_the_network_as_it_was(end2end_detector: tuple[Any, Tensor]) -> None:
    network, _ = end2end_detector
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    ultralytics.export(network, IMAGE_SIZE)
    assert network.state_dict().keys() == before.keys()
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert not network.model[-1].export


@pytest.mark.parametrize("imgsz", [100, 0, -32, (96,), (96, 100), (96, 96, 96)])
def test_a_size_that_does_not_fit_is_refused(detector: tuple[Any, Tensor], imgsz: int | tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="multiples of 32"):
        ultralytics.export(detector[0], imgsz)


def test_hostile_content_in_a_network_runs_nothing(tmp_path: Path, detector: tuple[Any, Tensor]) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'marker'}",)

    network = copy.deepcopy(detector[0])
    network.names = {0: "cat", 1: [Payload()]}
    file = tmp_path / "best.pt"
    torch.save({"model": network}, file)
    with pytest.raises(UntrustedInputError, match=r"\.system\. Pass --trust-pickle"):
        ultralytics.load(file)
    assert not (tmp_path / "marker").exists()
    load_pickled(file, trust_pickle=True)
    assert (tmp_path / "marker").exists()  # the file was live


@pytest.mark.parametrize(
    "change",
    [
        lambda n: setattr(n, "yaml", None),
        lambda n: setattr(n, "stride", "wide"),
        lambda n: delattr(n.model[-1], "cv2"),
        lambda n: n._modules.pop("model"),
        lambda n: setattr(n, "save", None),
        lambda n: n.__dict__.update(__deepcopy__=n.model[0]),
        lambda n: n.__dict__.update(__reduce_ex__=n.model[0]),
    ],
)
def test_a_broken_network_is_named(detector: tuple[Any, Tensor], change: Callable[[Any], object]) -> None:
    network = copy.deepcopy(detector[0])
    change(network)
    with pytest.raises((UnsupportedError, UsageError)) as refused:
        ultralytics.export(network, IMAGE_SIZE)
    assert "\n" not in str(refused.value)


def save_global(module: str, name: str, path: Path) -> Path:
    """A checkpoint that holds an instance of the named class, wherever that class may be."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("best/data.pkl", f"\x80\x02}}X\x05\0\0\0modelc{module}\n{name}\n)\x81s.".encode("latin1"))
        archive.writestr("best/version", "3\n")
    return path


@pytest.mark.parametrize("trust", [False, True])
def test_yolov5_checkpoints_get_their_next_step(tmp_path: Path, trust: bool) -> None:
    file = save_global("models.yolo", "DetectionModel", tmp_path / "yolov5n.pt")
    with pytest.raises(UnsupportedError, match=r"models\.yolo\.DetectionModel\. Export it there .*\.onnx file"):
        ultralytics.load(file, trust_pickle=trust)


@pytest.mark.parametrize("name", ["RTDETRDetectionModel", "WorldModel", "BaseModel", "Model"])
def test_other_ultralytics_networks_are_named(tmp_path: Path, name: str) -> None:
    file = save_global("ultralytics.nn.tasks", name, tmp_path / "best.pt")
    with pytest.raises(UnsupportedError, match=rf"got {name}; allowed: DetectionModel, "):
        ultralytics.load(file)


def test_parts_newer_than_the_package_are_named(tmp_path: Path) -> None:
    file = save_global("ultralytics.nn.modules.block", "C9k9", tmp_path / "best.pt")
    with pytest.raises(UnsupportedError, match=r"installed ultralytics has no such part; got .*C9k9"):
        ultralytics.load(file)


@pytest.mark.parametrize(
    "module", ["ultralytics.nn.modules.block.os", "ultralytics.nn", "ultralyticsx.nn.tasks", "models"]
)
def test_nothing_else_of_the_package_is_reachable(tmp_path: Path, module: str) -> None:
    file = save_global(module, "DetectionModel", tmp_path / "best.pt")
    with pytest.raises(UntrustedInputError, match=module):
        ultralytics.load(file)


def test_old_names_and_bookkeeping_load(tmp_path: Path) -> None:
    for module, name in (
        ("ultralytics.nn.modules.block", "Silence"),
        ("ultralytics.yolo.utils", "IterableSimpleNamespace"),
        ("ultralytics.utils.loss", "v8DetectionLoss"),
        ("pathlib", "WindowsPath"),
        ("numpy.core.multiarray", "scalar"),
    ):
        with pytest.raises(UnsupportedError, match="holds no Ultralytics network"):  # it was read to its end
            ultralytics.load(save_global(module, name, tmp_path / "best.pt"))


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ultralytics", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "edgeq\[yolo\]"') as missing:
        ultralytics.import_ultralytics()
    assert missing.value.exit_code == 7


def test_importing_the_package_stays_offline_and_private(tmp_path: Path) -> None:
    code = (
        "import os, cv2, numpy, torch; from edgeq.frontend.ultralytics import import_ultralytics;"
        "state = lambda: (dict(os.environ), cv2.getNumThreads(), numpy.get_printoptions(), str(torch.tensor([0.5, 300])));"
        "cv2.setNumThreads(2); before = state(); import_ultralytics();"
        "after = state(); after[0].update(before[0]); assert before[1:] == after[1:], (before, after);"
        "assert {name.partition('_')[0] for name in os.environ.keys() - before[0].keys()} == {'YOLO'}, os.environ;"
        "import ultralytics.utils as u; assert not u.ONLINE and not u.AUTOINSTALL"
    )
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("YOLO_", "OMP_"))}
    environment = {**kept, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert {path.relative_to(tmp_path).parts[:2] for path in tmp_path.rglob("*") if path.is_file()} == {
        ("cache", "edgeq")
    }


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "shape"), [("yolov8n_deq8", (84, 2100)), ("yolo11n_deq8", (84, 2100)), ("yolo26n_lut8", (300, 6))]
)
def test_real_checkpoints_find_what_ultralytics_finds(
    real: Path, tmp_path: Path, name: str, shape: tuple[int, int]
) -> None:
    exported = ultralytics.load(real / "models" / f"{name}.pt", imgsz=320)
    assert [d.dim_value for d in exported.proto.graph.output[0].type.tensor_type.shape.dim] == [1, *shape]
    onnx.save(exported.proto, tmp_path / "net.onnx")
    photos = sorted((real / "coco" / "images").rglob("*.jpg"))[:2]
    for photo in photos:
        theirs, ours = (
            yolo(str(file), task="detect").predict(photo, imgsz=320, rect=False, conf=0.3, verbose=False, device="cpu")[
                0
            ]
            for file in (real / "models" / f"{name}.pt", tmp_path / "net.onnx")
        )
        assert ours.names == theirs.names
        assert ours.boxes.cls.tolist() == theirs.boxes.cls.tolist()
        np.testing.assert_allclose(ours.boxes.xyxy.numpy(), theirs.boxes.xyxy.numpy(), atol=0.5)
    assert len(theirs.boxes) > 0


@pytest.mark.real
def test_a_real_yolov5_checkpoint_gets_its_next_step(real: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"export\.py"):
        ultralytics.load(real / "models" / "yolov5n.pt")
