"""What a command found: rows of (metric, value, unit, n, where, how), printed for people or as one JSON document."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgeq.errors import UsageError

if TYPE_CHECKING:  # what is printed comes last
    from rich.console import Console
    from rich.table import Table

SCHEMA = "edgeq.report/1"

Where = str
"""fp32, reference, artifact, one of a runtime's sets of kernels, or the name of a board."""


AgreementKind = Literal["output", "layer", "real"]


@dataclass(frozen=True)
class Row:
    """One measured figure: `n` is the number of samples behind it and `how` the way it was measured."""

    metric: str
    value: float
    unit: str
    n: int
    where: Where
    how: str


@dataclass(frozen=True)
class OutputAgreement:
    """Artifact against reference on one value: share of equal 8-bit codes, largest difference in codes and in reals.

    A "layer" was given the artifact's own codes as operands, an "output" was computed from the input on. A "real" is a
    layer of reals.
    `signal_to_noise_db` compares reals; it is infinite (None in JSON) when they are identical. `where` names the kernels
    of the artifact's runtime, where it was run with several.
    """

    value: str
    kind: AgreementKind
    equal_share: float
    largest_code_difference: int
    largest_difference: float
    signal_to_noise_db: float
    n: int
    where: Where = "artifact"


@dataclass
class Report:
    """The document of one command; `pictures` are for its page alone.

    Of `seconds`, an export took the first `seconds_to_artifact` until its files were written, and checks took the rest.
    `cpu_seconds_to_artifact` are those of the processor, imports included, that the process had used by then.
    """

    command: str
    target: str | None = None
    artifact: list[dict[str, Any]] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    agreement: list[OutputAgreement] = field(default_factory=list)
    manifest: dict[str, Any] = field(default_factory=dict)
    layers: list[dict[str, Any]] = field(default_factory=list)
    cells: list[dict[str, Any]] = field(default_factory=list)
    points: list[dict[str, Any]] = field(default_factory=list)
    pictures: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    next_commands: list[str] = field(default_factory=list)
    seconds: float = 0.0
    seconds_to_artifact: float | None = None
    cpu_seconds_to_artifact: float | None = None
    exit: int = 0

    def value(self, metric: str, where: Where) -> float | None:
        """The figure of `metric` at `where`, or None if it was not measured."""
        return next((row.value for row in self.rows if (row.metric, row.where) == (metric, where)), None)

    def document(self) -> dict[str, Any]:
        """The JSON document (finite numbers only)."""
        document: dict[str, Any] = _finite(
            {
                "schema": SCHEMA,
                "command": self.command,
                "target": self.target,
                "artifact": self.artifact,
                "rows": [asdict(row) for row in self.rows],
                "agreement": [asdict(item) for item in self.agreement],
                "layers": self.layers,
                "cells": self.cells,
                "points": self.points,
                "manifest": self.manifest,
                "notes": self.notes,
                "next": self.next_commands,
                "seconds": round(self.seconds, 3),
                "seconds_to_artifact": _rounded(self.seconds_to_artifact),
                "cpu_seconds_to_artifact": _rounded(self.cpu_seconds_to_artifact),
                "exit": self.exit,
            }
        )
        return document

    def to_json(self) -> str:
        """`document()` as text."""
        return json.dumps(self.document(), indent=2, ensure_ascii=False)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def _finite(thing: Any) -> Any:
    if isinstance(thing, float):
        return thing if abs(thing) < float("inf") else None
    if isinstance(thing, Mapping):
        return {str(key): _finite(item) for key, item in thing.items()}
    if isinstance(thing, list | tuple):
        return [_finite(item) for item in thing]
    return str(thing) if isinstance(thing, Path) else thing


def base_place(command: str, places: Sequence[Where]) -> Where:
    """Where the figures are that others are compared with: fp32, or the first of several runs."""
    return places[0] if command == "compare" else "fp32"


def metric_table(report: Report) -> Table:
    """Metrics as lines, places as columns; the change against the base (fp32, or the first run) beside each figure."""
    from rich.table import Table

    places = list(dict.fromkeys(row.where for row in report.rows))
    table = Table(title=f"{report.command} {report.target or ''}".strip())
    table.add_column("metric")
    for place in places:
        table.add_column(place, justify="right")
    table.add_column("n", justify="right")
    for metric in dict.fromkeys(row.metric for row in report.rows):
        rows = {row.where: row for row in report.rows if row.metric == metric}
        base = rows.get(base_place(report.command, places))
        cells = [_cell(rows[place], base) if place in rows else "" for place in places]
        unit = next(iter(rows.values())).unit
        table.add_row(f"{metric} [{unit}]" if unit else metric, *cells, str(max(row.n for row in rows.values())))
    return table


def _cell(row: Row, base: Row | None) -> str:
    text = f"{row.value:.4g}" if abs(row.value) < 1e5 else f"{row.value:,.0f}"
    if base is None or row is base or not base.value:
        return text
    return f"{text} ({row.value - base.value:+.3g})"


def agreement_table(report: Report) -> Table:
    """Agreement of the artifact with the reference: every output, and all layers in one line, for each set of kernels."""
    from rich.table import Table

    table = Table(title="artifact against reference")
    for name in ("value", "equal codes", "largest code difference", "SNR dB"):
        table.add_column(name, justify="left" if name == "value" else "right")
    for where, items in groupby(report.agreement, key=lambda item: item.where):
        if where != "artifact":
            table.add_section()
            table.add_row(f"in {where}", "", "", "")
        for row in _agreement_rows(list(items)):
            table.add_row(*row)
    return table


def _agreement_rows(items: Sequence[OutputAgreement]) -> Iterator[tuple[str, str, str, str]]:
    for item in items:
        if item.kind == "output":
            yield item.value, f"{item.equal_share:.2%}", str(item.largest_code_difference), _db(item)
    layers = [item for item in items if item.kind == "layer"]
    if layers:
        worst = min(layers, key=lambda item: item.equal_share)
        equal = sum(item.equal_share * item.n for item in layers) / sum(item.n for item in layers)
        largest = max(item.largest_code_difference for item in layers)
        yield f"{len(layers)} layers, each given the same operands", f"{equal:.4%}", str(largest), ""
        yield f"least equal: {worst.value}", f"{worst.equal_share:.4%}", str(worst.largest_code_difference), ""
    reals = [item for item in items if item.kind == "real"]
    if reals:
        worst = min(reals, key=lambda item: item.signal_to_noise_db)
        yield f"{len(reals)} real layers, each given the same operands; worst: {worst.value}", "", "", _db(worst)


def _db(item: OutputAgreement) -> str:
    return f"{item.signal_to_noise_db:.1f}"


def print_profile(report: Report, console: Console | None = None) -> None:
    """Instructions or times of every layer, one line each with a bar of its share (of cycles where they are known)."""
    from rich.console import Console
    from rich.table import Table

    counts = ("instructions", "cycles") if any("cycles" in row for row in report.layers) else ("instructions",)
    heads = [head for name in counts for head in (name, "per MAC")]
    table = Table("board", "layer", "kind", *heads, "share", title=f"{' and '.join(counts)} by layer")
    times = Table("board", "layer", "precision", "ms", "share", title="times by layer")
    for row in report.layers:
        if "mean_ms" in row:
            bar = "#" * round(40 * row["share"])
            times.add_row(
                row["board"], row["value"], row["kind"], f"{row['mean_ms']:.4f}", f"{row['share']:6.1%} {bar}"
            )
            continue
        bar = "#" * round(40 * row["share"])
        cells = [cell for name in counts for cell in _counted(row, name)]
        table.add_row(row["board"], row["value"], row["kind"], *cells, f"{row['share']:6.1%} {bar}")
    for found in (table, times):
        if found.row_count:
            (console or Console()).print(found, markup=False)


def _counted(row: Mapping[str, Any], name: str) -> tuple[str, str]:
    """A count of a layer, and for each of its multiplications."""
    if name not in row:
        return "", ""
    return f"{row[name]:,}", f"{row[name] / row['macs']:.2f}" if row["macs"] else ""


def print_insight(report: Report, console: Console | None = None) -> None:
    """Every layer of `edgeq debug` in a line, and what changes would gain."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title="signal over noise by layer")
    table.add_column("layer", overflow="fold")
    for heading in ("formats", "alone dB", "accumulated dB", "share of noise"):
        table.add_column(heading, no_wrap=True)
    for row in report.layers:
        share = row["weight_share"] + row["activation_share"]
        formats = f"{row['weight'][:8]} x {row['activation']}"
        dbs = (f"{row[key]:.1f}" for key in ("alone_db", "accumulated_db"))
        table.add_row(Text(row["operator"]), formats, *dbs, f"{share:6.1%} {'#' * round(30 * share)}")
    gains = Table("change", "outputs dB", "gain dB", title="what would help")
    for gain in sorted(report.manifest["gains"], key=lambda gain: -float(gain["after_db"])):
        gains.add_row(Text(gain["change"]), f"{gain['after_db']:.1f}", f"{gain['after_db'] - gain['before_db']:+.1f}")
    console = console or Console()
    console.print(table)
    console.print(gains)


def print_report(report: Report, console: Console, *, quiet: bool = False) -> None:
    """The closing block of a command: figures, agreement, files, and unless `quiet` notes and what to run next."""
    if report.rows and not report.cells:
        console.print(metric_table(report))
    if any(item.kind == "output" for item in report.agreement):
        console.print(agreement_table(report))
    for entry in report.artifact:
        console.print(f"wrote {entry['path']} ({entry['bytes']:,} bytes)", highlight=False, soft_wrap=True)
    if quiet:
        return
    for note in report.notes:
        console.print(f"note: {note}", highlight=False, soft_wrap=True, markup=False)
    if report.next_commands:
        console.print("Next:", highlight=False)
        for command in report.next_commands:
            console.print(f"  {command}", highlight=False, soft_wrap=True, markup=False)


def parse_budget(text: str) -> tuple[str, float]:
    """`metric=largest drop` of --max-drop, in points; raises UsageError.

    >>> parse_budget("map50-95=1.0")
    ('map50-95', 1.0)
    """
    metric, separator, number = text.partition("=")
    try:
        drop = float(number)
    except ValueError:
        drop = -1.0
    if not separator or not metric or not drop >= 0:
        raise UsageError("cannot read the budget", value=text, allowed="METRIC=POINTS such as map50-95=1.0")
    return metric.lower(), drop


def parse_size(text: str) -> int:
    """Bytes of --max-size; kB and MB are powers of 1024. Raises UsageError.

    >>> parse_size("120kB"), parse_size("1.5MB"), parse_size("4096")
    (122880, 1572864, 4096)
    """
    number = text.strip().lower().removesuffix("b").strip()
    factor = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}.get(number[-1:], 1)
    try:
        size = float(number.rstrip("kmg")) * factor
    except ValueError:
        size = -1.0
    if not 0 < size < float("inf"):
        raise UsageError("cannot read the size", value=text, allowed="such as 120kB or 1.5MB")
    return int(size)
