"""Formats by quality and cost on an FPGA board: the front, the page, and what cannot be explored."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeq.emit.onnx import emit
from edgeq.errors import BudgetError, UsageError
from edgeq.flow.explore import ExploreRequest, explore_model, on_front
from edgeq.targets import find_target
from tests.hls_nets import residual_network


def _model(folder: Path) -> str:
    emit(residual_network(), find_target("onnx-fp32"), folder, "small", {}, {})
    return str(folder / "small.onnx")


def _request(tmp_path: Path, **options: object) -> ExploreRequest:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for k in range(4):
        Image.fromarray(np.random.default_rng(k).integers(0, 256, (9, 8, 3), np.uint8)).save(pictures / f"{k}.png")
    common = {"calib": str(pictures), "calib_images": 4, "images": 2, "preprocess": "yolo", "out": tmp_path / "out"}
    return ExploreRequest(_model(tmp_path / "model"), **(common | options), no_cache=True)  # type: ignore[arg-type]


def test_formats_on_a_board(tmp_path: Path) -> None:
    report = explore_model(_request(tmp_path, formats=("fx8", "int8", "int4", "post4"), fps=5000.0))
    document = json.loads((tmp_path / "out" / "report.json").read_text())
    found = {item["formats"]: item for item in document["manifest"]["front"]["formats"]}
    assert list(found) == ["fx8/int8", "int8/int8", "int4/int8", "post4/int8"]
    assert found["int8/int8"]["quality"] > found["int4/int8"]["quality"] + 6
    assert all(0 < item["share"] < 1 and item["cycles"] <= 100e6 / 5000 for item in found.values())
    assert found["int8/int8"]["on_front"] and any(not item["on_front"] for item in found.values())
    assert report.value("lut", "int4") == found["int4/int8"]["lut"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Formats on the board" in page and page.count("<circle") >= 4


def test_a_rate_that_no_format_reaches(tmp_path: Path) -> None:
    with pytest.raises(
        BudgetError, match=r"no format fits the board; at pynq-z2. int8: the board cannot run this design"
    ):
        explore_model(_request(tmp_path, formats=("int8",), fps=1e6))
    assert not (tmp_path / "out").exists()


def test_names_that_are_no_formats_or_boards(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown number format"):
        explore_model(_request(tmp_path, formats=("int99x",)))
    with pytest.raises(UsageError, match="unknown FPGA board"):
        explore_model(ExploreRequest("model.onnx", board="pynq"))


def test_the_front_holds_what_nothing_beats() -> None:
    found = [
        {"formats": name, "quality": quality, "share": share}
        for name, quality, share in (("a", 30.0, 0.9), ("b", 20.0, 0.5), ("c", 19.0, 0.6), ("d", 25.0, None))
    ]
    assert [item["on_front"] for item in on_front(found)] == [True, True, False, False]
