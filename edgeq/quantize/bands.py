"""Which channels to compute apart (edgeq/passes/bands.py), so that the narrow ones are not rounded to the steps of the wide.

The noise that a channel causes at the outputs grows with the square of its step, which the widest channel of its band
decides. So channels are sorted by how far they reach and cut where the sum of importance times squared reach is least:
exactly, by dynamic programming. What that promises is then measured with the ranges that would be chosen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from edgeq.formats import FloatArray
from edgeq.ir import ops as o
from edgeq.ir.graph import Array, Graph
from edgeq.passes.bands import Bands, Stretch
from edgeq.quantize.operators import gated_function
from edgeq.quantize.sensitivity import Objective, backward_passes
from edgeq.quantize.structure import Structure
from edgeq.reference.interpret import Device

LEAST_CHANNELS = 4
"""In a band: kernels work on several channels at once."""

_OWN_STEPS = 127
_INSIDE = 0.999
"""Share of a channel's elements that its reach holds: what is rarer is clipped."""


@dataclass(frozen=True)
class Worth:
    """What bands must be worth: how much `noise` those of a stretch take away, as a share of the outputs' power, by which
    `factor` another one divides the noise of the stretch, and how many there are at `most`."""

    noise: float = 1e-3
    factor: float = 2.0
    most: int = 4

    @property
    def promise(self) -> float:
        """What is foretold of bands worth a trial: it is of the right size, and most networks need no trial."""
        return self.noise / 4


USUAL = Worth()
"""30 dB below the outputs noise costs no accuracy."""


@dataclass(frozen=True)
class Channels:
    """Of a stretch, float64 [values, channels]: how far each channel of each value reaches, and its importance."""

    reach: FloatArray
    importance: FloatArray

    def noise(self, members: Sequence[int]) -> float:
        """Noise at the outputs, in shares of their power, if `members` share scales of 8 bits."""
        step, total = self.reach[:, members].max(1) / _OWN_STEPS, self.importance[:, members].sum(1)
        return float((step**2 * total).sum())

    @property
    def whole_noise(self) -> float:
        """That of all channels together, more than which no bands take away."""
        return self.noise(range(self.reach.shape[1]))


def measure_channels(
    structure: Structure,
    objective: Objective,
    found: Mapping[o.Value, Stretch],
    samples: Iterable[Mapping[o.Value, Array]],
    device: Device = "cpu",
) -> dict[o.Value, Channels]:
    """What `samples` (see backward_passes) tell about the channels of every stretch that reaches the outputs."""
    wanted = {key: _rounded_values(structure, stretch) for key, stretch in found.items()}
    shown = {value: _shown_by(structure.graph, value) for values in wanted.values() for value in values}
    reach: dict[o.Value, list[FloatArray]] = {}
    importance: dict[o.Value, list[FloatArray]] = {}
    kept = {*shown.keys(), *shown.values()}
    for values, slopes in backward_passes(structure.graph, objective, kept, samples, device=device):
        for name in slopes.keys() & shown.keys():
            reach.setdefault(name, []).append(_reach(values[shown[name]].detach()))
            importance.setdefault(name, []).append(_importance(values[name].detach(), slopes[name]))
    return {
        key: Channels(
            np.stack([np.concatenate(reach[name]).max(0) for name in names]),
            np.stack([np.concatenate(importance[name]).mean(0) for name in names]),
        )
        for key, names in wanted.items()
        if names and all(name in reach for name in names)
    }


def _rounded_values(structure: Structure, stretch: Stretch) -> list[o.Value]:
    """Values of the stretch that would have a scale of their own in each band."""
    return [value for value in stretch.inside if value in structure.key and value not in stretch.ends]


def _shown_by(graph: Graph, value: o.Value) -> o.Value:
    """What tells how far `value` must reach: the result of the function that squashes it, else it itself."""
    readers = list(graph.consumers.get(value, ()))
    if gated_function(readers) or (len(readers) == 1 and isinstance(readers[0], o.Apply)):
        return o.results(readers[-1])[0]
    return value


def _reach(x: Tensor) -> FloatArray:
    """[images, channels, height, width] -> [images, channels]: the magnitude that holds nearly all elements of each."""
    by_channel = x.flatten(2)
    count = max(1, round(by_channel.shape[2] * (1 - _INSIDE)))
    found: FloatArray = by_channel.abs().topk(count, dim=2).values[:, :, -1].double().cpu().numpy()
    return found


def _importance(x: Tensor, slope: Tensor) -> FloatArray:
    """[images, channels]: noise of each over the square of its step, measured at a step as fine as its own scale would have.

    Errors of flat areas are alike and add up, which the mean square of the slopes would not know.
    """
    step = x.abs().amax((2, 3), keepdim=True).clamp_min(1e-30) / _OWN_STEPS
    weighed = torch.div(x, step).round_().mul_(step).sub_(x).mul_(slope)
    found: FloatArray = (weighed.flatten(2).sum(2) / step.flatten(1)).square().double().cpu().numpy()
    return found


def promise(channels: Channels, bands: Bands) -> float:
    """How much less noise `bands` cause than all channels together, in shares of the outputs' power."""
    return channels.whole_noise - sum(map(channels.noise, bands))


def best_bands(channels: Channels, least: int = LEAST_CHANNELS, worth: Worth = USUAL) -> Bands | None:
    """The fewest bands of at least `least` channels each after which another one would not pay; None if one is enough."""
    size = channels.reach.shape[1]
    orders = [np.argsort(row, kind="stable").tolist() for row in channels.reach]
    runs = [_run_noise(channels, order, least) for order in orders] if size >= 2 * least else []
    best, noise = None, channels.whole_noise
    for count in range(2, min(worth.most, size // least) + 1):
        cuts = [_cut(order, noises, count) for order, noises in zip(orders, runs, strict=True)]
        total, found = min((sum(map(channels.noise, bands)), bands) for bands in cuts)
        if total * worth.factor <= noise:
            best, noise = found, total
    return best


def _cut(order: list[int], runs: FloatArray, count: int) -> Bands:
    """The partition of `order` into `count` runs of least noise; `runs` as by _run_noise."""
    size = len(order)
    cost, cuts = runs[0], []
    for _ in range(count - 1):
        total = cost[:, None] + runs  # [end of the runs before, end of this run]
        cuts.append(total.argmin(0))
        cost = total.min(0)
    ends = [size]
    for places in reversed(cuts):
        ends.append(int(places[ends[-1]]))
    starts = [0, *reversed(ends[1:])]
    return tuple(tuple(sorted(order[a:b])) for a, b in zip(starts, reversed(ends), strict=True))


def _run_noise(channels: Channels, order: list[int], least: int) -> FloatArray:
    """[start, end]: the noise of the run order[start:end], infinite where it is too short."""
    size = len(order)
    reach, importance = channels.reach[:, order], channels.importance[:, order]
    running = np.concatenate([np.zeros((len(reach), 1)), np.cumsum(importance, axis=1)], axis=1)
    found = np.full((size + 1, size + 1), np.inf)
    for start in range(size - least + 1):
        widest = np.maximum.accumulate(reach[:, start:], axis=1)
        sums = running[:, start + 1 :] - running[:, start : start + 1]
        found[start, start + 1 :] = (widest**2 * sums).sum(0)
        found[start, : start + least] = np.inf
    return found
