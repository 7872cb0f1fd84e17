"""Layer normalization of codes against exact integers, and its distance from the real function."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from edgeq.ir.bounds import LARGEST_POWER, epsilon_level, normal_fraction_bits, normal_limit
from edgeq.reference.layer_norm import normalize, root
from tests import plain

INT16_ENDS = (-32768, 32767)
ROWS = {
    "8 bits": lambda rng, n: rng.integers(-128, 128, n),
    "16 bits": lambda rng, n: rng.integers(*INT16_ENDS, n, endpoint=True),
    "small": lambda rng, n: rng.integers(-1, 2, n),
    "constant": lambda rng, n: np.full(n, -32768),
    "one huge": lambda rng, n: np.where(np.arange(n) == n // 2, 32767, -32768),
    "one lower": lambda rng, n: np.where(np.arange(n) == 0, -1, 0),
    "both ends": lambda rng, n: rng.choice(INT16_ENDS, n),
    "one end far": lambda rng, n: np.where(np.arange(n) % 7 == 0, 32767, rng.integers(-3, 3, n)),
}


@pytest.mark.parametrize("count", [1, 2, 3, 16, 17, 64, 192, 384, 1000])
@pytest.mark.parametrize("kind", ROWS)
def test_rows_equal_exact_arithmetic(kind: str, count: int) -> None:
    rows = np.stack([ROWS[kind](np.random.default_rng(seed), count) for seed in range(3)])
    for epsilon in (1, 77, 10**9):
        found = normalize(torch.from_numpy(rows), 1, epsilon)
        assert found.tolist() == [plain.normalized(row, epsilon) for row in rows.tolist()]
        assert int(found.abs().max()) <= normal_limit(count)
        if kind == "constant" or count == 1:
            assert not found.any()


@pytest.mark.parametrize("kind", ["8 bits", "16 bits", "one end far", "one huge"])
def test_the_real_function_is_near(kind: str) -> None:
    count, scale, epsilon = 192, 0.013, 1e-5
    rows = torch.from_numpy(np.stack([ROWS[kind](np.random.default_rng(seed), count) for seed in range(20)]))
    found = normalize(rows, 1, epsilon_level(epsilon, scale, count)) * 2.0 ** -normal_fraction_bits(count)
    exact = torch.nn.functional.layer_norm(rows.double() * scale, (count,), eps=epsilon)
    assert float((found - exact).abs().max()) < 2.0**-12 + float(exact.abs().max()) * 2.0**-14
    assert len(found.unique()) > (100 if "bits" in kind else 1)


def test_the_root_of_every_magnitude() -> None:
    powers = [v for e in range(62) for v in ((1 << e) - 1, 1 << e, (1 << e) + 1)] + [LARGEST_POWER - 1]
    powers = sorted({p for p in powers if 1 <= p < LARGEST_POWER})
    for power, q, t in zip(powers, *(part.tolist() for part in root(torch.tensor(powers))), strict=True):
        leading = power >> 2 * t if t >= 0 else power << -2 * t
        assert 1 << 30 <= leading < 1 << 32 and q == math.isqrt(leading)
        assert abs(q * 2.0**t / math.sqrt(power) - 1) < 2.0**-15


def test_several_axes_are_one_row() -> None:
    x = torch.randint(-128, 128, (2, 3, 4, 5))
    assert torch.equal(normalize(x, 2, 5).flatten(2), normalize(x.flatten(2), 2, 5))
    assert torch.equal(normalize(x, 0, 5).flatten(), normalize(x.flatten(), 0, 5))
