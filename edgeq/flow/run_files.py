"""What a command that measures leaves in its run folder: the report as JSON, as CSV, and as a page."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from edgeq.emit.artifact import MANIFEST, to_json, write_files
from edgeq.report import Report


def write_report(folder: Path, report: Report, stem: str = "report") -> None:
    """Add `stem`.json, .csv and .html to `folder`. Raises OutputError."""
    from edgeq.flow.page import render  # once all is measured
    from edgeq.flow.robustness_tables import to_csv

    document = report.document()
    files = {
        f"{stem}.json": to_json(document),
        f"{stem}.csv": to_csv(report.cells or report.points or [asdict(row) for row in report.rows]),
        f"{stem}.html": render(document, report.pictures),
    }
    write_files(folder, files)


def write_beside(artifact: Path, report: Report) -> None:
    """Into the run folder that `artifact` lies in, named after the command; nothing where it lies in none."""
    folder = artifact if (artifact / MANIFEST).is_file() else artifact.parent
    if (folder / MANIFEST).is_file():
        write_report(folder, report, report.command)
        report.notes.append(f"wrote {folder / report.command}.html")
