"""Latencies that were measured on boards, kept by the content of all that they depend on.

An entry's key is the SHA-256 of what was timed (an operator by kind, shapes and formats; a network's graph) and of where:
the board's hardware, clocks and system, the runtime, the target and our version. So a network is measured once on a board,
and one changed version is another key. One SQLite file beside the calibration cache; writers do not disturb each other.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any

from edgeq.calibrate.cache import cache_folder
from edgeq.errors import OutputError
from edgeq.flow.op_times import OpTime, Profile, formats_of, result_of, weighted_ops
from edgeq.ir.file import digest
from edgeq.ir.graph import Graph
from edgeq.quantize.costs import layer_key

_SCHEMA = "CREATE TABLE IF NOT EXISTS times (key TEXT PRIMARY KEY, place TEXT, thing TEXT, ms REAL, measured REAL)"
WHOLE, REST = "whole", "rest"
Place = Mapping[str, Any]
"""The board, its runtime and the settings, as JSON values."""


def store_path() -> Path:
    """Beside the calibration cache."""
    return cache_folder().with_name("latency.sqlite")


def known_profile(graph: Graph, place: Place) -> Profile | None:
    """What was measured of a lowered graph at `place`, or None if a part of it was not."""
    ops = weighted_ops(graph)
    things = [_op(layer_key(op, graph), formats_of(op, graph)) for op in ops]
    found = _read([*things, _network(graph, REST), _network(graph, WHOLE)], place)
    if found is None:
        return None
    *times, rest_ms, whole_ms = found
    told = (OpTime(result_of(op), layer_key(op, graph), formats_of(op, graph), ms)
            for op, ms in zip(ops, times, strict=True))  # fmt: skip
    return Profile(tuple(told), rest_ms, whole_ms)


def store_profile(graph: Graph, place: Place, profile: Profile, *, replace: bool = False) -> Profile:
    """Keep a profile and return what is known now. Raises OutputError.

    Operators that cost the same share the median. One that was measured in another network keeps its time, unless
    `replace` is set.
    """
    times: dict[str, list[float]] = {}
    for op in profile.ops:
        times.setdefault(_op(op.key, op.formats), []).append(op.ms)
    entries = {thing: median(found) for thing, found in times.items()}
    entries |= {_network(graph, REST): profile.rest_ms, _network(graph, WHOLE): profile.whole_ms}
    where = json.dumps(place, sort_keys=True)
    rows = [(_key(thing, where), where, thing, ms, time.time()) for thing, ms in entries.items()]
    try:
        store_path().parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(store_path())) as base, base:
            base.execute(_SCHEMA)
            base.executemany(f"INSERT OR {'REPLACE' if replace else 'IGNORE'} INTO times VALUES (?, ?, ?, ?, ?)", rows)
    except (OSError, sqlite3.Error) as error:
        raise OutputError("the latencies cannot be kept", where=store_path(), value=error,
                          next_step="If the file is damaged, remove it.") from error  # fmt: skip
    return known_profile(graph, place) or profile


def _op(key: str, formats: str) -> str:
    return json.dumps({"operator": key, "formats": formats})


def _network(graph: Graph, part: str) -> str:
    return json.dumps({"network": digest(graph), "part": part})


def _key(thing: str, where: str) -> str:
    return hashlib.sha256(f"{where}\0{thing}".encode()).hexdigest()


def _read(things: list[str], place: Place) -> list[float] | None:
    """The milliseconds of all `things`, or None if one is not known; a damaged file knows nothing."""
    where, path = json.dumps(place, sort_keys=True), store_path()
    if not path.is_file():
        return None
    try:
        with closing(sqlite3.connect(path)) as base:
            rows = [base.execute("SELECT ms FROM times WHERE key = ?", (_key(thing, where),)).fetchone()
                    for thing in things]  # fmt: skip
    except sqlite3.Error:
        return None
    return None if None in rows else [float(row[0]) for row in rows]
