"""edgeq formats: figures against their definition, the recommendation against all combinations, the page, refusals."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from edgeq.catalogue import NAMED
from edgeq.errors import BudgetError, UsageError
from edgeq.flow.format_study import FormatsRequest, in_format, named_choice, sqnr_db, study_formats, value_rows
from edgeq.formats import Float, Format, Int
from edgeq.frontend.model import open_model
from edgeq.ir import ops as o
from edgeq.ir.graph import Type
from edgeq.passes.simplify import simplify
from edgeq.quantize.operators import weight_of
from edgeq.recipe import parse_rule
from tests.command_line import edgeq

FEW = ("int3", "int4", "e2m1", "post4", "int8", "e2m3", "mxfp4")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("formats") / "out"
    found = edgeq(
        "formats", "zoo:classifier", "--formats", ",".join(FEW), "--calib", "scenes:4", "--calib-images", "2",
        "--avg-bits", "5", "--out", out, "--json",
    )  # fmt: skip
    assert found.exit == 0 and found.document["schema"] == "edgeq.formats/1"
    assert json.loads((out / "formats.json").read_text()) == found.document
    return out


def test_figures_are_those_of_the_definition(folder: Path) -> None:
    """INT8 by hand: the largest of a channel at 127, every weight rounded to the nearest, and the power of the rest."""
    document = json.loads((folder / "formats.json").read_text())
    graph = simplify(open_model("zoo:classifier").graph)
    layers = [op for op in graph.ops if isinstance(op, o.Conv | o.Linear)]
    for op in layers:
        rows = {row["format"]: row for row in document["rows"] if row["layer"] == op.out and row["kind"] == "weight"}
        assert set(rows) == set(FEW)
        weights = graph.constants[op.weight].astype(np.float64).reshape(graph.types[op.weight].shape[0], -1)
        scales = np.maximum(np.abs(weights).max(axis=1, keepdims=True), 1e-30) / 127
        noise = np.square(np.rint(weights / scales) * scales - weights).sum()
        expected = 10 * np.log10(np.square(weights).sum() / noise)
        assert rows["int8"]["sqnr_db"] == pytest.approx(expected, abs=0.02)
        assert rows["int8"]["sqnr_db"] > rows["e2m3"]["sqnr_db"] > rows["int4"]["sqnr_db"] > rows["int3"]["sqnr_db"]
    assert len(layers) > 5


def test_the_recommendation_is_the_best_of_all_combinations() -> None:
    graph = simplify(open_model("zoo:classifier").graph)
    layers = tuple(o.results(op)[0] for op in graph.ops if weight_of(op))[:4]
    found = study_formats(
        FormatsRequest("zoo:classifier", layers, ("int3", "int4", "e2m1", "e2m3", "int8"), avg_bits=4.6)
    )
    by_layer = [[row for row in found.rows if row.layer == layer] for layer in layers]
    limit = 4.6 * sum(rows[0].elements for rows in by_layer)
    least = min(
        sum(10 ** (-row.db / 10) for row in combination)
        for combination in itertools.product(*by_layer)
        if sum(row.bits * row.elements for row in combination) <= limit
    )
    assert sum(10 ** (-row.db / 10) for row in found.recommended) == pytest.approx(least, rel=1e-6)
    assert 4 < found.mean_bits <= 4.6
    assert all(parse_rule(option.removeprefix("--format '").removesuffix("'")) for option in found.options)


def test_activations(folder: Path) -> None:
    document = json.loads((folder / "formats.json").read_text())
    rows = [row for row in document["rows"] if row["kind"] == "activation"]
    assert len({row["layer"] for row in rows}) > 5 and all(row["sqnr_db"] > 3 for row in rows)
    assert {row["format"] for row in rows} <= {
        "int3",
        "int4",
        "int8",
        "e2m1",
        "e2m3",
        "uint3",
        "uint4",
        "uint8",
        "ue2m2",
        "ue2m4",
    }


def test_activations_that_are_never_negative_have_no_sign() -> None:
    """A sign bit that nothing needs is worth 6 dB to the mantissa."""
    sample = np.abs(np.random.default_rng(0).normal(0, 1, 4000))
    formats: list[Format] = [Int(4, narrow=True), Float(2, 1), Float(4, 3, specials=1)]
    positive = list(value_rows("x", sample, formats, "nearest-even"))
    assert [row.name for row in positive] == ["uint4", "ue2m2", "ue4m4"]
    both = list(value_rows("x", np.concatenate([sample, -sample]), formats, "nearest-even"))
    assert [row.name for row in both] == ["int4", "e2m1", "fp8_e4m3"]
    assert all(a.db > b.db + 4 and a.bits == b.bits for a, b in zip(positive, both, strict=True))


def test_the_page_needs_nothing_else(folder: Path) -> None:
    text = (folder / "formats.html").read_text()
    assert text.count("<svg") > 5 and "Recommended weights" in text and "Activations by layer" in text
    assert "http" not in text.replace("http://www.w3.org", "") and "<script" not in text


def test_tables_on_a_terminal() -> None:
    graph = simplify(open_model("zoo:classifier").graph)
    layer = next(o.results(op)[0] for op in graph.ops if weight_of(op))
    one = edgeq("formats", "zoo:classifier", "--formats", "int4,post4,kmeans4", "--tensor", layer)
    assert one.exit == 0 and "post4" in one.stdout and "kmeans4" in one.stdout
    every = edgeq("formats", "zoo:classifier", "--formats", "int4,e2m1", "-t", "c-int8")
    assert every.exit == 0 and "4 bits" in every.stdout and "recommended" in every.stdout


@pytest.mark.parametrize("rounding", ["half-up", "up", "down", "zero", "stochastic"])
def test_the_nearest_is_the_best_rounding(rounding: str) -> None:
    array = np.random.default_rng(1).normal(0, 1, (8, 64)).astype(np.float32)
    type_ = Type(array.shape, Int(5, narrow=True), (0.2,))
    nearest = sqnr_db(array.astype(np.float64), in_format(array, type_))
    other = sqnr_db(array.astype(np.float64), in_format(array, type_, rounding))  # type: ignore[arg-type]
    assert other == pytest.approx(nearest, abs=1e-6) if rounding == "half-up" else other < nearest - 2


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"formats": ("e2m1x",)}, UsageError, "unknown number format.*Did you mean e2m1"),
        ({"tensors": ("nothing*",)}, UsageError, "no layer has this name"),
        ({"formats": ("int8",), "avg_bits": 4.0}, BudgetError, "budget"),
        ({"formats": ("real",)}, UsageError, "cannot stay real"),
    ],
)
def test_what_cannot_be_done(options: dict[str, object], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        study_formats(FormatsRequest("zoo:classifier", **options))  # type: ignore[arg-type]


def test_a_target_limits_the_recommendation() -> None:
    found = study_formats(FormatsRequest("zoo:classifier", (), ("e3m2", "int4", "e2m3"), "tflite-int8", 6.0))
    assert {row.name for row in found.recommended} <= {"int4", "e2m3"}
    free = study_formats(FormatsRequest("zoo:classifier", (), ("e3m2",), "tflite-int8", 6.0))
    assert free.recommended == () and "holds none" in free.notes[0]
    assert named_choice("post4") == NAMED["post4"]
