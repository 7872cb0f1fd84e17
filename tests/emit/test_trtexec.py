"""The engine build script, run with a stand-in for trtexec that answers like one version of TensorRT."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Literal

import pytest

from edgeq.emit.trtexec import BUILD_SCRIPT, build_script

# Writes the file that --saveEngine names and records how it was called.
TRTEXEC = """#!/bin/sh
echo "$@" >> "{log}"
for word in "$@"; do
    case $word in
        --help) echo "&&&& RUNNING TensorRT.trtexec [TensorRT v{version}]"; echo "  {build_only}  builds only"; exit 0 ;;
        --saveEngine=*) [ -z "{fails}" ] || exit 1; echo engine > "${{word#--saveEngine=}}" ;;
    esac
done
"""
Precision = Literal["fp32", "fp16", "int8"]


class Board:
    """A folder with the script, an ONNX file, and a trtexec of `version`."""

    def __init__(
        self, root: Path, version: int, precision: Precision = "int8", stem: str = "net", **options: str
    ) -> None:
        self.folder, self.log, self.trtexec, self.stem = root / "out", root / "log", root / "trtexec", stem
        self.folder.mkdir()
        (self.folder / f"{stem}_int8.onnx").write_bytes(b"onnx")
        (self.folder / BUILD_SCRIPT).write_text(build_script(f"{stem}_int8.onnx", stem, precision))
        text = {"build_only": "--skipInference", "fails": "", **options}
        self.trtexec.write_text(TRTEXEC.format(log=self.log, version=version, **text))
        self.trtexec.chmod(0o755)

    def build(self, *options: str) -> subprocess.CompletedProcess[str]:
        command = ["sh", str(self.folder / BUILD_SCRIPT), *options]
        environment = {"PATH": "/usr/bin:/bin", "TRTEXEC": str(self.trtexec)}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)

    def build_line(self) -> str:
        (line,) = [line for line in self.log.read_text().splitlines() if "--saveEngine" in line]
        return line

    def names(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}


@pytest.mark.parametrize(("version", "flags"), [(8601, True), (8502, True), (100300, True), (110000, False)])
def test_int8_flags_by_version(tmp_path: Path, version: int, flags: bool) -> None:
    board = Board(tmp_path, version)
    done = board.build("--useDLACore=0")
    assert done.returncode == 0, done.stderr
    assert ("--int8 --fp16" in board.build_line()) == flags
    assert "--skipInference" in board.build_line() and board.build_line().endswith("--useDLACore=0")
    assert board.names() == {"net_int8.onnx", BUILD_SCRIPT, "net.engine", "net.engine.json"}
    sidecar = json.loads((board.folder / "net.engine.json").read_text())
    assert sidecar["tensorrt"] == str(version)
    assert sidecar["engine_sha256"] == hashlib.sha256(b"engine\n").hexdigest()
    assert sidecar["onnx_sha256"] == hashlib.sha256(b"onnx").hexdigest()
    assert "--exportProfile=layers.json" in board.log.read_text()


def test_older_trtexec_calls_it_build_only(tmp_path: Path) -> None:
    board = Board(tmp_path, 8201, build_only="--buildOnly")
    assert board.build().returncode == 0
    assert "--buildOnly" in board.build_line()


@pytest.mark.parametrize(("precision", "flags"), [("fp16", "--fp16"), ("fp32", "")])
def test_float_baselines(tmp_path: Path, precision: Precision, flags: str) -> None:
    board = Board(tmp_path, 100300, precision)
    assert board.build().returncode == 0
    assert "--int8" not in board.build_line() and ("--fp16" in board.build_line()) == bool(flags)


def test_strongly_typed_tensorrt_has_no_fp16_flag(tmp_path: Path) -> None:
    board = Board(tmp_path, 110000, "fp16")
    done = board.build()
    assert done.returncode == 3 and "TensorRT 11" in done.stderr
    assert board.names() == {"net_int8.onnx", BUILD_SCRIPT}


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    board = Board(tmp_path, 100300, fails="1")
    assert board.build().returncode != 0
    assert board.names() == {"net_int8.onnx", BUILD_SCRIPT}


def test_without_trtexec(tmp_path: Path) -> None:
    board = Board(tmp_path, 100300)
    board.trtexec.unlink()
    done = board.build()
    assert done.returncode == 7 and "TRTEXEC" in done.stderr


def test_a_program_that_is_not_trtexec(tmp_path: Path) -> None:
    board = Board(tmp_path, 100300)
    board.trtexec.write_text("#!/bin/sh\necho hello\n")
    done = board.build()
    assert done.returncode == 7 and "version" in done.stderr


def test_names_that_a_shell_would_split(tmp_path: Path) -> None:
    board = Board(tmp_path, 100300, stem="my net's $(touch x)")
    assert board.build().returncode == 0
    assert (board.folder / "my net's $(touch x).engine").exists()
    assert "x" not in board.names()
    json.loads((board.folder / "my net's $(touch x).engine.json").read_text())


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck(tmp_path: Path) -> None:
    Board(tmp_path, 100300)
    done = subprocess.run(
        ["shellcheck", str(tmp_path / "out" / BUILD_SCRIPT)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
