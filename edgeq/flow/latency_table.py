"""From measured operators to the table of latencies that bit allocation reads (edgeq/quantize/costs.py).

Operators are there by name, for the model that was profiled, and by what they cost the same for, for models that share
some. A simulated board gives instructions: what differs between formats is right in proportion, the milliseconds are not
those of a board with caches and wait states.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from edgeq.emit.artifact import to_json, write_files
from edgeq.flow.op_times import OpTime, Profile
from edgeq.quantize.costs import SCHEMA, read_latency_table


def write_latency_table(path: Path, profiles: Sequence[Profile], about: Mapping[str, Any]) -> None:
    """The table of profiles of one network in several formats; `about` says what and where. Replaces such a table alone.

    Raises UsageError if `path` is another kind of file, and OutputError if it cannot be written.
    """
    if path.exists():
        read_latency_table(path)
    rest_ms = max(profile.rest_ms for profile in profiles)
    document = {"schema": SCHEMA, **about, "rest_ms": rest_ms, "layers": layers_of(profiles)}
    write_files(path.parent, {path.name: to_json(document)})


def layers_of(profiles: Sequence[Profile]) -> dict[str, dict[str, float]]:
    """Median milliseconds by operator, each under its name and under its key, and by formats."""
    found: dict[str, dict[str, list[float]]] = {}
    for op in (op for profile in profiles for op in profile.ops):
        for name in (op.result, op.key):
            found.setdefault(name, {}).setdefault(op.formats, []).append(op.ms)
    return {name: {formats: median(ms) for formats, ms in entry.items()} for name, entry in found.items()}


def predicted_ms(ops: Sequence[OpTime], profiles: Sequence[Profile]) -> float:
    """What the table says of a network with the formats of `ops`: its operators and the rest, added up."""
    layers = layers_of(profiles)
    return sum(layers[op.result][op.formats] for op in ops) + max(profile.rest_ms for profile in profiles)
