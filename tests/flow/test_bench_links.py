"""`edgeq bench` where the way to a board or the board itself is bad: the exact words, the exit code, and nothing left."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgeq.boards.entries import FILE_VARIABLE, add_entry
from tests.board_artifacts import pi
from tests.command_line import Ran, edgeq
from tests.onnx_text import model
from tests.ssh_server import Link, SshServer, write_key

COLUMNS = 2000


@pytest.fixture(autouse=True)
def board_list(server: SshServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(FILE_VARIABLE, str(tmp_path / "boards.toml"))
    yield
    assert server.is_clean_within(10), (server.left(), server.processes())


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of four megabytes, whose outputs are a product with noise."""
    return product(tmp_path_factory.mktemp("big") / "big.onnx", 500)


def product(path: Path, rows: int) -> Path:
    """A network of one product with noise, of 8 kB per row."""
    weights = np.random.default_rng(0).normal(size=(rows, COLUMNS)).astype(np.float32)
    onnx.save(model(f"(float[1,{rows}] x) => (float[1,{COLUMNS}] y) {{ y = MatMul(x, w) }}", {"w": weights}), path)
    assert path.stat().st_size > rows * COLUMNS * 4
    return path


def bench(path: Path) -> Ran:
    return edgeq("bench", path, "--board", "pi", "--runs", 2, "--threads", 1, "--json")


def figures(ran: Ran) -> dict[str, float]:
    assert ran.exit == 0, ran.stderr
    return {row["metric"]: row["value"] for row in ran.document["rows"]}


def linked(server: SshServer, **options: float) -> Link:
    link = Link(server.port, **options)  # type: ignore[arg-type]  # whole bytes are floats, too
    server.trust(link.port)
    add_entry(pi(server, port=link.port))
    return link


def test_an_upload_that_is_cut_goes_on(server: SshServer, tmp_path: Path) -> None:
    """What is under way when the link breaks is lost, at most a window: 2 MB with OpenSSH."""
    file = product(tmp_path / "product.onnx", 1500)
    link = linked(server, cut_after=8_000_000)
    assert figures(bench(file))["equal_to_this_machine"] == 1.0
    assert link.cuts == 1 and link.carried < file.stat().st_size + 3_000_000, "the upload began again"
    link.close()


def test_a_slow_link(server: SshServer, big: Path) -> None:
    link = linked(server, bytes_per_s=1_000_000)
    found = figures(bench(big))
    assert found["equal_to_this_machine"] == 1.0 and found["latency_p50_ms"] > 0
    assert link.carried > big.stat().st_size and link.cuts == 0
    link.close()


def test_a_host_key_that_is_not_known(server: SshServer, big: Path, tmp_path: Path) -> None:
    add_entry(pi(server, known_hosts=str(tmp_path / "none")))
    shown = subprocess.run(["ssh-keygen", "-lf", server.root / "host_key"], capture_output=True, text=True, check=True)
    ran = bench(big)
    assert (ran.exit, ran.stderr) == (
        6, f"error: the host key is unknown; at pi ([127.0.0.1]:{server.port}); got its key is {shown.stdout.split()[1]}."
        f" If its owner confirms that key, accept it once with: ssh -p {server.port}"
        f" -o UserKnownHostsFile={tmp_path}/none 127.0.0.1\n",
    )  # fmt: skip
    assert ran.document == {"schema": "edgeq.error/1", "command": "bench", "error": ran.stderr[7:-1], "exit": 6}
    assert not (tmp_path / "none").exists()


def test_a_host_key_that_has_changed(server: SshServer, big: Path, tmp_path: Path) -> None:
    known = tmp_path / "known"
    known.write_text(f"[127.0.0.1]:{server.port} {write_key(tmp_path / 'other')}\n")
    before = known.read_bytes()
    add_entry(pi(server, known_hosts=str(known)))
    shown = subprocess.run(["ssh-keygen", "-lf", server.root / "host_key"], capture_output=True, text=True, check=True)
    ran = bench(big)
    assert (ran.exit, ran.stderr) == (
        6, f"error: the host key has changed, so this may be another machine; at pi ([127.0.0.1]:{server.port}); got its key"
        f" is {shown.stdout.split()[1]}. If its owner confirms the new key, forget the old one with: ssh-keygen -f {known}"
        f" -R '[127.0.0.1]:{server.port}', then accept the new one with: ssh -p {server.port}"
        f" -o UserKnownHostsFile={known} 127.0.0.1\n",
    )  # fmt: skip
    assert known.read_bytes() == before


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system, which takes root")
def test_a_board_whose_disk_is_full(server: SshServer, big: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", small], check=True)
    try:
        add_entry(pi(server, work=str(small)))
        ran = bench(big)
        assert (ran.exit, ran.stderr) == (
            6, "error: the board's disk is full; at pi: model.onnx."
            f" Make room there, or take another folder than {small}: edgeq boards add --work\n",
        )  # fmt: skip
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", "-l", small], check=True)
