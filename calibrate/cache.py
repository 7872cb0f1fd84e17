"""Calibration statistics on disk, found by the content of everything that they depend on.

The key is a digest of the model, the preprocessing, the pixels of the images (in any order), the degradation and what
was observed, so nothing stale is ever found: one changed pixel is another key. An entry is one npz file without
pickles, written under a temporary name and moved into place, so that a reader sees all of it or nothing and
simultaneous writers do not disturb each other. A damaged entry is reported and counts as absent.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeq import __version__
from edgeq.calibrate.statistics import LAYOUT, Statistics, from_arrays, to_arrays
from edgeq.errors import OutputError, UsageError
from edgeq.ir.graph import Array
from edgeq.ir.ops import Value

_LOG = logging.getLogger(__name__)
_KEY = re.compile(r"[0-9a-f]{64}")
_SUFFIX = ".npz"
LARGEST_BYTES = 1 << 30
"""An entry that claims to unpack to more is damaged: five thousand values take a third of it."""


@dataclass(frozen=True)
class Entry:
    """One entry of the cache: its key, its size on disk, and when it was written (seconds since 1970)."""

    key: str
    size_bytes: int
    written: float


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/edgeq/statistics; ~/.cache stands in for a variable that is unset or not absolute."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "edgeq" / "statistics"


def key(
    *,
    model: str,
    preprocess: Mapping[str, object],
    images: Iterable[str],
    settings: Mapping[str, object],
    degradation: Mapping[str, object] | None = None,
) -> str:
    """The SHA-256 (64 hexadecimal digits) that names the statistics of one calibration.

    `model` is the digest of the graph, `images` the pixel digests in any order, `settings` what was observed;
    the mappings hold JSON values. The versions of edgeq and of the layout of statistics are part of it.
    """
    parts = {
        "edgeq": __version__,
        "layout": LAYOUT,
        "model": model,
        "preprocess": dict(preprocess),
        "images": sorted(images),
        "settings": dict(settings),
        "degradation": None if degradation is None else dict(degradation),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, allow_nan=False).encode()).hexdigest()


def state_file(
    *,
    model: str,
    preprocess: Mapping[str, object],
    images: Iterable[str],
    settings: Mapping[str, object],
    kind: str = "training",
    suffix: str = ".pt",
) -> Path:
    """Where the state of a long computation over the same things is kept, so that it can go on; see `key`."""
    name = key(model=model, preprocess=preprocess, images=images, settings=settings)
    return cache_folder().parent / kind / f"{name}{suffix}"


def _path(key: str) -> Path:
    if not _KEY.fullmatch(key):
        raise UsageError("not a key of the calibration cache", value=key, allowed="64 hexadecimal digits")
    return cache_folder() / f"{key}{_SUFFIX}"


def _read(path: Path) -> dict[str, Array]:
    with zipfile.ZipFile(path) as archive:
        if sum(member.file_size for member in archive.infolist()) > LARGEST_BYTES:
            raise ValueError("it unpacks to more than a cache entry can hold")
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def load(key: str) -> dict[Value, Statistics] | None:
    """The statistics stored under `key`, or None if there are none or the entry is damaged (a warning is logged)."""
    path = _path(key)
    try:
        arrays = _read(path)
        if str(arrays.pop("key")) != key:
            raise ValueError("it belongs to another calibration")
        return from_arrays(arrays)
    except FileNotFoundError:
        return None
    except Exception as error:  # no list of what numpy and zlib raise on damaged bytes is complete
        _LOG.warning("the calibration cache entry %s is damaged and not used (%s)", path, error)
        return None


def store(key: str, statistics: Mapping[Value, Statistics]) -> None:
    """Store `statistics` under `key`, replacing what is there. Raises OutputError if the folder cannot be written."""
    path = _path(key)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
            temporary = Path(file.name)
            np.savez_compressed(file, allow_pickle=False, key=np.array(key), **to_arrays(statistics))
        os.replace(temporary, path)
    except OSError as error:
        raise OutputError(
            "the calibration cache cannot be written",
            where=path.parent,
            value=error.strerror or error,
            next_step="Set XDG_CACHE_HOME to a writable folder, or run without the cache.",
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def list_entries() -> list[Entry]:
    """All entries, the newest first."""
    found = []
    for path in cache_folder().glob(f"*{_SUFFIX}"):
        try:
            status = path.stat()
        except FileNotFoundError:  # removed meanwhile
            continue
        if _KEY.fullmatch(path.stem):
            found.append(Entry(path.stem, status.st_size, status.st_mtime))
    return sorted(found, key=lambda entry: (-entry.written, entry.key))


def remove(keys: Iterable[str] | None = None) -> int:
    """Remove the entries `keys`, or all; the number that were there. Raises OutputError if one cannot be removed."""
    removed = 0
    for name in [entry.key for entry in list_entries()] if keys is None else list(keys):
        try:
            _path(name).unlink()
            removed += 1
        except FileNotFoundError:
            continue
        except OSError as error:
            raise OutputError("a cache entry cannot be removed", where=_path(name), value=error.strerror) from error
    return removed
