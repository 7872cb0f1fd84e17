"""edgeq debug: layers, first bad one and gains in one document, and a page that any browser can show."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from edgeq.calibrate.statistics import statistics_of
from edgeq.errors import OutputError, UsageError
from edgeq.flow.debug import DebugRequest, debug_model
from edgeq.flow.debug_page import BINS, Range, density
from edgeq.quantize.asked import Asked
from tests.command_line import edgeq


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("debug") / "out"
    found = edgeq(
        "debug", "zoo:depth", "--calib", "scenes:4", "-n", "2", "--weights", "int4", "--estimator", "mse",
        "--no-cache", "--least-db", "25", "--out", str(out), "--json",
    )  # fmt: skip
    document = found.document
    assert document["command"] == "debug" and document["exit"] == 0
    (out / "stdout.json").write_text(json.dumps(document))
    return out


def test_document(folder: Path) -> None:
    document = json.loads((folder / "stdout.json").read_text())
    assert len(document["layers"]) > 20 and document["rows"][0]["metric"] == "sqnr"
    shares = [row["weight_share"] for row in document["layers"]]
    assert 0.3 < sum(shares) <= 1.0 + 1e-9
    assert any("the first layer below 25 dB is" in note for note in document["notes"])
    gains = {gain["change"]: gain["after_db"] - gain["before_db"] for gain in document["manifest"]["gains"]}
    assert (
        gains["all weights in 16 bits"] > 3
        and "no bias correction" in gains
        and any("learned" in change for change in gains)
        and "ranges by minmax" in gains
    )
    assert sum("in float" in change for change in gains) == 3


def test_page(folder: Path) -> None:
    text = (folder / "debug.html").read_text()
    assert "http://" not in text and "https://" not in text and "<script" not in text
    pictures = [part.split("</svg>")[0] + "</svg>" for part in text.split("<svg")[1:]]
    drawn = [ElementTree.fromstring("<svg" + picture) for picture in pictures]
    figures = [svg for svg in drawn if svg.findall("line")]
    assert len(figures) > 20 and max(len(svg.findall("g/rect")) for svg in figures) > BINS // 2
    assert len(json.loads((folder / "debug.json").read_text())["layers"]) == text.count("<tr><td>") + text.count(
        "<tr class=bad>"
    ) - text.count(" dB</tr>")


def test_density_counts_everything() -> None:
    import torch

    x = np.random.default_rng(0).normal(0, 1, 20000).astype(np.float32) * (np.arange(20000) % 3 > 0)
    statistics = statistics_of(torch.from_numpy(x))
    range_ = Range("x", "int8", "mse", statistics, -2.0, 2.0)
    edges, counts = density(range_)
    assert counts.sum() == pytest.approx(20000, abs=5) and (edges[0], edges[-1]) == (x.min(), x.max())
    expected, _ = np.histogram(x, edges)
    assert np.abs(counts - expected).max() < 40
    assert range_.clipped == pytest.approx(np.mean(np.abs(x) >= 2), abs=1e-3)


def test_what_cannot_be_debugged(folder: Path) -> None:
    with pytest.raises(UsageError, match="needs images"):
        debug_model(DebugRequest("zoo:depth"))
    with pytest.raises(UsageError, match="computes on reals"):
        debug_model(DebugRequest("zoo:depth", target="coreml-w4", calib="scenes:4"))
    with pytest.raises(OutputError, match="not empty"):
        debug_model(DebugRequest("zoo:depth", calib="scenes:4", formats=Asked("int4"), out=folder))
