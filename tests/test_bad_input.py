"""Bad input ends with its own exit code and one line on stderr, never a traceback, and leaves nothing behind."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest

from edgeq.datasets.scenes import write_dataset
from tests.command_line import Ran, edgeq, files_below, write_noise_images, write_small_classifier
from tests.tflite_nets import integer_net

ROOT = Path(__file__).resolve().parents[1]
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


@pytest.fixture
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small model `net.onnx` and calibration images in `images`."""
    folder = tmp_path_factory.mktemp("inputs")
    write_small_classifier(folder / "net.onnx")
    write_noise_images(folder / "images", 3)
    return folder


@pytest.fixture(autouse=True)
def work(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder, with a cache and a place for temporary files elsewhere."""
    temporary = tmp_path_factory.mktemp("temporary")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert [name for name in files_below(temporary) if "edgeq" in name] == []


def refused(ran: Ran, exit: int, *words: str) -> str:
    """Check the exit code, the one line and that it says `words`; the line."""
    lines = ran.stderr.splitlines()
    assert (ran.exit, len(lines)) == (exit, 1), ran
    assert lines[0].startswith("error: ") and "internal" not in lines[0]
    assert not [word for word in words if word not in lines[0]], lines[0]
    assert ran.stdout == ""
    assert files_below(Path()) == []
    return lines[0]


def export(model: object, *options: object, target: str = "onnx-int8") -> Ran:
    return edgeq("export", model, "-t", target, *options)


def usable(inputs: Path) -> tuple[object, ...]:
    """Options with which the small model exports."""
    return "--calib", inputs / "images", "--preprocess", "cifar", "--threads", 1


# --- models ---------------------------------------------------------------------------------------------------


def test_missing_model() -> None:
    refused(export("nowhere.onnx", "--calib", "scenes"), 2, "no such model", "nowhere.onnx", "zoo:")


def test_integer_graph_as_model(inputs: Path) -> None:
    (inputs / "graph.edgeq").touch()
    refused(export(inputs / "graph.edgeq", "--calib", "scenes"), 3, "an artifact, not a model to start from")


def test_unknown_zoo_model() -> None:
    refused(export("zoo:detectr", "--calib", "scenes"), 2, "detectr", "Did you mean detector?")


def test_folder_as_model(inputs: Path) -> None:
    refused(export(inputs, "--calib", "scenes"), 2, "no such model")


@pytest.mark.parametrize("command", ["export", "inspect", "lint", "validate"])
@pytest.mark.parametrize("content", ["truncated", "garbage", "empty", "text"])
def test_damaged_onnx(inputs: Path, command: str, content: str) -> None:
    whole = (inputs / "net.onnx").read_bytes()
    damaged = {"truncated": whole[:-700], "garbage": bytes(range(256)) * 9, "empty": b"", "text": b"not a model\n"}
    path = inputs / "damaged.onnx"
    path.write_bytes(damaged[content])
    options = {"export": ("-t", "onnx-int8", *usable(inputs)), "validate": ("--data", inputs / "images")}
    refused(edgeq(command, path, *options.get(command, ())), 2 if command == "lint" else 3, "damaged.onnx")


@pytest.mark.parametrize("command", ["export", "inspect", "lint", "validate", "verify"])
@pytest.mark.parametrize("content", ["truncated", "garbage", "empty", "text", "eight bytes"])
def test_damaged_tflite(inputs: Path, command: str, content: str) -> None:
    whole = integer_net()
    damaged = {"truncated": whole[:-700], "garbage": bytes(range(256)) * 9, "empty": b"", "text": b"not a model\n",
               "eight bytes": b"\x08\x00\x00\x00TFL3"}  # fmt: skip
    path = inputs / "damaged.tflite"
    path.write_bytes(damaged[content])
    options = {"export": ("-t", "onnx-int8", *usable(inputs)), "validate": ("--data", inputs / "images")}
    refused(edgeq(command, path, *options.get(command, ())), 2 if command == "lint" else 3)


class _Hostile:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("command", ["export", "inspect"])
def test_checkpoint_that_runs_code(inputs: Path, command: str) -> None:
    marker, path = inputs / "executed", inputs / "hostile.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"model": _Hostile(marker)}))
        archive.writestr("archive/version", "3\n")
    options = ("-t", "onnx-int8", "--calib", inputs / "images") if command == "export" else ()
    refused(edgeq(command, path, *options), 8, "hostile.pt")
    assert not marker.exists()


def _state_dict(path: Path) -> Path:
    import torch

    layer = torch.nn.Conv2d(3, 4, 3)
    torch.save(layer.state_dict(), path)
    return path


def test_state_dict_without_architecture(inputs: Path) -> None:
    path = _state_dict(inputs / "weights.pth")
    refused(export(path, *usable(inputs)), 2, "--arch")


@pytest.mark.parametrize("arch", ["nothing", "timm:no_such_network", "timm:mobilenetv2_100", "os:system", "timm:"])
def test_wrong_architecture(inputs: Path, arch: str) -> None:
    path = _state_dict(inputs / "weights.pth")
    ran = export(path, *usable(inputs), "--arch", arch)
    assert ran.exit in (2, 3), ran
    refused(ran, ran.exit)


def test_all_unsupported_operators_are_listed(inputs: Path) -> None:
    extra = "u = Hardmax(images)\n v = Hardmax(u)\n y = own.Thing(v)\n entered = LRN <size=3> (y)"
    path = write_small_classifier(inputs / "odd.onnx", extra=extra)
    refused(export(path, *usable(inputs)), 3, "2 × Hardmax", "Thing", "LRN")
    refused(edgeq("inspect", path), 3, "2 × Hardmax", "Thing", "LRN")


def test_dynamic_size_needs_imgsz(inputs: Path) -> None:
    path = write_small_classifier(inputs / "dynamic.onnx", "H")
    refused(export(path, *usable(inputs)), 2, "--imgsz")
    assert export(path, *usable(inputs), "--imgsz", "32", "--out", inputs / "out").exit == 0


def test_unknown_preprocessing_of_a_plain_classifier(inputs: Path) -> None:
    refused(export(inputs / "net.onnx", "--calib", inputs / "images"), 2, "--preprocess", "imagenet")


# --- data -----------------------------------------------------------------------------------------------------


def test_integers_need_calibration(inputs: Path) -> None:
    refused(export(inputs / "net.onnx", "--preprocess", "cifar"), 2, "--calib")
    refused(export(inputs / "net.onnx", "--preprocess", "cifar", target="jetson-int8"), 2, "--calib")


def test_missing_calibration_folder(inputs: Path) -> None:
    refused(export(inputs / "net.onnx", "--preprocess", "cifar", "--calib", inputs / "no where"), 2, "no where")


def test_empty_calibration_folder(inputs: Path) -> None:
    (inputs / "empty").mkdir()
    (inputs / "empty" / "notes.txt").write_text("no images here")
    refused(export(inputs / "net.onnx", "--preprocess", "cifar", "--calib", inputs / "empty"), 2, "no images")


def test_only_unreadable_images(inputs: Path) -> None:
    for name in ("a.png", "b.jpg"):
        (inputs / "images" / name).write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    for path in (inputs / "images").glob("[0-9].png"):
        path.unlink()
    refused(export(inputs / "net.onnx", *usable(inputs)), 2, "images")


def test_some_unreadable_images_are_named_and_left_out(inputs: Path) -> None:
    (inputs / "images" / "torn.png").write_bytes((inputs / "images" / "0.png").read_bytes()[:40])
    ran = export(inputs / "net.onnx", *usable(inputs), "--out", inputs / "out", "--json")
    assert ran.exit == 0
    assert any("torn.png" in note for note in ran.document["notes"])
    assert ran.document["manifest"]["calibration"]["rejected"] == ["torn.png"]
    assert len(ran.document["manifest"]["calibration"]["images"]) == 3


@pytest.mark.parametrize("number", ["0", "-3", "many", "1.5", "9999999999", "²"])
def test_scenes_need_a_number(number: str) -> None:
    refused(export("zoo:depth", "--calib", f"scenes:{number}"), 2, "scenes")


def test_data_that_is_not_there(inputs: Path) -> None:
    ran = export(inputs / "net.onnx", *usable(inputs), "--data", "scens")
    refused(ran, 2, "scens", "Did you mean scenes?")


def test_metric_that_the_data_cannot_give(inputs: Path) -> None:
    """Images without labels measure agreement alone; a budget on accuracy is then missed, with a reason."""
    ran = export(inputs / "net.onnx", *usable(inputs), "--data", inputs / "images", "--max-drop", "top1=9", "--out",
                 inputs / "out", "--json")  # fmt: skip
    assert ran.exit == ran.document["exit"] == 4
    assert any("top1 was not measured" in note and "sqnr" in note for note in ran.document["notes"])


# --- options --------------------------------------------------------------------------------------------------


def test_unknown_target() -> None:
    refused(export("zoo:depth", "--calib", "scenes", target="jetson-in8"), 2, "Did you mean jetson-int8?")


def test_unknown_estimator(inputs: Path) -> None:
    for name in ("msee", "percentile:abc", "percentile:101", "mse:3", ""):
        refused(export(inputs / "net.onnx", *usable(inputs), "--estimator", name), 2)


def test_unknown_preprocessing(inputs: Path) -> None:
    calib = ("--calib", inputs / "images")
    refused(export(inputs / "net.onnx", *calib, "--preprocess", "imagnet"), 2, "imagnet", "imagenet")
    refused(export(inputs / "net.onnx", *calib, "--preprocess", inputs / "none.json"), 2, "none.json")
    for content in ("[]", "{", '{"size": [0, 4]}', '{"size": "big"}', '{"std": [0.0]}', '{"unknown": 1}', "\xff"):
        path = inputs / "how.json"
        path.write_text(content, "latin-1")
        refused(export(inputs / "net.onnx", *calib, "--preprocess", path), 2)


@pytest.mark.parametrize("size", ["0", "-1", "12x", "axb", "1x2x3", "99999999", "٣٢", "²", "32.0", ""])
def test_bad_image_size(inputs: Path, size: str) -> None:
    refused(export(inputs / "net.onnx", *usable(inputs), f"--imgsz={size}"), 2, "384x640")


@pytest.mark.parametrize("budget", ["top1", "top1=", "=1", "top1=-1", "top1=nan", "top1=one", ""])
def test_bad_budget(inputs: Path, budget: str) -> None:
    refused(export(inputs / "net.onnx", *usable(inputs), f"--max-drop={budget}"), 2, "METRIC=POINTS")


def test_budget_without_labels(inputs: Path) -> None:
    refused(export(inputs / "net.onnx", *usable(inputs), "--max-drop", "top1=1"), 2, "--data")


def test_validate_bad_paths(inputs: Path) -> None:
    refused(edgeq("validate", "none.onnx", "--data", "scenes"), 2, "none.onnx")
    (inputs / "a.engine").write_bytes(b"plan")
    refused(edgeq("validate", inputs / "a.engine", "--data", "scenes"), 3, ".onnx", ".tflite")
    budget = ("--max-drop", "top1=1")
    refused(edgeq("validate", inputs / "net.onnx", "--data", "scenes", *budget), 2, "--against")


def test_lint_missing_file() -> None:
    refused(edgeq("lint", "none.onnx"), 2, "none.onnx")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("x", ("cannot be read",)),
        ("[export]\nestimater = 'mse'", ("[export]", "Did you mean estimator?")),
        ("[exprt]\nestimator = 'mse'", ("Did you mean export?",)),
        ("estimator = 'mse'", ("one table of options per command",)),
        ("[targets]\nestimator = 'mse'", ("unknown option", "[targets]")),
    ],
)
def test_bad_configuration(inputs: Path, content: str, words: tuple[str, ...]) -> None:
    path = inputs / "edgeq.toml"
    path.write_text(content)
    refused(edgeq("--config", path, "targets"), 2, *words)


def test_configured_value_of_the_wrong_kind(inputs: Path) -> None:
    path = inputs / "edgeq.toml"
    path.write_text("[export]\nseed = 'many'")
    ran = edgeq("--config", path, "export", "zoo:depth", "-t", "onnx-fp32")
    assert ran.exit == 2 and "'many' is not a valid integer" in ran.stderr and files_below(Path()) == []


# --- the output -----------------------------------------------------------------------------------------------


def test_output_below_a_file(inputs: Path) -> None:
    ran = export(inputs / "net.onnx", *usable(inputs), "--out", inputs / "net.onnx" / "out")
    refused(ran, 2, "out")


def test_output_is_a_file(inputs: Path) -> None:
    before = (inputs / "net.onnx").read_bytes()
    refused(export(inputs / "net.onnx", *usable(inputs), "--out", inputs / "net.onnx"), 2, "a file")
    assert (inputs / "net.onnx").read_bytes() == before


def test_output_where_nothing_can_be_made(inputs: Path) -> None:
    refused(export(inputs / "net.onnx", *usable(inputs), "--out", "/proc/edgeq-out"), 2, "cannot write")


def _subprocess(arguments: list[object], cwd: Path, **named: object) -> subprocess.Popen[str]:
    environment = {**os.environ, **ONE_THREAD, "PYTHONPATH": str(ROOT), "TMPDIR": str(cwd.parent)}
    command = [sys.executable, "-m", "edgeq.cli", *map(str, arguments)]
    return subprocess.Popen(  # type: ignore[call-overload,no-any-return]
        command, cwd=cwd, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **named
    )


def test_full_disk(inputs: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: the first write of the model fails half way."""
    import resource

    (inputs / "cwd").mkdir()
    limit = 4 << 10
    assert export(inputs / "net.onnx", *usable(inputs), "--out", inputs / "out").exit == 0
    assert (inputs / "out" / "net_int8.onnx").stat().st_size > limit
    process = _subprocess(
        ["export", inputs / "net.onnx", "-t", "onnx-int8", *usable(inputs), "--out", tmp_path / "out"],
        inputs / "cwd",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    stdout, stderr = process.communicate(timeout=120)
    refused(Ran(process.returncode, stdout, stderr), 2, "cannot write", "space")
    assert files_below(inputs / "cwd") == []


def test_interrupt(inputs: Path, tmp_path: Path) -> None:
    """Ctrl-C while calibrating many images."""
    (inputs / "cwd").mkdir()
    write_noise_images(inputs / "many", 500, 64)
    process = _subprocess(
        ["export", "zoo:detector", "-t", "onnx-int8", "--calib", inputs / "many", "--calib-images", 500,
         "--out", tmp_path / "out", "--threads", 1],
        inputs / "cwd",
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a test run in the background ignores it
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while (
        process.poll() is None
        and time.monotonic() < deadline
        and not _reads(process.pid, "cv2.abi3", "onnx_cpp2py_export")
    ):
        time.sleep(0.1)
    time.sleep(1.5)
    assert not files_below(tmp_path)  # calibrating goes on for many times as long
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=120)
    assert (process.returncode, stderr.strip(), stdout) == (130, "error: interrupted", "")
    assert files_below(inputs / "cwd") == files_below(tmp_path) == []


def _reads(pid: int, *libraries: str) -> bool:
    try:
        maps = Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return True
    return all(library in maps for library in libraries)


def test_unicode_and_spaces(inputs: Path) -> None:
    folder = inputs / "mit Leerzeichen – 模型 [x]"
    write_small_classifier(folder / "nét 1.onnx")
    shutil.copytree(inputs / "images", folder / "Bilder äöü")
    ran = export(
        folder / "nét 1.onnx", "--calib", folder / "Bilder äöü", "--preprocess", "cifar", "--out", folder / "aus gabe",
        "--json",
    )  # fmt: skip
    assert ran.exit == 0
    written = {Path(entry["path"]).name for entry in ran.document["artifact"]}
    assert "nét 1_int8.onnx" in written
    onnx.checker.check_model(str(folder / "aus gabe" / "nét 1_int8.onnx"))
    assert edgeq("lint", folder / "aus gabe" / "nét 1_int8.onnx", "--for", "onnxruntime").exit == 0


def test_scenes_can_be_a_folder_too(inputs: Path) -> None:
    """Rendered scenes on disk serve like any folder, and a size that the model does not have is resized."""
    write_dataset(inputs / "rendered", 3, 5, 48, "classify")
    ran = export(inputs / "net.onnx", "--calib", inputs / "rendered", "--preprocess", "cifar", "--out", inputs / "out")
    assert ran.exit == 0
