"""`edgeq profile-ops`: what every operator of a model takes on a board in every format that its target holds.

The model is exported once in each format, and once in all of them mixed. The tables of the former are added up to predict
the latter, which was measured: the error of thinking that latencies add up, which is what bit allocation does.
Latencies do not depend on the numbers in a network, so noise calibrates where no images are given.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edgeq import __version__
from edgeq.boards.board import Board
from edgeq.boards.device import Settings
from edgeq.boards.simulated import SimulatedBoard
from edgeq.emit.artifact import GRAPH_FILE
from edgeq.errors import EdgeqError, UnsupportedError, UsageError
from edgeq.flow.allocation import offered_formats
from edgeq.flow.export import export_model
from edgeq.flow.fleet import find_boards, on_each
from edgeq.flow.latency_store import known_profile, store_path, store_profile
from edgeq.flow.latency_table import predicted_ms, write_latency_table
from edgeq.flow.on_board import artifact_in, check_boards
from edgeq.flow.op_times import Profile, profile_on, result_of, weighted_ops
from edgeq.flow.request import ExportRequest
from edgeq.ir.file import load
from edgeq.progress import Progress, silent
from edgeq.quantize.asked import Asked
from edgeq.report import Report, Row
from edgeq.runtimes.latency import MEASURED_RUNS, WARM_UP_RUNS
from edgeq.target import Target
from edgeq.targets import find_target

MIXED = "mixed"
SAME_BOARD = ("model", "soc", "cpu", "machine", "os", "cores", "packages", "compiler", "governor", "max_clock_mhz",
              "tensorrt", "jetpack", "nvpmodel", "clocks_locked")  # fmt: skip
"""What a probe finds that latencies depend on."""


@dataclass(frozen=True)
class ProfileRequest:
    """The options of `edgeq profile-ops`: a model, what it is exported for, one board, and the table to write.

    `choices` are formats (default: all that the target holds); with `fresh`, what is known is measured again.
    """

    model: str
    target: str
    board: str
    out: Path
    choices: tuple[str, ...] = ()
    calib: str | None = None
    preprocess: str | None = None
    runs: int = MEASURED_RUNS
    warm_up: int = WARM_UP_RUNS
    mhz: float = 100.0
    fresh: bool = False
    imgsz: str | None = None
    arch: str | None = None
    trust_pickle: bool = False
    threads: int | None = None


def profile_ops(request: ProfileRequest, progress: Progress = silent) -> Report:
    """Measure, write the table, and report how far the sum of the parts is from the whole.

    Raises UsageError for what does not fit together, UnsupportedError where the runtime tells no times, BoardError.
    """
    started = time.monotonic()
    target = find_target(request.target)
    if target.emitter not in ("c", "onnx"):
        raise UnsupportedError("this target's runtime does not tell the times of operators", value=target.name,
                               allowed="targets of generated C, ONNX Runtime and TensorRT")  # fmt: skip
    formats = list(dict.fromkeys(map(str, offered_formats(target, request.choices))))
    boards = find_boards([request.board], progress)
    if len(boards) != 1:
        raise UsageError("operators are profiled on one board", value=request.board)
    with tempfile.TemporaryDirectory(prefix="edgeq-profile-") as temporary:
        made = _exports(request, formats, Path(temporary), progress)
        check_boards(made[formats[0]], boards)

        async def measure(board: Board) -> dict[str, tuple[Profile, bool]]:
            place = await _place(board, target, request)
            found: dict[str, tuple[Profile, bool]] = {}
            for name, artifact in made.items():
                progress("profiling", len(found), len(made))
                found[name] = await _profiled(board, artifact, place, request)
            return found

        (outcome,) = on_each(boards, measure).values()
    if isinstance(outcome, EdgeqError):
        raise outcome
    report = _report(request, target, outcome)
    report.seconds = time.monotonic() - started
    return report


def _exports(request: ProfileRequest, formats: Sequence[str], place: Path, progress: Progress) -> dict[str, Path]:
    """An artifact of every one of `formats`, and of all of them in turn if there are several."""
    calib = request.calib or _noise(place / "noise")
    same = {key: getattr(request, key) for key in ("preprocess", "imgsz", "arch", "trust_pickle", "threads")}

    def export(name: str, rules: Sequence[str]) -> Path:
        folder = place / name.replace("/", "-")
        asked = ExportRequest(
            request.model, request.target, calib, calib_images=8, estimator="minmax", float_share=0.0, effort="fast",
            formats=Asked(rules=tuple(rules)), out=folder, no_cache=True, **same,
        )  # fmt: skip
        export_model(asked, progress)
        return artifact_in(folder)

    made = {name: export(name, [f"*={name}"]) for name in formats}
    if len(formats) > 1:
        results = [result_of(op) for op in weighted_ops(load(_graph_file(made[formats[0]])))]
        made[MIXED] = export(MIXED, [f"{escape(r)}={formats[k % len(formats)]}" for k, r in enumerate(results)])
    return made


def _noise(folder: Path) -> str:
    """A few images of noise."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(4):
        cv2.imwrite(str(folder / f"{index}.png"), rng.integers(0, 256, (128, 128, 3), dtype=np.uint8))
    return str(folder)


def _graph_file(artifact: Path) -> Path:
    return (artifact if artifact.is_dir() else artifact.parent) / GRAPH_FILE


async def _place(board: Board, target: Target, request: ProfileRequest) -> dict[str, Any]:
    """What the latencies of one network depend on."""
    facts = (await board.probe()).document()
    place = {name: facts[name] for name in SAME_BOARD if facts[name]}
    if isinstance(board, SimulatedBoard):
        return {**place, "name": board.name, "mhz": request.mhz, "target": target.name, "edgeq": __version__}
    return {**place, "threads": request.threads or 0, "target": target.name, "edgeq": __version__}


async def _profiled(
    board: Board, artifact: Path, place: dict[str, Any], request: ProfileRequest
) -> tuple[Profile, bool]:
    """The profile of an artifact, and whether it was known."""
    graph = load(_graph_file(artifact))
    known = None if request.fresh else known_profile(graph, place)
    if known is not None:
        return known, True
    settings = Settings((request.threads,) if request.threads else (), request.warm_up, request.runs)
    profile = await profile_on(board, artifact, settings, request.mhz)
    if profile.held_back:  # not what the board takes when it is free: told, and not kept
        return profile, False
    return store_profile(graph, place, profile, replace=request.fresh), False


def _report(request: ProfileRequest, target: Target, found: dict[str, tuple[Profile, bool]]) -> Report:
    report = Report("profile-ops", target.name)
    profiles = {name: profile for name, (profile, _) in found.items() if name != MIXED}
    about = {"model": request.model, "target": target.name, "board": request.board}
    write_latency_table(request.out, list(profiles.values()), about)
    sums = {name: profile.sum_ms for name, profile in profiles.items()}
    if MIXED in found:
        sums[MIXED] = predicted_ms(found[MIXED][0].ops, list(profiles.values()))
    for name, sum_ms in sums.items():
        whole_ms = found[name][0].whole_ms
        how = "operators and rest added up" if name != MIXED else "operators of the other columns added up"
        report.rows += [
            Row(
                "whole_ms",
                whole_ms,
                "ms",
                request.runs,
                name,
                f"on {request.board}, nothing watched, the least of the runs",
            ),
            Row("sum_ms", sum_ms, "ms", request.runs, name, how),
            Row("additive_error", 100 * (sum_ms - whole_ms) / whole_ms, "%", 1, name, "of the sum against the whole"),
        ]
        report.layers += _layers(request.board, name, found[name][0])
    report.notes += _notes(request.board, found, sums)
    report.artifact = [{"path": str(request.out), "bytes": request.out.stat().st_size}]
    budget = f"{max(sums.values()) * 0.9:.3g}"
    report.next_commands = [
        f"edgeq export {request.model} -t {target.name} --latency-table {request.out} --max-latency-ms {budget} --calib ..."
    ]
    return report


def _layers(board: str, name: str, profile: Profile) -> list[dict[str, Any]]:
    return [
        {"board": f"{board} {name}", "value": op.result, "kind": op.formats, "mean_ms": op.ms,
         "share": round(op.ms / max(profile.sum_ms, 1e-12), 4)}
        for op in profile.ops
    ]  # fmt: skip


def _notes(board: str, found: dict[str, tuple[Profile, bool]], sums: dict[str, float]) -> list[str]:
    known = [name for name, (_, was_known) in found.items() if was_known]
    notes = [f"known from an earlier run, not measured: {', '.join(known)} ({store_path()})"] if known else []
    if held := dict.fromkeys(reason for profile, _ in found.values() for reason in profile.held_back):
        notes.append(f"{board} was held back, so its times are not kept for other runs: {', '.join(held)}")
    if MIXED in found:
        whole_ms = found[MIXED][0].whole_ms
        error = 100 * (sums[MIXED] - whole_ms) / whole_ms
        notes.append(
            f"additive model: {sums[MIXED]:.4g} ms foretold for mixed formats, {whole_ms:.4g} measured ({error:+.1f}%)"
        )
    return notes
