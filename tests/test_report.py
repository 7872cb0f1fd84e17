"""Reports: one strict JSON document, the tables for people, and budgets as they are written on the command line."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import pytest
from rich.console import Console

from edgeq.errors import UsageError
from edgeq.report import OutputAgreement, Report, Row, parse_budget, print_report


def full_report() -> Report:
    report = Report("export", "onnx-int8", exit=4, seconds=1.23456)
    report.rows = [
        Row("map50", 0.5, "", 8, "fp32", "on scenes"),
        Row("map50", 0.45, "", 8, "artifact", "on scenes"),
        Row("file_bytes", 1234567, "B", 1, "artifact", "size"),
        Row("broken", math.nan, "", 1, "artifact", "nothing"),
    ]
    report.agreement = [
        OutputAgreement("out", "output", 1.0, 0, 0.0, math.inf, 40),
        OutputAgreement("a", "layer", 0.99, 1, 1.0, 30.0, 100),
        OutputAgreement("b", "layer", 0.5, 3, 3.0, 9.0, 300),
        OutputAgreement("out", "output", 0.75, 1, 1.0, 20.0, 40, "other kernels"),
    ]
    report.artifact = [{"path": "x [1]/y.onnx", "bytes": 1234567, "sha256": "0"}]
    report.notes, report.next_commands = ["look [bold]here[/bold]"], ["edgeq lint x"]
    report.manifest = {"path": Path("a/b"), "ranges": {1: (math.inf, 2.0)}}
    return report


def test_document_is_strict_json() -> None:
    document = json.loads(full_report().to_json(), parse_constant=pytest.fail)
    assert (document["schema"], document["exit"], document["seconds"]) == ("edgeq.report/1", 4, 1.235)
    assert document["agreement"][0]["signal_to_noise_db"] is None and document["rows"][3]["value"] is None
    assert document["manifest"] == {"path": "a/b", "ranges": {"1": [None, 2.0]}}
    assert document["next"] == ["edgeq lint x"] and document["layers"] == []


def test_value_is_by_metric_and_place() -> None:
    report = full_report()
    assert (report.value("map50", "artifact"), report.value("map50", "reference")) == (0.45, None)


def printed(*, quiet: bool) -> str:
    stream = io.StringIO()
    print_report(full_report(), Console(file=stream, width=110), quiet=quiet)
    return stream.getvalue()


def test_printed_report() -> None:
    text = printed(quiet=False)
    assert "0.45 (-0.05)" in text and "1,234,567" in text and "wrote x [1]/y.onnx" in text
    assert "2 layers, each given the same operands" in text and f"{(99 + 150) / 400:.4%}" in text
    assert text.index("least equal: b") < text.index("in other kernels") < text.index("75.00%")
    assert "note: look [bold]here[/bold]" in text and "edgeq lint x" in text
    quiet = printed(quiet=True)
    assert text.startswith(quiet.rstrip("\n")) and "note" not in quiet and "0.45" in quiet


@pytest.mark.parametrize(
    ("text", "budget"), [("map50=1", ("map50", 1.0)), ("MAP50-95=0", ("map50-95", 0.0)), ("a=1e1", ("a", 10.0))]
)
def test_budgets(text: str, budget: tuple[str, float]) -> None:
    assert parse_budget(text) == budget


@pytest.mark.parametrize("text", ["", "a", "a=", "=1", "a=-1", "a=nan", "a=1=2", "a=x"])
def test_budgets_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="METRIC=POINTS"):
        parse_budget(text)
