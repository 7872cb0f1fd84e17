"""Bands are chosen where they lower the noise of the exported network, and rules follow the operators they name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeq.datasets.preprocess import Preprocess
from edgeq.emit.onnx import build_model, to_bytes
from edgeq.flow.banding import banded
from edgeq.flow.effort import SETTINGS
from edgeq.flow.inputs import CalibrationSet, InputRule, calibration_set
from edgeq.flow.ranges import quantize
from edgeq.flow.statistics import inputs_of
from edgeq.ir import ops as o
from edgeq.ir.graph import Editor, Graph, Type
from edgeq.passes.lower import lower
from edgeq.progress import silent
from edgeq.quantize.refine import Settings
from edgeq.recipe import Formats, Recipe, Rule
from edgeq.reference.interpret import run
from edgeq.target import Target
from edgeq.targets import find_target
from tests.command_line import edgeq, write_noise_images

WIDE, NARROW = 6, 12
TARGET = replace(find_target("rpi-int8"), kernels="exact", rounding="single")


def uneven(ratio: float = 50.0) -> Graph:
    """A separable block: a few channels reach `ratio` times as far as the others, which the output depends on as much."""
    rng = np.random.default_rng(0)
    channels = WIDE + NARROW
    spread = np.array([ratio] * WIDE + [1.0] * NARROW)
    editor = Editor("net", ("x",), {"x": Type((1, 3, 32, 32))})

    def conv(x: o.Value, out: o.Value, weight: np.ndarray, groups: int = 1) -> None:  # type: ignore[type-arg]
        name = editor.constant(f"{out}.w", weight.astype(np.float32))
        bias = editor.constant(f"{out}.b", rng.normal(0, 0.2, len(weight)).astype(np.float32))
        editor.append(o.Conv(x, name, bias, out, groups=groups))

    conv("x", "first", rng.normal(0, 0.5, (8, 3, 3, 3)))
    editor.append(o.Apply("first", "begun", o.Function("relu")))
    conv("begun", "stem", rng.normal(0, 0.3, (channels, 8, 1, 1)) * spread[:, None, None, None])
    editor.append(o.Apply("stem", "active", o.Function("relu")))
    conv("active", "deep", rng.normal(0, 1, (channels, 1, 3, 3)) / spread[:, None, None, None], groups=channels)
    editor.append(o.Apply("deep", "again", o.Function("relu")))
    conv("again", "last", rng.normal(0, 0.5, (6, channels, 1, 1)))
    return editor.graph(["last"])


def images() -> CalibrationSet:
    rule = InputRule(Preprocess(size=(32, 32)), "as given")
    return calibration_set("scenes:8", 8, rule, "detect")


def noise(graph: Graph, plain: Graph, recipe: Recipe, target: Target, calibration: CalibrationSet) -> float:
    """Of the lowered network, relative to the float one."""
    lowered = lower(graph, quantize(graph, target, recipe, calibration, "", silent, use_cache=False).plan)
    total = power = 0.0
    for sample in inputs_of(graph, calibration):
        (found,), (wanted,) = run(lowered, sample).values(), run(plain, sample).values()
        total, power = total + float((found - wanted).square().sum()), power + float(wanted.square().sum())
    return total / power


def test_bands_lower_the_noise_of_the_lowered_network() -> None:
    graph, calibration, notes = uneven(), images(), list[str]()
    recipe = Recipe("mse", (Rule("deep", Formats(find_target("c-int8").weight)),))
    found, rules = banded(graph, recipe, TARGET, calibration, notes, silent)
    assert notes and "stem (" in notes[0] and f"+ {WIDE})" in notes[0]
    assert {"deep.band0", "deep.band1"} <= found.producer.keys()
    assert rules.formats_of("deep.band1") == recipe.formats_of("deep") != rules.formats_of("last")
    before = noise(graph, graph, recipe, TARGET, calibration)
    after = noise(found, graph, rules, TARGET, calibration)
    assert before > 1e-4
    assert after < before / 2


def test_best_tries_finer_bands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(SETTINGS, "best", Settings())
    model, _ = build_model(uneven(5), "onnxruntime")
    Path("net.onnx").write_bytes(to_bytes(model))
    write_noise_images(tmp_path / "images", 16)
    command = ("quantize", "net.onnx", "--calib", "images", "--preprocess", "cifar", "--json", "--out", "run")
    ran = edgeq(*command, "--weights", "int8", "--activations", "int8", "--effort", "best")
    assert ran.exit == 0, ran.stderr
    usual, finer = (note for note in ran.document["notes"] if "channels computed in bands" in note)
    assert finer.startswith("with finer bands: ") and finer.count(" + ") > usual.count(" + ")
    (note,) = (note for note in ran.document["notes"] if note.startswith("loss on"))
    losses = {name: float(loss) for name, _, loss in (t.rpartition(" ") for t in note.split(": ")[1].split(", "))}
    assert losses["with finer bands"] < losses["balanced (draw 1)"]
    bands = {item["key"] for item in ran.document["layers"] if ".band" in item["key"]}
    assert any(".band2" in key for key in bands) == (min(losses, key=losses.__getitem__) == "with finer bands")


def test_even_channels_stay_together() -> None:
    graph, calibration, notes = uneven(), images(), list[str]()
    even = {
        name: array / np.abs(array).max(axis=(1, 2, 3), keepdims=True) if array.ndim == 4 else array
        for name, array in graph.constants.items()
    }
    graph = replace(graph, constants={name: array.astype(np.float32) for name, array in even.items()})
    found, _ = banded(graph, Recipe(), TARGET, calibration, notes, silent)
    assert found is graph
    assert not notes


@pytest.mark.parametrize("target", ["onnx-int8", "rpi-int8", "c-int8"])
def test_files_with_bands_agree_with_the_reference(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model, _ = build_model(uneven(), "onnxruntime")
    Path("net.onnx").write_bytes(to_bytes(model))
    write_noise_images(tmp_path / "images", 8)
    command = ("export", "net.onnx", "-t", target, "--calib", "images", "--preprocess", "cifar", "--no-cache", "--json")
    ran = edgeq(*command, "--out", "run", "--float-share", 0)
    assert ran.exit == 0, ran.stderr
    assert len([item for item in ran.document["layers"] if ".band" in item["key"]]) >= 3
    assert all(item["equal_share"] > 0.99 for item in ran.document["agreement"])
