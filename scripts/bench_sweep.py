"""The work of scripts/bench-sweep: many cells of one plan, each with figures computed from its key."""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgeq.boards.board import Board
from edgeq.boards.local import LocalBoard
from edgeq.flow.jobs import JobStore, drive
from edgeq.flow.results import STORE, add_views
from edgeq.flow.sweep import Plan
from edgeq.flow.sweep_report import SweepReportRequest, report_sweep
from edgeq.report import Report, Row

MODELS, TARGETS, BOARDS, DEGRADATIONS = 2, 4, 8, 5
GROWTH = 1.3
"""The largest memory may be so many times that of the smallest plan."""


def plan_of(cells: int) -> Plan:
    """At least so many cells."""
    names = {name: tuple(f"{name}{k}" for k in range(count)) for name, count in
             (("model", MODELS), ("target", TARGETS), ("board", BOARDS), ("degradation", DEGRADATIONS))}  # fmt: skip
    recipes = {
        f"recipe{k}": dict[str, Any]() for k in range(math.ceil(cells / (MODELS * TARGETS * BOARDS * DEGRADATIONS)))
    }
    return Plan(names["model"], names["target"], names["board"], recipes, degradations=names["degradation"])


async def figures_of(board: Board, _: None, key: str) -> object:
    """What a cell found, as sweep.py stores it."""
    number = zlib.crc32(key.encode())
    cost, quality = 1 + number % 997 / 10, number // 997 % 1009 / 1009
    rows = [
        Row("latency_p50_ms", cost, "ms", 50, board.name, "computed"),
        Row("top1", quality, "", 100, board.name, ""),
    ]
    return {"folder": "", "rows": [asdict(row) for row in rows], "notes": [], "exit": 0}


async def nothing(_: Board) -> None:
    """What readies a board that needs nothing."""


def streamed(folder: Path, cells: int, told: Callable[[str, float], None]) -> Report:
    """All steps on one plan; `told` hears each with its seconds."""
    plan, store = plan_of(cells), JobStore(folder / STORE)
    add_views(store.path)

    def step(name: str, work: Callable[[], Any]) -> Any:
        started = time.monotonic()
        found = work()
        told(name, time.monotonic() - started)
        return found

    step("stored", lambda: store.add(plan.cells(), lambda key: str(json.loads(key)["board"])))
    boards = [LocalBoard(name) for name in plan.boards]
    lost = step("done", lambda: asyncio.run(drive(store, boards, nothing, figures_of)))
    assert not lost and store.count("done") == store.count() >= cells
    store.close()
    report: Report = step("reported", lambda: report_sweep(SweepReportRequest(folder)))
    return report


def one(folder: Path, cells: int) -> None:
    """One size, told as JSON lines."""

    def told(name: str, seconds: float) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"step": name, "seconds": seconds, "peak_mib": peak}), flush=True)

    told("started", 0.0)
    report = streamed(folder, cells, told)
    shown = sum(point["on_front"] for point in report.points)
    told(f"{len(report.points):,} points, {shown} on fronts", 0.0)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cells", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--folder", type=Path, help="where the store lies meanwhile")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        one(arguments.one, arguments.cells[0])
        return 0
    peaks = []
    for cells in arguments.cells:
        with tempfile.TemporaryDirectory(prefix="edgeq-sweep-", dir=arguments.folder) as folder:
            command = [sys.executable, __file__, "--one", folder, "--cells", str(cells)]
            lines = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout.splitlines()
            size = (Path(folder) / STORE).stat().st_size / 2**20
        steps = [json.loads(line) for line in lines]
        peaks.append(steps[-1]["peak_mib"])
        told = "; ".join(f"{s['step']} {s['seconds']:.1f} s, {s['peak_mib']:.0f} MiB" for s in steps)
        print(f"{cells:,} cells, a store of {size:.0f} MiB: {told}", flush=True)
    print(f"memory grows {max(peaks) / peaks[0]:.2f} times")
    return int(max(peaks) > GROWTH * peaks[0])


if __name__ == "__main__":
    sys.exit(main())
