"""Cells of a robustness table: one runner under one condition, measured once and kept as outcomes by image.

A cell is found by the content of all that it depends on: the runner's file, the images and labels, the preprocessing,
the degradation, the versions. So an interrupted table goes on where it stopped, a new artifact costs only its own
cells, and nothing stale is used. Cells are measured in parallel processes, one thread each.
"""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime

from edgeq import __version__
from edgeq.calibrate.cache import cache_folder
from edgeq.calibrate.degrade import Degradation
from edgeq.calibrate.mixture import Mixture
from edgeq.datasets.coco import BoxLabels
from edgeq.datasets.dataset import Dataset
from edgeq.datasets.folder import read_bytes, read_image
from edgeq.datasets.outcomes import Outcomes, from_arrays, outcomes_of
from edgeq.datasets.preprocess import Preprocess
from edgeq.errors import UsageError
from edgeq.flow.artifacts import open_runtime
from edgeq.flow.check import runtime_run
from edgeq.progress import Progress

_LOG = logging.getLogger(__name__)
LAYOUT = 2


@dataclass(frozen=True)
class Condition:
    """Images as they are (both None), all under one degradation, or a mixture."""

    name: str
    degradation: Degradation | None = None
    mixture: Mixture | None = None

    def assign(self, names: Sequence[str]) -> list[Degradation | None]:
        """What is done to the image of each name."""
        return [self.degradation] * len(names) if self.mixture is None else self.mixture.assign(names)

    def document(self) -> dict[str, Any]:
        """As plain JSON values."""
        parts = {"degradation": self.degradation, "mixture": self.mixture}
        return {key: None if part is None else part.document() for key, part in parts.items()}


@dataclass(frozen=True)
class Runner:
    """A file and what its outputs need to be read; `label` is what tables call it."""

    label: str
    path: Path
    metadata: Mapping[str, str]
    digest: str


@dataclass(frozen=True)
class Cell:
    """One runner under one condition on a data set."""

    runner: Runner
    condition: Condition
    data: Dataset
    data_digest: str
    preprocess: Preprocess
    seed: int

    @property
    def key(self) -> str:
        """SHA-256 of everything that the outcomes depend on."""
        parts = {
            "versions": [LAYOUT, __version__, onnxruntime.__version__, cv2.__version__],
            "runner": self.runner.digest,
            "metadata": dict(self.runner.metadata),
            "data": self.data_digest,
            "preprocess": self.preprocess.to_dict(),
            "condition": self.condition.document(),
            "seed": self.seed,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file, or of all files of a package with their names."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(path)}\0".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def data_digest(data: Dataset) -> str:
    """SHA-256 of the images' files and labels, in order."""
    digest = hashlib.sha256()
    for sample in data.samples:
        digest.update(f"{sample.path.name}\0".encode())
        digest.update(hashlib.sha256(read_bytes(sample.path)).digest())
        digest.update(_label_bytes(sample.label))
    return digest.hexdigest()


def _label_bytes(label: object) -> bytes:
    if isinstance(label, BoxLabels):
        return label.boxes.tobytes() + label.classes.tobytes()
    return hashlib.sha256(read_bytes(label)).digest() if isinstance(label, Path) else repr(label).encode()


def measure_cell(cell: Cell) -> Outcomes:
    """Run every image. Raises UsageError if there are no labels, DataError naming an image that cannot be read."""
    meter = cell.data.meter(cell.preprocess, cell.runner.metadata)
    if meter is None:
        raise UsageError("robustness is measured on labelled images", where=cell.data.name)
    run = runtime_run(open_runtime(cell.runner.path, 1))
    assigned = cell.condition.assign([sample.path.name for sample in cell.data.samples])
    for index, (sample, part) in enumerate(zip(cell.data.samples, assigned, strict=True)):
        image = read_image(sample.path)
        if part is not None:
            image = part.apply(image, sample.path.name, cell.seed)
        meter.add(index, cell.preprocess.placement(*image.shape[:2]), run(cell.preprocess.apply(image)))
    return outcomes_of(meter)


def _store(key: str, outcomes: Outcomes) -> None:
    """A cache that cannot be written costs time, not results."""
    path = cells_folder() / f"{key}.npz"
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
            np.savez_compressed(file, allow_pickle=False, **outcomes.arrays())
        os.replace(file.name, path)


def load_cell(key: str) -> Outcomes | None:
    """The stored outcomes, or None if there are none or they are damaged (a warning is logged)."""
    path = cells_folder() / f"{key}.npz"
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return from_arrays({name: arrays[name] for name in arrays.files})
    except Exception as error:  # no list of what numpy and zlib raise on damaged bytes is complete
        _LOG.warning("the stored cell %s is damaged and not used (%s)", path, error)
        return None


def cells_folder() -> Path:
    """Beside the calibration cache."""
    return cache_folder().with_name("robustness")


def _measure_and_store(cell: Cell, use_cache: bool) -> Outcomes:
    cv2.setNumThreads(1)
    outcomes = measure_cell(cell)
    if use_cache:
        _store(cell.key, outcomes)
    return outcomes


def measure_cells(
    cells: Sequence[Cell], workers: int, progress: Progress, *, use_cache: bool
) -> dict[tuple[str, str], Outcomes]:
    """Outcomes by (runner, condition); what is stored is not measured again."""
    found: dict[tuple[str, str], Outcomes] = {}
    missing: list[Cell] = []
    for cell in cells:
        known = load_cell(cell.key) if use_cache else None
        if known is None:
            missing.append(cell)
        else:
            found[_place(cell)] = known
    for done, (cell, outcomes) in enumerate(_measured(missing, workers, use_cache), start=len(found) + 1):
        found[_place(cell)] = outcomes
        progress("measuring cells", done, len(cells))
    return found


def _place(cell: Cell) -> tuple[str, str]:
    return cell.runner.label, cell.condition.name


def _measured(cells: Sequence[Cell], workers: int, use_cache: bool) -> Iterator[tuple[Cell, Outcomes]]:
    if workers == 1 or len(cells) < 2:
        yield from ((cell, _measure_and_store(cell, use_cache)) for cell in cells)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(cells)), mp_context=context) as pool:
        waiting = {pool.submit(_measure_and_store, cell, use_cache): cell for cell in cells}
        try:
            for future in as_completed(waiting):
                yield waiting[future], future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
