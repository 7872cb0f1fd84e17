"""A real OpenSSH server on loopback with keys, port and folders of its own, and a link to it that can be slow or cut."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from edgeq.boards.entries import Entry
from edgeq.boards.ssh_connect import asyncssh_module

SSHD = shutil.which("sshd", path=os.defpath + ":/usr/sbin:/sbin") or "/usr/sbin/sshd"
PRIVILEGE_SEPARATION = Path("/run/sshd")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def write_key(path: Path, algorithm: str = "ssh-ed25519") -> str:
    """A new private key at `path`; returns its public half."""
    key = asyncssh_module().generate_private_key(algorithm)
    key.write_private_key(str(path))
    path.chmod(0o600)
    return str(key.export_public_key().decode().strip())


class SshServer:
    """An sshd that runs as the user of the tests; `root` holds its keys, and `work` what boards leave behind."""

    def __init__(self, root: Path, *, environment: Mapping[str, str] | None = None, cpuinfo: str | None = None) -> None:
        """`environment` is that of every command; the home folder is empty, so that no start-up file changes it.

        `cpuinfo` stands in /proc/cpuinfo there.
        """
        self._prefix: list[str] = []
        if cpuinfo is not None:
            root.mkdir(parents=True)
            (root / "cpuinfo").write_text(cpuinfo)
            mount = f'mount --bind {root}/cpuinfo /proc/cpuinfo && exec "$@"'
            self._prefix = ["unshare", "--mount", "sh", "-c", mount, "sh"]
        self.root, self.work, self.port = root, root / "work", free_port()
        (root / "home").mkdir(parents=True)
        variables = {"HOME": str(root / "home"), **(environment or {})}
        self.work.mkdir(parents=True)
        self.host_key = write_key(root / "host_key")
        (root / "authorized_keys").write_text(write_key(root / "user_key") + "\n")
        self.known_hosts = root / "known_hosts"
        self.trust(self.port)
        (root / "sshd_config").write_text(
            f"""Port {self.port}
ListenAddress 127.0.0.1
HostKey {root}/host_key
AuthorizedKeysFile {root}/authorized_keys
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
MaxStartups 200
MaxSessions 50
SetEnv {" ".join(f"{name}={value}" for name, value in variables.items())}
"""
        )
        self._process: subprocess.Popen[bytes] | None = None

    def trust(self, port: int) -> None:
        """Make the host key known for `port`, such as that of a link."""
        with self.known_hosts.open("a") as file:
            file.write(f"[127.0.0.1]:{port} {self.host_key}\n")

    def start(self) -> None:
        if os.geteuid() == 0:
            PRIVILEGE_SEPARATION.mkdir(exist_ok=True)
        log = (self.root / "log").open("ab")
        self._process = subprocess.Popen(
            [*self._prefix, SSHD, "-D", "-e", "-f", str(self.root / "sshd_config")], stderr=log
        )
        log.close()
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            if self._process.poll() is not None:
                break
            time.sleep(0.05)
        raise RuntimeError((self.root / "log").read_text())

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()

    def entry(self, name: str = "pi", **changes: object) -> Entry:
        """The server as a board."""
        made = Entry(
            name, "127.0.0.1", self.port, key=str(self.root / "user_key"), work=str(self.work),
            known_hosts=str(self.known_hosts),
        )  # fmt: skip
        return replace(made, **changes)  # type: ignore[arg-type]

    def left(self) -> list[str]:
        """What boards left in the work folder."""
        return sorted(str(path.relative_to(self.work)) for path in self.work.rglob("*"))

    def processes(self) -> list[str]:
        """Command lines of processes that mention the work folder or run in it."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                line = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                place = os.readlink(path / "cwd")
            except OSError:
                continue
            if str(self.work) in line + place and path.name != str(os.getpid()):
                found.append(line)
        return found

    def is_clean_within(self, seconds: float) -> bool:
        """Whether the board's folder is empty and nothing runs in it, after at most `seconds`."""
        end = time.monotonic() + seconds
        while self.left() or self.processes():
            if time.monotonic() > end:
                return False
            time.sleep(0.05)
        return True


@contextmanager
def running(server: SshServer) -> Iterator[SshServer]:
    server.start()
    try:
        yield server
    finally:
        server.stop()


class Link:
    """A TCP link to `port` that carries `bytes_per_s`, and that can be cut: at once, or after so many bytes up.

    While `refuses` is set, new connections are closed at once.
    """

    def __init__(self, port: int, bytes_per_s: float | None = None, cut_after: int | None = None) -> None:
        self.refuses = False
        self.cuts = 0
        self.carried = 0
        self._to, self._rate, self._cut_after = port, bytes_per_s, cut_after
        self._ends: list[socket.socket] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            if self.refuses:
                near.close()
                continue
            far = socket.create_connection(("127.0.0.1", self._to))
            self._ends += [near, far]
            threading.Thread(target=self._carry, args=(near, far, True), daemon=True).start()
            threading.Thread(target=self._carry, args=(far, near, False), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket, up: bool) -> None:
        try:
            while piece := source.recv(16384):
                if self._rate:
                    time.sleep(len(piece) / self._rate)
                sink.sendall(piece)
                if up:
                    self.carried += len(piece)
                    if self._cut_after is not None and self.carried > self._cut_after:
                        self._cut_after = None
                        self.cut()
        except OSError:
            pass
        _end(source, sink)

    def cut(self) -> None:
        """Break every connection that goes through here."""
        self.cuts += 1
        _end(*self._ends)
        self._ends.clear()

    def close(self) -> None:
        _end(self._server)
        self.cut()


def _end(*ends: socket.socket) -> None:
    """End connections for whoever still waits for them: to close them alone would not wake it."""
    for end in ends:
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
    for end in ends:
        end.close()
