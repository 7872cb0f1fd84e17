"""The page in a real browser: it needs nothing from elsewhere, shows something, and works on a phone and by keyboard."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgeq.flow.charts import Point, bar_chart, dot_chart, line_chart
from edgeq.flow.page import render
from edgeq.flow.run_files import write_report
from edgeq.report import Report, Row
from tests.command_line import edgeq, write_noise_images, write_small_classifier

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
LARGEST = 5 << 20
PAGES = ("export", "validate", "robustness", "compare", "sweep")
PROBE = """<!doctype html><title>probe</title><iframe id="page" src="{page}" width="390" height="800"></iframe>
<pre id="found"></pre><script>
document.getElementById("page").onload = event => {{
  const page = event.target.contentDocument, reached = [], missed = [];
  for (const folded of page.querySelectorAll("details")) folded.open = true;
  for (const item of page.querySelectorAll("a[href], summary, [tabindex]")) {{
    item.focus(); (page.activeElement === item ? reached : missed).push(item.tagName);
  }}
  const wide = [...page.querySelectorAll("*")].filter(e => e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 0 &&
    ["auto", "scroll"].includes(getComputedStyle(e).overflowX) && e.tabIndex < 0).length;
  const names = [...page.querySelectorAll("svg[role=img]:not([aria-label]), img:not([alt])")].length;
  document.getElementById("found").textContent = JSON.stringify({{
    reached: reached.length, missed, wide, names, width: page.documentElement.scrollWidth,
    sections: page.querySelectorAll("section").length, charts: page.querySelectorAll("figure svg").length,
    background: getComputedStyle(page.body).backgroundColor }});
}};</script>"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The page of every command that measures and needs no board, by command."""
    folder = tmp_path_factory.mktemp("pages")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        model = write_small_classifier(folder / "net.onnx")
        images = write_noise_images(folder / "images", 8)
        (images / "labels.csv").write_text("\n".join(f"{k}.png,{k % 5}" for k in range(8)))
        calib = ("--calib", images, "--preprocess", "cifar", "--data", images)
        for out, mode in (("int8", "robust"), ("plain", "clean")):
            command = (
                "export",
                model,
                "-t",
                "onnx-int8",
                "--float-share",
                0,
                *calib,
                "--calib-mode",
                mode,
                "--out",
                out,
            )
            assert edgeq(*command).exit == 0
        assert edgeq("validate", "int8/net_int8.onnx", "--data", images, "--against", model).exit == 0
        listed = ("--degrade", "blur,noise-low,jpeg-heavy,mixed", "--workers", 1, "--resamples", 40)
        assert (
            edgeq("robustness", model, "robust=int8", "clean=plain", "--data", images, *listed, "--out", "table").exit
            == 0
        )
        assert edgeq("compare", "int8", "plain", "--out", "both").exit == 0
    write_report(folder / "sweep", sweep_report())
    names = ("int8/report", "int8/validate", "table/report", "both/report", "sweep/report")
    return {page: folder / f"{name}.html" for page, name in zip(PAGES, names, strict=True)}


def sweep_report() -> Report:
    """Of a sweep with two groups of cells that can be compared."""
    rng = np.random.default_rng(0)
    points = [
        {"model": "/a/long/path/of/a/model/that/would/not/fit/on/a/phone/net.onnx", "recipe": "usual", "board": board,
         "target": f"target-{k % 3}", "degradation": "clean", "cost": float(rng.uniform(1, 9)),
         "quality": float(rng.uniform(0.3, 0.8)), "on_front": k % 5 == 0}
        for board in ("pi5", "jetson") for k in range(30)
    ]  # fmt: skip
    manifest = {"cost": "latency_p50_ms", "cost_unit": "ms", "quality": "top1"}
    return Report("report", points=points, manifest=manifest, rows=[Row("cells_done", 60, "", 60, "sweep", "counted")])


def browsed(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The browser without a window; what it prints."""
    assert BROWSER is not None
    quiet = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr")
    command = [BROWSER, *quiet, "--allow-file-access-from-files", "--virtual-time-budget=5000", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


needs_browser = pytest.mark.skipif(BROWSER is None, reason="needs chromium")


@pytest.mark.parametrize("page", PAGES)
def test_nothing_comes_from_elsewhere(pages: dict[str, Path], page: str) -> None:
    text = pages[page].read_text("utf-8")
    assert 4000 < len(text.encode()) < LARGEST
    assert not re.search(r"(?:src|href)=[\"'](?!#|data:)", text)
    assert not re.search(r"https?:|url\(|@import|<script", text.replace("http://www.w3.org/2000/svg", ""))
    for kind in ("json", "csv"):
        assert pages[page].with_suffix(f".{kind}").stat().st_size > 100


@needs_browser
@pytest.mark.parametrize("page", PAGES)
def test_it_works_on_a_phone_and_by_keyboard(pages: dict[str, Path], page: str, tmp_path: Path) -> None:
    probe = tmp_path / "probe.html"
    probe.write_text(PROBE.format(page=pages[page].as_uri()))
    done = browsed("--dump-dom", probe.as_uri())
    assert "CONSOLE" not in done.stderr, done.stderr
    match = re.search(r'<pre id="found">(.+?)</pre>', done.stdout, re.DOTALL)
    assert match, done.stdout[-500:]
    found: dict[str, Any] = json.loads(unescape(match[1]))
    assert found["missed"] == [] and found["reached"] >= 4
    assert found["wide"] == 0, "what scrolls cannot be reached by keyboard"
    assert found["names"] == 0, "a drawing without words"
    assert found["width"] <= 390
    assert found["sections"] >= (3 if page != "compare" else 2)
    assert found["charts"] >= {"export": 2, "validate": 2, "robustness": 2, "compare": 1, "sweep": 2}[page]


@needs_browser
@pytest.mark.parametrize("dark", [False, True])
def test_the_screen_is_not_blank_and_follows_the_scheme(pages: dict[str, Path], dark: bool, tmp_path: Path) -> None:
    picture = tmp_path / "screen.png"
    scheme = ("--blink-settings=preferredColorScheme=0",) if dark else ("--blink-settings=preferredColorScheme=1",)
    done = browsed("--window-size=1200,1600", f"--screenshot={picture}", *scheme, pages["robustness"].as_uri())
    assert "CONSOLE" not in done.stderr, done.stderr
    pixels = cv2.imread(str(picture))
    assert pixels is not None and pixels.shape[:2] == (1600, 1200)
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50 and pixels.std() > 10
    assert (np.median(pixels) < 60) == dark


def test_figures_on_the_page_are_those_of_the_report(pages: dict[str, Path]) -> None:
    document = json.loads(pages["robustness"].with_suffix(".json").read_text())
    text = pages["robustness"].read_text("utf-8")
    cells = [cell for cell in document["cells"] if cell["metric"] == "top1"]
    assert len(cells) == 3 * 10
    for cell in cells:
        assert f"{100 * cell['value']:.1f} <small>[{100 * cell['low']:.1f}, {100 * cell['high']:.1f}]" in text


def test_pictures_show_every_runner(pages: dict[str, Path]) -> None:
    assert pages["robustness"].read_text("utf-8").count("data:image/jpeg") == 3 * 9
    assert pages["export"].read_text("utf-8").count("data:image/jpeg") == 3
    assert pages["validate"].read_text("utf-8").count("data:image/jpeg") == 2


def test_layers_say_their_noise_and_shift(pages: dict[str, Path]) -> None:
    layers = json.loads(pages["export"].with_suffix(".json").read_text())["layers"]
    noise = [layer["sqnr_db"] for layer in layers if layer["sqnr_db"] is not None]
    assert len(noise) >= 2 and all(10 < value < 80 for value in noise)
    assert all(layer["shift"] > 0 for layer in layers)


def test_names_are_text_and_not_markup() -> None:
    report = Report("validate", notes=["<script>alert(1)</script>"])
    report.rows = [Row("<b>x</b>", 1.0, "ms", 1, "<i>here</i>", "")]
    text = render(report.document()).decode()
    assert "<b>x" not in text and "<i>here" not in text and "<script" not in text
    assert "&lt;script&gt;" in text


def test_charts_survive_flat_and_single_figures() -> None:
    flat = [Point(0, 0, 0, 0), Point(3, 0, 0, 0)]
    for chart in (
        line_chart({"a": flat}, {0: "clean", 3: "3"}, "flat"),
        line_chart({"a": flat[:1]}, {0: "clean"}, "single"),
        dot_chart({"clean": {"a": Point(0, -3, -5, -1)}}, "negative"),
        bar_chart({"a": 0.0}, "B", "empty"),
    ):
        assert "nan" not in chart and "inf" not in chart and chart.count("<svg") == chart.count("</svg>") == 1


def test_compare_says_what_differs(pages: dict[str, Path], tmp_path: Path) -> None:
    document = json.loads(pages["compare"].with_suffix(".json").read_text())
    assert {row["where"] for row in document["rows"]} == {"int8", "plain"}
    assert [note for note in document["notes"] if note.startswith("calibration mode")]
    assert not [note for note in document["notes"] if note.startswith("target")]
    folder = pages["export"].parent
    assert edgeq("compare", folder, folder).exit == 2
    assert edgeq("compare", folder, tmp_path).exit == 2
    (tmp_path / "report.json").write_text("[]")
    ran = edgeq("compare", folder, tmp_path)
    assert ran.exit == 2 and "no report" in ran.stderr
