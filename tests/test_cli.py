"""The command line end to end: what it prints, what it writes, and which exit code it ends with."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import pytest

from edgeq.calibrate.cache import list_entries
from edgeq.cli import main
from edgeq.cli.group import caused_by_interrupt
from edgeq.datasets.scenes import write_dataset
from edgeq.ir.parse import from_text
from edgeq.ir.text import to_text
from edgeq.targets import TARGETS, find_target
from tests.command_line import Ran, edgeq, files_below, write_noise_images, write_small_classifier
from tests.tflite_nets import integer_net

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = [
    (name, *part)
    for name, command in main.commands.items()
    for part in ([(inner,) for inner in command.commands] if isinstance(command, click.Group) else [()])
]
INTEGER_TARGETS = ("jetson-int8", "onnx-int8")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Calibration and labelled images for the detector, and a small classifier with images of its own."""
    folder = tmp_path_factory.mktemp("place")
    write_dataset(folder / "calib", 6, 1, 160, "detect")
    write_dataset(folder / "data", 8, 2, 160, "detect")
    write_small_classifier(folder / "net.onnx")
    write_noise_images(folder / "images", 4)
    return folder


@pytest.fixture(scope="module")
def exports(place: Path) -> Mapping[str, Ran]:
    """The detector exported for both integer targets, by target."""
    os.environ.pop("EDGEQ_EXPORT_TARGET", None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(place / "cache"))
        return {
            target: edgeq(
                "export", "zoo:detector", "-t", target, "--calib", place / "calib", "--data", place / "data",
                "--max-drop", "map50=60", "--threads", 1, "--json", "--out", place / target,
            )
            for target in INTEGER_TARGETS
        }  # fmt: skip


@pytest.fixture(autouse=True)
def work(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder and an empty cache."""
    for name in [name for name in os.environ if name.startswith("EDGEQ_") and name != "EDGEQ_REAL"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def export_small(place: Path, *options: object, target: str = "onnx-int8", env: dict[str, str] | None = None) -> Ran:
    """An export of the small classifier."""
    return edgeq(
        "export", place / "net.onnx", "-t", target, "--calib", place / "images", "--preprocess", "cifar",
        "--threads", 1, *options, env=env,
    )  # fmt: skip


def sha256(path: Path | str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


# --- starting -------------------------------------------------------------------------------------------------


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys\nfrom edgeq.cli import main\n"
        "try: main(['export', '--help'], prog_name='edgeq')\nexcept SystemExit as end: assert not end.code\n"
        "print('loaded', sorted({'torch', 'onnx', 'onnxruntime', 'cv2', 'numpy', 'rich', 'scipy'} & sys.modules.keys()))"
    )
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "loaded []"


def test_help_names_every_command_and_option() -> None:
    overview = edgeq("--help")
    assert overview.exit == 0 and all(command[0] in overview.stdout for command in COMMANDS)
    assert {("export",), ("train",), ("boards", "probe")} <= set(COMMANDS)
    for command in COMMANDS:
        text = edgeq(*command, "-h")
        assert text.exit == 0 and "--json" in text.stdout, command
    assert edgeq("--version").stdout.startswith("edgeq, version ")


def test_close_command_is_suggested() -> None:
    ran = edgeq("exprot", "x")
    assert ran.exit == 2 and "Did you mean export?" in ran.stderr
    assert "Commands: bench" in edgeq("zzz").stderr
    assert edgeq("export", "x", "--tarjet", "y").exit == 2


# --- export ---------------------------------------------------------------------------------------------------


REPORTS = {"report.json", "report.csv", "report.html"}


@pytest.mark.parametrize("target", INTEGER_TARGETS)
def test_report_of_an_export(exports: Mapping[str, Ran], place: Path, target: str) -> None:
    ran = exports[target]
    document = ran.document
    assert (ran.exit, document["exit"], ran.stderr) == (0, 0, "")
    assert (document["schema"], document["command"], document["target"]) == ("edgeq.report/1", "export", target)
    assert document["seconds"] > 0 and document["next"] and document["notes"]
    assert document == json.loads((place / target / "report.json").read_text()) | {"seconds": document["seconds"]}
    for row in document["rows"]:
        assert set(row) == {"metric", "value", "unit", "n", "where", "how"}
        assert np.isfinite(row["value"]) and row["n"] >= 1 and row["how"] and row["where"]


@pytest.mark.parametrize("target", INTEGER_TARGETS)
def test_files_are_those_of_the_report(exports: Mapping[str, Ran], place: Path, target: str) -> None:
    entries = exports[target].document["artifact"]
    assert {Path(entry["path"]).name for entry in entries} | REPORTS == set(files_below(place / target))
    for entry in entries:
        assert (entry["sha256"], entry["bytes"]) == (sha256(entry["path"]), Path(entry["path"]).stat().st_size)
    manifest = json.loads((place / target / "manifest.json").read_text())
    kept = dict(manifest.pop("files").items())
    assert kept == {Path(e["path"]).name: e["sha256"] for e in entries if not e["path"].endswith("manifest.json")}
    assert manifest == exports[target].document["manifest"]
    assert str(place) not in (place / target / "manifest.json").read_text()


@pytest.mark.parametrize("target", INTEGER_TARGETS)
def test_accuracy_and_agreement_of_an_export(exports: Mapping[str, Ran], target: str) -> None:
    document = exports[target].document
    found = {(row["metric"], row["where"]): row["value"] for row in document["rows"]}
    assert found["map50", "fp32"] > 0.6
    assert abs(found["map50", "fp32"] - found["map50", "artifact"]) < 0.1
    assert abs(found["map50", "reference"] - found["map50", "artifact"]) < 0.05
    assert {row["n"] for row in document["rows"] if row["metric"] == "map50"} == {8}
    assert found["file_bytes", "artifact"] < found["parameters", "fp32"] * 2 < found["macs", "fp32"]
    layers = [item for item in document["agreement"] if item["kind"] == "layer"]
    assert len(layers) > 20 and min(item["n"] for item in layers) > 50
    promise = find_target(target).agreement
    assert all(item["equal_share"] >= promise.equal_share and item["largest_code_difference"] <= 1 for item in layers)
    codes = sum(item["n"] for item in layers)
    assert codes > 100_000 and sum(item["equal_share"] * item["n"] for item in layers) / codes > 0.999
    assert any(item["kind"] == "output" for item in document["agreement"])
    assert len(document["manifest"]["calibration"]["images"]) == 6
    assert document["layers"] and {"key", "scale", "zero_point", "format", "estimator", "gain", "sqnr_db"} == set(
        document["layers"][0]
    )


@pytest.mark.parametrize("target", INTEGER_TARGETS)
def test_exported_file_validates_and_lints(exports: Mapping[str, Ran], place: Path, target: str) -> None:
    path = place / target / "detector_int8.onnx"
    ran = edgeq("validate", path, "--data", place / "data", "--against", "zoo:detector", "--threads", 1, "--json",
                "--max-drop", "map50=60")  # fmt: skip
    assert (ran.exit, ran.stderr) == (0, "") and ran.document["target"] == target
    then = {(r["metric"], r["where"]): r["value"] for r in exports[target].document["rows"]}
    for row in ran.document["rows"]:
        if row["metric"].startswith("map"):
            assert row["value"] == pytest.approx(then[row["metric"], row["where"]], abs=1e-6), row
    runtime = next(t.runtime for t in TARGETS if t.name == target)
    found = edgeq("lint", path, "--for", runtime, "--json")
    assert found.exit == 0 and found.document["schema"] == "edgeq.lint/1"
    assert not [finding for finding in found.document["findings"] if finding["severity"] == "error"]


def test_lint_finds_what_another_runtime_forbids(exports: Mapping[str, Ran], place: Path) -> None:
    ran = edgeq("lint", place / "onnx-int8" / "detector_int8.onnx", "--for", "tensorrt", "--json")
    assert ran.exit == ran.document["exit"] == 5
    assert any(finding["severity"] == "error" for finding in ran.document["findings"])


def test_missed_budget(place: Path) -> None:
    ran = edgeq(
        "validate", place / "net.onnx", "--against", place / "net.onnx", "--data", place / "images",
        "--preprocess", "cifar", "--max-drop", "map50=1", "--json",
    )  # fmt: skip
    assert ran.exit == ran.document["exit"] == 4
    assert any(note.startswith("budget missed: map50") for note in ran.document["notes"])


def test_missed_accuracy_keeps_the_artifact(place: Path, exports: Mapping[str, Ran]) -> None:
    """One percentile of the values as range ruins the network; the files stay for a look, and the exit code tells."""
    ran = edgeq(
        "export", "zoo:detector", "-t", "onnx-int8", "--calib", place / "calib", "--data", place / "data",
        "--estimator", "percentile:60", "--float-share", 0, "--max-drop", "map50=1", "--json",
    )  # fmt: skip
    assert ran.exit == ran.document["exit"] == 4
    assert any("budget missed: map50 drops by" in note for note in ran.document["notes"])
    assert Path("runs/edgeq/detector-onnx-int8/detector_int8.onnx").is_file()


def test_dry_run_writes_nothing(place: Path, work: Path) -> None:
    ran = edgeq("export", "zoo:detector", "-t", "jetson-int8", "--dry-run", "--json")
    assert ran.exit == 0 and ran.document["artifact"] == []
    assert any("operators" in note and "run on integers" in note for note in ran.document["notes"])
    assert files_below(work) == [] and list_entries() == []


def test_default_folder_counts_up(place: Path) -> None:
    for expected in ("net-onnx-int8", "net-onnx-int8-2", "net-onnx-int8-3"):
        assert export_small(place).exit == 0
        assert Path("runs/edgeq", expected, "net_int8.onnx").is_file()
    assert len(list(Path("runs/edgeq").iterdir())) == 3


def test_named_folder_is_not_overwritten(place: Path) -> None:
    assert export_small(place, "--out", "out").exit == 0
    before = {name: sha256(Path("out", name)) for name in files_below(Path("out"))}
    ran = export_small(place, "--out", "out", "--estimator", "minmax")
    assert ran.exit == 2 and "--exist-ok" in ran.stderr and len(ran.stderr.splitlines()) == 1
    assert before == {name: sha256(Path("out", name)) for name in files_below(Path("out"))}
    Path("out", "notes.txt").write_text("mine")
    assert export_small(place, "--out", "out", "--estimator", "minmax", "--exist-ok").exit == 0
    assert Path("out", "notes.txt").read_text() == "mine"
    assert before["net_int8.onnx"] != sha256("out/net_int8.onnx")
    assert files_below(Path()) == ["out", *(f"out/{name}" for name in sorted([*before, "notes.txt"]))]


def test_same_inputs_give_the_same_bytes(place: Path) -> None:
    for target in INTEGER_TARGETS:
        for out in ("a", "b"):
            assert export_small(place, "--out", f"{target}-{out}", "--no-cache", target=target).exit == 0
        names = [name for name in files_below(Path(f"{target}-a")) if name not in REPORTS]
        assert len(names) >= 2
        for name in names:
            assert sha256(f"{target}-a/{name}") == sha256(f"{target}-b/{name}"), name
    assert list_entries() == []


def test_calibration_is_remembered(place: Path) -> None:
    assert export_small(place, "--out", "first").exit == 0
    (entry,) = list_entries()
    assert export_small(place, "--out", "second").exit == 0
    assert list_entries() == [entry]
    path = next(Path(os.environ["XDG_CACHE_HOME"]).rglob(f"{entry.key}*"))
    path.write_bytes(path.read_bytes()[: entry.size_bytes // 2])
    assert export_small(place, "--out", "third").exit == 0
    assert [found.size_bytes for found in list_entries()] == [entry.size_bytes]
    assert len({sha256(f"{out}/net_int8.onnx") for out in ("first", "second", "third")}) == 1


def test_cache_that_cannot_be_written(place: Path) -> None:
    ran = export_small(place, "--out", "out", env={"XDG_CACHE_HOME": str(place / "net.onnx")})
    assert ran.exit == 0 and Path("out/net_int8.onnx").is_file()


def test_images_that_calibrate_and_measure_are_told(place: Path) -> None:
    ran = export_small(place, "--data", place / "images", "--json")
    assert any(note.startswith("warning: 4 images both calibrate and measure") for note in ran.document["notes"])
    write_noise_images(Path("others"), 4, seed=5)
    ran = export_small(place, "--data", "others", "--json")
    assert ran.exit == 0 and not any("both calibrate" in note for note in ran.document["notes"])


def test_float_targets_need_no_images(place: Path) -> None:
    for target in ("onnx-fp32", "jetson-fp16"):
        ran = edgeq("export", "zoo:depth", "-t", target, "--out", target, "--json", "--threads", 1)
        assert ran.exit == 0
        (item,) = [item for item in ran.document["agreement"] if item["kind"] == "output"]
        assert item["signal_to_noise_db"] is None or item["signal_to_noise_db"] > 60
        assert ran.document["manifest"]["calibration"] is None
        model = onnx.load(f"{target}/depth.onnx")
        assert not {node.op_type for node in model.graph.node} & {"QuantizeLinear", "DequantizeLinear"}
    assert os.access("jetson-fp16/build_engine.sh", os.X_OK) and not Path("onnx-fp32/build_engine.sh").exists()


def test_kept_real(place: Path) -> None:
    plain, kept = (
        export_small(place, "--out", out, "--json", *options, target="jetson-int8").document
        for out, options in (("plain", ()), ("kept", ("--keep-real", "c*", "--keep-real", "nothing")))
    )
    quantized = [sum(n.op_type == "QuantizeLinear" for n in onnx.load(f"{out}/net_int8.onnx").graph.node)
                 for out in ("plain", "kept")]  # fmt: skip
    assert quantized[1] < quantized[0]
    assert "in float: " in kept["notes"][0] and "1 Conv" in kept["notes"][0] and "in float" not in plain["notes"][0]
    assert kept["manifest"]["options"]["keep_real"] == ["c*", "nothing"]


def test_alias_and_table(place: Path) -> None:
    ran = export_small(place, target="ort")
    assert ran.exit == 0 and "Next:" in ran.stdout and "artifact against reference" in ran.stdout
    assert Path("runs/edgeq/net-onnx-int8/report.json").is_file()


# --- options from elsewhere -----------------------------------------------------------------------------------


def chosen_estimator(ran: Ran) -> str:
    assert ran.exit == 0, ran
    found: str = ran.document["manifest"]["options"]["estimator"]
    return found


def test_command_line_before_environment_before_file(place: Path) -> None:
    plain = ("--json", "--exist-ok", "--out", "out")
    assert chosen_estimator(export_small(place, *plain)) == find_target("onnx-int8").estimator == "auto"
    Path("edgeq.toml").write_text('[export]\nestimator = "entropy"\nmax-drop = "top1=100"\n')
    environment = {"EDGEQ_EXPORT_ESTIMATOR": "minmax", "EDGEQ_EXPORT_DATA": str(place / "images")}
    data = ("--data", place / "images")
    by_file = export_small(place, *plain, *data)
    assert by_file.exit == 4 and by_file.document["manifest"]["options"]["estimator"] == "entropy"
    by_environment = export_small(place, *plain, env=environment)
    assert by_environment.exit == 4 and by_environment.document["manifest"]["options"]["estimator"] == "minmax"
    Path("edgeq.toml").write_text('[export]\nestimator = "entropy"\n')
    assert chosen_estimator(export_small(place, *plain, "--estimator", "octav", env=environment)) == "octav"


def test_configuration_file_by_name(place: Path) -> None:
    Path("own.toml").write_text(
        f'[export]\ntarget = "onnx-int8"\ncalib = "{place / "images"}"\npreprocess = "cifar"\njson = true\n'
        'keep-real = ["c", "a"]\nthreads = 1\ncalib_images = 2\n[lint]\nfor = "onnxruntime"\n'
    )
    ran = edgeq("--config", "own.toml", "export", place / "net.onnx")
    assert ran.exit == 0
    assert ran.document["manifest"]["options"]["keep_real"] == ["c", "a"]
    assert len(ran.document["manifest"]["calibration"]["images"]) == 2
    path = ran.document["artifact"][0]["path"]
    assert edgeq("--config", "own.toml", "lint", path, "--json").document["runtime"] == "onnxruntime"


COLOR = re.compile(r"\x1b\[[0-9;]*(3[0-7]|9[0-7])m")


def test_no_color_and_quiet(place: Path) -> None:
    for env in ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, {}):
        ran = export_small(place, env=env)
        assert ran.exit == 0 and ran.stderr == "" and not COLOR.search(ran.stdout) and "note: " in ran.stdout
    ran = export_small(place, "-q")
    assert ran.exit == 0 and ran.stderr == "" and "note: " not in ran.stdout and "wrote runs/" in ran.stdout


def test_error_as_json() -> None:
    ran = edgeq("--config", os.devnull, "export", "none.onnx", "-t", "onnx-int8", "--calib", "scenes", "--json")
    assert ran.exit == 2 and ran.document == {
        "schema": "edgeq.error/1",
        "command": "export",
        "error": ran.stderr.removeprefix("error: ").strip(),
        "exit": 2,
    }


# --- other commands -------------------------------------------------------------------------------------------


def test_inspect(place: Path) -> None:
    document: dict[str, Any] = edgeq("inspect", place / "net.onnx", "-t", "jetson-int8", "--json").document
    assert document["inputs"] == {"images": [1, 3, 32, 32]} and document["outputs"] == {"logits": [1, 5]}
    assert document["operators"] == {"Conv": 2, "relu": 1, "clip": 1, "Mean": 1, "Reshape": 1, "Linear": 1}
    assert document["macs"] == 8 * 27 * 256 + 12 * 72 * 64 + 60
    assert document["parameters"] == 8 * 28 + 12 * 73 + 5 * 13
    coverage = document["coverage"]
    assert coverage["integer_macs"] == coverage["all_macs"] == document["macs"] and coverage["real"] == {}
    ort = edgeq("inspect", place / "net.onnx", "-t", "onnx-int8", "--json").document["coverage"]
    assert ort["integer_macs"] == 12 * 72 * 64 + 60 and ort["real"]["Conv"] == 1
    table = edgeq("inspect", place / "net.onnx", "-t", "jetson-int8").stdout
    assert "1,165 parameters" in table and "7 of 7 operators" in table
    assert edgeq("inspect", "zoo:classifier", "--json").document["attention_blocks"] > 0


def test_inspect_lists_the_numbers_of_quantized_files(place: Path, exports: Mapping[str, Ran], tmp_path: Path) -> None:
    path = tmp_path / "net.tflite"
    path.write_bytes(integer_net())
    document = edgeq("inspect", path, "--json").document
    assert document["inputs"] == {"t0": [1, 3, 8, 8]}
    rows = {row["tensor"]: row for row in document["quantization"]}
    assert rows["t0"]["role"] == "input" and rows["t0"]["type"] == "int8"
    assert len(rows["t4"]["scales"]) == 4 or any(len(row["scales"]) == 4 for row in rows.values())
    table = edgeq("inspect", path).stdout
    assert "quantization" in table and "zero point" in table
    artifact = exports["jetson-int8"].document["artifact"][0]["path"]
    document = edgeq("inspect", artifact, "--json").document
    assert document["lint"] == "tensorrt" and not [f for f in document["findings"] if f["severity"] == "error"]
    assert len(document["quantization"]) > 100
    assert "already quantized" in edgeq("inspect", artifact).stdout


def test_a_quantized_model_is_not_quantized_again(place: Path, tmp_path: Path) -> None:
    path = tmp_path / "net.tflite"
    path.write_bytes(integer_net())
    ran = edgeq("export", path, "-t", "onnx-int8", "--calib", place / "images", "--preprocess", "cifar")
    assert ran.exit == 3 and "already quantized" in ran.stderr


def test_inspected_text_can_be_read_back(place: Path) -> None:
    from edgeq.frontend.model import open_model
    from edgeq.passes.simplify import simplify

    for model in (str(place / "net.onnx"), "zoo:detector"):
        graph = simplify(open_model(model).graph)
        text = edgeq("inspect", model, "--text").stdout
        copy = from_text(text, graph.constants)
        assert len(copy.ops) >= 7 and to_text(copy) == to_text(graph)


def test_targets_and_doctor() -> None:
    found = edgeq("targets", "--json").document
    assert [row["name"] for row in found["targets"]] == [target.name for target in TARGETS]
    text = edgeq("targets").stdout.splitlines()
    assert len(text) == len(TARGETS) and "also: engine, tensorrt, trt" in text[0]
    checks = edgeq("doctor", "--json")
    assert checks.exit == checks.document["exit"] == 0
    assert {check["state"] for check in checks.document["checks"] if check["name"] in ("torch", "onnx")} == {"ok"}
    assert "needed for" in edgeq("doctor").stdout


def test_formats_are_asked_for_by_name() -> None:
    found = edgeq("quantize", "zoo:depth", "--weights", "int4", "--format", "conv2d_1=w8a8", "--dry-run", "--json")
    assert found.exit == 0 and any("first and last layers keep 8 bits" in note for note in found.document["notes"])
    for options, exit_code in (
        (("quantize", "zoo:depth", "--weights", "int99"), 2),
        (("quantize", "zoo:depth", "--format", "conv"), 2),
        (("quantize", "zoo:depth", "--max-size", "small"), 2),
        (("export", "zoo:depth", "-t", "jetson-int8", "--weights", "e4m3"), 3),
        (("export", "zoo:depth", "-t", "tflite-int8", "--activations", "int12"), 3),
    ):
        refused = edgeq(*options, "--calib", "scenes:4", "--dry-run")
        assert refused.exit == exit_code and len(refused.stderr.strip().splitlines()) == 1, refused


def test_an_interrupt_is_seen_through_what_it_became() -> None:
    """Descriptors and loaders turn an interrupt that arrives inside them into an error of their own."""
    try:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as interrupt:
            raise RuntimeError("of a descriptor") from interrupt
    except RuntimeError as error:
        assert caused_by_interrupt(error)
    assert not caused_by_interrupt(RuntimeError("of its own"))
