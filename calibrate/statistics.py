"""What calibration remembers of one value: exact ends, moments, and a histogram that never needs a range up front.

A histogram bin is the sign, the exponent and the first eight mantissa bits of a float32, for the sixteen octaves below
the largest magnitude seen; smaller numbers share one bin per sign. A larger number only moves the window up by whole
octaves, so merging loses nothing and the result depends neither on the order of the images nor on how they were
batched. Exact zeros are counted apart: every quantizer represents them exactly.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, reduce

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edgeq.errors import DataError
from edgeq.formats import FloatArray, IntArray
from edgeq.ir.graph import Array
from edgeq.ir.ops import Value

LAYOUT = 1
"""Raised whenever stored statistics would be read differently."""

MANTISSA_BITS = 8
PER_OCTAVE = 1 << MANTISSA_BITS
OCTAVES = 16
SIDE = OCTAVES * PER_OCTAVE + 1
"""Bins of one sign: one for everything below the window, then PER_OCTAVE for each octave."""

Float32Array = npt.NDArray[np.float32]

_PATTERNS = 1 << (8 + MANTISSA_BITS)
_END_BIAS = 127
_BESIDE = 32
_SMALLEST_TOP = OCTAVES + 1 - _END_BIAS


def _unit_edges() -> FloatArray:
    octaves = np.exp2(np.arange(-OCTAVES, 0, dtype=np.float64))
    positive = np.append(np.outer(octaves, 1 + np.arange(PER_OCTAVE) / PER_OCTAVE).reshape(-1), 1.0)
    return np.concatenate([-positive[::-1], [0.0], positive])


UNIT_EDGES = _unit_edges()


@dataclass(frozen=True, eq=False)
class Histogram:
    """Counts of nonzero values: `counts[k]` of them lie between `edges[k]` and `edges[k + 1]`, all below 2**top.

    `counts` is int64 [2 SIDE], ascending; the outer edges are -2**top and 2**top. Where values have weights, it is the
    float64 sums of those.
    """

    top: int
    counts: IntArray | FloatArray

    @property
    def edges(self) -> FloatArray:
        """The 2 SIDE + 1 ascending edges, exact powers of two and their 256ths."""
        return np.ldexp(UNIT_EDGES, self.top)

    def raised(self, top: int) -> Histogram:
        """The same counts in the window that ends at 2**top, top >= self.top."""
        octaves = top - self.top
        if octaves == 0:
            return self
        shift = min(octaves * PER_OCTAVE, SIDE - 1)
        sides = []
        for side in (self.counts[:SIDE][::-1], self.counts[SIDE:]):
            moved = np.zeros(SIDE, dtype=self.counts.dtype)
            moved[0] = side[: shift + 1].sum()
            moved[1 : SIDE - shift] = side[shift + 1 :]
            sides.append(moved)
        return Histogram(top, np.concatenate([sides[0][::-1], sides[1]]))

    def merged(self, other: Histogram) -> Histogram:
        """Both together."""
        top = max(self.top, other.top)
        return Histogram(top, self.raised(top).counts + other.raised(top).counts)

    def spread(self, like: Histogram, least: float) -> Histogram:
        """The same sums of weights, where `like` counts elements of more images: even over groups of elements.

        Groups lie beside each other from each end inwards and have about `least` elements, or are one bin. So what only
        other images hold weighs what its neighbours do.
        """
        top = max(self.top, like.top)
        weights, counts = self.raised(top).counts, like.raised(top).counts
        negative = _spread(weights[:SIDE], counts[:SIDE], least)
        positive = _spread(weights[SIDE:][::-1], counts[SIDE:][::-1], least)
        return Histogram(top, np.concatenate([negative, positive[::-1]]))


def _spread(weights: IntArray | FloatArray, counts: IntArray | FloatArray, least: float) -> FloatArray:
    """Of one side, the outermost bin first."""
    place = np.floor((np.cumsum(counts) - counts / 2) / least)  # of what lies in the middle of each bin
    group = np.cumsum(np.diff(place, prepend=place[:1]) > 0)
    found: FloatArray = (np.bincount(group, weights) / np.maximum(np.bincount(group, counts), 1))[group] * counts
    return found


@dataclass(frozen=True, eq=False)
class Statistics:
    """Statistics of all elements of a value over some images.

    `channel_minimum` and `channel_maximum` are float32 [channels] (axis 1 of four axes, else the last); `total` and
    `total_squares` are sums of x and x**2; `zeros` counts exact zeros.
    """

    count: int
    zeros: int
    total: float
    total_squares: float
    channel_minimum: Float32Array
    channel_maximum: Float32Array
    histogram: Histogram

    @cached_property
    def minimum(self) -> float:
        """Smallest element."""
        return float(self.channel_minimum.min())

    @cached_property
    def maximum(self) -> float:
        """Largest element."""
        return float(self.channel_maximum.max())

    @property
    def mean(self) -> float:
        """Mean, to about six digits."""
        return self.total / self.count

    @property
    def mean_square(self) -> float:
        """Mean of the squares, to about six digits."""
        return self.total_squares / self.count

    @property
    def zero_fraction(self) -> float:
        """Share of elements that are exactly zero."""
        return self.zeros / self.count

    def repeated(self, times: int) -> Statistics:
        """Statistics of every element `times` over."""
        if times == 1:
            return self
        return replace(
            self,
            count=self.count * times,
            zeros=self.zeros * times,
            total=self.total * times,
            total_squares=self.total_squares * times,
            histogram=replace(self.histogram, counts=self.histogram.counts * times),
        )

    def merged(self, other: Statistics) -> Statistics:
        """Statistics of the elements of both; values of unlike channel counts keep one range over all channels."""
        ends = [self.channel_minimum, other.channel_minimum, self.channel_maximum, other.channel_maximum]
        if len(self.channel_minimum) != len(other.channel_minimum):
            ends = [part(end, keepdims=True) for part, end in zip((np.min, np.min, np.max, np.max), ends, strict=True)]
        return Statistics(
            self.count + other.count,
            self.zeros + other.zeros,
            self.total + other.total,
            self.total_squares + other.total_squares,
            np.minimum(ends[0], ends[1]),
            np.maximum(ends[2], ends[3]),
            self.histogram.merged(other.histogram),
        )


def _channel_ends(x: Tensor) -> tuple[Float32Array, Float32Array]:
    if x.dim() == 0:
        x = x.reshape(1)
    axis = 1 if x.dim() == 4 else x.dim() - 1
    others = [k for k in range(x.dim()) if k != axis]
    low, high = (x.amin(others), x.amax(others)) if others else (x, x)
    return low.cpu().numpy().copy(), high.cpu().numpy().copy()


def _histogram(flat: Tensor, largest: float, weights: Tensor | None = None) -> tuple[Histogram, int]:
    """Histogram of the nonzero elements and the count of zeros; denormals too small for a pattern count as zeros."""
    patterns = (flat.view(torch.int32) >> (23 - MANTISSA_BITS)).bitwise_and_(2 * _PATTERNS - 1)
    found = _sums(patterns, weights, _BESIDE if flat.device.type == "cuda" else 1)
    top = max(math.frexp(largest)[1], _SMALLEST_TOP)
    end = (top + _END_BIAS) * PER_OCTAVE
    first = end - (SIDE - 1)
    zeros = found[0] + found[_PATTERNS]
    low, high = (torch.cat([side[1:first].sum(0, True), side[first:end]]) for side in (found[_PATTERNS:], found))
    counts = torch.cat([low.flip(0), high, zeros[None]]).cpu().numpy()  # all that leaves the device
    return Histogram(top, counts[:-1]), int(counts[-1])


def _sums(patterns: Tensor, weights: Tensor | None, beside: int) -> Tensor:
    """[2 _PATTERNS]: how often each of `patterns` (used up) occurs, or the sums of their weights.

    Elements next to one another are counted in so many histograms `beside` each other: where thousands are counted at
    once, those that meet in one bin, as zeros do, wait for each other.
    """
    if beside == 1:
        return torch.bincount(patterns, weights, minlength=2 * _PATTERNS)
    place = torch.arange(len(patterns), dtype=torch.int32, device=patterns.device).remainder_(beside)
    found = torch.bincount(patterns.mul_(beside).add_(place), weights, minlength=2 * _PATTERNS * beside)
    return found.view(-1, beside).sum(1)


def weighed_histogram(x: Tensor, weights: Tensor) -> Histogram:
    """For each bin the sum of the `weights` (at least 0, of the shape of x) of the float32 elements of x in it."""
    flat, weights, unit = x.contiguous().view(-1), weights.contiguous().view(-1), 1.0
    if flat.device.type != "cpu":  # which adds in any order: whole numbers come to the same in each
        unit = float(weights.amax()) / (1 << 32) or 1.0
        weights = torch.round(weights.double() / unit)
    found, _ = _histogram(flat, max(float(flat.amax()), -float(flat.amin())), weights)
    return Histogram(found.top, found.counts.astype(np.float64) * unit)


@dataclass(frozen=True)
class Rows:
    """Which elements of maps are looked at: at least `least` of each image (None: all), in evenly spaced rows, others in
    every image; `turn` is the number of the first one.

    Each counts for the rows that are passed over, too.
    """

    least: int | None = None
    turn: int = 0

    def step(self, x: Tensor) -> int:
        """Of how many rows of x [N, C, H, W] one is looked at."""
        return max(1, min(x[0].numel() // self.least, x.shape[2])) if self.least and x.dim() == 4 else 1

    def of(self, x: Tensor) -> Tensor:
        """Those rows, flat if x holds several images, or x itself."""
        step = self.step(x)
        if step == 1 or len(x) == 1:
            return x[:, :, self.turn % step :: step] if step > 1 else x
        return torch.cat([image[:, (self.turn + k) % step :: step].flatten() for k, image in enumerate(x)])


ALL = Rows()


def statistics_of(x: Tensor, where: object = None, rows: Rows = ALL) -> Statistics:
    """Statistics of one float32 tensor of any shape: its ends are of all elements, all else is of `rows`.

    Raises DataError if it is empty, or holds NaN or an infinity.
    """
    if x.numel() == 0:
        raise DataError("a value without elements cannot be calibrated", where=where)
    low, high = _channel_ends(x)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise DataError(
            "the network computes NaN or infinity on a calibration image",
            where=where,
            next_step="Check the preprocessing (value range, channel order) and the model.",
        )
    flat = rows.of(x).contiguous().view(-1)
    histogram, zeros = _histogram(flat, max(abs(float(low.min())), abs(float(high.max()))))
    found = Statistics(flat.numel(), zeros, float(flat.sum()), float(torch.dot(flat, flat)), low, high, histogram)
    return found.repeated(rows.step(x))


def merge_all(parts: Iterable[Statistics]) -> Statistics:
    """Statistics of the elements of all `parts` (at least one)."""
    return reduce(Statistics.merged, parts)


def merge_maps(a: Mapping[Value, Statistics], b: Mapping[Value, Statistics]) -> dict[Value, Statistics]:
    """Statistics value by value over both sets of images, as clean with degraded; a value may be in one only."""
    both = {value: a[value].merged(b[value]) for value in a if value in b}
    return {**a, **b, **both}


def to_arrays(statistics: Mapping[Value, Statistics]) -> dict[str, Array]:
    """`statistics` as a few plain arrays, for an npz file; `from_arrays` is the inverse."""
    parts = list(statistics.values())
    return {
        "values": np.array(list(statistics), dtype=np.str_),
        "count": np.array([s.count for s in parts], dtype=np.int64),
        "zeros": np.array([s.zeros for s in parts], dtype=np.int64),
        "total": np.array([s.total for s in parts], dtype=np.float64),
        "total_squares": np.array([s.total_squares for s in parts], dtype=np.float64),
        "channels": np.array([len(s.channel_minimum) for s in parts], dtype=np.int64),
        "channel_minimum": np.concatenate([np.zeros(0, np.float32), *(s.channel_minimum for s in parts)]),
        "channel_maximum": np.concatenate([np.zeros(0, np.float32), *(s.channel_maximum for s in parts)]),
        "top": np.array([s.histogram.top for s in parts], dtype=np.int64),
        "histogram": np.array([s.histogram.counts for s in parts], dtype=np.int64).reshape(-1, 2 * SIDE),
    }


def from_arrays(arrays: Mapping[str, Array]) -> dict[Value, Statistics]:
    """The statistics that `to_arrays` wrote; raises DataError if the arrays are not its work."""
    names = [str(name) for name in arrays["values"]] if "values" in arrays else []
    _check_arrays(arrays, len(names))
    if not names:
        return {}
    borders = np.cumsum(arrays["channels"])[:-1].astype(np.int64)
    rows = zip(
        *(arrays[field].tolist() for field in ("count", "zeros", "total", "total_squares")),
        np.split(arrays["channel_minimum"], borders),
        np.split(arrays["channel_maximum"], borders),
        (Histogram(top, counts) for top, counts in zip(arrays["top"].tolist(), arrays["histogram"], strict=True)),
        strict=True,
    )
    return {name: Statistics(*row) for name, row in zip(names, rows, strict=True)}


def _check_arrays(arrays: Mapping[str, Array], values: int) -> None:
    per_value = {"count": "i", "zeros": "i", "total": "f", "total_squares": "f", "channels": "i", "top": "i"}
    shapes = {**dict.fromkeys(per_value, (values,)), "histogram": (values, 2 * SIDE)}
    kinds = {**per_value, "histogram": "i", "channel_minimum": "f", "channel_maximum": "f"}
    sound = "values" in arrays and all(name in arrays and arrays[name].dtype.kind == kinds[name] for name in kinds)
    if sound:
        channels = int(arrays["channels"].sum())
        shapes |= {"channel_minimum": (channels,), "channel_maximum": (channels,)}
        sound = bool(all(arrays[name].min(initial=1) > 0 for name in ("channels", "count")))
    if not (sound and all(arrays[name].shape == shape for name, shape in shapes.items())):
        raise DataError("these arrays are not calibration statistics")
