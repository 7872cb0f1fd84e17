"""Bit allocation: the integer program finds what looking at everything finds; the other searches keep the budgets."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from edgeq.errors import BudgetError
from edgeq.formats import Int
from edgeq.quantize.allocate import (
    Choice,
    Item,
    Selection,
    changed,
    cost_of,
    difference,
    finest,
    groups_of,
    loss_of,
    meets,
    moves,
    solve,
    solve_by_bisection,
    solve_greedily,
)
from edgeq.quantize.closed_form import closed_form_bits
from edgeq.recipe import Formats, parse_formats, weight_format

WEIGHTS, ACTIVATIONS = (2, 4, 8), (4, 8)


def formats(weight: int, activation: int) -> Formats:
    return Formats(weight_format(f"int{weight}"), Int(activation))


def problem(seed: int, count: int) -> tuple[list[Item], float, float]:
    """Items with ties, losses that do not always fall with bits, and the sums of all bits."""
    rng = np.random.default_rng(seed)
    items = []
    for k in range(count):
        elements, size = int(rng.integers(1, 50)), int(rng.integers(1, 50))
        sensitivity = 10.0 ** rng.uniform(-4, 1, 2)
        choices = tuple(
            Choice(
                formats(w, a),
                float(sensitivity[0] * 4.0**-w + sensitivity[1] * 4.0**-a) * rng.uniform(0.8, 1.25),
                {"bits": float(elements * w), "work": float(size * w * a)},
            )
            for w, a in product(WEIGHTS, ACTIVATIONS)
        )
        tie = f"t{rng.integers(0, max(1, count - 2))}"
        items.append(Item(f"op{k}", tie, choices))
    return items, *(sum(max(c.costs[kind] for c in item.choices) for item in items) for kind in ("bits", "work"))


def is_tied(items: list[Item], selection: Selection) -> bool:
    return all(len({items[k].choices[selection[k]].formats.activation for k in g}) == 1 for g in groups_of(items))


def brute_force(items: list[Item], budgets: dict[str, float]) -> Selection | None:
    every = product(*(range(len(item.choices)) for item in items))
    kept = (s for s in every if is_tied(items, s) and meets(items, s, budgets))
    return min(kept, key=lambda s: loss_of(items, s), default=None)


@pytest.mark.parametrize("seed", range(12))
def test_the_integer_program_equals_brute_force(seed: int) -> None:
    items, bits, work = problem(seed, 5)
    rng = np.random.default_rng(seed)
    budgets = {"bits": bits * rng.uniform(0.3, 0.8), "work": work * rng.uniform(0.2, 0.8)}
    wanted = brute_force(items, budgets)
    if wanted is None:
        with pytest.raises(BudgetError):
            solve(items, budgets)
        return
    found = solve(items, budgets)
    assert is_tied(items, found) and meets(items, found, budgets)
    assert loss_of(items, found) == pytest.approx(loss_of(items, wanted), rel=1e-5)
    assert loss_of(items, found) > loss_of(items, finest(items))  # the budgets bind
    assert any(len(group) > 1 for group in groups_of(items)) or seed not in (0, 1, 2)


def test_some_problems_have_ties_and_budgets_that_bind() -> None:
    tied = sum(any(len(group) > 1 for group in groups_of(problem(seed, 5)[0])) for seed in range(12))
    assert tied >= 9


@pytest.mark.parametrize("seed", range(6))
def test_without_budgets_the_finest_wins(seed: int) -> None:
    items, _, _ = problem(seed, 5)
    wanted = brute_force(items, {})
    assert wanted is not None
    assert loss_of(items, finest(items)) == pytest.approx(loss_of(items, wanted))
    assert loss_of(items, solve(items, {})) == pytest.approx(loss_of(items, wanted), rel=1e-5)


@pytest.mark.parametrize("seed", range(6))
def test_greedy_keeps_budgets_and_is_not_far_off(seed: int) -> None:
    items, bits, work = problem(seed, 12)
    budgets = {"bits": 0.6 * bits, "work": 0.5 * work}
    found, best = solve_greedily(items, budgets), solve(items, budgets)
    assert is_tied(items, found) and meets(items, found, budgets)
    assert loss_of(items, best) * (1 - 1e-5) <= loss_of(items, found) <= 3 * loss_of(items, best)


def test_budgets_out_of_reach_say_what_is_reachable() -> None:
    items, bits, _ = problem(0, 4)
    least = sum(min(choice.costs["bits"] for choice in item.choices) for item in items)
    for search in (solve, solve_greedily):
        with pytest.raises(BudgetError, match=f"allowed: {least:g} and more"):
            search(items, {"bits": 0.9 * least})
    assert cost_of(items, solve(items, {"bits": least}), "bits") == least < bits


def test_moves_change_one_weight_or_all_that_read_a_value() -> None:
    items, _, _ = problem(2, 5)
    start = finest(items)
    for move in moves(items, start):
        after = changed(start, move)
        assert is_tied(items, after) and all(after[k] != start[k] for k in move)
        assert len(move) == 1 or len({items[k].tie for k in move}) == 1
        gain = difference(items, start, move, lambda choice: choice.loss)
        assert gain == pytest.approx(loss_of(items, after) - loss_of(items, start))
    assert len(list(moves(items, start))) == 5 * 2 + len(groups_of(items))


def test_bisection_lowers_the_least_sensitive_until_the_floor() -> None:
    items, _, _ = problem(4, 9)
    asked = []

    def is_good(selection: Selection) -> bool:
        asked.append(selection)
        return loss_of(items, selection) <= floor

    floor = 4 * loss_of(items, finest(items))
    ladder = [parse_formats("w4a8"), parse_formats("w4a4")]
    found = solve_by_bisection(items, ladder, is_good)
    assert loss_of(items, found) <= floor and is_tied(items, found)
    assert found != finest(items) and len(asked) <= 2 * 4
    assert solve_by_bisection(items, ladder, lambda _: False) == finest(items)
    everything = solve_by_bisection(items, ladder, lambda _: True)
    assert {str(item.choices[k].formats) for item, k in zip(items, everything, strict=True)} == {"w4a4"}


@pytest.mark.parametrize("seed", range(5))
def test_closed_form_is_the_optimum_of_its_model(seed: int) -> None:
    """No exchange of bits between two items lowers sum c 2^(-2R); items at an end are worth no more and no less."""
    rng = np.random.default_rng(seed)
    coefficients, elements = 10.0 ** rng.uniform(-6, 6, 20), rng.integers(1, 1000, 20).astype(float)
    bits = closed_form_bits(coefficients, elements, 4.5, 2, 8)
    assert (bits * elements).sum() == pytest.approx(4.5 * elements.sum()) and bits.min() >= 2 and bits.max() <= 8
    slope = coefficients / elements * 4.0**-bits
    free = (bits > 2 + 1e-9) & (bits < 8 - 1e-9)
    assert free.sum() >= 3 and (~free).sum() >= 1
    level = slope[free].mean()
    assert np.allclose(slope[free], level, rtol=1e-6)
    assert np.all(slope[bits <= 2 + 1e-9] <= level * 1.001) and np.all(slope[bits >= 8 - 1e-9] >= level * 0.999)
