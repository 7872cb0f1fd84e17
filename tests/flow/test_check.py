"""Budgets and the promise of agreement decide the exit code."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeq.datasets.preprocess import Preprocess
from edgeq.emit.tflite import emit
from edgeq.flow.check import (
    LEAST_CODES,
    OUTPUT_IMAGES,
    agreement,
    apply_accuracy_budget,
    apply_agreement_promise,
    loss_in_points,
)
from edgeq.flow.inputs import InputRule
from edgeq.progress import silent
from edgeq.report import OutputAgreement, Report, Row
from edgeq.targets import find_target
from tests.lowering import lowered
from tests.quantized import Net, inputs_of

TARGET = find_target("tflite-int8")


def measured(metric: str, base: float, value: float) -> Report:
    rows = [Row(metric, base, "", 9, "fp32", ""), Row(metric, value, "", 9, "artifact", "")]
    return Report("export", rows=rows)


@pytest.mark.parametrize(
    ("metric", "base", "value", "allowed", "exit"),
    [
        ("map50", 0.5, 0.49, 2.0, 0),
        ("map50", 0.5, 0.47, 2.0, 4),
        ("map50", 0.5, 0.6, 0.0, 0),
        ("absrel", 0.10, 0.13, 2.0, 4),
        ("absrel", 0.10, 0.05, 0.0, 0),
        ("top1", 0.5, float("nan"), 1.0, 4),
    ],
)
def test_accuracy_budget(metric: str, base: float, value: float, allowed: float, exit: int) -> None:
    report = measured(metric, base, value)
    apply_accuracy_budget(report, {metric: allowed})
    assert report.exit == exit and bool(report.notes) == bool(exit)


def test_budget_on_what_was_not_measured() -> None:
    report = measured("map50", 0.5, 0.5)
    apply_accuracy_budget(report, {"top1": 50.0})
    assert report.exit == 4 and "measured: map50" in report.notes[0]
    assert loss_in_points("rmse", 1.0, 1.5) == pytest.approx(50.0)


@pytest.mark.parametrize(
    ("target", "kind", "share", "codes", "db", "exit"),
    [
        ("onnx-int8", "layer", 0.99, 1, 9.0, 0),
        ("onnx-int8", "layer", 0.98, 1, 99.0, 5),
        ("onnx-int8", "layer", 1.0, 2, 99.0, 5),
        ("onnx-int8", "output", 0.1, 9, 3.0, 0),
        ("onnx-fp32", "output", 0.1, 9, 60.0, 0),
        ("onnx-fp32", "output", 1.0, 0, 59.9, 5),
    ],
)
def test_promise(target: str, kind: str, share: float, codes: int, db: float, exit: int) -> None:
    report = Report("export")
    report.agreement = [OutputAgreement("v", kind, share, codes, 0.1, db, 100)]  # type: ignore[arg-type]
    apply_agreement_promise(report, find_target(target))
    assert report.exit == exit and all("agreement broken at v" in note for note in report.notes)


@pytest.mark.parametrize("only_layers", [False, True])
@pytest.mark.parametrize(("side", "share", "images"), [(8, 0.99, 1), (8, 1.1, OUTPUT_IMAGES), (64, 1.1, 1)])
def test_small_layers_that_miss_the_promise_are_looked_at_in_more_images(
    side: int, share: float, images: int, only_layers: bool, tmp_path: Path
) -> None:
    """No layer has a share of 1.1; one pooling window makes a large part of a small layer of one code."""
    net = Net(1, 3, side, side, seed=3)
    graph = net.graph(net.apply(net.conv("x", 2, "a"), "relu", "b"))
    rounded = lowered(graph, TARGET, inputs_of(graph))
    artifact = emit(rounded, TARGET, tmp_path / "out", "net", {}, {})
    found = agreement(
        rounded, artifact, InputRule(Preprocess((side, side)), ""), 0, 1, silent, only_layers=only_layers, share=share
    )
    layers = [item for item in found if item.kind == "layer"]
    assert layers and all(item.equal_share == 1 for item in layers)
    assert (2 * side * side < LEAST_CODES) == (side == 8)
    assert {item.n for item in layers} == {images * channels * side * side for channels in (2, 3)}
