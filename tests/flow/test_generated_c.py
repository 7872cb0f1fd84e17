"""The command line from a model to C and to a simulated board."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from edgeq.datasets.preprocess import Preprocess
from edgeq.emit.c_layout import from_memory
from edgeq.runtimes.folder import code_of
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


def test_pixels_become_the_codes_of_the_preprocessing(exported: Path, tmp_path: Path) -> None:
    document = json.loads((exported / "out" / "manifest.json").read_text())
    (port,) = document["c"]["inputs"]
    pixels = np.arange(32 * 32 * 3).astype(np.uint8).reshape(32, 32, 3)
    wanted = code_of(Preprocess.from_dict(document["preprocess"]).apply(pixels), port)
    (tmp_path / "main.c").write_text(
        """#include "net_model.h"
#include <stdio.h>
static net_arena arena;
int main(void)
{
    static uint8_t rgb[3072];
    for (int i = 0; i < 3072; i++) {
        rgb[i] = (uint8_t)i;
    }
    net_input_from_rgb(&arena, rgb);
    fwrite(net_input(&arena), 1, NET_INPUT_BYTES, stdout);
    return 0;
}
"""
    )
    folder = exported / "out"
    sources = [tmp_path / "main.c", folder / "net_model.c", folder / "net_weights.c"]
    subprocess.run(["gcc", "-std=c99", f"-I{folder}", "-o", tmp_path / "main", *sources], check=True)
    done = subprocess.run([tmp_path / "main"], capture_output=True, check=True)
    found = from_memory(np.frombuffer(done.stdout, np.int8), (1, 3, 32, 32))
    np.testing.assert_array_equal(found, wanted)
    assert len(np.unique(found)) > 200


def test_bench_counts_on_a_board(exported: Path) -> None:
    if not (shutil.which("riscv64-unknown-elf-gcc") and shutil.which("qemu-system-riscv32")):
        pytest.skip("needs a RISC-V compiler and QEMU")
    ran = edgeq("bench", exported / "out", "--board", "rv32imc-sim", "--json")
    assert ran.exit == 0, ran.stderr
    found = {row["metric"]: row["value"] for row in ran.document["rows"]}
    assert found["instructions"] / found["macs"] == pytest.approx(found["instructions_per_mac"])
    assert found["ram_bytes"] == found["arena_bytes"] + found["stack_bytes"]
    picture = exported / "profile.svg"
    table = edgeq("bench", exported / "out", "--board", "rv32imc-sim", "--layers", "--picture", picture)
    layers = len(json.loads((exported / "out" / "manifest.json").read_text())["c"]["layers"])
    assert picture.read_text().count("<title>") == layers > 3
    assert table.exit == 0 and "instructions by layer" in table.stdout


@pytest.mark.parametrize(("option", "names"), [("--max-ram-kb", "at once"), ("--max-flash-kb", "of it constants")])
def test_a_missed_budget_says_where_the_bytes_are(option: str, names: str, exported: Path) -> None:
    if not (shutil.which("riscv64-unknown-elf-gcc") and shutil.which("qemu-system-riscv32")):
        pytest.skip("needs a RISC-V compiler and QEMU")
    missed = edgeq("bench", exported / "out", "--board", "rv32imc-sim", option, "0.5")
    assert missed.exit == 4 and names in " ".join(missed.stdout.split())
    assert edgeq("bench", exported / "out", "--board", "rv32imc-sim", option, "500").exit == 0


@pytest.mark.parametrize("budget", ["--max-ram-kb", "--max-flash-kb"])
def test_export_holds_memory_against_a_budget(budget: str, exported: Path, tmp_path: Path) -> None:
    asked = ("export", exported / "net.onnx", "--calib", exported / "images", "--preprocess", "cifar", "--json")
    missed = edgeq(*asked, "-t", "c-int8", "--out", tmp_path / "missed", budget, "0.5")
    document = json.loads((tmp_path / "missed" / "manifest.json").read_text())["c"]
    key = "memory_bytes" if budget == "--max-ram-kb" else "constant_bytes"
    most = max(document["layers"], key=lambda layer: int(layer[key]))
    (told,) = [note for note in missed.document["notes"] if note.startswith("budget missed: the model needs ")]
    assert missed.exit == 4 and f" {most['value']} ({most['kind']}, " in told and "would help" in told
    assert sum(layer["constant_bytes"] for layer in document["layers"]) <= document["constant_bytes"]
    assert edgeq(*asked, "-t", "c-int8", "--out", tmp_path / "met", budget, "500").exit == 0
    other = edgeq(*asked, "-t", "onnx-int8", "--out", tmp_path / "other", budget, "500")
    assert other.exit == 2 and "only generated C has a memory plan" in other.stderr


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
