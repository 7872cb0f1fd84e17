"""The range of each value whose rounding disturbs the network's outputs least.

Every quantized value has a few candidate grids, proposed by the estimators from its statistics. The noise that each
causes at the outputs is known to first order (edgeq/quantize/sensitivity.py): an error e of an element adds (g e)^2,
where g is its slope in a backward pass of a random projection of the outputs. Errors of different elements are taken
as uncorrelated, since what they have in common shifts a layer's mean and is taken back by its bias
(edgeq/quantize/bias.py). So a histogram of the elements that sums g^2 instead of counting tells the noise of every
grid, and one pass over an image serves all values and candidates. Where functions alone read a value, its error is
taken behind them, so that what they squash does not count.

Large values are rare: where slopes are those of a few images, others hold some that these do not, which would be clipped
for nothing. There slopes are averaged over values that are about as rare, and the elements of all images counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from edgeq.calibrate.choose import choose
from edgeq.calibrate.estimators import WIDE_BITS, Entropy, Estimator, MinMax, Mse, Octav, Percentile
from edgeq.calibrate.grid import Density, expected_errors, map_of
from edgeq.calibrate.robust import MEAN, Risk
from edgeq.calibrate.statistics import Histogram, Rows, Statistics, weighed_histogram
from edgeq.errors import DataError
from edgeq.formats import FloatArray, Int
from edgeq.ir import ops as o
from edgeq.ir.graph import Array, Graph
from edgeq.quantize.operators import gated_function
from edgeq.quantize.sensitivity import Objective, backward_passes
from edgeq.quantize.structure import Structure
from edgeq.reference.interpret import Device

CANDIDATES: tuple[Estimator, ...] = (
    MinMax(), Percentile(99.999), Percentile(99.99), Percentile(99.9), Mse(), Octav(), Entropy()
)  # fmt: skip

MANY_IMAGES = 32
"""So many weighed images hold enough large values: averaging then only keeps ranges wide."""
LEAST_SEEN = 512
"""Elements of the weighed images that slopes are averaged over."""

Grid = tuple[float, int]
Probe = tuple[o.Value, o.Function | None]
Weights = dict[tuple[o.Value, Probe], Histogram]
"""Of every value and each place where its errors are weighed: the sums of g^2 by the value."""


@dataclass(frozen=True)
class Site:
    """What is to be quantized: the format; `through` is the function that alone reads the value, if there is one."""

    format: Int
    symmetric: bool
    through: o.Function | None = None


@dataclass(frozen=True)
class Choice:
    """A grid, the estimator that proposed it, and the noise that it causes at the outputs.

    `gain` is the noise of the observed range (minmax) over `noise`: 2 means that it is halved.
    """

    scale: float
    zero_point: int
    estimator: str
    noise: float
    gain: float


def _never_clipped(structure: Structure, key: o.Value, site: Site) -> bool:
    return site.format.bits >= WIDE_BITS or not set(structure.graph.inputs).isdisjoint(structure.members[key])


def _candidates(site: Site, statistics: Mapping[str, Statistics], estimators: Sequence[Estimator]) -> dict[Grid, str]:
    """Grids by every estimator from the statistics of all images, then from each part of them."""
    found: dict[Grid, str] = {}
    for part, seen in statistics.items():
        for estimator in estimators:
            grid = choose(seen, site.format, symmetric=site.symmetric, estimator=estimator, through=site.through)
            found.setdefault(grid, f"{estimator} ({part})" if part else str(estimator))
    return found


def probes_of(graph: Graph, value: o.Value) -> list[Probe]:
    """Where errors of `value` are weighed and the function up to there: at itself, or behind all that read it."""
    readers = list(graph.consumers.get(value, ()))
    if gate := gated_function(readers):
        return [(o.results(readers[1])[0], gate)]
    if readers and value not in graph.outputs and all(isinstance(op, o.Apply) for op in readers):
        return [(op.out, op.function) for op in readers if isinstance(op, o.Apply)]
    return [(value, None)]


def weighed_passes(
    structure: Structure,
    objective: Objective,
    sites: Mapping[o.Value, Site],
    samples: Iterable[Mapping[o.Value, Array]],
    watched: Iterable[o.Value] = (),
    *,
    device: Device = "cpu",
    least: int | None = None,
) -> Iterator[tuple[dict[o.Value, Tensor], Weights]]:
    """For each of `samples` its values, those `watched` among them, and the weights of those whose range is chosen.

    A sample of several images (see backward_passes) has the sums of their weights.
    """
    graph = structure.graph
    clipped = [key for key, site in sites.items() if not _never_clipped(structure, key, site)]
    values = dict.fromkeys(v for key in clipped for v in structure.sources(key) if v not in graph.constants)
    probes = [(value, probe) for value in values for probe in probes_of(graph, value)]
    sloped = {place for _, (place, _) in probes}
    passes = backward_passes(graph, objective, sloped, samples, watched={*watched, *values}, device=device)
    rows = Rows(least)
    for seen, slopes in passes:
        with torch.no_grad():
            yield (
                seen,
                {
                    (value, probe): _weighed(seen[value], slopes[probe[0]], rows)
                    for value, probe in probes
                    if probe[0] in slopes
                },
            )
        images = max((len(x) // graph.types[value].shape[0] for value, x in seen.items() if x.dim()), default=1)
        rows = replace(rows, turn=rows.turn + images)


def _weighed(x: Tensor, slopes: Tensor, rows: Rows) -> Histogram:
    squares, step = rows.of(slopes).square(), rows.step(x)
    return weighed_histogram(rows.of(x), squares if step == 1 else squares.mul_(step))


@dataclass
class Weighed:
    """Weights over some images: their sums, or those of each image `apart`, as a risk other than the mean needs them."""

    apart: bool = False
    images: int = 0
    weights: list[Weights] = field(default_factory=list)

    def add(self, image: Weights, count: int = 1) -> None:
        """One more image, or the sums over `count` of them."""
        self.images += count
        if self.weights and not self.apart:
            sums = self.weights.pop()
            both = {place: sums[place].merged(image[place]) for place in sums if place in image}
            image = {**sums, **image, **both}
        self.weights.append(image)


def choose_by_output_noise(
    structure: Structure,
    sites: Mapping[o.Value, Site],
    statistics: Mapping[o.Value, Statistics],
    weighed: Weighed,
    *,
    estimators: Sequence[Estimator] = CANDIDATES,
    parts: Mapping[str, Mapping[o.Value, Statistics]] | None = None,
    risk: Risk = MEAN,
) -> dict[o.Value, Choice]:
    """For each site (a class of `structure`, by its key) the candidate grid of least noise.

    `statistics` has an entry per site, over all its members. `weighed` are some of the calibration inputs (about a
    dozen). Inputs of the graph and formats of 12 bits and more are never clipped: they keep the first of `estimators`,
    which gains are measured against. `parts` are statistics of some of the images (clean, degraded), whose grids
    compete too; `risk` weighs the images, each by what it holds where they are apart. Raises DataError if there are none.
    """
    if sites and not weighed.images:
        raise DataError("there is no image to measure ranges on", next_step="Name a folder that holds images.")
    found = {}
    for key, site in sites.items():
        fixed = _never_clipped(structure, key, site)
        known = {"": statistics[key]} | {name: part[key] for name, part in ({} if fixed else parts or {}).items()}
        grids = _candidates(site, known, estimators[: 1 if fixed else None])
        places = [(v, probe) for v in structure.sources(key) for probe in probes_of(structure.graph, v)]
        enough = weighed.apart or weighed.images >= MANY_IMAGES
        least = None if enough else _least_counted(structure, key, statistics[key], weighed.images)
        rows = [_noise_of(places, image, statistics[key], list(grids), site.format, least) for image in weighed.weights]
        found[key] = _choice(grids, risk.of(np.array(rows)) * len(rows) / weighed.images)
    return found


def _least_counted(structure: Structure, key: o.Value, statistics: Statistics, images: int) -> float:
    """LEAST_SEEN elements of the `images` that were weighed, in elements of all of them."""
    elements = images * sum(structure.graph.types[value].size for value in structure.sources(key))
    return LEAST_SEEN * max(1.0, statistics.count / elements)


def _noise_of(
    places: Sequence[tuple[o.Value, Probe]],
    weights: Weights,
    statistics: Statistics,
    grids: Sequence[Grid],
    format: Int,
    least: float | None,
) -> FloatArray:
    """Noise power that each of `grids` causes; slopes are averaged over at least so many elements of all images."""
    noise = np.zeros(len(grids))
    grid = np.array([scale for scale, _ in grids]), np.array([zero_point for _, zero_point in grids])
    for place in places if len(grids) > 1 else ():
        if place in weights:
            f, slopes = map_of(place[1][1]), weights[place]
            if least is not None:
                slopes = slopes.spread(statistics.histogram, least)
            noise += expected_errors(Density.of(statistics, f, slopes), grid, format, f)
    return noise


def _choice(grids: Mapping[Grid, str], noise: FloatArray) -> Choice:
    best = int(np.argmin(noise))
    gain = float(noise[0] / noise[best]) if noise[best] > 0 else 1.0
    grid, name = list(grids.items())[best]
    return Choice(*grid, name, float(noise[best]), gain)
