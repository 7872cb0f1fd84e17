"""The range of each value whose error is least where it is read: candidates from the estimators, measured on images.

For every quantized value the operators that read it run on a few real tensors, once with the float value and once per
candidate with the value rounded to that candidate's grid. The candidate whose outputs differ least, relative to the
power of each output, is taken. Maps are cropped to a window, long matrices thinned to some rows: the comparison needs
samples of the output, not all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from edgeq.calibrate.choose import choose
from edgeq.calibrate.estimators import WIDE_BITS, Entropy, Estimator, MinMax, Mse, Octav, Percentile
from edgeq.calibrate.statistics import Statistics
from edgeq.errors import DataError
from edgeq.formats import Int
from edgeq.ir import ops as o
from edgeq.ir.graph import Array, Graph
from edgeq.reference.interpret import Interpreter
from edgeq.reference.meaning import evaluate

CANDIDATES: tuple[Estimator, ...] = (
    MinMax(), Percentile(99.999), Percentile(99.99), Percentile(99.9), Mse(), Octav(), Entropy()
)  # fmt: skip

WINDOW = 32
"""Side of the window of a map that is looked at, in pixels; at least twice the reach of the kernel."""

ROWS = 1024
"""Rows of a matrix that are looked at."""

_SPATIAL = (o.Conv, o.ConvTranspose, o.MaxPool, o.AveragePool, o.Apply, o.Add, o.Sub, o.Mul, o.Concat, o.ChannelAffine)


@dataclass(frozen=True)
class Site:
    """What is to be quantized: the format, and the `members` that share one grid (the value itself if none).

    `through` is the function that alone reads the value, if there is one.
    """

    format: Int
    symmetric: bool
    members: tuple[o.Value, ...] = ()
    through: o.Function | None = None


@dataclass(frozen=True)
class Choice:
    """A grid, the estimator that proposed it, and its measured error relative to the power of the readers' outputs.

    `gain` is the error of the observed range (minmax) over `error`: 2 means that it halves the squared error.
    """

    scale: float
    zero_point: int
    estimator: str
    error: float
    gain: float


@dataclass
class _Contest:
    """The candidates of one site and their errors so far; each reader counts relative to its own output's power."""

    site: Site
    grids: list[tuple[float, int]]
    names: list[str]
    errors: dict[o.Value, np.ndarray[tuple[int], np.dtype[np.float64]]] = field(default_factory=dict)
    powers: dict[o.Value, float] = field(default_factory=dict)

    def add(self, reader: o.Value, errors: list[float], power: float) -> None:
        self.errors[reader] = self.errors.get(reader, np.zeros(len(errors))) + errors
        self.powers[reader] = self.powers.get(reader, 0.0) + power

    def choice(self) -> Choice:
        total = np.zeros(len(self.grids))
        for reader, errors in self.errors.items():
            total += errors / max(self.powers[reader], np.finfo(np.float64).tiny)
        best = int(np.argmin(total))
        gain = float(total[0] / total[best]) if total[best] > 0 else 1.0
        return Choice(*self.grids[best], self.names[best], float(total[best]), gain)


def _contest(site: Site, statistics: Statistics, estimators: Sequence[Estimator]) -> _Contest:
    contest = _Contest(site, [], [])
    for estimator in estimators:
        grid = choose(statistics, site.format, symmetric=site.symmetric, estimator=estimator, through=site.through)
        if grid not in contest.grids:
            contest.grids.append(grid)
            contest.names.append(str(estimator))
    return contest


def rounded(x: Tensor, format: Int, scale: float, zero_point: int) -> Tensor:
    """The real x (float32) rounded to the levels of a grid and back."""
    codes = torch.clamp(torch.round(x / scale) + zero_point, format.low, format.high)
    return (codes - zero_point) * scale


def _reach(op: o.Op, graph: Graph) -> tuple[int, int]:
    """Height and width of the kernel of `op`, in pixels of its operand."""
    match op:
        case o.Conv() | o.ConvTranspose():
            _, _, height, width = graph.types[op.weight].shape
            return (height - 1) * op.dilation[0] + 1, (width - 1) * op.dilation[1] + 1
        case o.MaxPool():
            return (op.kernel[0] - 1) * op.dilation[0] + 1, (op.kernel[1] - 1) * op.dilation[1] + 1
        case o.AveragePool():
            return op.kernel
        case _:
            return 1, 1


def _window(size: int, length: int, start: float) -> slice:
    first = int(start * (max(size - length, 0) + 1))
    return slice(first, min(first + length, size))


def _sampler(op: o.Op, x: Tensor, reach: tuple[int, int], image: int) -> Callable[[o.Value, Tensor], Tensor]:
    """Takes from each operand of `op` the part that belongs to a sample of x; the sample moves with `image`."""
    if isinstance(op, o.Linear):
        stride = max(1, x.numel() // x.shape[-1] // ROWS)
        return lambda v, t: t.reshape(-1, t.shape[-1])[::stride] if v == op.x else t
    if not isinstance(op, _SPATIAL) or x.dim() != 4 or (isinstance(op, o.Concat) and op.axis != 1):
        return lambda _, t: t
    # Multiples of irrational numbers spread the windows evenly over the map.
    starts = ((image + 1) * 0.6180339887 % 1, (image + 1) * 0.4142135624 % 1)
    rows, columns = (_window(x.shape[2 + k], max(WINDOW, 2 * reach[k]), starts[k]) for k in (0, 1))

    def window(_: o.Value, t: Tensor) -> Tensor:
        if t.dim() != 4:
            return t
        t = t[:, :, rows] if t.shape[2] == x.shape[2] else t
        return t[:, :, :, columns] if t.shape[3] == x.shape[3] else t

    return window


def _tensors(arrays: Mapping[o.Value, Array]) -> dict[o.Value, Tensor]:
    return {value: torch.from_numpy(np.ascontiguousarray(array)) for value, array in arrays.items()}


class _Trial:
    """One run over the images: holds each contested value until its last reader has been measured."""

    def __init__(self, graph: Graph, contests: Mapping[o.Value, _Contest], constants: Mapping[o.Value, Array]) -> None:
        self.graph = graph
        self.image = 0
        self._contest_of = {m: c for key, c in contests.items() for m in (c.site.members or (key,))}
        self._float = _tensors(graph.constants)
        self._rounded = self._float | _tensors(constants)
        measured = [op for op in graph.ops if any(self._is_measured(op, v) for v in o.operands(op))]
        self._op_of = {o.results(op)[0]: op for op in measured}
        self._last = {v: o.results(op)[0] for op in measured for v in o.operands(op)}
        self._held: dict[o.Value, Tensor] = {}

    def _is_measured(self, op: o.Op, value: o.Value) -> bool:
        """Whether `op` reads `value` and is more than a step to another member of the same site."""
        contest = self._contest_of.get(value)
        return contest is not None and self._contest_of.get(o.results(op)[0]) is not contest

    def watch(self, name: o.Value, tensor: Tensor) -> None:
        op = self._op_of.get(name)
        if op is not None:
            for value in dict.fromkeys(o.operands(op)):
                if self._is_measured(op, value):
                    self._measure(op, value)
            for value in o.operands(op):
                if self._last[value] == name:
                    self._held.pop(value, None)
        if name in self._last:
            self._held[name] = tensor

    def _measure(self, op: o.Op, value: o.Value) -> None:
        contest, x = self._contest_of[value], self._held[value]
        part = _sampler(op, x, _reach(op, self.graph), self.image)
        exact_of = {v: part(v, self._held[v] if v in self._held else self._float[v]) for v in o.operands(op)}
        coarse_of = {v: exact_of[v] if v in self._held else part(v, self._rounded[v]) for v in o.operands(op)}
        exact = evaluate(op, exact_of.__getitem__)[0]
        if not exact.is_floating_point():
            return
        errors = []
        for grid in contest.grids:
            coarse_of[value] = rounded(exact_of[value], contest.site.format, *grid)
            errors.append(float(torch.sum((evaluate(op, coarse_of.__getitem__)[0] - exact) ** 2)))
        contest.add(o.results(op)[0], errors, float(torch.sum(exact**2)))


def _never_clipped(graph: Graph, key: o.Value, site: Site) -> bool:
    return site.format.bits >= WIDE_BITS or not set(graph.inputs).isdisjoint((key, *site.members))


@torch.no_grad()
def choose_by_output_error(
    graph: Graph,
    sites: Mapping[o.Value, Site],
    statistics: Mapping[o.Value, Statistics],
    samples: Iterable[Mapping[o.Value, Array | Tensor]],
    *,
    constants: Mapping[o.Value, Array] | None = None,
    estimators: Sequence[Estimator] = CANDIDATES,
) -> dict[o.Value, Choice]:
    """For each site the candidate grid of least error at the outputs of the operators that read it.

    `statistics` has an entry per site, over all its members. `samples` are a few of the calibration inputs
    (four to eight). `constants` are quantized weights, as float32 reals by the constant's name, to be used beside
    the rounded values. Inputs of the graph and formats of 12 bits and more are never clipped. `estimators` starts
    with the one that gains are measured against and that those keep. Raises DataError if there is no sample.
    """
    whole = estimators[:1]
    contests = {
        key: _contest(site, statistics[key], whole if _never_clipped(graph, key, site) else estimators)
        for key, site in sites.items()
    }
    trial = _Trial(graph, contests, constants or {})
    interpreter = Interpreter(graph)
    for sample in samples:
        interpreter(sample, trial.watch)
        trial.image += 1
    if not trial.image:
        raise DataError("there is no image to measure ranges on", next_step="Name a folder that holds images.")
    return {key: contest.choice() for key, contest in contests.items()}
