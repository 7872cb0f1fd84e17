"""Many jobs on several boards: each is done once, whatever breaks in between."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from edgeq.boards.board import Board
from edgeq.boards.local import LocalBoard
from edgeq.errors import BoardError, UsageError
from edgeq.flow import jobs
from edgeq.flow.jobs import ATTEMPTS, JobStore, drive

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def store(tmp_path: Path) -> JobStore:
    return JobStore(tmp_path / "jobs.sqlite")


async def nothing(_: Board) -> None:
    """What readies a board that needs nothing."""


async def echo(board: Board, _: None, key: str) -> object:
    return (await board.run(["echo", key])).stdout.strip()


def test_every_job_is_done_once(store: JobStore) -> None:
    assert store.add(f"job {n}" for n in range(30)) == 30 and store.add(["job 0", "new"]) == 1
    boards = [LocalBoard(f"board{n}") for n in range(3)]
    assert asyncio.run(drive(store, boards, nothing, echo)) == []
    found = list(store.jobs())
    assert [job.result for job in found] == [job.key for job in found] and len(found) == 31
    assert {(job.state, job.attempts) for job in found} == {("done", 1)}
    assert {job.board for job in found} == {board.name for board in boards}
    assert asyncio.run(drive(store, boards, nothing, echo)) == [] and list(store.jobs()) == found


def test_a_result_is_never_replaced(store: JobStore) -> None:
    store.add(["a"])
    key = store.claim("one")
    assert key == "a" and store.claim("two") is None
    store.finish("a", 1)
    for again in (lambda: store.finish("a", 2), lambda: store.release("a", "late")):
        with pytest.raises(UsageError, match=r"the job is not running; at .*jobs\.sqlite; got a"):
            again()
    assert [(job.state, job.result) for job in store.jobs()] == [("done", 1)]


def test_a_job_of_a_lost_board_goes_to_another(store: JobStore) -> None:
    store.add(map(str, range(12)))

    async def work(board: Board, _: None, key: str) -> object:
        await asyncio.sleep(0.01)
        if board.name == "bad":
            raise BoardError("the connection to the board broke", where=board.name)
        return key

    lost = asyncio.run(drive(store, [LocalBoard("bad"), LocalBoard("good")], nothing, work, retry_after_s=0.01))
    assert lost == ["bad"]
    assert {(job.state, job.board) for job in store.jobs()} == {("done", "good")}
    assert sum(job.attempts for job in store.jobs()) == 12 + ATTEMPTS


def test_a_job_that_always_fails_is_given_up(store: JobStore) -> None:
    store.add(["good", "bad"])

    async def work(board: Board, _: None, key: str) -> object:
        if key == "bad":
            raise UsageError("no such thing", value=key)
        return key

    asyncio.run(drive(store, [LocalBoard()], nothing, work))
    good, bad = store.jobs()
    assert (good.state, bad.state, bad.attempts, bad.result) == ("done", "failed", ATTEMPTS, "no such thing; got bad")


def test_an_interrupted_drive_puts_its_jobs_back(store: JobStore) -> None:
    store.add(["slow"])

    async def work(board: Board, _: None, key: str) -> object:
        await asyncio.sleep(100)
        return key

    async def interrupt() -> None:
        task = asyncio.create_task(drive(store, [LocalBoard()], nothing, work))
        while not store.count("running"):
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(interrupt())
    assert [(job.state, job.attempts) for job in store.jobs()] == [("pending", 1)]


def test_what_a_dead_driver_left_running_is_done_after_it(store: JobStore) -> None:
    store.add(["a", "b"])
    assert store.claim("gone") == "a"
    store.close()
    again = JobStore(store.path)
    assert again.recover() == 1 and again.count("pending") == 2
    asyncio.run(drive(again, [LocalBoard()], nothing, echo))
    assert [(job.key, job.state, job.attempts) for job in again.jobs()] == [("a", "done", 2), ("b", "done", 1)]


def test_a_million_jobs_take_no_memory(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured on two sizes: what is held does not grow with the number of jobs."""
    monkeypatch.setattr(jobs, "BATCH", 100)
    peaks = []
    for count in (2_000, 20_000):
        tracemalloc.start()
        store.add(f"{count} {n}" for n in range(count))
        assert sum(1 for _ in store.jobs()) >= count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0] + 50_000


def test_a_store_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("something else, and long enough to be no header of a database" * 9)
    with pytest.raises(UsageError, match="the store of jobs cannot be opened"):
        JobStore(tmp_path / "file")


@pytest.mark.slow
def test_a_fleet_whose_driver_is_killed() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "bench_fleet.py"), "--boards", "3", "--jobs", "24"]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "killed the driver" in done.stdout and "nothing lost, nothing done twice" in done.stdout
