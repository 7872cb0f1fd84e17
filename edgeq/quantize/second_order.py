"""Rounding weights with the second moments of their inputs: the layer's output error, minimised in closed form.

With x the real and z the quantized input, E|Q z - W x|^2 = E|(Q - W') z|^2 + const where W' = W E[x z'] E[z z']^-1 is
the least-squares fit (the compensation of QuartDepth). Q starts from GPTQ: columns are rounded one after the other and
the error of each is spread over the rest (Frantar et al., 2022). Coordinate descent then moves single codes while that
helps, in turn with the least-squares scale of every output. Means are split off first where a bias can hold them.

It works for every format, since only the nearest level is asked of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgeq.quantize.sweeps import Grid, descend, spread_rounding

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

_SCALE_ROUNDS = 2


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
        (found,) = cls.of_each(rows, real, quantized, None if importance is None else importance[None])
        return found

    @classmethod
    def of_each(
        cls, rows: Tensor, real: Tensor, quantized: Tensor, importance: Tensor | None = None
    ) -> tuple[Moments, ...]:
        """The moments of every set of columns [sets times groups, k, m]; `importance` [sets, m] weighs them."""
        sets, counts = len(real) // len(rows), [float(quantized.shape[2])] * (len(real) // len(rows))
        outputs = rows.to(real.dtype).repeat(sets, 1, 1) @ real
        heavy, wide, weighed = real, outputs, quantized
        if importance is not None:
            counts, shares = importance.sum(1).tolist(), importance.repeat_interleave(len(rows), 0)[:, None]
            heavy, wide, weighed = real * shares, outputs * shares, quantized * shares
        zz, xz = weighed @ quantized.transpose(1, 2), real @ weighed.transpose(1, 2)
        sums = (weighed.sum(2), heavy.sum(2), zz, xz, (wide * outputs).sum(2))
        parts = zip(*(part.double().chunk(sets) for part in sums), strict=True)
        return tuple(cls(count, *part) for count, part in zip(counts, parts, strict=True))

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


def damped(problem: Problem, damping: float) -> tuple[Tensor, Tensor]:
    """(H, W'): the damped second moments, and the least-squares rows drawn towards the real ones.

    Where inputs hardly vary, their moments about the mean are rounding, which takes more damping to be positive.
    """
    diagonal = problem.zz.diagonal(dim1=1, dim2=2)
    ridge = damping * diagonal.mean(1).clamp_min(1e-12)
    for _ in range(_DAMPINGS):
        hessian = problem.zz + torch.diag_embed(ridge[:, None].expand_as(diagonal))
        factor, info = torch.linalg.cholesky_ex(hessian)
        failed = info != 0
        if not failed.any():
            break
        ridge = torch.where(failed, 10 * ridge, ridge)
    goal = problem.target + problem.rows * ridge[:, None, None]
    return hessian, torch.cholesky_solve(goal.transpose(1, 2), factor).transpose(1, 2)


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
    at_once = 1 if rows.device.type == "cpu" else len(SHARES)
    for some in (SHARES[k : k + at_once] for k in range(0, len(SHARES), at_once)):
        tried = torch.stack([scales * share for share in some])
        error = (rows - grid.nearest(rows / tried) * tried).transpose(0, 1).flatten(1, 2)
        power = ((error @ hessian) * error).sum(2).view(len(rows), len(some), -1).transpose(0, 1)[..., None]
        lowest, place = power.min(0, keepdim=True)
        found = tried.gather(0, place)[0]
        best, least = torch.where(lowest[0] < least, found, best), torch.minimum(lowest[0], least)
    return grid.storable(best.double())


def first_fits(problem: Problem, scales: Tensor, grid: Grid, dampings: Sequence[float]) -> Iterator[Fit]:
    """Codes after the first pass under each of `dampings`, which tells how they do; `scales` as in `fit`."""
    for some in _together(dampings, problem.zz):
        hessians, wanted = zip(*(damped(problem, damping) for damping in some), strict=True)
        steps = scales.repeat(len(some), 1, 1)
        levels = spread_rounding(torch.cat(wanted), torch.cat(hessians), steps, grid)
        yield from (Fit(*parts) for parts in zip(levels.chunk(len(some)), steps.chunk(len(some)), wanted, strict=True))


def _together(choices: Sequence[float], hessian: Tensor) -> Iterator[Sequence[float]]:
    """`choices` in parts that are followed at once."""
    at_once = max(1, _TOGETHER // hessian.numel())
    return (choices[k : k + at_once] for k in range(0, len(choices), at_once))


def fit(problem: Problem, scales: Tensor, grid: Grid, damping: float) -> Fit:
    """Codes, and scales if they are free, of least damped error; `scales` [groups, r, 1] are where it starts."""
    hessian, rows = damped(problem, damping)
    shares: tuple[float, ...] = (1.0,)
    if grid.free_scale:
        shares = _AROUND if rows.shape[2] > _SMALL else tuple(share / SHARES[len(SHARES) // 3] for share in SHARES)
    best, least = None, torch.full(scales.shape, torch.inf, dtype=scales.dtype, device=scales.device)
    for some in _together(shares, hessian):
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
