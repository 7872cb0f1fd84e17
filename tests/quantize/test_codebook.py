"""k-means tables: a local optimum, no worse than sorting values into equal parts, and degenerate inputs."""

from __future__ import annotations

import numpy as np
import pytest

from edgeq.catalogue import TOP_LEVEL
from edgeq.formats import FloatArray, decode, encode
from edgeq.quantize.codebook import LARGEST_LEVEL, fitted_power, k_means


def noise(values: FloatArray, importance: FloatArray, table: FloatArray) -> float:
    nearest = np.abs(values[:, None] - table[None]).min(1)
    return float((importance * nearest**2).sum())


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6])
def test_a_local_optimum(bits: int) -> None:
    rng = np.random.default_rng(bits)
    values = np.clip(rng.laplace(0, 0.1, 5000), -1, 1)
    importance = rng.uniform(0.5, 2, 5000)
    book = k_means(values, importance, bits)
    table = np.array(book.table) / LARGEST_LEVEL
    assert 2 <= len(book.table) <= 1 << bits and np.all(np.diff(book.table) > 0)
    parts = np.quantile(values, (np.arange(1 << bits) + 0.5) / (1 << bits))
    best = noise(values, importance, table)
    assert best < noise(values, importance, parts)
    for k in range(len(table)):  # no single level can be moved for the better
        for step in (-3e-3, 3e-3):
            moved = table.copy()
            moved[k] += step
            assert noise(values, importance, moved) >= best * (1 - 1e-3)


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
@pytest.mark.parametrize("shape", ["normal", "laplace", "uniform", "few"])
def test_no_worse_than_a_uniform_grid_or_a_power_law(bits: int, shape: str) -> None:
    """On few and on heavy-tailed values, too, where a density is hard to see; tables round to whole levels."""
    rng = np.random.default_rng(bits)
    draws = {"normal": rng.normal(0, 0.2, 3000), "laplace": rng.laplace(0, 0.05, 3000),
             "uniform": rng.uniform(-1, 1, 3000), "few": rng.laplace(0, 0.2, 150)}  # fmt: skip
    values = draws[shape].clip(-1, 1)
    values /= np.abs(values).max()
    importance = rng.uniform(0.5, 2, values.size)
    found = noise(values, importance, np.array(k_means(values, importance, bits).table) / LARGEST_LEVEL)
    rounding = importance.sum() / LARGEST_LEVEL**2
    assert found <= noise(values, importance, np.linspace(-1, 1, (1 << bits) - 1)) + rounding
    if bits > 2:
        law = np.array(fitted_power(values, importance, bits).table) / TOP_LEVEL
        assert found <= noise(values, importance, law) + rounding


def test_encoding_takes_the_nearest_level() -> None:
    values = np.random.default_rng(0).uniform(-1, 1, 300)
    book = k_means(values, np.ones(300), 3)
    found = decode(book, encode(book, values * LARGEST_LEVEL))
    table = np.array(book.table)
    assert np.allclose(np.abs(found - values * LARGEST_LEVEL), np.abs(values[:, None] * 2047 - table).min(1))


@pytest.mark.parametrize("content", [0.0, 1.0, -0.25])
def test_one_value_only(content: float) -> None:
    book = k_means(np.full(40, content), np.ones(40), 4)
    assert len(book.table) >= 2 and round(content * LARGEST_LEVEL) in book.table


def test_zeros_stay_zeros() -> None:
    values = np.random.default_rng(0).normal(0, 0.3, 4000).clip(-1, 1)
    values[7] = 0.0
    assert all(0 in k_means(values, np.ones(4000), bits).table for bits in (2, 4, 8))


def test_importance_draws_the_levels() -> None:
    values = np.concatenate([np.linspace(-1, -0.5, 500), np.linspace(0.5, 1, 500)])
    book = k_means(values, np.where(values > 0, 100.0, 1.0), 3)
    assert sum(level > 0 for level in book.table) > sum(level < 0 for level in book.table)
