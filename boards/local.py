"""This machine as a board: a temporary folder, and programs run in it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Self

from edgeq.boards.board import Content, Finished
from edgeq.boards.probe import SCRIPT, Facts, facts_of
from edgeq.errors import BoardError

TIMEOUT_S = 600.0


def checked_name(name: str) -> str:
    """`name` if it stays inside the work folder. Raises BoardError."""
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or "\n" in name:
        raise BoardError("a file on a board has a relative name inside its work folder", value=repr(name))
    return str(path)


class LocalBoard:
    """This machine. `work` is where its work folder is made, `python` what runs programs of the Python runtimes."""

    def __init__(self, name: str = "local", work: str | None = None, python: str = "python3") -> None:
        self.name, self.python = name, python
        self._work = work
        self._folder: Path | None = None

    @property
    def folder(self) -> Path:
        """The work folder."""
        assert self._folder is not None, "the board was not entered"
        return self._folder

    async def __aenter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="edgeq.", dir=self._work))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.clean()

    async def probe(self) -> Facts:
        """What this machine is and has."""
        return facts_of((await self.run(["sh", "-c", SCRIPT, "probe", self.python])).stdout)

    async def put(self, files: Mapping[str, Content]) -> None:
        """Copy `files` into the work folder."""
        for name, content in files.items():
            place = self.folder / checked_name(name)
            try:
                place.parent.mkdir(parents=True, exist_ok=True)
                if isinstance(content, bytes):
                    place.write_bytes(content)
                else:
                    shutil.copyfile(content, place)
            except OSError as error:
                raise BoardError("cannot store a file", where=f"{self.name}: {name}", value=error.strerror) from error

    async def run(self, command: Sequence[str], *, timeout_s: float = TIMEOUT_S) -> Finished:
        """Run a program in the work folder, in a process group of its own that ends with it."""
        pipe = asyncio.subprocess.PIPE
        try:
            process = await asyncio.create_subprocess_exec(
                *command, cwd=self.folder, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe,
                start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            return Finished(127, "", f"{command[0]}: {error.strerror}")
        try:
            out, err = await asyncio.wait_for(process.communicate(), timeout_s)
        except TimeoutError:
            raise BoardError("a program took too long", where=f"{self.name}: {command[0]}",
                             allowed=f"{timeout_s:g} s") from None  # fmt: skip
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        return Finished(process.returncode or 0, out.decode(errors="replace"), err.decode(errors="replace"))

    async def get(self, name: str) -> bytes:
        """The content of a file."""
        try:
            return (self.folder / checked_name(name)).read_bytes()
        except OSError as error:
            raise BoardError("cannot read a file", where=f"{self.name}: {name}", value=error.strerror) from error

    async def clean(self) -> None:
        """Remove the work folder."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None
