"""Softmax of codes: every share against exact fractions, the table against high precision, the whole against torch."""

from __future__ import annotations

from decimal import Decimal, localcontext

import numpy as np
import pytest
import torch

from edgeq.ir.bounds import EXPONENTIAL_ONE, LONGEST_ROW, SHARE_UNIT
from edgeq.reference.softmax import exponentials, softmax
from tests import plain


@pytest.mark.parametrize("scale", [1e-4, 0.0123, 0.1, 0.731, 5.0, 300.0])
def test_exponentials_are_nearest_to_the_exact_ones(scale: float) -> None:
    found = exponentials(scale, 256).tolist()
    with localcontext() as context:
        context.prec = 60
        exact = [Decimal(EXPONENTIAL_ONE) * (-d * Decimal(scale)).exp() for d in range(256)]
    assert all(abs(entry - value) <= Decimal("0.5000001") for entry, value in zip(found, exact, strict=True))
    assert found[0] == EXPONENTIAL_ONE and found == sorted(found, reverse=True) and found[-1] >= 0


ROWS = {
    "random": lambda rng: rng.integers(-128, 128, 200),
    "all equal": lambda rng: np.full(145, -7),
    "one token": lambda rng: np.array([-128]),
    "one huge": lambda rng: np.where(np.arange(197) == 5, 127, -128),
    "two huge": lambda rng: np.where(np.arange(64) % 32 == 5, 127, -128),
    "both ends": lambda rng: rng.choice([-128, 127], 300),
    "rising": lambda rng: np.arange(-128, 128),
}


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("scale", [0.004, 0.06, 0.5])
def test_shares_are_the_nearest(kind: str, scale: float) -> None:
    row, table = ROWS[kind](np.random.default_rng(0)), exponentials(scale, 256)
    found = softmax(torch.from_numpy(np.stack([row, row[::-1]])), torch.from_numpy(table), 1)
    assert found[0].tolist() == plain.shares(row.tolist(), table.tolist()) == found[1].flip(0).tolist()
    assert abs(int(found[0].sum()) - SHARE_UNIT) <= len(row) // 2
    exact = SHARE_UNIT * torch.softmax(torch.from_numpy(row * scale), 0)
    assert float((found[0] - exact).abs().max()) < 0.5 + len(row) * 2.0**-7
    if kind == "random":
        assert len(found.unique()) > 10


def test_numbers_fit_in_32_bits_without_sign_for_the_longest_row() -> None:
    row = torch.zeros(LONGEST_ROW, dtype=torch.int64)
    total = LONGEST_ROW * EXPONENTIAL_ONE
    assert SHARE_UNIT * EXPONENTIAL_ONE + total // 2 < 1 << 32
    assert softmax(row, torch.from_numpy(exponentials(1.0, 256)), 0).unique().tolist() == [0]  # 32767 / 65536 < 1/2
    assert softmax(row[: 1 << 15], torch.from_numpy(exponentials(1.0, 256)), 0).unique().tolist() == [1]


def test_any_axis() -> None:
    x, table = torch.randint(-9, 9, (3, 4, 5)), torch.from_numpy(exponentials(0.3, 256))
    for axis in range(3):
        moved = softmax(x.movedim(axis, 2), table, 2).movedim(2, axis)
        assert torch.equal(softmax(x, table, axis), moved)
