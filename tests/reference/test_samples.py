"""Interpolation between samples: exact, and found again in a table."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeq.reference.samples import interpolated, interpolated_from, sample_codes

CODES = st.integers(-(1 << 15), (1 << 15) - 1)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 30), CODES, CODES)
def test_the_samples_are_found_again(seed: int, before: int, last: int) -> None:
    samples = np.random.default_rng(seed).integers(-(1 << 15), 1 << 15, 513)
    samples[-2:] = before, last
    table = interpolated(samples)
    assert table.min() >= -(1 << 15) and table.max() < 1 << 15
    found = interpolated_from(table)
    assert found is not None and np.array_equal(interpolated(found), table)
    np.testing.assert_array_equal(found[:-1], samples[:-1])


def test_between_samples_it_is_the_nearest_code_of_the_line() -> None:
    samples = np.random.default_rng(0).integers(-(1 << 15), 1 << 15, 513)
    codes = np.arange(-(1 << 15), 1 << 15)
    line = np.interp(codes, sample_codes(), samples)
    np.testing.assert_array_equal(interpolated(samples), np.floor(line + 0.5))


def test_another_table_is_none() -> None:
    table = interpolated(sample_codes())
    table[1000] += 1
    assert interpolated_from(table) is None
