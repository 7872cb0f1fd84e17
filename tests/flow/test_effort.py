"""--effort end to end: what it changes in the artifact, that it repeats and goes on, and what is the default."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeq.emit.onnx import build_model, to_bytes
from edgeq.flow.contest import DRAWS
from edgeq.flow.effort import SETTINGS, LearnedFile
from edgeq.ir import ops as o
from edgeq.quantize.refine import Settings
from tests.command_line import Ran, edgeq, write_noise_images, write_small_classifier
from tests.quantized import Net


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_small_classifier(tmp_path / "net.onnx")
    write_noise_images(tmp_path / "images", 12)
    return tmp_path


def exported(out: str, *more: object) -> Ran:
    command = ("export", "net.onnx", "-t", "rpi-w4a8", "--calib", "images", "--preprocess", "cifar")
    ran = edgeq(*command, "--format", "*=w4a8", "--data", "images", "--out", out, "--json", *more)
    assert ran.exit == 0, ran.stderr
    return ran


def sqnr(ran: Ran) -> float:
    rows: list[dict[str, Any]] = ran.document["rows"]
    (found,) = [float(row["value"]) for row in rows if (row["metric"], row["where"]) == ("sqnr", "reference")]
    return found


def test_more_effort_comes_closer_to_float_and_is_the_default_below_eight_bits(place: Path) -> None:
    fast, balanced, usual = exported("fast", "--effort", "fast"), exported("b", "--effort", "balanced"), exported("d")
    assert sqnr(balanced) > sqnr(fast) + 1
    assert sqnr(usual) == sqnr(balanced)
    manifests = {out: json.loads(Path(out, "manifest.json").read_text()) for out in ("fast", "b", "d")}
    assert manifests["fast"]["graph_sha256"] != manifests["b"]["graph_sha256"] == manifests["d"]["graph_sha256"]
    assert manifests["b"]["options"]["effort"] == "balanced"


def test_what_was_learned_is_kept_and_used_again(place: Path) -> None:
    exported("first")
    (kept,) = (place / "cache" / "edgeq" / "rounding").glob("*.npz")
    before = kept.stat().st_mtime_ns
    exported("second")
    assert kept.stat().st_mtime_ns == before
    exported("third", "--no-cache")
    hashes = {json.loads(Path(o, "manifest.json").read_text())["graph_sha256"] for o in ("first", "second", "third")}
    assert len(hashes) == 1
    kept.write_bytes(kept.read_bytes()[:100])
    exported("fourth")
    assert json.loads(Path("fourth", "manifest.json").read_text())["graph_sha256"] in hashes


def test_a_folder_that_cannot_be_written_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    store = LearnedFile(tmp_path / "file" / "state.npz")
    store.save({})
    assert store.load() == {}


def graph_of(out: str) -> str:
    found: str = json.loads(Path(out, "manifest.json").read_text())["graph_sha256"]
    return found


@pytest.mark.parametrize("moves", [True, False])
@pytest.mark.parametrize("settings", [Settings(), Settings(steps=40, images=8)])
def test_best_is_what_does_better_on_images_held_out(
    place: Path, monkeypatch: pytest.MonkeyPatch, settings: Settings, moves: bool
) -> None:
    monkeypatch.setitem(SETTINGS, "best", settings)
    monkeypatch.setattr("edgeq.flow.whole.LEAST_SHOWN", 400)
    monkeypatch.setattr("edgeq.flow.whole.MOST_SHOWN", 400)
    if not moves:
        monkeypatch.setattr("edgeq.quantize.migrate.LEAST_GAIN", 1e9)
    fast, best = exported("fast", "--effort", "fast"), exported("best", "--effort", "best")
    assert sqnr(best) > sqnr(fast) + 1
    (note,) = [note for note in best.document["notes"] if note.startswith("loss on")]
    plain, *others = (float(part.split(" ")[-1]) for part in note.split(": ")[1].split(", "))
    assert "with descent on units" in note
    assert moves == any(note.startswith("channels moved") for note in best.document["notes"])
    assert len(others) == DRAWS + moves and 0 < min(plain, *others) < 1
    (note,) = [note for note in best.document["notes"] if note.startswith("loss of the best of these")]
    trained = float(note.split(" ")[-1])
    exported("balanced", "--effort", "balanced")
    assert (graph_of("best") == graph_of("balanced")) == (plain <= min(trained, *others))


def test_few_images_are_told_where_activations_have_few_bits(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeq.flow.whole.LEAST_SHOWN", 40)
    monkeypatch.setattr("edgeq.flow.whole.MOST_SHOWN", 40)
    for effort, bits in product(("fast", "balanced", "best"), (4, 8)):
        command = ("quantize", "net.onnx", "--calib", "images", "--preprocess", "cifar", "--effort", effort)
        ran = edgeq(*command, "--format", f"*=w4a{bits}", "--out", f"few{effort}{bits}", "--json")
        assert ran.exit == 0, ran.stderr
        notes = [note for note in ran.document["notes"] if "with the whole network trained" in note]
        few = [note for note in ran.document["notes"] if note.startswith("12 calibration images are few")]
        assert len(notes) == (effort == "best") and len(few) == (bits == 4 and effort != "fast")


def write_uneven_norm(path: Path) -> None:
    """A layer norm whose channels reach very differently far, which the layer behind takes back."""
    net = Net(1, 3, 16, 16)
    flat = net.add(o.Transpose(net.add(o.Reshape("x", "flat", (1, 3, 256))), "tokens", (0, 2, 1)))
    wide = net.linear(flat, 24, "wide")
    spread = np.geomspace(1, 60, 24)
    normal = net.add(o.LayerNorm(wide, net.constant(spread), net.constant(np.zeros(24)), "normal", 2, 1e-5))
    weight = net.constant(net.rng.normal(0, 0.2, (10, 24)) / spread)
    model, _ = build_model(net.graph(net.add(o.Linear(normal, weight, net.reals(10), "y"))), "onnxruntime")
    path.write_bytes(to_bytes(model))


def test_channels_move_where_activations_have_few_bits(place: Path) -> None:
    write_uneven_norm(place / "norm.onnx")
    write_noise_images(place / "small", 12, 16)
    noise = {}
    for bits in (4, 8):
        for effort in ("fast", "balanced"):
            command = ("quantize", "norm.onnx", "--calib", "small", "--preprocess", "cifar", "--effort", effort)
            formats = ("--weights", "int8", "--activations", f"int{bits}", "--format", f"*=w8a{bits}")
            ran = edgeq(*command, *formats, "--data", "small", "--out", f"{effort}{bits}", "--json")
            assert ran.exit == 0, ran.stderr
            noise[effort, bits] = sqnr(ran)
            moved = [note for note in ran.document["notes"] if note.startswith("channels moved at normal")]
            assert bool(moved) == (bits == 4 and effort == "balanced")
    assert noise["balanced", 4] > noise["fast", 4] + 5
