"""From calibration images to the range of every class of values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from edgeq import __version__
from edgeq.calibrate import cache
from edgeq.calibrate.choose import choose, parse_estimator
from edgeq.calibrate.estimators import MinMax
from edgeq.calibrate.observe import observe
from edgeq.calibrate.output_error import Site, choose_by_output_error
from edgeq.calibrate.statistics import Statistics, merge_all, statistics_of
from edgeq.flow.inputs import CalibrationSet
from edgeq.formats import Int
from edgeq.ir.graph import Array, Graph
from edgeq.ir.ops import Value
from edgeq.progress import Progress
from edgeq.quantize.structure import Structure
from edgeq.target import Target

AUTO = "auto"
AUTO_IMAGES = 8
WIDE_HEADROOM = 1.5
"""Wide values are printed as floats by some runtimes, which do not saturate; leave room above what was seen."""

Inputs = Mapping[Value, Array]


@dataclass(frozen=True)
class ChosenRange:
    """The grid of one class of values and the estimator that proposed it; `gain` is its advantage over min-max."""

    key: Value
    scale: float
    zero_point: int
    format: str
    estimator: str
    gain: float | None = None

    def document(self) -> dict[str, Any]:
        """As plain JSON values."""
        return dict(vars(self))


def _inputs(graph: Graph, calibration: CalibrationSet) -> Iterator[Inputs]:
    (name,) = graph.inputs
    for tensor in calibration.tensors():
        yield {name: tensor}


def _watched(structure: Structure) -> frozenset[Value]:
    constants = structure.graph.constants
    return frozenset(v for key in structure.members for v in structure.sources(key) if v not in constants)


def collect_statistics(
    structure: Structure, calibration: CalibrationSet, model_digest: str, progress: Progress, *, use_cache: bool
) -> dict[Value, Statistics]:
    """Statistics of the values whose ranges must be chosen, from the cache if these images were seen before."""
    graph, values = structure.graph, _watched(structure)
    key = cache.key(
        model=model_digest,
        preprocess=calibration.preprocess.to_dict(),
        images=list(calibration.hashes.values()),
        settings={"values": sorted(values), "version": __version__},
    )
    if use_cache and (known := cache.load(key)) is not None:
        return known
    total = len(calibration.images)
    found = observe(
        graph, _inputs(graph, calibration), values, progress=lambda done: progress("calibrating", done, total)
    )
    if use_cache:
        cache.store(key, found)
    return found


def _class_statistics(structure: Structure, statistics: Mapping[Value, Statistics]) -> dict[Value, Statistics]:
    """One entry per class that has a computed member; constants among the sources count as well."""
    import torch

    merged: dict[Value, Statistics] = {}
    for key in structure.members:
        sources = structure.sources(key)
        if any(v in statistics for v in sources):
            constants = structure.graph.constants
            merged[key] = merge_all(
                statistics[v] if v in statistics else statistics_of(torch.from_numpy(constants[v].astype(np.float32)))
                for v in sources
            )
    return merged


def choose_ranges(
    structure: Structure,
    statistics: Mapping[Value, Statistics],
    target: Target,
    estimator: str,
    calibration: CalibrationSet,
    progress: Progress,
) -> list[ChosenRange]:
    """A grid for every class: by the named estimator, or for `auto` by the error measured where values are read."""
    per_class = _class_statistics(structure, statistics)
    sites = {key: _site(structure, key, target) for key in per_class}
    if estimator == AUTO:
        return _by_output_error(structure, sites, per_class, calibration, progress)
    named = parse_estimator(estimator)
    chosen = []
    for key, site in sites.items():
        wide = site.format.bits > target.narrow.bits
        used = MinMax(WIDE_HEADROOM) if wide else named
        grid = choose(
            per_class[key],
            site.format,
            symmetric=target.symmetric,
            estimator=used,
            through=None if wide else site.through,
        )
        chosen.append(ChosenRange(key, *grid, str(site.format), str(used)))
    return chosen


def _site(structure: Structure, key: Value, target: Target) -> Site:
    format = structure.formats[key]
    assert isinstance(format, Int), format
    return Site(format, target.symmetric, structure.members[key], structure.through(key))


def _by_output_error(
    structure: Structure,
    sites: Mapping[Value, Site],
    statistics: Mapping[Value, Statistics],
    calibration: CalibrationSet,
    progress: Progress,
) -> list[ChosenRange]:
    def counted() -> Iterator[Inputs]:
        count = min(AUTO_IMAGES, len(calibration.images))
        for done, inputs in enumerate(islice(_inputs(structure.graph, calibration), count)):
            progress("choosing ranges", done, count)
            yield inputs
        progress("choosing ranges", count, count)

    narrow = {key: site for key, site in sites.items() if site.format.bits <= 8}
    chosen = [
        ChosenRange(key, c.scale, c.zero_point, str(sites[key].format), c.estimator, c.gain)
        for key, c in choose_by_output_error(structure.graph, narrow, statistics, counted()).items()
    ]
    wide = MinMax(WIDE_HEADROOM)
    for key in sites.keys() - narrow.keys():
        grid = choose(statistics[key], sites[key].format, symmetric=sites[key].symmetric, estimator=wide)
        chosen.append(ChosenRange(key, *grid, str(sites[key].format), str(wide)))
    return chosen
