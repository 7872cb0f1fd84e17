"""The results of a sweep as SQL: one line for each figure of each cell, found by the cell's axes.

The store of jobs holds a JSON document for each cell; the view `figures` lays it out, so that any SQLite client can ask:

    SELECT target, board, value FROM figures WHERE metric = 'latency_p50_ms' AND place = board ORDER BY value

Everything here is read one line at a time: nothing grows with the number of cells.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeq.errors import UsageError, did_you_mean

STORE = "sweep.sqlite"
AXES = ("model", "recipe", "target", "board", "degradation")
COLUMNS = (*AXES, "place", "metric", "value", "unit", "n", "how")
GROUP = ("model", "board", "degradation")
_AXIS_COLUMNS = ", ".join(f"json_extract(jobs.key, '$.{axis}') AS {axis}" for axis in AXES)
_ROW_COLUMNS = ", ".join(
    f"json_extract(row.value, '$.{name}') AS {name}" for name in ("metric", "value", "unit", "n", "how")
)
_VIEW = f"""CREATE VIEW IF NOT EXISTS figures AS SELECT jobs.key AS cell, {_AXIS_COLUMNS},
    json_extract(row.value, '$.where') AS place, {_ROW_COLUMNS}
    FROM jobs, json_each(jobs.result, '$.rows') AS row WHERE jobs.state = 'done'"""
_VALUE = """(SELECT json_extract(row.value, '$.value') FROM json_each(jobs.result, '$.rows') AS row
    WHERE json_extract(row.value, '$.metric') = ?{number}
    AND json_extract(row.value, '$.where') IN (json_extract(jobs.key, '$.board'), 'artifact')
    ORDER BY json_extract(row.value, '$.where') = 'artifact' LIMIT 1)"""
"""A cell's figure: measured on its board, else of the artifact here."""
SAMPLE = 1000
"""So many cells tell which metrics there are."""


@dataclass(frozen=True)
class Point:
    """One cell with what it costs and how good it is."""

    cell: Mapping[str, str]
    cost: float
    quality: float

    @property
    def group(self) -> tuple[str, ...]:
        """Only cells that agree in these can be compared: costs are a board's, and quality a task's."""
        return tuple(self.cell[axis] for axis in GROUP)


def add_views(path: Path) -> None:
    """Make `figures` a part of a store."""
    with closing(sqlite3.connect(path)) as base:
        base.execute(_VIEW)


class Results:
    """The store in the folder of a sweep, which may still be running."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / STORE
        if not self.path.is_file():
            raise UsageError(
                "there is no sweep in this folder", where=folder, next_step="edgeq sweep PLAN --out FOLDER"
            )
        try:
            self._base = sqlite3.connect(self.path)
            self._base.execute(_VIEW)
        except sqlite3.Error as error:
            raise UsageError("the store of the sweep cannot be read", where=self.path, value=error) from error

    def close(self) -> None:
        """Close the file."""
        self._base.close()

    def count(self, state: str | None = None) -> int:
        """How many cells there are, or how many in a state."""
        where, values = (" WHERE state = ?", (state,)) if state else ("", ())
        return int(self._base.execute(f"SELECT COUNT(*) FROM jobs{where}", values).fetchone()[0])

    def values(self, axis: str) -> list[str]:
        """What occurs on an axis."""
        rows = self._base.execute(f"SELECT DISTINCT json_extract(key, '$.{axis}') FROM jobs ORDER BY 1")
        return [str(value) for (value,) in rows]

    def metrics(self) -> dict[str, str]:
        """The metrics of the first cells that are done, at their boards or of their artifacts, each with its unit."""
        rows = self._base.execute(
            "SELECT DISTINCT json_extract(row.value, '$.metric'), json_extract(row.value, '$.unit') FROM"
            " (SELECT key, result FROM jobs WHERE state = 'done' LIMIT ?) AS jobs, json_each(jobs.result, '$.rows') AS row"
            " WHERE json_extract(row.value, '$.where') IN (json_extract(jobs.key, '$.board'), 'artifact')",
            (SAMPLE,),
        )
        return {str(metric): str(unit) for metric, unit in rows}

    def points(self, cost: str, quality: str, where: Mapping[str, str], *, higher: bool) -> Iterator[Point]:
        """Cells that have both metrics, group by group, and in each by rising cost, the best of equal cost first."""
        chosen = " AND ".join(f"{axis} GLOB :{axis}" for axis in where) or "1"
        rows = self._base.execute(
            f"SELECT {', '.join(AXES)}, cost, quality FROM (SELECT {_AXIS_COLUMNS}, {_VALUE.format(number=1)} AS cost,"
            f" {_VALUE.format(number=2)} AS quality FROM jobs WHERE state = 'done')"
            f" WHERE cost IS NOT NULL AND quality IS NOT NULL AND {chosen} ORDER BY {', '.join(GROUP)}, cost, quality{' DESC' if higher else ''}",
            {"1": cost, "2": quality, **where},
        )
        for *cell, spent, found in rows:
            yield Point(dict(zip(AXES, cell, strict=True)), float(spent), float(found))

    def lines(self, where: Mapping[str, str], limit: int = -1) -> Iterator[tuple[Any, ...]]:
        """COLUMNS of every figure that the globs of `where` choose."""
        chosen = " AND ".join(f"{axis} GLOB :{axis}" for axis in where) or "1"
        return self._base.execute(f"SELECT {', '.join(COLUMNS)} FROM figures WHERE {chosen} LIMIT {limit}", dict(where))


def judged(points: Iterable[Point], *, higher: bool) -> Iterator[tuple[Point, bool]]:
    """Each of `points`, as Results gives them, and whether no other of its group beats it in cost and quality at once.

    >>> group = {"model": "m", "board": "b", "degradation": "clean"}
    >>> [on_front for _, on_front in judged([Point(group, 1, 5), Point(group, 2, 4), Point(group, 3, 6)], higher=True)]
    [True, False, True]
    """
    group, best = None, 0.0
    for point in points:
        value = point.quality if higher else -point.quality
        is_first = point.group != group
        yield point, is_first or value > best
        group, best = point.group, value if is_first else max(best, value)


def parse_where(texts: Sequence[str]) -> dict[str, str]:
    """AXIS=GLOB of --where. Raises UsageError.

    >>> parse_where(["board=pi*"])
    {'board': 'pi*'}
    """
    found = {}
    for text in texts:
        axis, separator, glob = text.partition("=")
        if not separator or axis not in AXES:
            raise UsageError("cannot read the choice of cells", value=text, allowed=", ".join(f"{a}=GLOB" for a in AXES),
                             next_step=did_you_mean(axis, AXES))  # fmt: skip
        found[axis] = glob
    return found
