"""The range of each value whose rounding disturbs the network's outputs least.

Every quantized value has a few candidate grids, proposed by the estimators from its statistics. The noise that each
candidate causes at the outputs is measured on real images to first order (edgeq/quantize/sensitivity.py): one backward
pass serves all values and candidates. Where functions alone read a value, its error is taken behind them, so that
what they squash does not count.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from edgeq.calibrate.choose import choose
from edgeq.calibrate.estimators import WIDE_BITS, Entropy, Estimator, MinMax, Mse, Octav, Percentile
from edgeq.calibrate.robust import MEAN, Risk
from edgeq.calibrate.statistics import Statistics
from edgeq.errors import DataError
from edgeq.formats import FloatArray, Int
from edgeq.ir import ops as o
from edgeq.ir.graph import Array, Graph
from edgeq.quantize.bias import Excerpts
from edgeq.quantize.operators import gated_function
from edgeq.quantize.sensitivity import Objective, backward_passes, power_by_channel, rounded
from edgeq.quantize.structure import Structure
from edgeq.reference.interpret import Device
from edgeq.reference.meaning import apply_function

CANDIDATES: tuple[Estimator, ...] = (
    MinMax(), Percentile(99.999), Percentile(99.99), Percentile(99.9), Mse(), Octav(), Entropy()
)  # fmt: skip

IN_CACHE = 1 << 17
"""Elements that are worked on at once, so that what is computed of them stays in a core's cache: three times as fast."""

Grid = tuple[float, int]
Probe = tuple[o.Value, o.Function | None]


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


def _probes(graph: Graph, value: o.Value) -> list[Probe]:
    """Where errors of `value` are weighed and the function up to there: at itself, or behind all that read it."""
    readers = list(graph.consumers.get(value, ()))
    if gate := gated_function(readers):
        return [(o.results(readers[1])[0], gate)]
    if readers and value not in graph.outputs and all(isinstance(op, o.Apply) for op in readers):
        return [(op.out, op.function) for op in readers if isinstance(op, o.Apply)]
    return [(value, None)]


def _behind(function: o.Function | None, x: Tensor) -> Tensor:
    return x if function is None else apply_function(function, x)


def _in_parts(x: Tensor) -> tuple[Tensor, ...]:
    """x by a few channels (axis 1) at a time; in one piece where there is no such cache."""
    x = x if x.dim() > 1 else x.reshape(1, 1, -1)
    few = max(1, IN_CACHE * x.shape[1] // max(x.numel(), 1)) if x.device.type == "cpu" else x.shape[1]
    return torch.split(x, few, 1)


def _noise_of(
    x: Tensor, probes: list[Probe], grids: Collection[Grid], format: Int, gradients: Mapping[o.Value, Tensor]
) -> FloatArray:
    """Noise power that each of `grids` causes through x."""
    reached = [(function, _in_parts(gradients[probe])) for probe, function in probes if probe in gradients]
    parts = [
        _noise_of_part(part, [(function, slopes[k]) for function, slopes in reached], grids, format)
        for k, part in enumerate(_in_parts(x))
    ]
    found: FloatArray = torch.stack(parts).double().cpu().numpy().sum(0)
    return found


def _noise_of_part(
    x: Tensor, reached: Sequence[tuple[o.Function | None, Tensor]], grids: Iterable[Grid], format: Int
) -> Tensor:
    exact = [_behind(function, x) for function, _ in reached]
    found = []
    for grid in grids:
        coarse = rounded(x, format, *grid)
        errors = [
            coarse.sub_(real) if function is None else apply_function(function, coarse).sub_(real)
            for (function, _), real in zip(reached, exact, strict=True)
        ]
        powers = [power_by_channel(slope, error) for (_, slope), error in zip(reached, errors, strict=True)]
        found.append(torch.stack(powers).sum() if powers else x.new_zeros(()))
    return torch.stack(found)


def choose_by_output_noise(
    structure: Structure,
    objective: Objective,
    sites: Mapping[o.Value, Site],
    statistics: Mapping[o.Value, Statistics],
    samples: Iterable[Mapping[o.Value, Array]],
    *,
    estimators: Sequence[Estimator] = CANDIDATES,
    parts: Mapping[str, Mapping[o.Value, Statistics]] | None = None,
    risk: Risk = MEAN,
    excerpts: Excerpts | None = None,
    device: Device = "cpu",
) -> dict[o.Value, Choice]:
    """For each site (a class of `structure`, by its key) the candidate grid of least noise by `objective`.

    `statistics` has an entry per site, over all its members. `samples` are some of the calibration inputs (about a
    dozen). Inputs of the graph and formats of 12 bits and more are never clipped: they keep the first of `estimators`,
    which gains are measured against. `parts` are statistics of some of the images (clean, degraded), whose grids
    compete too; `risk` weighs the images; `excerpts` note what passes by. Raises DataError if there is no sample.
    """
    grids = {}
    for key, site in sites.items():
        fixed = _never_clipped(structure, key, site)
        known = {"": statistics[key]} | {name: part[key] for name, part in ({} if fixed else parts or {}).items()}
        grids[key] = _candidates(site, known, estimators[: 1 if fixed else None])
    contested = {
        value: key
        for key, found in grids.items()
        for value in structure.sources(key)
        if len(found) > 1 and value not in structure.graph.constants
    }
    probes = {value: _probes(structure.graph, value) for value in contested}
    kept = {
        *probes,
        *(probe for group in probes.values() for probe, _ in group),
        *(excerpts.values if excerpts else ()),
    }
    noise: dict[o.Value, list[FloatArray]] = {key: [] for key in grids}
    for values, gradients in backward_passes(structure.graph, objective, kept, samples, device=device):
        for key, found in grids.items():
            noise[key].append(np.zeros(len(found)))
        if excerpts:
            excerpts.note(values)
        with torch.no_grad():
            for value, key in contested.items():
                if value in values:
                    noise[key][-1] += _noise_of(values[value], probes[value], grids[key], sites[key].format, gradients)
    if not all(noise.values()):
        raise DataError("there is no image to measure ranges on", next_step="Name a folder that holds images.")
    return {key: _choice(found, risk.of(np.array(noise[key]))) for key, found in grids.items()}


def _choice(grids: Mapping[Grid, str], noise: FloatArray) -> Choice:
    best = int(np.argmin(noise))
    gain = float(noise[0] / noise[best]) if noise[best] > 0 else 1.0
    grid, name = list(grids.items())[best]
    return Choice(*grid, name, float(noise[best]), gain)
