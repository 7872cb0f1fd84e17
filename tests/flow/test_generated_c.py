"""The command line from a model to C and to a simulated board."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.command_line import edgeq, write_noise_images, write_small_classifier


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small classifier as C for RV32, with its report."""
    place = tmp_path_factory.mktemp("c")
    write_small_classifier(place / "net.onnx")
    write_noise_images(place / "images", 4)
    ran = edgeq(
        "export", place / "net.onnx", "-t", "rv32imc-int8", "--calib", place / "images", "--preprocess", "cifar",
        "--threads", 1, "--json", "--no-cache", "--out", place / "out",
    )  # fmt: skip
    assert ran.exit == 0, ran.stderr
    return place


def test_every_code_of_the_artifact_equals_the_reference(exported: Path) -> None:
    report = json.loads((exported / "out" / "report.json").read_text())
    assert {item["kind"] for item in report["agreement"]} == {"output", "layer"}
    assert all(item["equal_share"] == 1.0 and item["largest_difference"] == 0.0 for item in report["agreement"])
    assert "manifest.json" in os.listdir(exported / "out")


def test_the_folder_passes_its_own_test(exported: Path) -> None:
    done = subprocess.run(["make", "-s", "-C", exported / "out", "test"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("passed")


def test_bench_counts_on_a_board(exported: Path) -> None:
    if not (shutil.which("riscv64-unknown-elf-gcc") and shutil.which("qemu-system-riscv32")):
        pytest.skip("needs a RISC-V compiler and QEMU")
    ran = edgeq("bench", exported / "out", "--board", "rv32imc-sim", "--json")
    assert ran.exit == 0, ran.stderr
    found = {row["metric"]: row["value"] for row in ran.document["rows"]}
    assert found["instructions"] / found["macs"] == pytest.approx(found["instructions_per_mac"])
    assert found["ram_bytes"] == found["arena_bytes"] + found["stack_bytes"]
    table = edgeq("bench", exported / "out", "--board", "rv32imc-sim", "--layers")
    assert table.exit == 0 and "instructions by layer" in table.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("bench", "{out}", "--board", "cortex-m4"), 2, "Did you mean cortex-m4-sim?"),
        (("bench", "{out}/nothing", "--board", "rv32imc-sim"), 2, "no such artifact"),
        (("bench", "{images}", "--board", "rv32imc-sim"), 2, "no folder of generated C"),
        (("bench", "{out}"), 2, "--board"),
    ],
)
def test_bench_says_what_is_wrong(arguments: tuple[str, ...], code: int, words: str, exported: Path) -> None:
    ran = edgeq(*(a.format(out=exported / "out", images=exported / "images") for a in arguments))
    assert ran.exit == code and words in ran.stderr and "Traceback" not in ran.stderr


@pytest.mark.real
def test_a_quantized_tflite_file_keeps_its_integers(real: Path, tmp_path: Path) -> None:
    model = real / "mlperf_tiny" / "ad" / "ad01_int8.tflite"
    ran = edgeq("export", model, "-t", "cortex-m4-int8", "--json", "--out", tmp_path / "out")
    assert ran.exit == 0 and all(item["equal_share"] == 1.0 for item in ran.document["agreement"])
    refused = edgeq("export", model, "-t", "onnx-int8", "--out", tmp_path / "other")
    assert refused.exit == 3 and "already quantized" in refused.stderr and not (tmp_path / "other").exists()
