"""A board behind SSH: files by `cat`, programs by a shell, nothing else needed there but sha256sum and mktemp.

Nothing stays on the board. A keeper, a shell that lives as long as the connection, owns the work folder: told to, or when
the connection has been gone for a while, it removes it. A new connection takes the folder over in time, so that a cut
upload goes on where it stopped. A program runs beside a watcher, which ends it when the caller goes away.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import shlex
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Self

from edgeq.boards.board import Content, Finished
from edgeq.boards.entries import Entry
from edgeq.boards.local import TIMEOUT_S, checked_name
from edgeq.boards.probe import SCRIPT, Facts, facts_of
from edgeq.boards.ssh_connect import asyncssh_module, close, connect
from edgeq.errors import BoardError

GRACE_S = 60
"""How long a work folder outlives its connection."""
RETRY_AFTER_S = (0.2, 1.0, 3.0, 10.0)
CHUNK = 1 << 16
WORK = "edgeq-work:"
END_S = 10.0

# $1: a folder to take over, or the name of a new one with X for what mktemp chooses; $2: GRACE_S.
KEEPER = r"""
umask 077
trap '' HUP PIPE
case $1 in
    *XXXXXXXX) d=$(mktemp -d "$1" 2>&1) && chmod 700 "$d" || { echo "$d" >&2; exit 73; } ;;
    *) d=$1; [ -d "$d" ] || { echo "$d is gone" >&2; exit 74; } ;;
esac
echo $$ 2>/dev/null > "$d/.keeper" || { rm -rf "$d"; echo "No space left on device" >&2; exit 73; }
echo "edgeq-work:$d"
mine() { [ "$(cat "$d/.keeper" 2>/dev/null)" = $$ ]; }
if ! read -r _; then
    i=0
    while [ $i -lt "$2" ] && mine; do sleep 1; i=$((i + 1)); done
    mine || exit 0
fi
rm -rf "$d"
"""

# The rest of the line is a command; it ends when standard input does.
WATCHED = r"""
exec 3<&0
if command -v setsid >/dev/null 2>&1; then group=-; setsid "$@" </dev/null 3<&- & else group=; "$@" </dev/null 3<&- & fi
child=$!
{ cat >/dev/null; kill -TERM "$group$child"; sleep 1; kill -KILL "$group$child"; } <&3 >/dev/null 2>&1 3<&- &
watcher=$!
exec 3<&-
wait $child
code=$?
kill $watcher
exit $code
"""

# $1: offset from which to go on, $2: name, $3: digest. Prints the digest that it found.
STORE = r"""
umask 077
mkdir -p "$(dirname "$2")" || exit 75
[ "$1" -gt 0 ] || : > "$2.partial" || exit 75
cat >> "$2.partial" || exit 75
found=$(sha256sum "$2.partial" | cut -c 1-64)
echo "$found"
[ "$found" = "$3" ] || exit 1
mv "$2.partial" "$2" || exit 75
"""


class SshBoard:
    """The board of an entry of boards.toml."""

    def __init__(self, entry: Entry, *, grace_s: int = GRACE_S, retry_after_s: Sequence[float] = RETRY_AFTER_S) -> None:
        self.entry, self.name, self.python = entry, entry.name, entry.python
        self._grace_s, self._retry_after_s = grace_s, retry_after_s
        self._connection: Any = None
        self._keeper: Any = None
        self._folder: str | None = None
        self._holds: dict[str, str] = {}  # digests of the files that are there, by name

    # --- the connection and the work folder ---------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        try:
            await self._open(f"{self.entry.work.rstrip('/')}/edgeq.XXXXXXXX")
        except BaseException:
            await self.clean()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.clean()

    async def _open(self, folder: str) -> None:
        """Connect, and start the keeper of a folder, new or taken over."""
        self._connection = await connect(self.entry)
        command = shlex.join(["sh", "-c", KEEPER, "keeper", folder, str(self._grace_s)])
        try:
            with self._broken_is_an_error():
                self._keeper = await self._connection.create_process(command)
                line = await self._keeper.stdout.readline()
                while line and not line.startswith(WORK):  # start-up files of the shell may say something first
                    line = await self._keeper.stdout.readline()
                if not line:
                    ended = await self._keeper.wait()
                    raise self._store_error(ended.stderr.strip(), "cannot make a work folder", self.entry.work)
        except BaseException:
            await close(self._connection)
            raise
        self._folder = line.removeprefix(WORK).rstrip("\n")

    async def _reopen(self) -> None:
        """Connect again and take the folder over. Raises BoardError when that fails for long."""
        assert self._folder is not None
        await close(self._connection)
        last = self._lost()
        for wait_s in self._retry_after_s:
            await asyncio.sleep(wait_s)
            try:
                return await self._open(self._folder)
            except BoardError as error:
                last = error
        raise last

    async def clean(self) -> None:
        """End what still runs, remove the work folder and close the connection, over a new one if this one is broken."""
        if self._folder is None:
            return await self._let_go()
        with contextlib.suppress(BoardError):
            try:
                await self._tell_keeper()
            except BoardError:
                await self._reopen()
                await self._tell_keeper()
        await self._let_go()

    async def _tell_keeper(self) -> None:
        with self._broken_is_an_error():
            self._keeper.stdin.write("remove\n")
            await asyncio.wait_for(self._keeper.wait(), END_S)
            if self._keeper.exit_status != 0:
                raise self._lost()
        self._folder = None

    async def _let_go(self) -> None:
        if self._connection is not None:
            await close(self._connection)
        self._connection = self._keeper = self._folder = None
        self._holds.clear()

    def _lost(self) -> BoardError:
        return BoardError(
            "the connection to the board broke", where=f"{self.name} ({self.entry.host}:{self.entry.port})",
            next_step="What ran there was ended and its files are removed; try again.",
        )  # fmt: skip

    @contextlib.contextmanager
    def _broken_is_an_error(self) -> Iterator[None]:
        try:
            yield
        except (OSError, TimeoutError, asyncssh_module().Error) as error:
            raise self._lost() from error

    # --- programs -----------------------------------------------------------------------------------------------------

    async def probe(self) -> Facts:
        """What the board is and has."""
        done = await self.run(["sh", "-c", SCRIPT, "probe", self.python])
        if done.exit:
            raise BoardError("the board cannot be probed", where=self.name, value=done.complaint)
        return facts_of(done.stdout)

    async def run(self, command: Sequence[str], *, timeout_s: float = TIMEOUT_S) -> Finished:
        """Run a program in the work folder; when the caller stops, or it takes too long, it is ended there."""
        line = shlex.join(["sh", "-c", f"cd {shlex.quote(str(self._folder))} || exit 126\n{WATCHED}", "run", *command])
        async with self._process(line) as process:
            try:
                done = await asyncio.wait_for(process.wait(), timeout_s)
            except TimeoutError:
                raise BoardError("a program took too long", where=f"{self.name}: {command[0]}",
                                 allowed=f"{timeout_s:g} s") from None  # fmt: skip
        if done.exit_status is None:
            raise self._lost()
        return Finished(done.exit_status, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))

    @contextlib.asynccontextmanager
    async def _process(self, command: str) -> AsyncIterator[Any]:
        """A process over the connection, of bytes; its standard input ends when it is left, however."""
        with self._broken_is_an_error():
            process = await self._connection.create_process(command, encoding=None)
        try:
            yield process
        finally:
            with contextlib.suppress(Exception):
                process.stdin.write_eof()
                await asyncio.wait_for(process.wait(), END_S)
            process.close()

    # --- files --------------------------------------------------------------------------------------------------------

    async def put(self, files: Mapping[str, Content]) -> None:
        """Store `files`; each is checked by its SHA-256, one that was cut goes on where it stopped, one that is there stays."""
        for name, content in files.items():
            digest = await asyncio.to_thread(_digest, content)
            if self._holds.get(name) != digest:
                self._holds.pop(name, None)
                await self._put(checked_name(name), content, digest)
                self._holds[name] = digest

    async def _put(self, name: str, content: Content, digest: str) -> None:
        done, attempts = 0, 0
        while True:
            try:
                found = await self._store(name, content, digest, done)
            except _CutError:
                await self._reopen()
                done = await self._stored(name)
                continue
            if found == digest:
                return
            if attempts := attempts + 1:
                done = 0
            if attempts > 1:
                raise BoardError(
                    "a file arrived damaged, twice", where=f"{self.name}: {name}", value=found, allowed=digest
                )

    async def _store(self, name: str, content: Content, digest: str, done: int) -> str:
        """Send `content` from byte `done` on; returns the digest of what arrived."""
        script = f"cd {shlex.quote(str(self._folder))} || exit 126\n{STORE}"
        line = shlex.join(["sh", "-c", script, "store", str(done), f"./{name}", digest])
        try:
            async with self._process(line) as process:
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the exit status tells
                    for piece in _pieces(content, done):
                        process.stdin.write(piece)
                        await process.stdin.drain()
                    process.stdin.write_eof()
                ended = await process.wait()
                if ended.exit_status is None:
                    raise _CutError
        except (BoardError, OSError, asyncssh_module().Error) as error:
            raise _CutError from error
        if ended.exit_status not in (0, 1):
            raise self._store_error(ended.stderr.decode(errors="replace").strip(), "cannot store a file", name)
        return str(ended.stdout.decode(errors="replace").split()[-1])

    def _store_error(self, complaint: str, what: str, name: str) -> BoardError:
        where = f"{self.name}: {name}"
        if "No space left" in complaint or "Disk quota" in complaint:
            return BoardError(
                "the board's disk is full", where=where,
                next_step=f"Make room there, or take another folder than {self.entry.work}: edgeq boards add --work",
            )  # fmt: skip
        last = complaint.splitlines()[-1] if complaint else "no message"
        return BoardError(what, where=where, value=last)

    async def _stored(self, name: str) -> int:
        """Bytes of a file that was cut."""
        size = await self.run(["sh", "-c", 'wc -c < "$1.partial" 2>/dev/null || echo 0', "size", f"./{name}"])
        return int(size.stdout.split()[-1])

    async def get(self, name: str) -> bytes:
        """The content of a file."""
        path = PurePosixPath(str(self._folder)) / checked_name(name)
        async with self._process(shlex.join(["cat", str(path)])) as process:
            with self._broken_is_an_error():
                ended = await process.wait()
        if ended.exit_status is None:
            raise self._lost()
        if ended.exit_status:
            raise BoardError("cannot read a file", where=f"{self.name}: {name}",
                             value=ended.stderr.decode(errors="replace").strip())  # fmt: skip
        return bytes(ended.stdout)


class _CutError(Exception):
    """The connection ended during an upload."""


def _pieces(content: Content, start: int) -> Iterator[bytes]:
    if isinstance(content, bytes):
        for at in range(start, len(content), CHUNK):
            yield content[at : at + CHUNK]
        return
    with content.open("rb") as file:
        file.seek(start)
        while piece := file.read(CHUNK):
            yield piece


def _digest(content: Content) -> str:
    if isinstance(content, Path):
        with content.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    return hashlib.sha256(content).hexdigest()
