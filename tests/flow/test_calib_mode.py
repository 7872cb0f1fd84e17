"""Calibration modes end to end: what is recorded, what depends on what, and an honest choice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgeq.calibrate.cache import list_entries
from edgeq.calibrate.severity import STUDY
from edgeq.flow.calib_mode import CLEAN, MIXED, ROBUST, _decided
from tests.command_line import Ran, edgeq, write_noise_images, write_small_classifier


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_small_classifier(tmp_path / "net.onnx")
    write_noise_images(tmp_path / "images", 12)
    return tmp_path


def exported(mode: str, out: str, *more: object) -> Ran:
    command = (
        "export",
        "net.onnx",
        "-t",
        "onnx-int8",
        "--float-share",
        0,
        "--calib",
        "images",
        "--preprocess",
        "cifar",
    )
    ran = edgeq(*command, "--calib-mode", mode, "--out", out, "--json", *more)
    assert ran.exit == 0, ran.stderr
    return ran


def calibration_of(out: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(out, "manifest.json").read_text())["calibration"]
    return found


def test_mixed_records_every_image_and_robust_keeps_the_clean_ones(place: Path) -> None:
    exported("clean", "clean")
    ran = exported("mixed", "mixed")
    exported("robust", "robust")
    clean, mixed, robust = (calibration_of(out) for out in ("clean", "mixed", "robust"))
    assert clean["mixture"] is None and all("degradation" not in image for image in clean["images"])
    degraded = [image for image in mixed["images"] if "degradation" in image]
    assert len(mixed["images"]) == 12 and len(degraded) == 6
    assert all(image["degradation"] in STUDY and image["level"] > 0 for image in degraded)
    digests = {image["name"]: image["sha256"] for image in clean["images"]}
    assert all(digests[image["name"]] != image["sha256"] for image in degraded)
    assert len(robust["images"]) == 18
    assert any("ranges in degraded images" in note for note in ran.document["notes"])
    shifts = [layer["shift"] for layer in ran.document["layers"]]
    assert len(shifts) >= 3 and all(0 < shift < 100 for shift in shifts) and len(set(shifts)) > 1
    ranges = {out: json.loads(Path(out, "manifest.json").read_text())["ranges"] for out in ("clean", "mixed", "robust")}
    assert ranges["clean"] != ranges["mixed"]


def test_two_runs_write_identical_bytes(place: Path) -> None:
    for out in ("first", "second"):
        exported("robust", out, "--no-cache")
    for name in ("net_int8.onnx", "manifest.json"):
        assert Path("first", name).read_bytes() == Path("second", name).read_bytes()


def test_one_pixel_is_another_cache_entry(place: Path) -> None:
    exported("mixed", "first")
    before = {entry.key for entry in list_entries()}
    assert len(before) == 2, "clean and degraded statistics are kept apart"
    exported("mixed", "again")
    assert {entry.key for entry in list_entries()} == before
    name = next(image["name"] for image in calibration_of("first")["images"] if "degradation" not in image)
    pixels = cv2.imread(f"images/{name}")
    pixels[3, 4, 1] ^= 1
    cv2.imwrite(f"images/{name}", pixels)
    exported("mixed", "changed")
    assert len({entry.key for entry in list_entries()} - before) == 1, "only the clean part has changed"


def test_the_degradations_are_part_of_the_key(place: Path) -> None:
    exported("mixed", "first", "--calib-degrade", "blur:3", "--calib-share", 1)
    before = {entry.key for entry in list_entries()}
    assert len(before) == 1
    exported("mixed", "second", "--calib-degrade", "blur:4", "--calib-share", 1)
    assert len(list_entries()) == 2


def test_auto_says_what_it_found(place: Path) -> None:
    ran = exported("auto", "auto")
    (note,) = [note for note in ran.document["notes"] if note.startswith("calibration mode:")]
    assert "3 images kept aside" in note and "[" in note
    assert ("no gain" in note) == (calibration_of("auto")["mixture"] is None)


def test_bad_options_are_told(place: Path) -> None:
    for arguments, words in (
        (("--calib-mode", "robsut"), "Did you mean robust?"),
        (("--calib-mode", "mixed", "--calib-degrade", "nose:2"), "Did you mean noise?"),
        (("--calib-mode", "robust", "--calib-risk", "max"), "cvar"),
        (("--calib-mode", "auto", "--calib-images", 4), "too few images"),
    ):
        ran = edgeq("export", "net.onnx", "-t", "onnx-int8", "--calib", "images", "--preprocess", "cifar", *arguments)
        assert ran.exit == 2 and words in ran.stderr
    assert not Path("runs").exists()


def test_a_gain_must_be_sure_to_be_chosen() -> None:
    rng = np.random.default_rng(0)
    clean = rng.normal(-20, 3, (12, 8))
    better, unsure = clean - rng.normal(1.0, 0.3, clean.shape), clean - rng.normal(0.2, 4, (12, 1))
    found = _decided({CLEAN: clean, MIXED: unsure, ROBUST: better}, 0.5)
    assert found.mode == ROBUST and found.gains[ROBUST].low > 0.5 and found.gains[MIXED].low < 0
    none = _decided({CLEAN: clean, MIXED: clean + 0.5, ROBUST: unsure}, 0.5)
    assert none.mode == CLEAN and "no gain" in none.describe()
