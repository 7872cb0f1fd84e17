"""What a run on a board says in a report: times, state, and equality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from edgeq.boards.device import Ran
from edgeq.boards.jetson import tegrastats_of
from edgeq.boards.probe import tensorrt_version, throttling_of
from edgeq.flow.check import apply_agreement_promise, output_agreement
from edgeq.flow.device_inputs import Trial, equal_share
from edgeq.ir.graph import Array
from edgeq.report import Report, Row

SLOW_CLOCK = 0.9
"""Of the highest clock: below it after a run under load, something holds the processor back."""


def timing_rows(ran: Ran, board: str) -> list[Row]:
    """The figures of every number of threads, the first without a word; memory, temperature and power."""
    rows: list[Row] = []
    timings = ran.document.get("timings", [])
    runtime = ran.document.get("runtime", {})
    model = ran.facts.model or ran.facts.cpu or ran.facts.machine
    for timing in timings:
        threads = timing["threads"]
        suffix = "" if timing is timings[0] else f" ({threads} threads)"
        with_threads = f", {threads} threads" if threads else ""
        how = f"{runtime.get('name')} {runtime.get('version')} on {model}{with_threads}, {timing['runs']} runs"
        for metric, key, unit in (
            ("latency_p50_ms", "p50_ms", "ms"), ("latency_p90_ms", "p90_ms", "ms"), ("latency_p99_ms", "p99_ms", "ms"),
            ("latency_min_ms", "min_ms", "ms"), ("first_ms", "first_ms", "ms"),
            ("throughput_per_s", "throughput_per_s", "1/s"),
        ):  # fmt: skip
            if timing[key] is not None:
                rows.append(Row(metric + suffix, timing[key], unit, timing["runs"], board, how))
    if peak := ran.document.get("peak_rss_bytes"):
        rows.append(Row("peak_rss_bytes", peak, "B", 1, board, "resident memory of the process on the board"))
    before, after = (_temperature(ran.document.get(side, {})) for side in ("before", "after"))
    if before is not None and after is not None:
        rows.append(Row("temperature_before_c", before, "C", 1, board, "warmest thermal zone"))
        rows.append(Row("temperature_after_c", after, "C", 1, board, "warmest thermal zone"))
    for rail, watts in ran.document.get("power_w", {}).items():
        rows.append(Row(f"power_w {rail}", watts, "W", 1, board, "mean of the rail while it ran"))
    return rows


def _p50_ms(ran: Ran) -> float:
    return float(ran.document["timings"][0]["p50_ms"])


def middle_of(runs: Sequence[Ran]) -> Ran:
    """The run whose median latency lies in the middle."""
    return sorted(runs, key=_p50_ms)[(len(runs) - 1) // 2]


def spread_rows(runs: Sequence[Ran], board: str) -> list[Row]:
    """How far apart the median latencies of several runs are: what one figure alone would hide."""
    if len(runs) == 1:
        return []
    medians = [_p50_ms(ran) for ran in runs]
    how = f"median latencies of {len(runs)} runs, each loaded or built anew"
    return [Row("latency_p50_spread_ms", max(medians) - min(medians), "ms", len(runs), board, how)]


def layer_rows(ran: Ran, board: str) -> list[dict[str, Any]]:
    """Mean times of the layers of an engine."""
    return [
        {
            "board": board,
            "value": layer.name,
            "kind": layer.precision,
            "mean_ms": layer.mean_ms,
            "share": round(layer.share, 4),
        }
        for layer in ran.document.get("layers", [])
    ]


def _temperature(state: Mapping[str, Any]) -> float | None:
    found = [value for value in state.get("temperatures_c", {}).values() if value > 0]
    return max(found) if found else None


def held_back(ran: Ran) -> list[str]:
    """What held the board back meanwhile, so that nobody takes its figures for those of a free one."""
    after: Mapping[str, Any] = ran.document.get("after", {})
    before: Mapping[str, Any] = ran.document.get("before", {})
    reasons = list(throttling_of(after.get("throttled", "")))
    reasons += [f"cooling device {name} at level {level}" for name, level in after.get("cooling", {}).items()]
    for name, events in after.get("over_current_events", {}).items():
        if new := events - before.get("over_current_events", {}).get(name, 0):
            reasons.append(f"{new} over-current events ({name})")
    clocks, highest = after.get("clocks_mhz", []), after.get("max_clock_mhz", 0.0)
    if after.get("governor") == "performance" and clocks and min(clocks) < SLOW_CLOCK * highest:
        reasons.append(f"clock {min(clocks):.0f} of {highest:.0f} MHz under the governor performance")
    return reasons


def note_state(report: Report, ran: Ran, board: str) -> None:
    """Say in which state the board was: what held it back, its engine, clocks and rails."""
    after: Mapping[str, Any] = ran.document.get("after", {})
    if engine := ran.document.get("engine"):
        report.notes.append(f"{board}: engine {engine['engine_sha256'][:12]} {_origin(engine)}")
    if reasons := held_back(ran):
        report.notes.append(f"{board} was held back: {', '.join(reasons)}")
    governor = after.get("governor")
    if governor and governor != "performance":
        report.notes.append(f"{board}: clock governor {governor}; times vary less under performance")
    if found := tegrastats_of(after.get("tegrastats", "")):
        report.notes.append(f"{board}: {found.describe()}")


def _origin(engine: Mapping[str, Any]) -> str:
    """Where an engine came from, in words."""
    flags = engine["flags"] or "no precision flags"
    taken = "taken from the board's cache" if engine["from_cache"] else "built on the board"
    return f"{taken} by TensorRT {tensorrt_version(engine['tensorrt'])} with {flags} for {engine['board']}"


def report_agreement(report: Report, trial: Trial, outputs: Sequence[Mapping[str, Array]], board: str) -> None:
    """The outputs of a board beside those that were wanted; exit code 5 where the target promised more.

    Nothing is promised of TensorRT, which chooses its own arithmetic.
    """
    found = output_agreement(trial.types, trial.wanted, outputs)
    own = Report(report.command, agreement=found)
    if trial.target is not None and trial.target.runtime != "tensorrt":
        apply_agreement_promise(own, trial.target)
    report.agreement += [replace(item, value=f"{item.value} on {board}, beside {trial.judge}") for item in found]
    report.notes += [f"{board}: {note}" for note in own.notes]
    report.exit = report.exit or own.exit
    share = equal_share(trial.host, outputs)
    report.rows.append(
        Row("equal_to_this_machine", share, "", len(outputs), board, "share of identical output numbers")
    )
