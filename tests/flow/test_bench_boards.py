"""`edgeq bench` on boards behind a real SSH server: every kind of artifact, one report, nothing left behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgeq.boards.entries import FILE_VARIABLE, add_entry
from tests.board_artifacts import export_all, pi
from tests.command_line import edgeq
from tests.ssh_server import Link, SshServer, running

PYTHONLESS = ("sh", "cat", "mktemp", "chmod", "mkdir", "dirname", "sha256sum", "cut", "mv", "rm", "sleep", "setsid", "uname",
              "tr", "sed", "head", "tail", "df", "getconf", "grep", "wc", "echo")  # fmt: skip


@pytest.fixture(autouse=True)
def board_list(server: SshServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The boards pi and pi-too; whatever a test does, they are as they were afterwards."""
    monkeypatch.setenv(FILE_VARIABLE, str(tmp_path / "boards.toml"))
    add_entry(pi(server, "pi", labels=("desk",)))
    add_entry(pi(server, "pi-too", labels=("desk",)))
    yield
    assert server.is_clean_within(10), (server.left(), server.processes())


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return export_all(tmp_path_factory.mktemp("artifacts"))


def rows(document: dict[str, object], board: str) -> dict[str, float]:
    return {row["metric"]: row["value"] for row in document["rows"] if row["where"] == board}  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["onnx", "tflite"])
def test_a_file_on_two_boards_at_once(artifacts: dict[str, Path], kind: str) -> None:
    ran = edgeq("bench", artifacts[kind], "--board", "@desk", "--runs", 7, "--warm-up", 2, "--threads", "1,2", "--json")
    assert ran.exit == 0, ran.stderr
    for board in ("pi", "pi-too"):
        found = rows(ran.document, board)
        assert found["equal_to_this_machine"] == 1.0
        assert (
            0 < found["latency_min_ms"] <= found["latency_p50_ms"] <= found["latency_p90_ms"] <= found["latency_p99_ms"]
        )
        assert found["first_ms"] > 0 and found["throughput_per_s"] > 0 and found["peak_rss_bytes"] > 1 << 20
        assert "latency_p50_ms (2 threads)" in found
        (output,) = [
            item for item in ran.document["agreement"] if f" on {board}, beside the reference" in item["value"]
        ]
        assert output["n"] == 20 and (output["signal_to_noise_db"] or np.inf) > 20
    (row,) = [row for row in ran.document["rows"] if (row["metric"], row["where"]) == ("latency_p50_ms", "pi")]
    assert row["n"] == 7 and "1 threads" in row["how"]


def test_c_here_and_behind_ssh_and_simulated_in_one_report(artifacts: dict[str, Path]) -> None:
    boards = "local,pi,rv32imc-sim"
    ran = edgeq("bench", artifacts["c"], "--board", boards, "--runs", 5, "--json")
    assert ran.exit == 0, ran.stderr
    for board in boards.split(","):
        assert f"{board}: output logits is equal to the reference" in ran.document["notes"]
    assert rows(ran.document, "pi")["latency_p50_ms"] > 0 and rows(ran.document, "local")["latency_p50_ms"] > 0
    assert rows(ran.document, "rv32imc-sim")["instructions"] > 10_000
    (row,) = [row for row in ran.document["rows"] if (row["metric"], row["where"]) == ("latency_p50_ms", "pi")]
    assert "generated C cc -O3 -march=native on the board" in row["how"]


def test_c_that_computes_something_else_ends_with_exit_code_5(artifacts: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(artifacts["c"], tmp_path / "wrong")
    source = (tmp_path / "wrong" / "net_model.c").read_text()
    (tmp_path / "wrong" / "net_model.c").write_text(source.replace(".stride_w = 2", ".stride_w = 1", 1))
    ran = edgeq("bench", tmp_path / "wrong", "--board", "pi", "--runs", 1, "--json")
    assert ran.exit == 5 and "pi: output logits is NOT equal to the reference" in ran.document["notes"]


def test_c_that_does_not_compile(artifacts: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(artifacts["c"], tmp_path / "broken")
    (tmp_path / "broken" / "net_model.c").write_text("#error no\n")
    ran = edgeq("bench", tmp_path / "broken", "--board", "pi")
    assert ran.exit == 6
    assert ran.stderr.startswith("error: the board's compiler refused the program; at pi; got net_model.c:1:2: error: ")


@pytest.fixture
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    """A board whose path has the tools of a small system and neither Python nor a compiler."""
    root = tmp_path_factory.mktemp("bare")
    (root / "bin").mkdir()
    for tool in PYTHONLESS:
        path = shutil.which(tool)
        assert path, tool
        (root / "bin" / tool).symlink_to(path)
    with running(SshServer(root / "sshd", environment={"PATH": f"{root}/bin"})) as started:
        yield started
        assert started.is_clean_within(10), (started.left(), started.processes())


def test_a_board_without_python(bare: SshServer, artifacts: dict[str, Path]) -> None:
    add_entry(bare.entry("bare"))
    ran = edgeq("bench", artifacts["onnx"], "--board", "bare")
    assert ran.exit == 6
    assert ran.stderr == (
        "error: the board has no Python that runs; at bare; got python3. Install Python 3.7 or newer there, or name"
        " another: edgeq boards add bare --python PATH. Generated C needs none.\n"
    )
    ran = edgeq("bench", artifacts["c"], "--board", "bare", "--runs", 3, "--json")
    assert ran.exit == 0, ran.stderr
    assert "bare: output logits is equal to the reference" in ran.document["notes"]
    (row,) = [row for row in ran.document["rows"] if row["metric"] == "latency_p50_ms"]
    assert "here on" in row["how"] and row["value"] > 0


def test_a_python_without_the_runtime(server: SshServer, artifacts: dict[str, Path], tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')  # without what is installed
    python.chmod(0o755)
    add_entry(pi(server, python=str(python)), replace=True)
    ran = edgeq("bench", artifacts["onnx"], "--board", "pi")
    assert (ran.exit, ran.stderr) == (
        6, "error: the board's Python has no onnxruntime; at pi; got numpy is not installed."
        f" Install it there: {python} -m pip install onnxruntime\n",
    )  # fmt: skip


def test_one_board_that_fails_does_not_cost_the_others(server: SshServer, artifacts: dict[str, Path]) -> None:
    add_entry(pi(server, "pi-too", known_hosts="/nowhere"), replace=True)
    ran = edgeq("bench", artifacts["onnx"], "--board", "pi,pi-too", "--runs", 2, "--json")
    assert ran.exit == 6 and rows(ran.document, "pi")["equal_to_this_machine"] == 1.0
    assert any(note.startswith("pi-too failed: the host key is unknown; at pi-too") for note in ran.document["notes"])


def test_a_connection_killed_in_the_middle_of_a_run(server: SshServer, artifacts: dict[str, Path]) -> None:
    link = Link(server.port)
    server.trust(link.port)
    add_entry(pi(server, port=link.port), replace=True)
    command = [sys.executable, "-m", "edgeq.cli", "bench", artifacts["onnx"], "--board", "pi", "--runs", "100000000"]
    with subprocess.Popen(
        list(map(str, command)), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        wait_for_the_run(server)
        link.cut()
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (
        6, f"error: the connection to the board broke; at pi (127.0.0.1:{link.port})."
        " What ran there was ended and its files are removed; try again.\n",
    )  # fmt: skip
    assert server.is_clean_within(5)
    link.close()


def test_ctrl_c(server: SshServer, artifacts: dict[str, Path]) -> None:
    command = [
        sys.executable,
        "-m",
        "edgeq.cli",
        "bench",
        artifacts["onnx"],
        "--board",
        "pi,pi-too",
        "--runs",
        "100000000",
    ]
    with subprocess.Popen(
        list(map(str, command)), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        wait_for_the_run(server)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "error: interrupted\n")
    assert server.is_clean_within(5)


def wait_for_the_run(server: SshServer) -> None:
    end = time.monotonic() + 120
    while not any(line.startswith(f"{sys.executable} bench.py") for line in server.processes()):
        assert time.monotonic() < end
        time.sleep(0.1)
    time.sleep(0.3)


@pytest.mark.parametrize("kind", ["onnx", "c"])
def test_the_spread_of_several_runs(artifacts: dict[str, Path], kind: str) -> None:
    ran = edgeq("bench", artifacts[kind], "--board", "local", "--runs", 2, "--repeat", 3, "--json")
    assert ran.exit == 0, ran.stderr
    (spread,) = [row for row in ran.document["rows"] if row["metric"] == "latency_p50_spread_ms"]
    assert spread["n"] == 3 and spread["value"] > 0


def test_a_latency_budget(artifacts: dict[str, Path]) -> None:
    ran = edgeq("bench", artifacts["onnx"], "--board", "local", "--runs", 2, "--max-latency-ms", 0.000001, "--json")
    assert ran.exit == 4 and any(note.startswith("budget missed: local takes ") for note in ran.document["notes"])


def test_artifacts_that_a_board_cannot_run(artifacts: dict[str, Path], tmp_path: Path) -> None:
    ran = edgeq("bench", artifacts["onnx"], "--board", "rv32imc-sim")
    assert ran.exit == 2 and "a simulated board runs generated C alone" in ran.stderr
    (tmp_path / "model.bin").write_bytes(b"")
    assert edgeq("bench", tmp_path / "model.bin", "--board", "local").exit == 3
    assert edgeq("bench", tmp_path / "none.onnx", "--board", "local").exit == 2
    ran = edgeq("bench", artifacts["onnx"], "--board", "@cloud")
    assert ran.exit == 2 and "no board has this label; got @cloud; allowed: desk" in ran.stderr


def test_outputs_are_not_trivial(artifacts: dict[str, Path]) -> None:
    """What the boards are compared on says something: the inputs and the outputs differ."""
    from edgeq.flow.device_inputs import trial_of

    trial = trial_of(artifacts["onnx"])
    numbers = np.concatenate([np.asarray(array).reshape(-1) for found in trial.wanted for array in found.values()])
    assert len(np.unique(numbers)) >= 15 and len(trial.samples) == 4
    assert os.path.basename(trial.judge) == "the reference"
