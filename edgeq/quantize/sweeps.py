"""Sweeps over the columns of a weight: rounding one after the other, each with what the others leave to it.

Rows are independent of one another, columns are not, so sweeps are long chains of small steps: columns of a block reach
one another step by step, and all others by one product of matrices. On an accelerator a block is one recorded chain.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from edgeq.formats import Format
from edgeq.quantize import recorded
from edgeq.quantize.fused import DESCEND, SPREAD, fused_step
from edgeq.quantize.scale import SCALE_FLOOR, half_scales
from edgeq.quantize.simulate import nearest_level

_BLOCK = 64
"""Columns whose errors reach one another at once; others are moved by a product of matrices for all of a block."""

_SWEEPS = 3
_FEW = 1e-3
"""Sweeps end once fewer codes than this share of all move."""


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


def _spreading(hessian: Tensor) -> Tensor:
    """[g, k, k]: how the error of each column moves those behind it: U with U'U = H^-1, its rows over their diagonal.

    Turned end to end, H = L L' gives U = L^-1, turned back.
    """
    factor = torch.linalg.cholesky(hessian.flip(1, 2))
    one = torch.eye(hessian.shape[1], dtype=hessian.dtype, device=hessian.device).expand_as(hessian)
    upper = torch.linalg.solve_triangular(factor, one, upper=False).flip(1, 2)
    found: Tensor = upper / upper.diagonal(dim1=1, dim2=2)[:, :, None]
    return found


def _by_column(matrix: Tensor) -> Tensor:
    """[groups, r, k] -> [k, groups, r], single precision: what sweeps walk along lies together."""
    return matrix.float().permute(2, 0, 1).contiguous()


def _take(values: Tensor, lines: Tensor, changes: Tensor) -> None:
    """Subtract sum_b lines[g, b, j] changes[b, g, r] from values[j, g, r]."""
    values.transpose(0, 1).baddbmm_(lines.transpose(1, 2), changes.transpose(0, 1), alpha=-1)


def spread_rounding(rows: Tensor, hessian: Tensor, scales: Tensor, grid: Grid) -> Tensor:
    """Levels by GPTQ, inputs in the order of falling power."""
    order = hessian.diagonal(dim1=1, dim2=2).argsort(1, descending=True)
    index = order[:, None, :].expand_as(rows)
    permuted = hessian.gather(1, order[:, :, None].expand_as(hessian)).gather(2, order[:, None, :].expand_as(hessian))
    left, upper = _by_column((rows / scales).gather(2, index)), _spreading(permuted).float()
    for start in range(0, len(left), _BLOCK):
        block, near = left[start : start + _BLOCK], upper[:, start : start + _BLOCK, start : start + _BLOCK]
        near = near.triu(1) if fused_step(SPREAD, grid.format, near.device) else near
        near = near.permute(1, 2, 0)[..., None].contiguous()
        levels, errors = recorded.run(partial(_spread_in, grid), ("spread", grid.format), block, near)
        if levels is not block:
            block.copy_(levels)
        stop = start + len(block)
        _take(left[stop:], upper[:, start:stop, stop:], errors)
    found = grid.nearest(left).permute(1, 2, 0).contiguous()
    return torch.zeros_like(found).scatter(2, index, found).double()


def _spread_in(grid: Grid, block: Tensor, near: Tensor) -> tuple[Tensor, Tensor]:
    """(levels, errors) of the columns of one block; its tensor is used up."""
    step = fused_step(SPREAD, grid.format, block.device)
    if step is not None:
        for k in range(len(block)):
            block = step(block, near[k], block[k])
        return grid.nearest(block), block - grid.nearest(block)
    errors = torch.empty_like(block)
    for k, error in enumerate(errors):
        torch.sub(block[k], grid.nearest(block[k]), out=error)
        block[k:].addcmul_(near[k, k:], error, value=-1)
    return block, errors


def descend(levels: Tensor, rows: Tensor, hessian: Tensor, scales: Tensor, grid: Grid) -> Tensor:
    """`levels` after sweeps in which every code in turn becomes the best one, the others fixed.

    What column j is best at moves by H[k, j] / H[j, j] with the level of column k: `near` holds those of its own block of
    columns, which are moved at once, `far` the others, which are moved block by block. Where steps are fused, `near` has
    only those behind column k, and the block itself is moved with the others.
    """
    pull = hessian / hessian.diagonal(dim1=1, dim2=2)[:, None, :]
    best = _by_column(levels + (rows / scales - levels) @ pull)
    far, levels = pull.float(), _by_column(levels)
    far.diagonal(dim1=1, dim2=2).zero_()
    blocks = [slice(start, min(start + _BLOCK, len(levels))) for start in range(0, len(levels), _BLOCK)]
    fused = fused_step(DESCEND, grid.format, far.device) is not None
    inside = [far[:, block, block].triu(1) if fused else far[:, block, block] for block in blocks]
    near = [lines.permute(1, 2, 0)[..., None].contiguous() for lines in inside]
    for block in () if fused else blocks:
        far[:, block, block] = 0
    for _ in range(_SWEEPS):
        moved = torch.zeros((), dtype=torch.int64, device=levels.device)
        for block, lines in zip(blocks, near, strict=True):
            old, aim = levels[block], best[block]
            levels[block], changes, made, count = recorded.run(
                partial(_descend_in, grid), ("descend", grid.format), old, aim, lines
            )
            if not fused and made is not aim:
                aim.copy_(made)
            moved += count
            if fused or len(blocks) > 1:
                _take(best, far[:, block], changes)
        if int(moved) < _FEW * levels.numel():
            break
    return levels.permute(1, 2, 0).double().contiguous()


def _descend_in(grid: Grid, old: Tensor, aim: Tensor, lines: Tensor) -> tuple[Tensor, ...]:
    """Levels of the columns of one block, their changes, the new `aim`, and how many levels have changed."""
    step = fused_step(DESCEND, grid.format, aim.device)
    if step is not None:
        for k in range(len(aim)):
            aim = step(aim, lines[k], aim[k], old[k])
        found = grid.nearest(aim)
        return found, found - old, aim, (found - old).count_nonzero()
    changes = torch.empty_like(old)
    for k, change in enumerate(changes):
        torch.sub(grid.nearest(aim[k]), old[k], out=change)
        aim.addcmul_(lines[k], change, value=-1)
    return grid.nearest(old + changes), changes, aim, changes.count_nonzero()
