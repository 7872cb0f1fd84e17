"""`edgeq sweep`: models x recipes x targets x boards x degradations, every cell exported, measured on its board, and stored.

A plan is a small TOML file; its cells are jobs (jobs.py), so that a sweep goes on where it stopped. Cells that differ in
the board or the degradation share one export. Everything that was found lies in the store, a SQLite file that results.py
reads; nothing grows with the plan.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from edgeq.boards.board import Board
from edgeq.errors import UsageError, did_you_mean
from edgeq.flow.artifacts import open_runtime
from edgeq.flow.bench import BenchRequest, bench_on_boards
from edgeq.flow.check import metric_row
from edgeq.flow.export import export_model
from edgeq.flow.fleet import find_boards
from edgeq.flow.inputs import choose_preprocess, evaluation_set, task_of
from edgeq.flow.jobs import JobStore, drive
from edgeq.flow.on_board import artifact_in, primary_of
from edgeq.flow.on_ray import Make, on_ray
from edgeq.flow.request import ExportRequest
from edgeq.flow.results import AXES, STORE, add_views
from edgeq.flow.robustness import CLEAN, conditions_named
from edgeq.flow.validate_boards import accuracy_on
from edgeq.frontend.model import ports_of
from edgeq.progress import Progress, silent
from edgeq.report import Report, Row
from edgeq.targets import find_target

RECIPE_OPTIONS = ("estimator", "float_share", "keep_real", "calib_images", "preprocess", "seed", "imgsz", "arch")
EXPORT_OPTIONS = ("calib", "data", "data_images", *RECIPE_OPTIONS)
SHOWN_CELLS = 24
BOARD_FAILED = 6


@dataclass(frozen=True)
class Plan:
    """The axes of a grid; `options` are those of `edgeq export` for every cell, a recipe's come on top of them."""

    models: tuple[str, ...]
    targets: tuple[str, ...]
    boards: tuple[str, ...]
    recipes: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"usual": {}})
    options: Mapping[str, Any] = field(default_factory=dict)
    degradations: tuple[str, ...] = (CLEAN,)
    runs: int = 50

    def cells(self) -> Iterator[str]:
        """The keys of all cells, one after another."""
        for cell in product(self.models, self.recipes, self.targets, self.boards, self.degradations):
            yield json.dumps(dict(zip(AXES, cell, strict=True)))


@dataclass(frozen=True)
class SweepRequest:
    """The options of `edgeq sweep`: a plan, the folder of its store and exports, and whether to go on in it.

    At `address` is a Ray cluster that makes the exports; all its nodes see the folder.
    """

    plan: Path
    out: Path
    resume: bool = False
    threads: int | None = None
    address: str | None = None


def read_plan(path: Path) -> Plan:
    """The plan in a TOML file. Raises UsageError for what it does not understand."""
    try:
        found = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError("the plan cannot be read", where=path, value=error) from error
    found = {key.replace("-", "_"): value for key, value in found.items()}
    axes = {name: tuple(_texts(path, name, found.pop(name, None))) for name in ("models", "targets", "boards")}
    recipes = found.pop("recipes", {"usual": {}})
    if not isinstance(recipes, dict) or not recipes or not all(isinstance(item, dict) for item in recipes.values()):
        raise UsageError("recipes are tables of options", where=path, value=recipes, allowed="[recipes.NAME]")
    runs = found.pop("runs", 50)
    listed = _texts(path, "degradations", found.pop("degradations", [CLEAN]))
    options = _options(path, found, EXPORT_OPTIONS)
    checked = {name: _options(f"{path} [recipes.{name}]", item, RECIPE_OPTIONS) for name, item in recipes.items()}
    for target in axes["targets"]:
        find_target(target)
    seed = int(options.get("seed", 0))
    conditions = [part.name for name in listed for part in conditions_named(name, seed)]
    if set(conditions) != {CLEAN} and "data" not in options:
        raise UsageError(
            "degradations are told by accuracy", where=path, next_step="Give the plan data: labelled images."
        )
    return Plan(**axes, recipes=checked, options=options, degradations=tuple(dict.fromkeys(conditions)), runs=int(runs))


def _texts(path: Path, name: str, value: object) -> list[str]:
    if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
        raise UsageError("a plan lists at least one of each axis", where=f"{path}: {name}", value=value)
    return value


def _options(where: object, found: Mapping[str, Any], known: Sequence[str]) -> dict[str, Any]:
    options = {}
    for key, value in found.items():
        name = key.replace("-", "_")
        if name not in known:
            raise UsageError("unknown option in the plan", where=where, value=key, allowed=", ".join(known),
                             next_step=did_you_mean(name, known))  # fmt: skip
        options[name] = tuple(value) if name == "keep_real" else value
    return options


def sweep(request: SweepRequest, progress: Progress = silent) -> Report:
    """Do all cells of the plan that are not done; exit code 6 if some cannot be. Raises UsageError.

    Boards work at the same time, each on one cell, and are reached from here; exports may be made elsewhere.
    """
    started = time.monotonic()
    plan = read_plan(request.plan)
    boards = find_boards(plan.boards, progress)
    store = _store(request)
    store.add(plan.cells(), lambda key: str(json.loads(key)["board"]))
    exports = _Exports(plan, request)

    async def work(board: Board, _: None, key: str) -> object:
        cell = json.loads(key)
        folder = await exports.folder(cell)
        report = await bench_on_boards(BenchRequest(artifact_in(folder), (board.name,), runs=plan.runs))(board)
        exported = json.loads((folder / "report.json").read_text("utf-8"))
        accuracy = await _accuracy(board, artifact_in(folder), plan, cell)
        told = {row.metric for row in accuracy} if cell["degradation"] != CLEAN else set()
        rows = [row for row in exported["rows"] if row["metric"] not in told]  # those are of clean images
        rows += map(asdict, [*report.rows, *accuracy])
        return {"folder": folder.name, "rows": rows, "notes": report.notes, "exit": report.exit or exported["exit"]}

    async def nothing(_: Board) -> None:
        return None

    lost = asyncio.run(drive(store, boards, nothing, work, progress))
    report = _summary(store, lost)
    store.close()
    report.seconds = time.monotonic() - started
    return report


async def _accuracy(board: Board, artifact: Path, plan: Plan, cell: Mapping[str, str]) -> list[Row]:
    """On the plan's labelled images, under the cell's degradation, where there are any. Raises BoardError."""
    options = {**plan.options, **plan.recipes[cell["recipe"]]}
    if "data" not in options:
        return []
    file, seed = primary_of(artifact), int(options.get("seed", 0))
    runtime = open_runtime(file, 1)
    ports = ports_of(file.stem, runtime.input_shapes, runtime.output_shapes, runtime.metadata)
    rule = choose_preprocess(options.get("preprocess"), ports)
    data = evaluation_set(options["data"], options.get("data_images"), rule, task_of(ports))
    (condition,) = conditions_named(cell["degradation"], seed)
    metrics = await accuracy_on(board, artifact, runtime, data, rule.preprocess, condition, seed)
    return [metric_row(metric, board.name, f"{data.name}, {condition.name}") for metric in metrics]


def _store(request: SweepRequest) -> JobStore:
    path = request.out / STORE
    if path.exists() and not request.resume:
        raise UsageError("there is a sweep in this folder", where=request.out, next_step="Go on with it: --resume")
    request.out.mkdir(parents=True, exist_ok=True)
    store = JobStore(path)
    add_views(path)
    store.recover()
    return store


class _Exports:
    """The folders of what was exported, each made once, whole, and kept."""

    def __init__(self, plan: Plan, request: SweepRequest) -> None:
        self._plan, self._request = plan, request
        self._make = on_ray(request.address) if request.address else _here()
        self._locks: WeakValueDictionary[Path, asyncio.Lock] = WeakValueDictionary()

    async def folder(self, cell: Mapping[str, str]) -> Path:
        """The folder of a cell's artifact. Raises EdgeqError if it cannot be made."""
        options = {**self._plan.options, **self._plan.recipes[cell["recipe"]]}
        known = json.dumps([cell["model"], cell["target"], options], sort_keys=True, default=list)
        folder = self._request.out.absolute() / f"export-{hashlib.sha256(known.encode()).hexdigest()[:16]}"
        lock = self._locks.setdefault(folder, asyncio.Lock())
        async with lock:
            if not (folder / "report.json").is_file():
                shutil.rmtree(folder, ignore_errors=True)
                made = ExportRequest(
                    cell["model"], cell["target"], **options, out=folder, threads=self._request.threads
                )
                await self._make(made)
        return folder


def _here() -> Make:
    """Exports in this process, one after another, since each uses all cores."""
    one_at_a_time = asyncio.Lock()

    async def make(request: ExportRequest) -> None:
        async with one_at_a_time:
            await asyncio.to_thread(export_model, request)

    return make


def _summary(store: JobStore, lost: Sequence[str]) -> Report:
    """How many cells are in which state, the figures of the first cells, and why the first ones failed."""
    report = Report("sweep")
    for state in ("done", "failed", "pending"):
        report.rows.append(Row(f"cells_{state}", store.count(state), "", store.count(), "sweep", str(store.path)))
    report.notes += [f"{name} was lost and given up" for name in lost]
    report.notes += [f"{job.key}: {job.result}" for job in store.jobs("failed", SHOWN_CELLS)]
    for job in store.jobs("done", SHOWN_CELLS):
        cell = json.loads(job.key)
        label = " ".join(cell[axis] for axis in ("model", "recipe", "target") if cell[axis])
        under = "" if cell["degradation"] == CLEAN else f", {cell['degradation']}"
        kept = [row for row in job.result["rows"] if row["where"] in ("artifact", cell["board"])]
        report.rows += [Row(**{**row, "where": f"{label} on {cell['board']}{under}"}) for row in kept]
    report.next_commands = [f"edgeq report {store.path.parent}"]
    if store.count("done") < store.count():
        report.exit = BOARD_FAILED
    return report
