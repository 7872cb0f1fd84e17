"""CoreML targets through the whole flow: every zoo model in each, checked layer by layer, and measured again."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeq.emit.artifact import Artifact
from edgeq.emit.coreml import WEIGHTS_FILE, emit
from edgeq.flow import ExportRequest, export, export_model
from edgeq.flow.validate import ValidateRequest, validate_artifact
from edgeq.ir.file import load
from edgeq.ir.graph import Graph, with_constants
from edgeq.targets import TARGETS

COREML = [target.name for target in TARGETS if target.emitter == "coreml"]


@pytest.mark.slow
@pytest.mark.parametrize("model", ["detector", "classifier", "depth"])
@pytest.mark.parametrize("name", COREML)
def test_every_zoo_model(model: str, name: str, tmp_path: Path) -> None:
    check(model, name, tmp_path)


@pytest.mark.parametrize(
    ("model", "name"),
    [("classifier", "coreml-w8a8"), ("detector", "coreml-w4"), ("depth", "coreml-kmeans8"), ("depth", "coreml-fp32")],
)
def test_zoo_models(model: str, name: str, tmp_path: Path) -> None:
    check(model, name, tmp_path)


def check(model: str, name: str, tmp_path: Path) -> None:
    calib = "scenes" if name == "coreml-w8a8" else None
    request = ExportRequest(f"zoo:{model}", name, calib=calib, calib_images=4, out=tmp_path / "out", no_cache=True)
    report = export_model(request)
    assert report.exit == 0, report.notes
    kinds = {item.kind for item in report.agreement}
    assert kinds == {"output"} | ({"real"} if name != "coreml-fp32" else set()) | ({"layer"} if calib else set())
    assert sum(item.kind == "real" for item in report.agreement) > 5 or name == "coreml-fp32"
    size = report.value("file_bytes", "artifact")
    counted = report.value("constant_bytes", "reference")
    assert size is not None and counted is not None and size > 50_000
    blob = next((tmp_path / "out").rglob("weight.bin")).stat().st_size
    constants = (graph := load(tmp_path / "out" / "graph.edgeq")).constants
    scales = sum(2 * len(graph.types[name].scale) for name in constants)
    # Small constants stand in the program. Codes, tables and scales are entries of their own, each with 64 bytes of
    # description and aligned to 64.
    assert 0.98 * counted < blob < counted + scales + 3 * 128 * len(constants)
    assert (tmp_path / "out").is_dir() and any(line.startswith("edgeq validate") for line in report.next_commands)


def test_images_correct_biases_and_a_package_is_measured_again(tmp_path: Path) -> None:
    request = ExportRequest(
        "zoo:classifier", "coreml-post4", calib="scenes", calib_images=8, data="scenes", data_images=24,
        out=tmp_path / "out", no_cache=True,
    )  # fmt: skip
    report = export_model(request)
    assert report.exit == 0 and not any("biases" in note for note in report.notes)
    top1 = {where: report.value("top1", where) for where in ("fp32", "reference", "artifact")}
    assert all(value is not None for value in top1.values())
    again = validate_artifact(ValidateRequest(str(tmp_path / "out" / "classifier_post4.mlpackage"), data="scenes", data_images=24))  # fmt: skip
    assert again.value("top1", "artifact") == top1["artifact"]


def test_a_file_that_is_not_the_graph_breaks_the_promise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One bias a little off: the proof, which knows only the graph it was given, passes; the comparison does not."""

    def careless(graph: Graph, *arguments: object) -> Artifact:
        op = next(op for op in graph.ops if getattr(op, "bias", None) in graph.constants)
        bias = op.bias  # type: ignore[union-attr]
        return emit(with_constants(graph, {bias: graph.constants[bias] + 0.05}), *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(export, "emitter_of", lambda _: careless)
    report = export_model(ExportRequest("zoo:depth", "coreml-w4", out=tmp_path / "out"))
    assert report.exit == 5 and any("agreement broken at" in note for note in report.notes)


def test_operators_kept_in_float_store_their_weights_all_the_same(tmp_path: Path) -> None:
    """A W8A8 file is not larger for what stays in float, unless it was asked to."""
    sizes = []
    for keep in ((), ("*",)):
        request = ExportRequest(
            "zoo:classifier", "coreml-w8a8", calib="scenes", calib_images=4, float_share=0.5, keep_real=keep,
            out=tmp_path / f"{len(keep)}", no_cache=True,
        )  # fmt: skip
        report = export_model(request)
        assert report.exit == 0, report.notes
        sizes.append((tmp_path / f"{len(keep)}" / "classifier_w8a8.mlpackage" / WEIGHTS_FILE).stat().st_size)
    assert sizes[0] < 0.6 * sizes[1]
