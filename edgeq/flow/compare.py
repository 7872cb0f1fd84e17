"""`edgeq compare`: the figures of several runs side by side, and the options in which they differ.

Of a sweep, the values of one axis side by side, cell by cell.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeq.emit.artifact import output_folder
from edgeq.errors import UsageError, did_you_mean
from edgeq.flow.check import ARTIFACT
from edgeq.flow.results import AXES, COLUMNS, Results, parse_where
from edgeq.flow.run_files import write_report
from edgeq.report import SCHEMA, Report, Row

Document = Mapping[str, Any]
MOST_FIGURES = 20_000
BOARD = "board"
"""What its cells' boards are called where they are not compared."""


def compare_runs(runs: Sequence[str], out: Path | None = None, *, exist_ok: bool = False) -> Report:
    """The figures of each run folder (or report.json) as rows whose place is the run; the first is the base.

    With `out`, the report is also written there. Raises UsageError for what holds no report.
    """
    documents = {name: _document(Path(run)) for name, run in zip(_names(runs), runs, strict=True)}
    report = Report("compare")
    for name, document in documents.items():
        report.rows += _rows(name, document)
    report.notes = _differences({name: document["manifest"] for name, document in documents.items()})
    report.manifest = {"runs": {name: document["manifest"] for name, document in documents.items()}}
    if out is not None:
        write_report(output_folder(out, "runs", "compare", exist_ok=exist_ok), report)
    return report


def compare_cells(
    sweep: Path, by: str, where: Sequence[str] = (), out: Path | None = None, *, exist_ok: bool = False
) -> Report:
    """Figures of the cells of a sweep that differ in the axis `by` alone; those that `where` chooses (AXIS=GLOB).

    Raises UsageError for a folder without a sweep, and for more figures than can be shown.
    """
    if by not in AXES:
        raise UsageError("no such axis", value=by, allowed=", ".join(AXES), next_step=did_you_mean(by, AXES))
    results = Results(sweep)
    try:
        lines = list(results.lines(parse_where(where), MOST_FIGURES + 1))
        others = [axis for axis in AXES if axis != by and len(results.values(axis)) > 1]
    finally:
        results.close()
    if len(lines) > MOST_FIGURES:
        raise UsageError("too many figures to show", where=sweep, allowed=f"{MOST_FIGURES:,}",
                         next_step="Choose some cells with --where AXIS=GLOB.")  # fmt: skip
    report = Report("compare")
    for figure in (dict(zip(COLUMNS, line, strict=True)) for line in lines):
        if figure["place"] in (figure["board"], ARTIFACT) and figure["value"] is not None:
            place = ARTIFACT if figure["place"] == ARTIFACT else BOARD
            metric = " ".join((figure["metric"], place, *(figure[axis] for axis in others)))
            value, unit, n, how = (figure[name] for name in ("value", "unit", "n", "how"))
            report.rows.append(Row(metric, value, unit, n, figure[by], how))
    if not report.rows:
        raise UsageError("no cell was chosen that is done", where=sweep, value=", ".join(where))
    report.rows.sort(key=lambda row: row.metric)
    report.manifest = {"sweep": str(sweep), "by": by, "where": list(where)}
    if out is not None:
        write_report(output_folder(out, "runs", "compare", exist_ok=exist_ok), report)
    return report


def _names(runs: Sequence[str]) -> list[str]:
    """The last part of each path; the whole path where two are alike."""
    parts = [Path(run).parent if Path(run).suffix == ".json" else Path(run) for run in runs]
    short = [part.resolve().name for part in parts]
    names = short if len(set(short)) == len(short) else [str(part) for part in parts]
    if len(set(names)) < len(names) or len(names) < 2:
        raise UsageError("two different runs are compared", value=", ".join(runs))
    return names


def _document(run: Path) -> Document:
    path = run if run.suffix == ".json" else run / "report.json"
    try:
        document = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(
            "the run's report cannot be read", where=path, value=error, next_step="Give a folder that edgeq wrote."
        ) from error
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise UsageError("this is no report of a run", where=path, allowed=SCHEMA)
    return document


def _rows(run: str, document: Document) -> list[Row]:
    """Figures under a name that tells where they were taken."""
    return [
        Row(f"{row['metric']} {row['where']}", row["value"], row["unit"], row["n"], run, row["how"])
        for row in document["rows"]
        if row["value"] is not None
    ]


def _differences(manifests: Mapping[str, Document]) -> list[str]:
    flat = {run: _flat(manifest) for run, manifest in manifests.items()}
    first = next(iter(flat.values()))
    keys = [key for key in first if any(other.get(key) != first[key] for other in flat.values())]
    return [f"{key}: " + ", ".join(f"{flat[run].get(key)} ({run})" for run in flat) for key in keys]


def _flat(manifest: Document) -> dict[str, str]:
    """What a person chose: the model, the target's name and the options."""
    target, options = manifest.get("target") or {}, manifest.get("options") or {}
    found = {"target": target.get("name") if isinstance(target, Mapping) else target, "model": manifest.get("model")}
    for key, value in options.items():
        nested = value if isinstance(value, Mapping) else {"": value}
        found |= {f"{key} {name}".strip(): item for name, item in nested.items()}
    return {key: json.dumps(value, default=str) for key, value in found.items()}
