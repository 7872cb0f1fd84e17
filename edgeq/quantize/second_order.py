"""Rounding weights with the second moments of their inputs: the layer's output error, minimised in closed form.

With x the real and z the quantized input, E|Q z - W x|^2 = E|(Q - W') z|^2 + const where W' = W E[x z'] E[z z']^-1 is
the least-squares fit (the compensation of QuartDepth). Q starts from GPTQ: columns are rounded one after the other and
the error of each is spread over the rest (Frantar et al., 2022). Coordinate descent then moves single codes while that
helps, in turn with the least-squares scale of every output. Means are split off first where a bias can hold them.

It works for every format, since only the nearest level is asked of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from edgeq.formats import Format
from edgeq.quantize.scale import SCALE_FLOOR, half_scales
from edgeq.quantize.simulate import nearest_level

DAMPING = (0.01, 0.1, 1.0)
"""Shares of the mean diagonal added to it, the first for plenty of images, the last for few."""

SHARES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5, 0.4)
"""Of the largest scale, tried for few bits."""

_AROUND = (1.0, 0.92, 1.09)
"""Starts of the scale: codes and scale depend on one another, and the best pair is not where nearest rounding is best."""

_SMALL = 64
"""Rows of so few elements are followed from every share, which costs next to nothing."""

_TOGETHER = 1 << 23
"""Elements of second moments for which several starts are followed at once: sweeps are many small steps."""

_DAMPINGS = 20
"""Tenfold steps of damping, which bring any finite moments there."""

_BLOCK = 128
_SWEEPS = 3
_SCALE_ROUNDS = 2
_FEW = 1e-3
"""Sweeps end once fewer codes than this share of all move."""


@dataclass(frozen=True)
class Moments:
    """Weighted sums over positions, of z (quantized input) and x (real input): see `Fit`.

    zz and xz are [groups, k, k], z and x [groups, k]; `power` [groups, rows] sums (W x)^2 and `mean` W x.
    """

    count: float
    z: Tensor
    x: Tensor
    zz: Tensor
    xz: Tensor
    power: Tensor

    @classmethod
    def of(cls, rows: Tensor, real: Tensor, quantized: Tensor, importance: Tensor | None = None) -> Moments:
        """The moments of columns [groups, k, m]; `importance` [m] weighs them."""
        outputs = rows.to(real.dtype) @ real
        count, heavy, wide = float(quantized.shape[2]), real, outputs
        weighed = quantized
        if importance is not None:
            count, weighed = float(importance.sum()), quantized * importance
            heavy, wide = real * importance, outputs * importance
        zz, xz = weighed @ quantized.transpose(1, 2), real @ weighed.transpose(1, 2)
        sums = (weighed.sum(2), heavy.sum(2), zz, xz, (wide * outputs).sum(2))
        return cls(count, *(part.double() for part in sums))

    def joined(self, other: Moments) -> Moments:
        """Both together."""
        return Moments(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class Problem:
    """Per group: minimise sum_r (Q_r zz Q_r' - 2 Q_r target_r' + power_r), with moments about the means if `centred`."""

    rows: Tensor
    zz: Tensor
    target: Tensor
    power: Tensor
    z: Tensor
    x: Tensor

    @classmethod
    def of(cls, rows: Tensor, moments: Moments, *, centred: bool) -> Problem:
        """The problem of real `rows` [groups, r, k] under `moments`."""
        parts = (moments.z, moments.x, moments.zz, moments.xz, moments.power)
        z, x, zz, xz, power = (part / moments.count for part in parts)
        rows = rows.double()
        if centred:
            zz = zz - z[:, :, None] * z[:, None, :]
            xz = xz - x[:, :, None] * z[:, None, :]
            power = power - (rows @ x[:, :, None]).squeeze(2).square()
        return cls(rows, zz, rows @ xz, power, z, x)

    def errors(self, fitted: Tensor) -> Tensor:
        """Mean squared error [groups, r] of `fitted` rows, the best bias understood."""
        quadratic = ((fitted @ self.zz) * fitted).sum(2) - 2 * (fitted * self.target).sum(2) + self.power
        return quadratic.clamp_min(0)

    def shift(self, fitted: Tensor) -> Tensor:
        """What the bias [groups, r] must add: E[W x] - E[Q z]."""
        return (self.rows @ self.x[:, :, None] - fitted @ self.z[:, :, None]).squeeze(2)


@dataclass(frozen=True)
class Fit:
    """Levels [groups, r, k] and scales [groups, r, 1]: rows = levels times scales, which approximate `wanted`."""

    levels: Tensor
    scales: Tensor
    wanted: Tensor

    @property
    def rows(self) -> Tensor:
        """The real rows that the levels stand for."""
        return self.levels * self.scales


@dataclass(frozen=True)
class Grid:
    """The levels to choose from, and whether scales may change; with `half` to what half precision holds."""

    format: Format
    free_scale: bool
    half: bool = False

    def nearest(self, v: Tensor) -> Tensor:
        """The level nearest to each v."""
        return nearest_level(v, self.format)

    def storable(self, scales: Tensor) -> Tensor:
        """`scales` as files hold them."""
        if self.half:
            return torch.from_numpy(half_scales(scales.cpu().numpy(), self.format)).to(scales.device)
        return scales.float().double().clamp_min(SCALE_FLOOR)


def damped(problem: Problem, damping: float) -> tuple[Tensor, Tensor]:
    """(H, W'): the damped second moments, and the least-squares rows drawn towards the real ones.

    Where inputs hardly vary, their moments about the mean are rounding, which takes more damping to be positive.
    """
    diagonal = problem.zz.diagonal(dim1=1, dim2=2)
    ridge = damping * diagonal.mean(1).clamp_min(1e-12)
    for _ in range(_DAMPINGS):
        hessian = problem.zz + torch.diag_embed(ridge[:, None].expand_as(diagonal))
        failed = torch.linalg.cholesky_ex(hessian).info != 0
        if not failed.any():
            break
        ridge = torch.where(failed, 10 * ridge, ridge)
    goal = problem.target + problem.rows * ridge[:, None, None]
    return hessian, torch.linalg.solve(hessian, goal.transpose(1, 2)).transpose(1, 2)


def spread_rounding(rows: Tensor, hessian: Tensor, scales: Tensor, grid: Grid) -> Tensor:
    """Levels by GPTQ, inputs in the order of falling power."""
    order = hessian.diagonal(dim1=1, dim2=2).argsort(1, descending=True)
    index = order[:, None, :].expand_as(rows)
    left, step = rows.gather(2, index).float(), scales[:, :, 0].float()
    permuted = hessian.gather(1, order[:, :, None].expand_as(hessian)).gather(2, order[:, None, :].expand_as(hessian))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(permuted))
    upper = torch.linalg.cholesky(inverse, upper=True).float()
    levels = torch.zeros_like(left)
    for start in range(0, rows.shape[2], _BLOCK):
        stop = min(start + _BLOCK, rows.shape[2])
        errors = torch.zeros_like(left[:, :, start:stop])
        for k in range(start, stop):
            level = grid.nearest(left[:, :, k] / step)
            error = (left[:, :, k] - level * step) / upper[:, k, k, None]
            left[:, :, k:stop] -= error[:, :, None] * upper[:, None, k, k:stop]
            levels[:, :, k], errors[:, :, k - start] = level, error
        left[:, :, stop:] -= errors @ upper[:, start:stop, stop:]
    return torch.zeros_like(left).scatter(2, index, levels).double()


def descend(levels: Tensor, rows: Tensor, hessian: Tensor, scales: Tensor, grid: Grid) -> Tensor:
    """`levels` after sweeps in which every code in turn becomes the best one, the others fixed."""
    levels, rows, hessian, step = (part.float() for part in (levels.clone(), rows, hessian, scales))
    slope = (rows - levels * step) @ hessian
    weight = step * hessian.diagonal(dim1=1, dim2=2)[:, None, :]
    move = _move_all if levels.is_cuda else _move_some
    for _ in range(_SWEEPS):
        before = levels.clone()
        for k in range(rows.shape[2]):
            change = grid.nearest(levels[:, :, k] + slope[:, :, k] / weight[:, :, k]) - levels[:, :, k]
            levels[:, :, k] += change
            move(slope, change * step[:, :, 0], hessian[:, k])
        if int((levels != before).sum()) < _FEW * levels.numel():
            break
    return levels.double()


def _move_some(slope: Tensor, change: Tensor, line: Tensor) -> None:
    """Subtract change [groups, r] times line [groups, k] from `slope`, only in rows that change: few do."""
    group, row = change.nonzero(as_tuple=True)
    if len(row):
        slope[group, row] -= change[group, row, None] * line[group]


def _move_all(slope: Tensor, change: Tensor, line: Tensor) -> None:
    """The same in all rows: a GPU would have to be waited for to tell which change."""
    slope.baddbmm_(change[:, :, None], line[:, None, :], alpha=-1)


def refit_scales(levels: Tensor, rows: Tensor, hessian: Tensor, scales: Tensor) -> Tensor:
    """The least-squares scale of every row of `levels`; the old one where that is not positive."""
    along = levels @ hessian
    found = (along * rows).sum(2, keepdim=True) / (along * levels).sum(2, keepdim=True).clamp_min(1e-30)
    return torch.where(found > 0, found, scales)


def search_scales(problem: Problem, scales: Tensor, grid: Grid) -> Tensor:
    """Per row the share of `scales` at which rounding to the nearest makes the least output error; if they are free."""
    if not grid.free_scale:
        return scales
    hessian, rows = damped(problem, DAMPING[0])
    hessian, rows, scales = hessian.float(), rows.float(), scales.float()
    best, least = scales, torch.full_like(scales, torch.inf)
    for share in SHARES:
        tried = scales * share
        error = rows - grid.nearest(rows / tried) * tried
        power = ((error @ hessian) * error).sum(2, keepdim=True)
        best, least = torch.where(power < least, tried, best), torch.minimum(power, least)
    return grid.storable(best.double())


def fit(problem: Problem, scales: Tensor, grid: Grid, damping: float, *, quick: bool = False) -> Fit:
    """Codes, and scales if they are free, of least damped error; `scales` [groups, r, 1] are where it starts.

    `quick` stops after the first pass, which tells as well how the damping does.
    """
    hessian, rows = damped(problem, damping)
    if quick:
        return Fit(spread_rounding(rows, hessian, scales, grid), scales, rows)
    shares: tuple[float, ...] = (1.0,)
    if grid.free_scale:
        shares = _AROUND if rows.shape[2] > _SMALL else tuple(share / SHARES[len(SHARES) // 3] for share in SHARES)
    best, least = None, torch.full(scales.shape, torch.inf, dtype=scales.dtype, device=scales.device)
    at_once = max(1, _TOGETHER // hessian.numel())
    for some in (shares[k : k + at_once] for k in range(0, len(shares), at_once)):
        starts = [grid.storable(scales * share) if share != 1.0 else scales for share in some]
        many = len(some), 1, 1
        found = _settled(rows.repeat(many), hessian.repeat(many), torch.cat(starts), grid)
        for levels, steps in zip(found.levels.chunk(len(some)), found.scales.chunk(len(some)), strict=True):
            error = rows - levels * steps
            power = ((error @ hessian) * error).sum(2, keepdim=True)
            better, one = power < least, Fit(levels, steps, rows)
            best = one if best is None else _merged(better, one, best)
            least = torch.minimum(power, least)
    assert best is not None
    return best


def _merged(better: Tensor, found: Fit, best: Fit) -> Fit:
    """Row by row the better of two fits."""
    levels, scales = torch.where(better, found.levels, best.levels), torch.where(better, found.scales, best.scales)
    return Fit(levels, scales, best.wanted)


def _settled(rows: Tensor, hessian: Tensor, scales: Tensor, grid: Grid) -> Fit:
    """One start, followed to where neither a code nor a scale can improve on its own."""
    levels = descend(spread_rounding(rows, hessian, scales, grid), rows, hessian, scales, grid)
    for _ in range(_SCALE_ROUNDS if grid.free_scale else 0):
        scales = grid.storable(refit_scales(levels, rows, hessian, scales))
        levels = descend(levels, rows, hessian, scales, grid)
    return Fit(levels, scales, rows)
