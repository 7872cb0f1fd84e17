"""Boards behind a real OpenSSH server: files, programs, host keys, broken links, and nothing left behind."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgeq.boards.entries import Entry
from edgeq.boards.ssh import SshBoard
from edgeq.errors import BoardError
from tests.ssh_server import Link, SshServer, free_port, running, write_key


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    with running(SshServer(tmp_path_factory.mktemp("sshd"))) as started:
        yield started


@pytest.fixture(autouse=True)
def nothing_is_left(server: SshServer) -> Iterator[None]:
    """Whatever a test does, the board is as it was afterwards."""
    yield
    assert server.is_clean_within(10), (server.left(), server.processes())


def noise(size: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8).tobytes()


def refused(entry: Entry) -> str:
    """The message of a board that cannot be entered."""

    async def enter() -> None:
        async with SshBoard(entry):
            pass

    with pytest.raises(BoardError) as caught:
        asyncio.run(enter())
    assert caught.value.exit_code == 6
    return str(caught.value)


def test_files_and_programs(server: SshServer, tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.write_bytes(noise(3_000_000))

    async def use() -> None:
        async with SshBoard(server.entry()) as board:
            await board.put(
                {"plain": b"text", "in a folder/it's $(odd)": noise(100), "big": big, "-n": b"", "empty": b""}
            )
            (folder,) = server.work.iterdir()
            assert folder.stat().st_mode & 0o777 == 0o700
            assert await board.get("big") == big.read_bytes()
            assert await board.get("in a folder/it's $(odd)") == noise(100)
            assert await board.get("-n") == b""
            done = await board.run(["printf", "%s|%s", "a b", "$(touch x); 'q'"])
            assert (done.exit, done.stdout) == (0, "a b|$(touch x); 'q'")
            assert not (folder / "x").exists()
            done = await board.run(["sh", "-c", "echo out; echo err >&2; pwd; exit 7"])
            assert (done.exit, done.stdout, done.stderr) == (7, f"out\n{folder}\n", "err\n")
            assert done.complaint == "err"
            done = await board.run(["no such program"])
            assert done.exit == 127
            with pytest.raises(BoardError, match=r"cannot read a file; at pi: gone; got .*No such file"):
                await board.get("gone")
            with pytest.raises(BoardError, match="relative name"):
                await board.put({"../out": b""})

    asyncio.run(use())


def test_probe(server: SshServer) -> None:
    async def use() -> None:
        async with SshBoard(server.entry(python=os.sys.executable)) as board:  # type: ignore[attr-defined]
            facts = await board.probe()
        assert facts.machine == os.uname().machine and facts.cores == os.cpu_count()
        assert facts.memory_bytes > 1 << 28 and facts.free_bytes > 1 << 20
        assert facts.python.startswith("3.") and facts.packages["numpy"] == np.__version__
        assert "onnxruntime" in facts.packages and facts.compiler and facts.os and facts.kernel

    asyncio.run(use())


def test_an_unknown_host_key_is_refused(server: SshServer, tmp_path: Path) -> None:
    message = refused(server.entry(known_hosts=str(tmp_path / "none")))
    fingerprint = subprocess.run(
        ["ssh-keygen", "-lf", server.root / "host_key"], capture_output=True, text=True, check=True
    ).stdout.split()[1]
    assert message == (
        f"the host key is unknown; at pi ([127.0.0.1]:{server.port}); got its key is {fingerprint}. If its owner confirms"
        f" that key, accept it once with: ssh -p {server.port} -o UserKnownHostsFile={tmp_path}/none 127.0.0.1"
    )
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("kind", ["ssh-ed25519", "ecdsa-sha2-nistp256"])
def test_a_changed_host_key_is_refused(server: SshServer, tmp_path: Path, kind: str) -> None:
    known = tmp_path / "known"
    known.write_text(f"[127.0.0.1]:{server.port} {write_key(tmp_path / 'other', kind)}\n")
    message = refused(server.entry(known_hosts=str(known)))
    assert message.startswith(
        f"the host key has changed, so this may be another machine; at pi ([127.0.0.1]:{server.port}); got "
    )
    assert message.endswith(
        f"If its owner confirms the new key, forget the old one with: ssh-keygen -f {known} -R '[127.0.0.1]:{server.port}',"
        f" then accept the new one with: ssh -p {server.port} -o UserKnownHostsFile={known} 127.0.0.1"
    )
    forget = re.search(r"ssh-keygen -f .*?(?=, then)", message)
    assert forget
    subprocess.run(forget[0], shell=True, capture_output=True, check=True)
    assert "unknown" in refused(server.entry(known_hosts=str(known)))


def test_a_key_that_the_board_does_not_know(server: SshServer, tmp_path: Path) -> None:
    write_key(tmp_path / "mine")
    message = refused(server.entry(key=str(tmp_path / "mine")))
    assert message == (
        f"the board accepts none of the keys; at pi (127.0.0.1:{server.port}); allowed: {tmp_path}/mine."
        f" Install yours with: ssh-copy-id -p {server.port} 127.0.0.1"
    )
    assert "there is no such key" in refused(server.entry(key=str(tmp_path / "none")))


def test_nobody_there(server: SshServer) -> None:
    port = free_port()
    assert refused(server.entry(port=port)).startswith(f"cannot connect to the board; at pi (127.0.0.1:{port}); got ")


def test_a_work_folder_that_is_not_there(server: SshServer) -> None:
    assert refused(server.entry(work="/no/such")).startswith("cannot make a work folder; at pi: /no/such; got mktemp: ")


def test_a_jump_host(server: SshServer) -> None:
    async def use() -> None:
        async with SshBoard(server.entry(jump=f"127.0.0.1:{server.port}")) as board:
            await board.put({"a": b"b"})
            assert await board.get("a") == b"b"

    asyncio.run(use())


def test_a_cut_upload_goes_on_where_it_stopped(server: SshServer) -> None:
    size = 6_000_000
    link = Link(server.port, cut_after=4_000_000)
    server.trust(link.port)

    async def use() -> None:
        async with SshBoard(server.entry(port=link.port)) as board:
            await board.put({"model": noise(size)})
            assert await board.get("model") == noise(size)

    asyncio.run(use())
    assert link.cuts == 1
    assert link.carried < 1.7 * size, "the upload began again"
    link.close()


def test_an_upload_that_stays_cut_fails_and_leaves_nothing(server: SshServer) -> None:
    link = Link(server.port, cut_after=1_000_000)
    server.trust(link.port)

    async def use() -> None:
        async with SshBoard(server.entry(port=link.port), grace_s=1, retry_after_s=(0.1, 0.1)) as board:
            cut = link.cut

            def cut_for_good() -> None:
                link.refuses = True
                cut()

            link.cut = cut_for_good  # type: ignore[method-assign]
            await board.put({"model": noise(6_000_000)})

    with pytest.raises(BoardError, match=f"cannot connect to the board; at pi .127.0.0.1:{link.port}.") as caught:
        asyncio.run(use())
    assert caught.value.exit_code == 6
    assert server.left()
    assert server.is_clean_within(10)
    link.close()


def test_a_connection_killed_while_a_program_runs(server: SshServer) -> None:
    link = Link(server.port)
    server.trust(link.port)

    async def use() -> None:
        async with SshBoard(server.entry(port=link.port)) as board:
            asyncio.get_running_loop().call_later(0.7, link.cut)
            await board.run(["sh", "-c", f"sleep 100 & echo {server.work}; wait"])

    started = time.monotonic()
    with pytest.raises(BoardError) as caught:
        asyncio.run(use())
    assert str(caught.value) == (
        f"the connection to the board broke; at pi (127.0.0.1:{link.port})."
        " What ran there was ended and its files are removed; try again."
    )
    assert link.cuts and time.monotonic() - started < 60
    link.close()


def test_a_program_that_takes_too_long_is_ended(server: SshServer) -> None:
    async def use() -> None:
        async with SshBoard(server.entry()) as board:
            with pytest.raises(BoardError, match=r"a program took too long; at pi: sh; allowed: 0.5 s"):
                await board.run(["sh", "-c", f"sleep 100; echo {server.work}"], timeout_s=0.5)
            assert (await board.run(["echo", "next"])).stdout == "next\n"

    asyncio.run(use())


def test_a_caller_that_is_interrupted_cleans_up(server: SshServer) -> None:
    async def use() -> None:
        async with SshBoard(server.entry()) as board:
            await board.put({"a": b"b"})
            await board.run(["sh", "-c", f"sleep 100; echo {server.work}"])

    async def interrupt() -> None:
        task = asyncio.create_task(use())
        while not any("sleep 100" in line for line in server.processes()):
            await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(interrupt())
    assert server.is_clean_within(3)


def test_a_slow_link(server: SshServer) -> None:
    link = Link(server.port, bytes_per_s=400_000)
    server.trust(link.port)

    async def use() -> None:
        async with SshBoard(server.entry(port=link.port)) as board:
            await board.put({"model": noise(500_000)})
            assert await board.get("model") == noise(500_000)

    asyncio.run(use())
    link.close()


def test_a_login_shell_that_talks(server: SshServer) -> None:
    """Start-up files that print something break many tools that speak over SSH."""
    start_up = server.root / "home" / ".bashrc"
    start_up.write_text("echo Welcome to the board\n")

    async def use() -> None:
        async with SshBoard(server.entry()) as board:
            await board.put({"model": noise(100_000)})
            assert (await board.run(["echo", "hello"])).stdout.endswith("hello\n")
            assert (await board.probe()).machine == os.uname().machine

    try:
        asyncio.run(use())
    finally:
        start_up.unlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system, which takes root")
def test_a_full_disk(server: SshServer, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", small], check=True)
    try:

        async def use() -> None:
            async with SshBoard(server.entry(work=str(small))) as board:
                await board.put({"little": noise(1000)})
                await board.put({"model": noise(9_000_000)})

        with pytest.raises(BoardError) as caught:
            asyncio.run(use())
        assert str(caught.value) == (
            "the board's disk is full; at pi: model."
            f" Make room there, or take another folder than {small}: edgeq boards add --work"
        )
        assert list(small.iterdir()) == []
        (small / "filler").write_bytes(b"x" * (1 << 20))
        assert "disk is full" in refused(server.entry(work=str(small)))
        assert [path.name for path in small.iterdir()] == ["filler"]
    finally:
        subprocess.run(["umount", "-l", small], check=True)


def test_two_boards_at_once(server: SshServer) -> None:
    async def use(name: str, seed: int) -> str:
        async with SshBoard(server.entry(name)) as board:
            await board.put({"model": noise(200_000, seed)})
            assert await board.get("model") == noise(200_000, seed)
            return (await board.run(["pwd"])).stdout

    async def both() -> list[str]:
        return await asyncio.gather(use("one", 1), use("two", 2))

    folders = asyncio.run(both())
    assert len(set(folders)) == 2
