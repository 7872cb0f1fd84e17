"""The work of scripts/bench-fleet: the servers, and a driver that dies in the middle and goes on."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeq.boards.board import Board
from edgeq.boards.device import Program, Settings, build_c, run_c
from edgeq.boards.entries import FILE_VARIABLE, add_entry, read_entries
from edgeq.boards.ssh import SshBoard
from edgeq.emit.c_golden import golden_codes
from edgeq.emit.c_layout import to_memory
from edgeq.errors import AgreementError
from edgeq.flow.jobs import Job, JobStore, drive
from edgeq.flow.on_board import as_device
from edgeq.runtimes.folder import read_folder, value_of
from edgeq.runtimes.native import NativeRuntime
from tests.c_nets import folder_of, small_network, target
from tests.ssh_server import SshServer, running

SETTINGS = Settings(warm_up=0, runs=1, optimize="-O2")


def codes_of(document: dict[str, Any], seed: int) -> dict[str, Any]:
    """The inputs of one job."""
    shapes = {port["name"]: tuple(port["shape"]) for port in document["inputs"]}
    return golden_codes(shapes, seed, document["code_bits"])


def checksum(outputs: Any) -> int:
    """All output bytes in one number."""
    return zlib.crc32(b"".join(to_memory(np.asarray(array)).tobytes() for array in outputs.values()))


@dataclass(frozen=True)
class Fleet:
    """Where the fleet lies: the network, the list of boards, the store of jobs."""

    root: Path

    @property
    def model(self) -> Path:
        return self.root / "model"

    @property
    def store(self) -> Path:
        return self.root / "jobs.sqlite"


def serve(fleet: Fleet, jobs: int, resume: bool) -> int:
    """The driver."""
    document = read_folder(fleet.model)
    (source,) = fleet.model.glob("*_model.c")
    here = NativeRuntime(source)
    store = JobStore(fleet.store)
    if resume:
        print(f"resumed: {store.recover()} were running, {store.count('done')} are done", flush=True)
    store.add(f"seed {number}" for number in range(1, jobs + 1))

    async def prepare(board: Board) -> Program:
        return await build_c(as_device(board), fleet.model, document, SETTINGS)

    async def work(board: Board, program: Program, key: str) -> object:
        codes = codes_of(document, int(key.split()[1]))
        ran = await run_c(as_device(board), program, [codes], SETTINGS)
        given = {port["name"]: value_of(codes[port["name"]], port) for port in document["inputs"]}
        outputs = {port["name"]: value_of(ran.outputs[0][port["name"]], port) for port in document["outputs"]}
        if (found := checksum(outputs)) != (wanted := checksum(here.run(given))):
            raise AgreementError("a board computes something else", where=board.name, value=found, allowed=wanted)
        return {"crc32": found, "run_ms": ran.document["timings"][0]["min_ms"]}

    lost = asyncio.run(drive(store, [SshBoard(entry) for entry in read_entries().values()], prepare, work))
    store.close()
    return len(lost)


def driver(fleet: Fleet, arguments: argparse.Namespace, *more: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, __file__, "--drive", str(fleet.root), "--jobs", str(arguments.jobs), *more]
    return subprocess.Popen(command)


def kill_in_the_middle(fleet: Fleet, jobs: int, process: subprocess.Popen[bytes]) -> dict[str, Job]:
    """Wait for two fifths of the jobs, kill the driver, and tell what was done by then."""
    store = JobStore(fleet.store)
    while store.count("done") < 2 * jobs // 5 and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = {job.key: job for job in store.jobs() if job.state == "done"}
    print(f"killed the driver: {len(done)} done, {store.count('running')} running")
    store.close()
    return done


def judge(fleet: Fleet, jobs: int, before: dict[str, Job], servers: list[SshServer]) -> list[str]:
    """What is wrong."""
    store = JobStore(fleet.store)
    found = list(store.jobs())
    store.close()
    wrong = [f"{job.key} is {job.state}: {job.result}" for job in found if job.state != "done"]
    if len({job.key for job in found}) != jobs:
        wrong.append(f"{len(found)} jobs, not {jobs}")
    wrong += [f"{job.key} was done again" for job in found if job.key in before and job != before[job.key]]
    if len({job.result["crc32"] for job in found if job.state == "done"}) < 0.9 * jobs:
        wrong.append("the results are too much alike to prove anything")
    wrong += [f"{s.root.name} keeps {s.left() + s.processes()}" for s in servers if not s.is_clean_within(70)]
    return wrong


def figures(fleet: Fleet, seconds: float, boards: int) -> None:
    """Throughput, and what a job costs beside its run."""
    store = JobStore(fleet.store)
    jobs = [job for job in store.jobs() if job.state == "done"]
    store.close()
    spent = [1000 * ((job.ended or 0) - (job.began or 0)) for job in jobs]
    runs = [job.result["run_ms"] for job in jobs]
    again = sum(job.attempts > 1 for job in jobs)
    used = len({job.board for job in jobs})
    print(f"{len(jobs)} jobs on {used} of {boards} boards in {seconds:.1f} s: {len(jobs) / seconds:.1f} jobs/s")
    print(f"a job takes {np.median(spent):.0f} ms (median; all boards share this machine), its run {np.median(runs):.3f} ms;"
          f" {1000 * seconds / len(jobs):.0f} ms of wall clock for each; {again} begun again")  # fmt: skip


def whole(arguments: argparse.Namespace) -> int:
    """Servers, driver, death, resumption, verdict."""
    with tempfile.TemporaryDirectory(prefix="edgeq-fleet-") as temporary, ExitStack() as stack:
        fleet = Fleet(Path(temporary))
        folder_of(small_network(), target("c-int8"), fleet.model)
        servers = []
        for number in range(1, arguments.boards + 1):
            server = stack.enter_context(running(SshServer(fleet.root / f"board{number}")))
            add_entry(server.entry(f"board{number}"))
            servers.append(server)
        started = time.monotonic()
        process = driver(fleet, arguments)
        before = {} if arguments.no_kill else kill_in_the_middle(fleet, arguments.jobs, process)
        code = process.wait() if arguments.no_kill else driver(fleet, arguments, "--resume").wait()
        seconds = time.monotonic() - started
        wrong = [*([f"the driver ended with {code}"] if code else []), *judge(fleet, arguments.jobs, before, servers)]
        if wrong:
            print("\n".join(f"wrong: {line}" for line in wrong))
            return 1
        figures(fleet, seconds, arguments.boards)
        print("nothing lost, nothing done twice, nothing left on a board")
        return 0


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--boards", type=int, default=50)
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--no-kill", action="store_true")
    parser.add_argument("--drive", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--resume", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.drive:
        return serve(Fleet(arguments.drive), arguments.jobs, arguments.resume)
    with tempfile.TemporaryDirectory() as temporary:
        os.environ[FILE_VARIABLE] = str(Path(temporary) / "boards.toml")
        return whole(arguments)


if __name__ == "__main__":
    sys.exit(main())
