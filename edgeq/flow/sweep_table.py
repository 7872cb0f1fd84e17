"""All figures of a sweep as one table: CSV, or Parquet for tools that read columns. A line at a time."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from edgeq.emit.artifact import filling
from edgeq.errors import MissingDependencyError, UsageError
from edgeq.flow.results import COLUMNS, Results

BATCH = 10_000
NUMBERS = {"value": "float64", "n": "int64"}
"""Columns that hold no text, as Arrow calls what they hold."""


def write_table(results: Results, where: Mapping[str, str], path: Path) -> None:
    """Write what `where` chooses to a .csv or .parquet file, whole or not at all.

    Raises UsageError for another kind of file, OutputError, and MissingDependencyError without pyarrow.
    """
    write = {".csv": _write_csv, ".parquet": _write_parquet}.get(path.suffix)
    if write is None:
        raise UsageError("cannot write such a table", where=path, allowed=".csv, .parquet")
    with filling(path.parent) as temporary:
        write(results.lines(where), temporary / path.name)


def _write_csv(lines: Iterator[tuple[Any, ...]], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(lines)


def _write_parquet(lines: Iterator[tuple[Any, ...]], path: Path) -> None:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingDependencyError("pyarrow", "parquet", needed_for="a Parquet file") from error
    schema = pyarrow.schema([(name, getattr(pyarrow, NUMBERS.get(name, "string"))()) for name in COLUMNS])
    with parquet.ParquetWriter(path, schema) as writer:
        while some := list(islice(lines, BATCH)):
            columns = dict(zip(COLUMNS, map(list, zip(*some, strict=True)), strict=True))
            writer.write_table(pyarrow.table(columns, schema=schema))
