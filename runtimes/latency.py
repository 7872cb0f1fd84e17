"""Latency of calls: warm-up first, then percentiles of many runs, with the number of threads beside them.

Calls that are compared run in turn, round after round, so that a busy machine slows them alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float64]

WARM_UP_RUNS = 5
MEASURED_RUNS = 50


@dataclass(frozen=True)
class Latency:
    """Wall-clock milliseconds over `runs` calls after `warm_up` others; `first_ms` is the very first call."""

    p50_ms: float
    p90_ms: float
    p99_ms: float
    min_ms: float
    first_ms: float
    runs: int
    warm_up: int
    threads: int


def elapsed_ms(call: Callable[[], object]) -> float:
    """Wall-clock milliseconds that `call` takes."""
    start = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - start) / 1e6


def samples_in_turn(
    calls: Sequence[Callable[[], object]], *, runs: int = MEASURED_RUNS, warm_up: int = WARM_UP_RUNS
) -> tuple[Samples, Samples]:
    """Milliseconds [runs, calls] by the clock, and of CPU time in all threads of this process."""
    wall, cpu = np.zeros((runs, len(calls))), np.zeros((runs, len(calls)))
    for _ in range(warm_up):
        for call in calls:
            call()
    for row in range(runs):
        for column, call in enumerate(calls):
            used = time.process_time_ns()
            wall[row, column] = elapsed_ms(call)
            cpu[row, column] = (time.process_time_ns() - used) / 1e6
    return wall, cpu


def latency_of(samples_ms: Sequence[float], first_ms: float, warm_up: int, threads: int) -> Latency:
    """Percentiles of `samples_ms` (at least one)."""
    p50, p90, p99 = (float(p) for p in np.percentile(samples_ms, [50, 90, 99]))
    return Latency(p50, p90, p99, min(samples_ms), first_ms, len(samples_ms), warm_up, threads)


def measure_latency(
    call: Callable[[], object], *, threads: int, runs: int = MEASURED_RUNS, warm_up: int = WARM_UP_RUNS
) -> Latency:
    """Latency of `call`; `threads` is what it was configured to use and is only recorded."""
    first_ms = elapsed_ms(call)
    for _ in range(warm_up - 1):
        call()
    return latency_of([elapsed_ms(call) for _ in range(runs)], first_ms, warm_up, threads)
