"""A board whose every program is for aarch64, under QEMU's user emulation behind a real SSH server."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeq.boards.entries import FILE_VARIABLE, add_entry
from tests.board_artifacts import export_all
from tests.command_line import edgeq
from tests.ssh_server import SshServer, running

USERLAND = Path(sys.prefix) / "aarch64"
"""What scripts/aarch64-userland makes."""
BINFMT = Path("/proc/sys/fs/binfmt_misc")
RULE = (
    r":edgeq-aarch64:M::\x7f\x45\x4c\x46\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
    r":\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:{qemu}:P"
)
CPUINFO = "".join(
    f"processor\t: {k}\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd evtstrm crc32 cpuid\nCPU implementer\t: 0x41\n"
    "CPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: 0xd08\nCPU revision\t: 3\n\n"
    for k in range(os.cpu_count() or 1)
)
"""As a Cortex-A72's, which QEMU is told to be: the kernel's own is that of this machine."""


def runs() -> bool:
    """Whether this kernel runs the userland."""
    try:
        done = subprocess.run(
            [USERLAND / "bin" / "busybox", "uname", "-m"], capture_output=True, text=True, check=False
        )
    except OSError:
        return False
    return done.stdout == "aarch64\n"


@pytest.fixture(scope="module")
def emulation() -> Iterator[None]:
    """The kernel hands aarch64 programs to QEMU while these tests run."""
    qemu = shutil.which("qemu-aarch64")
    if not USERLAND.is_dir() or not qemu or os.geteuid() != 0:
        pytest.skip("needs root, Debian's qemu-user, and: scripts/aarch64-userland .venv/aarch64")
    registered = not runs()
    if registered:
        if not (BINFMT / "register").exists():
            subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", BINFMT], check=True)
        (BINFMT / "register").write_text(RULE.format(qemu=qemu))
    assert runs()
    yield
    if registered:
        (BINFMT / "edgeq-aarch64").write_text("-1")


@pytest.fixture(scope="module")
def server(emulation: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    root = tmp_path_factory.mktemp("aarch64")
    (root / "bin").mkdir()
    busybox = USERLAND / "bin" / "busybox"
    applets = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
    for applet in applets:
        (root / "bin" / applet).symlink_to(busybox)
    (root / "bin" / "python3").symlink_to(USERLAND / "usr" / "bin" / "python3.11")
    environment = {"PATH": f"{root}/bin", "QEMU_LD_PREFIX": str(USERLAND), "PYTHONPATH": f"{USERLAND}/site",
                   "QEMU_CPU": "cortex-a72"}  # fmt: skip
    with running(SshServer(root / "sshd", environment=environment, cpuinfo=CPUINFO)) as started:
        yield started


@pytest.fixture(autouse=True)
def board_list(server: SshServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(FILE_VARIABLE, str(tmp_path / "boards.toml"))
    add_entry(server.entry("pi4"))
    yield
    assert server.is_clean_within(20), (server.left(), server.processes())


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return export_all(tmp_path_factory.mktemp("artifacts"))


def test_probe() -> None:
    (found,) = edgeq("boards", "probe", "pi4", "--json").document["boards"]
    assert found["machine"] == "aarch64" and found["compiler"] == "" and found["python"].startswith("3.11.")
    assert found["packages"].keys() == {"numpy", "onnxruntime", "ai-edge-litert"}


def test_generated_c_is_cross_compiled_and_equals_the_reference(artifacts: dict[str, Path]) -> None:
    ran = edgeq("bench", artifacts["c"], "--board", "pi4", "--runs", 3, "--json")
    assert ran.exit == 0, ran.stderr
    assert "pi4: output logits is equal to the reference" in ran.document["notes"]
    (row,) = [row for row in ran.document["rows"] if row["metric"] == "latency_p50_ms"]
    assert row["value"] > 0 and "aarch64-linux-gnu-gcc -O3 here on" in row["how"]


@pytest.mark.parametrize(("kind", "runtime"), [("tflite", "LiteRT"), ("onnx", "ONNX Runtime")])
def test_a_python_runtime_gives_what_it_gives_here(artifacts: dict[str, Path], kind: str, runtime: str) -> None:
    ran = edgeq("bench", artifacts[kind], "--board", "pi4", "--runs", 2, "--threads", "1", "--json")
    assert ran.exit == 0, ran.stderr
    found = {row["metric"]: row for row in ran.document["rows"]}
    assert runtime in found["latency_p50_ms"]["how"] and found["peak_rss_bytes"]["value"] > 1 << 20
    (output,) = ran.document["agreement"]
    assert output["n"] == 20 and (output["signal_to_noise_db"] or 999) > 25 and output["largest_code_difference"] <= 4


def test_operators_are_profiled(artifacts: dict[str, Path], tmp_path: Path) -> None:
    ran = edgeq(
        "profile-ops", artifacts["c"].parent / "net.onnx", "-t", "aarch64-int8", "--choices", "w8a8", "--board", "pi4",
        "--preprocess", "cifar", "--runs", 3, "--threads", 1, "--out", tmp_path / "pi4.json", "--json",
        env={"XDG_CACHE_HOME": str(tmp_path)},
    )  # fmt: skip
    assert ran.exit == 0, ran.stderr
    table = json.loads((tmp_path / "pi4.json").read_text())
    assert all(table["layers"][name]["w8a8"] > 0 for name in ("a", "c", "logits")) and table["rest_ms"] > 0
