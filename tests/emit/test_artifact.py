"""Folders that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgeq.emit.artifact import Artifact, digests, output_folder, write_files
from edgeq.errors import OutputError

FILES = {"a.bin": b"\x00\x01", "b.sh": b"#!/bin/sh\n"}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_new_folder_with_its_parents(tmp_path: Path) -> None:
    folder = tmp_path / "run s" / "naïve" / "out"
    write_files(folder, FILES, executable=frozenset({"b.sh"}))
    assert {name: (folder / name).read_bytes() for name in FILES} == FILES
    assert names(folder) == set(FILES) and names(folder.parent) == {"out"}
    assert os.access(folder / "b.sh", os.X_OK) and not os.access(folder / "a.bin", os.X_OK)


def test_existing_folder_keeps_its_other_files(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "a.bin").write_text("old")
    write_files(tmp_path, FILES)
    assert names(tmp_path) == {"mine.txt", *FILES}
    assert (tmp_path / "a.bin").read_bytes() == FILES["a.bin"]


def test_a_file_in_the_way_is_an_error_that_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="file"):
        write_files(tmp_path / "file" / "deep" / "out", FILES)
    with pytest.raises(OutputError):
        write_files(tmp_path / "file", FILES)
    assert names(tmp_path) == {"file"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(OutputError, match="permission"):
        write_files(tmp_path / "deep" / "out", FILES)
    tmp_path.chmod(0o755)
    assert names(tmp_path) == set()


LIMITED = """
import resource, signal, sys
from pathlib import Path
from edgeq.emit.artifact import write_files
from edgeq.errors import OutputError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    write_files(Path(sys.argv[1]) / "deep" / "out", {"small": b"1", "large": bytes(1 << 16)})
except OutputError as error:
    print(error)
    sys.exit(error.exit_code)
"""


def test_no_room_left(tmp_path: Path) -> None:
    """A limit on file sizes makes the second file fail half-way, as a full disk does."""
    command = [sys.executable, "-c", LIMITED, str(tmp_path)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert (done.returncode, names(tmp_path)) == (2, set()), done.stderr
    assert os.strerror(errno.EFBIG) in done.stdout and "deep/out" in done.stdout


SLOW = """
import sys, time
from pathlib import Path
from edgeq.emit import artifact
class Slow(bytes): pass
def files():
    yield "first", b"1"
    print("half-way", flush=True)
    time.sleep(60)
class Files(dict):
    def items(self): return files()
artifact.write_files(Path(sys.argv[1]) / "out", Files())
"""


def test_interrupted_half_way(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SLOW, str(tmp_path)]
    with subprocess.Popen(
        command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as run:
        assert run.stdout is not None
        assert run.stdout.readline().strip() == b"half-way"
        run.send_signal(signal.SIGINT)
        run.wait(timeout=30)
        run.stdout.close()
    assert run.returncode != 0
    assert names(tmp_path) == set()


def test_two_writers_of_one_folder(tmp_path: Path) -> None:
    script = "import sys; from pathlib import Path; from edgeq.emit.artifact import write_files\n"
    script += "for k in range(40): write_files(Path(sys.argv[1]) / 'out', {'a': sys.argv[2].encode() * 99999})"
    commands = [[sys.executable, "-c", script, str(tmp_path), letter] for letter in "xy"]
    writers = [subprocess.Popen(command, cwd=Path(__file__).parents[2], stderr=subprocess.PIPE) for command in commands]
    deadline = time.monotonic() + 60
    for writer in writers:
        _, message = writer.communicate(timeout=max(1, deadline - time.monotonic()))
        assert writer.returncode == 0 or b"OutputError" in message
    assert names(tmp_path) == {"out"} and names(tmp_path / "out") == {"a"}
    assert len(set((tmp_path / "out" / "a").read_bytes())) == 1


def test_the_default_folder_is_the_first_free_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = output_folder(None, "yolo", "onnx-int8")
    assert first == Path("runs/edgeq/yolo-onnx-int8") and not first.exists()
    first.mkdir(parents=True)
    assert output_folder(None, "yolo", "onnx-int8") == Path("runs/edgeq/yolo-onnx-int8-2")
    assert output_folder(None, "yolo", "onnx-int8", exist_ok=True) == first


def test_a_named_folder_must_be_empty_or_meant(tmp_path: Path) -> None:
    assert output_folder(tmp_path, "yolo", "onnx-int8") == tmp_path
    (tmp_path / "x").write_text("x")
    with pytest.raises(OutputError, match="--exist-ok"):
        output_folder(tmp_path, "yolo", "onnx-int8")
    assert output_folder(tmp_path, "yolo", "onnx-int8", exist_ok=True) == tmp_path
    with pytest.raises(OutputError, match="file"):
        output_folder(tmp_path / "x", "yolo", "onnx-int8", exist_ok=True)


def test_document(tmp_path: Path) -> None:
    write_files(tmp_path, FILES)
    artifact = Artifact("onnx-int8", tmp_path, digests(FILES), tmp_path / "a.bin")
    assert [entry["bytes"] for entry in artifact.document()] == [2, 10]
