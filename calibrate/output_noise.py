"""The range of each value whose rounding disturbs the network's outputs least.

Every quantized value has a few candidate grids, proposed by the estimators from its statistics. The noise that each
causes at the outputs is known to first order (edgeq/quantize/sensitivity.py): an error e of an element adds (g e)^2,
where g is its slope in a backward pass of a random projection of the outputs. Errors of different elements are taken
as uncorrelated, since what they have in common shifts a layer's mean and is taken back by its bias
(edgeq/quantize/bias.py). So a histogram of the elements that sums g^2 instead of counting tells the noise of every
grid, and one pass over an image serves all values and candidates. Where functions alone read a value, its error is
taken behind them, so that what they squash does not count.

Slopes are those of a few images, and large values are rare: others hold some that these do not, which would be clipped
for nothing. So slopes are averaged over values that are about as rare, and the elements of all images counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce

import numpy as np
import torch
from torch import Tensor

from edgeq.calibrate.choose import choose
from edgeq.calibrate.estimators import WIDE_BITS, Entropy, Estimator, MinMax, Mse, Octav, Percentile, least_range
from edgeq.calibrate.grid import Density, Map, expected_errors, grid_of_range, map_of
from edgeq.calibrate.robust import MEAN, Risk
from edgeq.calibrate.statistics import Histogram, Rows, Statistics, weighed_histogram
from edgeq.errors import DataError
from edgeq.formats import FloatArray, Int, IntArray
from edgeq.ir import ops as o
from edgeq.ir.graph import Array, Graph
from edgeq.quantize.operators import gated_function
from edgeq.quantize.sensitivity import Objective, backward_passes
from edgeq.quantize.structure import Structure
from edgeq.reference.interpret import Device

CANDIDATES: tuple[Estimator, ...] = (
    MinMax(), Percentile(99.999), Percentile(99.99), Percentile(99.9), Mse(), Octav(), Entropy()
)  # fmt: skip

LEAST_SEEN = 1024
"""Elements of the weighed images that the slopes of the rarest values are averaged over."""

LEAST_NOISE = "noise"
"""The name of the search for the range of least noise."""

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
            image = _summed(self.weights.pop(), image)
        self.weights.append(image)

    @property
    def total(self) -> Weights:
        """The sums over all images."""
        return reduce(_summed, self.weights, {})


def _summed(a: Weights, b: Weights) -> Weights:
    return {**a, **b, **{place: a[place].merged(b[place]) for place in a if place in b}}


def choose_by_output_noise(
    structure: Structure,
    sites: Mapping[o.Value, Site],
    statistics: Mapping[o.Value, Statistics],
    weighed: Weighed,
    *,
    parts: Mapping[str, Mapping[o.Value, Statistics]] | None = None,
    risk: Risk = MEAN,
) -> dict[o.Value, Choice]:
    """For each site (a class of `structure`, by its key) the grid of least noise.

    `statistics` has an entry per site, over all its members. `weighed` are some of the calibration inputs (about a
    dozen). Inputs of the graph and formats of 12 bits and more are never clipped: they keep the observed range, which
    gains are measured against. Where images are weighed apart, `risk` judges between the grid of least mean noise and
    those that estimators propose, also from `parts`: statistics of some of the images (clean, degraded). Raises
    DataError if there are none.
    """
    if sites and not weighed.images:
        raise DataError("there is no image to measure ranges on", next_step="Name a folder that holds images.")
    found, total = {}, weighed.total
    for key, site in sites.items():
        fixed = _never_clipped(structure, key, site)
        known = {"": statistics[key]} | {name: part[key] for name, part in ({} if fixed else parts or {}).items()}
        grids = _candidates(site, known, CANDIDATES if weighed.apart and not fixed else CANDIDATES[:1])
        rows = np.zeros((len(weighed.weights), len(grids)))
        if not fixed:
            noise = Noise.of(structure, key, site, statistics[key], weighed)
            grids.setdefault(noise.quietest(total), LEAST_NOISE)
            rows = np.array([noise(image, _arrays(grids)) for image in weighed.weights])
        found[key] = _choice(grids, risk.of(rows) * len(rows) / weighed.images)
    return found


def _arrays(grids: Iterable[Grid]) -> tuple[FloatArray, IntArray]:
    scales, zero_points = zip(*grids, strict=True)
    return np.array(scales), np.array(zero_points)


@dataclass(frozen=True)
class Noise:
    """The noise power that rounding of one class causes in images of which weights are known.

    `least` is the number of elements in all images that slopes are averaged over, None where they are not.
    """

    places: Sequence[tuple[o.Value, Probe]]
    site: Site
    statistics: Statistics
    least: float | None

    @classmethod
    def of(cls, structure: Structure, key: o.Value, site: Site, statistics: Statistics, weighed: Weighed) -> Noise:
        """Of the class `key`; slopes are not averaged where each image is judged apart, by what it holds."""
        graph, sources = structure.graph, structure.sources(key)
        places = [(value, probe) for value in sources for probe in probes_of(graph, value)]
        elements = weighed.images * sum(graph.types[value].size for value in sources)
        least = LEAST_SEEN * max(1.0, statistics.count / elements)
        return cls(places, site, statistics, None if weighed.apart else least)

    def __call__(self, weights: Weights, grids: tuple[FloatArray, IntArray]) -> FloatArray:
        """Of each of `grids`."""
        return self._sum(self._densities(weights), grids)

    def quietest(self, weights: Weights) -> Grid:
        """The grid that causes least of it."""
        seen, densities = self.statistics, self._densities(weights)
        if not densities:
            return choose(seen, self.site.format, symmetric=self.site.symmetric, estimator=CANDIDATES[0])
        ends = least_range(seen, self.site.format, self.site.symmetric, lambda grids: self._sum(densities, grids))
        low, high = (np.array([end]) for end in ends)
        scale, zero_point = grid_of_range(low, high, self.site.format, symmetric=self.site.symmetric)
        return float(scale[0]), int(zero_point[0])

    def _densities(self, weights: Weights) -> list[tuple[Density, Map]]:
        seen, found = self.statistics, list[tuple[Density, Map]]()
        for place in self.places:
            if place in weights:
                f, slopes = map_of(place[1][1]), weights[place]
                if self.least is not None:
                    slopes = slopes.spread(seen.histogram, self.least)
                found.append((Density.of(seen, f, slopes), f))
        return found

    def _sum(self, densities: Sequence[tuple[Density, Map]], grids: tuple[FloatArray, IntArray]) -> FloatArray:
        noise = np.zeros(len(grids[0]))
        for density, f in densities:
            noise += expected_errors(density, grids, self.site.format, f)
        return noise


def _choice(grids: Mapping[Grid, str], noise: FloatArray) -> Choice:
    best = int(np.argmin(noise))
    gain = float(noise[0] / noise[best]) if noise[best] > 0 else 1.0
    grid, name = list(grids.items())[best]
    return Choice(*grid, name, float(noise[best]), gain)
