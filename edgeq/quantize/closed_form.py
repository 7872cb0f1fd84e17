"""Bits of weights in closed form under a mean (BAQ): a bound, and a search that measures every layer once.

With a loss c 2^(-2 bits) for every operator, all are best at the same slope, which gives the bits directly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edgeq.formats import FloatArray, bits_of
from edgeq.quantize.allocate import Item, Selection, finest, solve_greedily
from edgeq.quantize.costs import WEIGHT_BITS


def solve_closed(items: Sequence[Item], limits: Mapping[str, float], mean_bits: float) -> Selection:
    """Bits of weights by the closed form, rounded up, then lowered greedily where that is too much."""
    selection = list(finest(items))
    places = [k for k, item in enumerate(items) if item.choices[0].costs[WEIGHT_BITS] > 0]
    ladders = {k: _ladder(items[k], selection[k]) for k in places}
    low, high = (end(_weight_bits(items[k], p) for k in places for p in ladders[k]) for end in (min, max))
    coefficients, elements = [], []
    for k in places:
        coarse, fine = items[k].choices[ladders[k][0]], items[k].choices[ladders[k][-1]]
        bits = _weight_bits(items[k], ladders[k][0])
        coefficients.append(max(coarse.loss - fine.loss, 0.0) * 4.0**bits)
        elements.append(coarse.costs[WEIGHT_BITS] / bits)
    wanted = closed_form_bits(np.array(coefficients), np.array(elements), mean_bits, low, high)
    for k, bits in zip(places, wanted, strict=True):
        enough = (place for place in ladders[k] if _weight_bits(items[k], place) >= bits - 1e-9)
        selection[k] = next(enough, ladders[k][-1])
    return solve_greedily(items, limits, tuple(selection))


def _ladder(item: Item, place: int) -> list[int]:
    """Choices with the activation of choice `place`, the coarsest weights first."""
    activation = item.choices[place].formats.activation
    fitting = [k for k, choice in enumerate(item.choices) if choice.formats.activation == activation]
    return sorted(fitting, key=lambda k: _weight_bits(item, k))


def _weight_bits(item: Item, place: int) -> int:
    weight = item.choices[place].formats.weight
    return 0 if weight is None else bits_of(weight)


def closed_form_bits(
    coefficients: FloatArray, elements: FloatArray, mean_bits: float, low: float, high: float
) -> FloatArray:
    """Bits R_i between `low` and `high` that minimize sum c_i 2^(-2 R_i) while sum n_i R_i = mean_bits sum n_i.

    R_i = R + log2(c_i / n_i) / 2 minus its mean over elements, which BAQ calls equal loss; items that reach an end are
    taken out and the rest solved again.

    >>> closed_form_bits(np.array([16.0, 1.0]), np.array([1.0, 1.0]), 4.0, 2, 8).tolist()
    [5.0, 3.0]
    """
    slope = 0.5 * np.log2(np.maximum(coefficients / elements, 1e-300))
    bits = np.full(len(slope), np.clip(mean_bits, low, high))
    free = np.ones(len(slope), dtype=bool)
    for _ in range(len(slope)):
        left = mean_bits * elements.sum() - (bits * elements)[~free].sum()
        level = (left - (slope * elements)[free].sum()) / elements[free].sum()
        bits[free] = slope[free] + level
        outside = free & ((bits < low) | (bits > high))
        if not outside.any():
            break
        worst = outside & (np.maximum(low - bits, bits - high) >= np.maximum(low - bits, bits - high)[outside].max())
        bits[worst], free = np.clip(bits[worst], low, high), free & ~worst
        if not free.any():
            break
    return bits
