"""Connections to boards: verified host keys, no passwords, and errors that say what to do next.

A host key is accepted if known_hosts holds it, as OpenSSH would with StrictHostKeyChecking=yes; nothing is ever learnt
or written here.
"""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeq.boards.entries import Entry
from edgeq.errors import BoardError, MissingDependencyError, UsageError

SYSTEM_KNOWN_HOSTS = "/etc/ssh/ssh_known_hosts"
CONNECT_TIMEOUT_S, LOGIN_TIMEOUT_S, CLOSE_TIMEOUT_S = 15, 30, 5
KEEPALIVE_S, KEEPALIVES = 30, 4
"""A silent connection is given up after two minutes: on a slow link an answer waits behind what is on its way."""


def asyncssh_module() -> Any:
    """asyncssh. Raises MissingDependencyError."""
    try:
        import asyncssh
    except ImportError as error:
        raise MissingDependencyError("asyncssh", "boards", needed_for="reaching a board over SSH") from error
    return asyncssh


class _HostKeys:
    """The host keys that are known, and the one that a server showed but that is not among them."""

    def __init__(self, entry: Entry) -> None:
        named = Path(entry.known_hosts).expanduser() if entry.known_hosts else None
        self.path = named or Path.home() / ".ssh" / "known_hosts"
        files = [self.path] if named else [self.path, Path(SYSTEM_KNOWN_HOSTS)]
        try:
            lines = "\n".join(path.read_text("utf-8", errors="replace") for path in files if path.is_file())
            self.known = asyncssh_module().import_known_hosts(lines)
        except (OSError, ValueError) as error:
            raise UsageError("the known hosts cannot be read", where=self.path, value=error) from error
        self.shown: Any = None

    def client(self) -> Any:
        """An SSHClient that notes the key that was refused."""
        keys = self

        class Client(asyncssh_module().SSHClient):  # type: ignore[misc]  # asyncssh is loaded when it is needed
            def validate_host_public_key(self, host: str, addr: str, port: int, key: Any) -> bool:
                keys.shown = key
                return False

        return Client

    def of(self, host: str, port: int) -> tuple[list[Any], list[Any]]:
        """The host keys and the authorities that are known for a host."""
        keys, authorities, *_ = self.known.match(host, "", None if port == 22 else port)
        return keys, authorities

    def algorithms(self, host: str, port: int) -> list[str]:
        """What to ask a host for: kinds that are known first, but others too, so that it shows what it has instead."""
        from asyncssh.public_key import get_default_certificate_algs, get_default_public_key_algs

        keys, authorities = self.of(host, port)
        wanted = get_default_certificate_algs() if authorities else []
        wanted = [*wanted, *(name for key in keys for name in key.sig_algorithms), *get_default_public_key_algs()]
        return list(dict.fromkeys(name.decode() for name in wanted))

    def refusal(self, name: str, host: str, port: int, user: str) -> BoardError:
        """What to say of the key that was shown."""
        spelled = host if port == 22 else f"[{host}]:{port}"
        known = self.of(host, port)
        shown = f"its key is {self.shown.get_fingerprint()}" if self.shown else "its certificate is not signed as known"
        file = shlex.quote(str(self.path))
        visit = f"ssh -p {port} -o UserKnownHostsFile={file} {user + '@' if user else ''}{host}"
        if any(known):
            return BoardError(
                "the host key has changed, so this may be another machine", where=f"{name} ({spelled})", value=shown,
                next_step=f"If its owner confirms the new key, forget the old one with: ssh-keygen -f {file} -R "
                f"'{spelled}', then accept the new one with: {visit}",
            )  # fmt: skip
        return BoardError(
            "the host key is unknown", where=f"{name} ({spelled})", value=shown,
            next_step=f"If its owner confirms that key, accept it once with: {visit}",
        )  # fmt: skip


async def connect(entry: Entry) -> Any:
    """An authenticated connection to the board. Raises BoardError for everything that can go wrong on the way."""
    if not entry.jump:
        return await _connect(entry, None)
    user, _, place = entry.jump.rpartition("@")
    host, _, port = place.partition(":")
    try:
        number = int(port or 22)
    except ValueError:
        raise UsageError("cannot read the jump host", where=entry.name, value=entry.jump,
                         allowed="[user@]host[:port]") from None  # fmt: skip
    gate = Entry(f"{entry.name}'s jump host", host, number, user, entry.key, known_hosts=entry.known_hosts)
    tunnel = await _connect(gate, None)
    try:
        connection = await _connect(entry, tunnel)
    except BaseException:
        tunnel.close()
        raise
    connection.edgeq_tunnel = tunnel  # closed with the connection: see close()
    return connection


async def close(connection: Any) -> None:
    """Close a connection and what it goes through; one that does not end is dropped."""
    for link in (connection, getattr(connection, "edgeq_tunnel", None)):
        if link is not None:
            link.close()
            try:
                await asyncio.wait_for(link.wait_closed(), CLOSE_TIMEOUT_S)
            except TimeoutError:
                link.abort()


def _options(entry: Entry, keys: _HostKeys) -> Mapping[str, Any]:
    options: dict[str, Any] = {
        "config": None,
        "known_hosts": keys.known,
        "server_host_key_algs": keys.algorithms(entry.host, entry.port),
        "client_factory": keys.client(),
        "preferred_auth": "publickey",
        "connect_timeout": CONNECT_TIMEOUT_S,
        "login_timeout": LOGIN_TIMEOUT_S,
        "keepalive_interval": KEEPALIVE_S,
        "keepalive_count_max": KEEPALIVES,
    }
    if entry.user:
        options["username"] = entry.user
    if entry.key:
        path = Path(entry.key).expanduser()
        if not path.is_file():
            raise BoardError("there is no such key", where=entry.name, value=path,
                             next_step=f"Make one with: ssh-keygen -t ed25519 -f {path}")  # fmt: skip
        options["client_keys"] = [str(path)]
    return options


async def _connect(entry: Entry, tunnel: Any) -> Any:
    ssh, keys = asyncssh_module(), _HostKeys(entry)
    where = f"{entry.name} ({entry.user + '@' if entry.user else ''}{entry.host}:{entry.port})"
    try:
        open_ = tunnel.connect_ssh if tunnel else ssh.connect
        return await open_(entry.host, entry.port, **_options(entry, keys))
    except ssh.HostKeyNotVerifiable as error:
        raise keys.refusal(entry.name, entry.host, entry.port, entry.user) from error
    except ssh.KeyExchangeFailed as error:
        raise BoardError("cannot agree on a cipher", where=where, value=error) from error
    except ssh.PermissionDenied as error:
        raise BoardError(
            "the board accepts none of the keys", where=where, allowed=entry.key or "those that ssh-add holds and those in ~/.ssh",
            next_step=f"Install yours with: ssh-copy-id -p {entry.port} {entry.user + '@' if entry.user else ''}{entry.host}",
        ) from error  # fmt: skip
    except (ssh.KeyImportError, ssh.KeyEncryptionError) as error:
        raise BoardError("the key cannot be used", where=f"{entry.name}: {entry.key}", value=error,
                         next_step=f"Load it with: ssh-add {entry.key}, and leave --key out.") from error  # fmt: skip
    except TimeoutError as error:
        raise BoardError("the board does not answer", where=where, value=f"nothing for {CONNECT_TIMEOUT_S} s",
                         next_step="Is it switched on and in this network?") from error  # fmt: skip
    except (OSError, ssh.Error) as error:
        raise BoardError("cannot connect to the board", where=where, value=getattr(error, "strerror", None) or error,
                         next_step="Is it switched on, in this network, and running an SSH server?") from error  # fmt: skip
