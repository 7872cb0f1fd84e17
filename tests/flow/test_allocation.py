"""Budgets in a run: kept, explained, exceeded with a reason, and raised layer by layer where accuracy is missed."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeq.datasets.preprocess import preset
from edgeq.errors import BudgetError, UsageError
from edgeq.flow import ExportRequest, export_model
from edgeq.flow.allocation import Allocation, raised, within_budgets
from edgeq.flow.inputs import InputRule, calibration_set
from edgeq.flow.limits import Budgets
from edgeq.ir import ops as o
from edgeq.ir.file import load
from edgeq.progress import silent
from edgeq.quantize.allocate import Choice, Item, cost_of, loss_of
from edgeq.quantize.asked import Asked
from edgeq.recipe import Recipe, parse_formats
from edgeq.report import Report
from tests.format_nets import LAYERS, REFERENCE, residual


def request(folder: Path, **options: object) -> ExportRequest:
    common = {"target": "reference", "calib": "scenes", "calib_images": 4, "estimator": "mse", "no_cache": True}
    return ExportRequest("zoo:classifier", out=folder / "run", **(common | options))  # type: ignore[arg-type]


def weight_bits(report: Report) -> list[str]:
    return [entry["formats"] for entry in report.manifest["allocation"]]


@pytest.mark.parametrize("search", ["ilp", "greedy", "closed"])
def test_mean_bits(search: str, tmp_path: Path) -> None:
    budgets = Budgets(avg_bits=5.0, choices=("w3a8", "w4a8", "w8a8", "w4a4", "w8a4"), search=search)  # type: ignore[arg-type]
    report = export_model(request(tmp_path, budgets=budgets))
    found = report.manifest["allocation"]
    assert sum(entry["weight bits"] for entry in found) <= 5 * sum(
        entry["weight bits"] / int(entry["formats"][1]) for entry in found
    )
    assert len(set(weight_bits(report))) >= 3 and weight_bits(report)[0] == weight_bits(report)[-1] == "w8a8"
    assert any("formats allocated" in note for note in report.notes)
    graph = load(tmp_path / "run" / "graph.edgeq")
    bits = {graph.types[op.weight].format.bits for op in graph.ops if isinstance(op, o.Conv | o.Linear)}  # type: ignore[union-attr]
    assert {3, 8} <= bits or {4, 8} <= bits


def test_size_and_what_cannot_be_reached(tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match=r"got 1,000 bytes; allowed: [0-9,]+ and more") as refused:
        export_model(request(tmp_path, budgets=Budgets(max_size=1000)))
    least = int(re.sub(r".*allowed: ([0-9,]+) .*", r"\1", str(refused.value)).replace(",", ""))
    with pytest.raises(BudgetError, match=f"allowed: {least:,} and"):
        export_model(request(tmp_path, budgets=Budgets(max_size=least - 1)))
    with pytest.raises(BudgetError, match=r"got 1.5 weight bits on average; allowed: [2-9].*and more"):
        export_model(request(tmp_path, budgets=Budgets(avg_bits=1.5)))
    assert not (tmp_path / "run").exists()
    report = export_model(request(tmp_path, target="tflite-int8", budgets=Budgets(max_size=200_000)))
    size = report.value("constant_bytes", "reference")
    assert size is not None and 170_000 < size <= 200_000
    assert {"w4a8", "w8a8"} <= set(weight_bits(report)) <= {"w4a8", "w8a8", "a8"}


def test_accuracy_that_is_missed_raises_bits_and_says_where(tmp_path: Path) -> None:
    """The gate wants two steps up; a budget of bytes does not give way, mean bits do."""
    rng = np.random.default_rng(0)
    for k in range(4):
        cv2.imwrite(str(tmp_path / f"{k}.png"), rng.integers(0, 256, (6, 6, 3), np.uint8))
    images = calibration_set(str(tmp_path), 4, InputRule(preset("yolo", (6, 6)), ""), "classify")
    asked: list[tuple[str, ...]] = []

    def is_good(recipe: Recipe) -> bool:
        asked.append(tuple(str(recipe.formats_of(name)) for name in LAYERS))
        return sum(a != b for a, b in zip(asked[0], asked[-1], strict=True)) >= 2

    def notes_of(budgets: Budgets) -> list[str]:
        asked.clear()
        _, notes, entries = within_budgets(
            residual(), REFERENCE, Recipe("mse"), images, budgets, "", silent, use_cache=False, is_good=is_good
        )
        assert [entry["operator"] for entry in entries] == list(LAYERS)
        return notes

    choices = ("w2a4", "w4a4", "w6a4", "w2a8", "w4a8", "w6a8")
    found = notes_of(Budgets(avg_bits=6, choices=choices))
    assert 3 <= len(asked) <= 6 and any("raised to" in note for note in found)
    assert not any("no finer" in note for note in found)
    found = notes_of(Budgets(max_size=620, choices=choices))
    assert len(set(asked)) == 1 and any("no finer formats are left" in note for note in found)


def test_raising_goes_on_until_the_budget() -> None:
    items = tuple(
        Item(
            f"op{k}",
            f"t{k}",
            tuple(Choice(parse_formats(f"w{b}a8"), (k + 1) * 4.0**-b, {"weight bytes": b}) for b in (8, 4, 2)),
        )
        for k in range(4)
    )
    start = Allocation(items, (2, 2, 2, 2), {"weight bytes": 20.0})
    once, why = raised(start)
    assert once.selection == (2, 2, 2, 0) and why is not None and "op3" in why and "w8a8" in why
    state, count = start, 0
    while why is not None:
        state, why = raised(state)
        count += why is not None
    assert 1 <= count < 9 and loss_of(items, state.selection) < loss_of(items, start.selection)
    assert cost_of(items, state.selection, "weight bytes") <= 20


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"target": "jetson-int8", "budgets": Budgets(avg_bits=5)}, "one format only"),
        ({"budgets": Budgets(avg_bits=5), "formats": Asked("int4")}, "budgets choose the formats"),
        ({"budgets": Budgets(avg_bits=5, choices=("w4",))}, "choices name both"),
        ({"budgets": Budgets(max_latency_ms=5)}, "--latency-table"),
        ({"budgets": Budgets(search="bisect")}, "asks for the accuracy"),
        ({"budgets": Budgets(max_size=10**6, search="closed")}, "mean bits"),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, object], problem: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=problem):
        export_model(request(tmp_path, **options))
    assert not (tmp_path / "run").exists()
