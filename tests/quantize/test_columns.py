"""A weighted operator equals the product of its rows with its columns."""

from __future__ import annotations

import pytest
import torch

from edgeq.ir import ops as o
from edgeq.quantize.columns import Weighted, columns, from_rows, kernel_of, rows
from edgeq.reference.meaning import evaluate

CASES: tuple[tuple[Weighted, tuple[int, ...], tuple[int, ...]], ...] = (
    (o.Linear("x", "w", None, "y"), (2, 7, 12), (5, 12)),
    (o.Linear("x", "w", None, "y"), (3, 12), (5, 12)),
    (o.Conv("x", "w", None, "y"), (2, 6, 9, 8), (4, 6, 1, 1)),
    (o.Conv("x", "w", None, "y", (2, 2)), (2, 6, 9, 8), (4, 6, 1, 1)),
    (o.Conv("x", "w", None, "y", (2, 1), (1, 0, 2, 1), (1, 2)), (2, 6, 9, 8), (4, 6, 3, 2)),
    (o.Conv("x", "w", None, "y", (1, 1), (1, 1, 1, 1), (1, 1), 3), (2, 6, 9, 8), (9, 2, 3, 3)),
    (o.Conv("x", "w", None, "y", (2, 2), (1, 1, 1, 1), (1, 1), 6), (2, 6, 9, 8), (6, 1, 3, 3)),
    (o.ConvTranspose("x", "w", None, "y", (2, 2)), (2, 6, 5, 4), (6, 3, 2, 2)),
    (o.ConvTranspose("x", "w", None, "y", (2, 3), (1, 0, 1, 1), (1, 2)), (2, 6, 5, 4), (6, 3, 3, 4)),
    (o.ConvTranspose("x", "w", None, "y", (2, 2), (1, 1, 1, 1), (1, 1), (1, 1), 2), (2, 6, 5, 4), (6, 3, 3, 3)),
)


@pytest.mark.parametrize("case", CASES)
def test_rows_times_columns(case: tuple[Weighted, tuple[int, ...], tuple[int, ...]]) -> None:
    op, x_shape, w_shape = case
    generator = torch.Generator().manual_seed(1)
    x, w = (torch.randn(shape, generator=generator) for shape in (x_shape, w_shape))
    (y,) = evaluate(op, {"x": x, "w": w}.__getitem__)
    matrix = rows(op, w)
    product = matrix @ columns(op, x, kernel_of(op, w))
    if isinstance(op, o.Linear):
        wanted = y.reshape(-1, y.shape[-1]).T[None]
    else:
        wanted = y.flatten(2).transpose(0, 1).reshape(*matrix.shape[:2], -1)
    assert y.std() > 0.1
    assert torch.allclose(product, wanted, atol=1e-4)
    assert torch.equal(from_rows(op, matrix, w_shape), w)
    chosen = torch.tensor([0, 1])
    if y.dim() > 2:
        few = matrix @ columns(op, x, kernel_of(op, w), chosen)
        assert few.shape[2] == 2 * x_shape[0]


@pytest.mark.parametrize("case", CASES)
def test_every_set_of_images_has_its_own_positions(case: tuple[Weighted, tuple[int, ...], tuple[int, ...]]) -> None:
    op, x_shape, w_shape = case
    generator = torch.Generator().manual_seed(2)
    x, w = (torch.randn(shape, generator=generator) for shape in ((6, *x_shape[1:]), w_shape))
    (y,) = evaluate(op, {"x": x, "w": w}.__getitem__)
    last = 0 if y.dim() == 2 else 1
    at = torch.tensor([[0, last], [last, 0], [last, last]])
    together = columns(op, x, kernel_of(op, w), at)
    alone = [columns(op, part, kernel_of(op, w), places) for part, places in zip(x.chunk(3), at, strict=True)]
    assert torch.equal(together, torch.cat(alone)) and len(together.unique()) > 12
