"""Many jobs on a fleet of boards, each done once, whatever breaks in between.

A job is a key in a SQLite file: pending, running, done or failed. A board takes the next one when it is free, so that a
quick board does more of them. What was running when its board was lost or the driver died is pending again; what is done
stays done. Neither the jobs nor their results are held in memory.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from edgeq.boards.board import Board
from edgeq.errors import BoardError, EdgeqError, UsageError
from edgeq.progress import Progress, silent

T = TypeVar("T")
ATTEMPTS = 3
"""How often a job is begun before it counts as failed, and how often a board may be lost before it is left alone."""
BATCH = 1000
IDLE_S = 0.2
_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    key TEXT PRIMARY KEY, wants TEXT, state TEXT NOT NULL DEFAULT 'pending', attempts INTEGER NOT NULL DEFAULT 0,
    board TEXT, began REAL, ended REAL, result TEXT
);
CREATE INDEX IF NOT EXISTS by_state ON jobs (state, wants);
"""


@dataclass(frozen=True)
class Job:
    """One line of the store; `result` is the document of a job that is done, or why one failed. Times are of this clock."""

    key: str
    state: str
    attempts: int
    board: str | None
    began: float | None
    ended: float | None
    result: Any


class JobStore:
    """The jobs in a file. Every change is on the disk before the method returns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._base = sqlite3.connect(path, isolation_level=None)
            self._base.execute("PRAGMA journal_mode = WAL")
            self._base.executescript(_SCHEMA)
        except sqlite3.Error as error:
            raise UsageError("the store of jobs cannot be opened", where=path, value=error) from error

    def close(self) -> None:
        """Close the file."""
        self._base.close()

    def add(self, keys: Iterable[str], wants: Callable[[str], str | None] = lambda key: None) -> int:
        """Add jobs, some at a time; those that are known stay as they are. Returns how many were new.

        `wants` names the one board that can do a job; any can where it gives None.
        """
        before = self.count()
        remaining = iter(keys)
        while some := list(islice(remaining, BATCH)):
            self._base.execute("BEGIN")
            self._base.executemany(
                "INSERT OR IGNORE INTO jobs (key, wants) VALUES (?, ?)", ((k, wants(k)) for k in some)
            )
            self._base.execute("COMMIT")
        return self.count() - before

    def count(self, state: str | None = None) -> int:
        """How many jobs there are, or how many in a state."""
        where, values = (" WHERE state = ?", (state,)) if state else ("", ())
        (found,) = self._base.execute(f"SELECT COUNT(*) FROM jobs{where}", values).fetchone()
        return int(found)

    def recover(self) -> int:
        """Make what a dead driver left running pending again; returns how many."""
        return self._base.execute("UPDATE jobs SET state = 'pending' WHERE state = 'running'").rowcount

    def claim(self, board: str) -> str | None:
        """Take the next pending job for a board, first of those that want it; None if there is none."""
        for wants in (board, None):  # one after the other, so that each is one step in the index
            found = self._base.execute(
                "UPDATE jobs SET state = 'running', attempts = attempts + 1, board = ?, began = ? WHERE key ="
                " (SELECT key FROM jobs WHERE state = 'pending' AND wants IS ? LIMIT 1) RETURNING key",
                (board, time.time(), wants),
            ).fetchall()
            if found:
                return str(found[0][0])
        return None

    def finish(self, key: str, result: object) -> None:
        """A running job is done. Raises UsageError if it is not running: a result is never replaced."""
        self._end(key, "done", json.dumps(result))

    def release(self, key: str, reason: str, *, counts: bool = True) -> None:
        """A running job did not end: pending again, or failed after ATTEMPTS; without `counts` nothing was its fault."""
        (attempts,) = self._base.execute("SELECT attempts FROM jobs WHERE key = ?", (key,)).fetchone()
        if counts and attempts >= ATTEMPTS:
            self._end(key, "failed", json.dumps(reason))
        else:
            self._end(key, "pending", None)

    def _end(self, key: str, state: str, result: str | None) -> None:
        changed = self._base.execute(
            "UPDATE jobs SET state = ?, ended = ?, result = ? WHERE key = ? AND state = 'running'",
            (state, time.time(), result, key),
        ).rowcount
        if changed != 1:
            raise UsageError("the job is not running", where=self.path, value=key)

    def jobs(self, state: str | None = None, limit: int = -1) -> Iterator[Job]:
        """In the order in which they were added: all of them, those in a state, or the first ones."""
        where = "WHERE state = ?1" if state else "WHERE ?1 IS NULL"
        rows = self._base.execute(
            f"SELECT key, state, attempts, board, began, ended, result FROM jobs {where} ORDER BY rowid LIMIT ?2",
            (state, limit),
        )
        for key, found, attempts, board, began, ended, result in rows:
            yield Job(key, found, attempts, board, began, ended, json.loads(result) if result else None)


async def drive(
    store: JobStore,
    boards: Sequence[Board],
    prepare: Callable[[Board], Awaitable[T]],
    work: Callable[[Board, T, str], Awaitable[object]],
    progress: Progress = silent,
    *,
    retry_after_s: float = 1.0,
) -> list[str]:
    """Do all pending jobs, each by the next board that is free; returns the names of boards that were given up.

    `prepare` readies a board once it is entered, `work` does one job and returns its result. A job whose board is lost goes
    to another. Cancelled, every board puts its job back and cleans up.
    """
    total, done, lost = store.count(), store.count("done"), []

    async def serve(board: Board) -> None:
        for attempt in range(ATTEMPTS):
            try:
                async with board:
                    ready = await prepare(board)
                    while await next_job(board, ready):
                        pass
                return
            except BoardError:
                await asyncio.sleep(retry_after_s * (attempt + 1))
        lost.append(board.name)

    async def next_job(board: Board, ready: T) -> bool:
        """Whether there may be more to do: what runs elsewhere comes back if its board is lost."""
        key = store.claim(board.name)
        if key is not None:
            await do(board, ready, key)
        elif store.count("running"):
            await asyncio.sleep(IDLE_S)
        else:
            return False
        return True

    async def do(board: Board, ready: T, key: str) -> None:
        nonlocal done
        try:
            result = await work(board, ready, key)
        except BoardError as error:
            store.release(key, str(error))
            raise
        except EdgeqError as error:
            store.release(key, str(error))
            return
        except BaseException:
            store.release(key, "interrupted", counts=False)
            raise
        store.finish(key, result)
        done += 1
        progress("jobs", done, total)

    async with asyncio.TaskGroup() as group:
        for board in boards:
            group.create_task(serve(board))
    return lost
