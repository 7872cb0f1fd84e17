"""Bit allocation: for every operator the formats of least total loss within the budgets.

Losses add up over operators, and so do costs, which makes it an integer program: one choice for each operator, linear
budgets, and operators that read the same values agree on their format (HAWQ-V3 and AdaQuant's integer program, whose
choices are formats here). Beside the exact solution there are a greedy descent from the best formats (MPTQ-ViT), a
bisection along the order of sensitivity that asks for the true accuracy (augmented Hessian), and the closed form of
bits under a mean (BAQ), a bound and a proxy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgeq.errors import BudgetError, MissingDependencyError
from edgeq.formats import FloatArray
from edgeq.ir.ops import Value
from edgeq.recipe import Formats

GAP = 1e-6
"""Relative distance from the optimum at which the solver may stop."""

SECONDS = 60.0


@dataclass(frozen=True)
class Choice:
    """One possibility of an operator: formats, the loss that they cause, and what they cost by kind of cost."""

    formats: Formats
    loss: float
    costs: Mapping[str, float]


@dataclass(frozen=True)
class Item:
    """An operator by its result, and its choices; items of the same `tie` must agree on the activation's format."""

    operator: Value
    tie: Value
    choices: tuple[Choice, ...]


Selection = tuple[int, ...]
"""The place of the choice taken, for every item."""

Move = Mapping[int, int]
"""New places of the choices of some items."""


def loss_of(items: Sequence[Item], selection: Selection) -> float:
    """The sum of the losses."""
    return sum(item.choices[k].loss for item, k in zip(items, selection, strict=True))


def cost_of(items: Sequence[Item], selection: Selection, kind: str) -> float:
    """The sum of one kind of cost."""
    return sum(item.choices[k].costs.get(kind, 0.0) for item, k in zip(items, selection, strict=True))


def meets(items: Sequence[Item], selection: Selection, budgets: Mapping[str, float]) -> bool:
    """Whether every budget is kept, to a rounding error."""
    return all(cost_of(items, selection, kind) <= limit * (1 + 1e-9) for kind, limit in budgets.items())


def solve(items: Sequence[Item], budgets: Mapping[str, float]) -> Selection:
    """The selection of least loss within `budgets`, by an integer program.

    Raises BudgetError, which says what is reachable, where there is none, and MissingDependencyError without scipy.
    """
    try:
        from scipy.optimize import Bounds, LinearConstraint, milp
    except ImportError as error:
        raise MissingDependencyError("scipy", "bits", needed_for="the integer program of bit allocation") from error
    check_reachable(items, budgets)
    loss = np.array([choice.loss for item in items for choice in item.choices])
    matrix, low, high = _constraints(items, budgets)
    found = milp(
        loss / max(float(loss.max(initial=0.0)), 1e-300),
        constraints=LinearConstraint(matrix, low, high),
        integrality=np.ones(len(loss)),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": GAP, "time_limit": SECONDS},
    )
    if found.x is None:
        raise BudgetError("no choice of formats keeps all budgets", value=_shown(budgets))
    taken = np.split(found.x, np.cumsum([len(item.choices) for item in items])[:-1])
    return tuple(int(np.argmax(part)) for part in taken)


def _constraints(items: Sequence[Item], budgets: Mapping[str, float]) -> tuple[FloatArray, FloatArray, FloatArray]:
    starts = np.cumsum([0, *(len(item.choices) for item in items)])
    rows: list[FloatArray] = []
    ends: list[tuple[float, float]] = []

    def row(entries: Mapping[int, float], low: float, high: float) -> None:
        rows.append(np.zeros(starts[-1]))
        rows[-1][list(entries)] = list(entries.values())
        ends.append((low, high))

    for start, item in zip(starts, items, strict=False):
        row({start + k: 1.0 for k in range(len(item.choices))}, 1, 1)
    for kind, limit in budgets.items():
        costs = [choice.costs.get(kind, 0.0) for item in items for choice in item.choices]
        row({k: cost / max(limit, 1e-300) for k, cost in enumerate(costs)}, -np.inf, 1)
    for first, other in _tied_pairs(items):
        for activation in {choice.formats.activation for k in (first, other) for choice in items[k].choices}:
            entries: dict[int, float] = {}
            for k, sign in ((first, 1.0), (other, -1.0)):
                for place, choice in enumerate(items[k].choices):
                    if choice.formats.activation == activation:
                        entries[int(starts[k]) + place] = sign
            row(entries, 0, 0)
    low, high = np.array(ends).T
    return np.array(rows), low, high


def _tied_pairs(items: Sequence[Item]) -> Iterator[tuple[int, int]]:
    first: dict[Value, int] = {}
    for k, item in enumerate(items):
        if item.tie in first:
            yield first[item.tie], k
        first.setdefault(item.tie, k)


def groups_of(items: Sequence[Item]) -> list[tuple[int, ...]]:
    """Places of the items of each tie."""
    found: dict[Value, list[int]] = {}
    for k, item in enumerate(items):
        found.setdefault(item.tie, []).append(k)
    return [tuple(group) for group in found.values()]


def least_cost(items: Sequence[Item], kind: str) -> float:
    """The cost of the cheapest choices of all items."""
    return sum(min(choice.costs.get(kind, 0.0) for choice in item.choices) for item in items)


def check_reachable(items: Sequence[Item], budgets: Mapping[str, float]) -> None:
    """Raise BudgetError where even the cheapest choices exceed a budget."""
    for kind, limit in budgets.items():
        least = least_cost(items, kind)
        if least > limit * (1 + 1e-9):
            raise BudgetError(
                f"no choice of formats keeps the budget of {kind}",
                value=f"{limit:g}",
                allowed=f"{least:g} and more",
                next_step="Allow formats of fewer bits with --choices, or raise the budget.",
            )


# --- other searches -----------------------------------------------------------------------------------------------


def finest(items: Sequence[Item]) -> Selection:
    """The choices of least loss that agree where they must."""
    return solve_group_by_group(items, lambda choice: choice.loss)


def solve_group_by_group(items: Sequence[Item], score: Callable[[Choice], float]) -> Selection:
    """For every tie the activation format, and for every item the weight format, that minimize the sum of `score`."""
    found = [0] * len(items)
    for group in groups_of(items):
        activations = set.intersection(*({c.formats.activation for c in items[k].choices} for k in group))
        options = [[_best(items[k], activation, score) for k in group] for activation in sorted(activations, key=str)]
        totals = [sum(score(items[k].choices[c]) for k, c in zip(group, option, strict=True)) for option in options]
        for k, place in zip(group, options[int(np.argmin(totals))], strict=True):
            found[k] = place
    return tuple(found)


def _best(item: Item, activation: object, score: Callable[[Choice], float]) -> int:
    fitting = [k for k, choice in enumerate(item.choices) if choice.formats.activation == activation]
    return min(fitting, key=lambda k: score(item.choices[k]))


def solve_greedily(items: Sequence[Item], budgets: Mapping[str, float], start: Selection | None = None) -> Selection:
    """From `start`, or the finest formats, down: always the step of least loss for what it saves, until every budget is kept.

    Raises BudgetError where the steps end before.
    """
    check_reachable(items, budgets)
    selection = finest(items) if start is None else start
    while not meets(items, selection, budgets):
        over = {kind: limit for kind, limit in budgets.items() if cost_of(items, selection, kind) > limit}
        best = min(_steps(items, selection, over), key=lambda step: step[0], default=None)
        if best is None:
            raise BudgetError("no choice of formats keeps all budgets", value=_shown(budgets))
        selection = changed(selection, best[1])
    return selection


def _steps(items: Sequence[Item], selection: Selection, over: Mapping[str, float]) -> Iterator[tuple[float, Move]]:
    """Loss gained per share of budget saved, and the move, of every one that saves something."""

    def saving(choice: Choice) -> float:
        return -sum(choice.costs.get(kind, 0.0) / max(limit, 1e-300) for kind, limit in over.items())

    for move in moves(items, selection):
        saved = difference(items, selection, move, saving)
        if saved > 0:
            yield difference(items, selection, move, lambda choice: choice.loss) / saved, move


def difference(items: Sequence[Item], selection: Selection, move: Move, of: Callable[[Choice], float]) -> float:
    """How much a move changes the sum of `of` over all choices taken."""
    return sum(of(items[k].choices[place]) - of(items[k].choices[selection[k]]) for k, place in move.items())


def moves(items: Sequence[Item], selection: Selection) -> Iterator[Move]:
    """Every change of one item's weights, or of the format that the items of one tie read."""
    for group in groups_of(items):
        now = items[group[0]].choices[selection[group[0]]].formats.activation
        for k in group:
            for place, choice in enumerate(items[k].choices):
                if place != selection[k] and choice.formats.activation == now:
                    yield {k: place}
        for activation in {choice.formats.activation for choice in items[group[0]].choices} - {now}:
            places = {k: _same_weight(items[k], selection[k], activation) for k in group}
            if None not in places.values():
                yield {k: place for k, place in places.items() if place is not None}


def _same_weight(item: Item, now: int, activation: object) -> int | None:
    weight = item.choices[now].formats.weight
    matching = (
        k for k, c in enumerate(item.choices) if c.formats.weight == weight and c.formats.activation == activation
    )
    return next(matching, None)


def changed(selection: Selection, places: Move) -> Selection:
    """`selection` after a move."""
    return tuple(places.get(k, place) for k, place in enumerate(selection))


def solve_by_bisection(
    items: Sequence[Item], ladder: Sequence[Formats], is_good: Callable[[Selection], bool]
) -> Selection:
    """Down the `ladder` of formats, finest first: on each rung as many ties as `is_good` allows, the least sensitive first.

    The order is by the loss on the next rung; log2 of the number of ties are asked for on every rung.
    """
    places = [{choice.formats: k for k, choice in enumerate(item.choices)} for item in items]
    selection = finest(items)
    for rung in ladder:
        movable = [g for g in groups_of(items) if all(rung in places[k] for k in g)]
        movable.sort(key=lambda g: sum(items[k].choices[places[k][rung]].loss for k in g))
        before, low, high = selection, 0, len(movable)

        def lowered(
            count: int, before: Selection = before, movable: list[tuple[int, ...]] = movable, rung: Formats = rung
        ) -> Selection:
            return changed(before, {k: places[k][rung] for group in movable[:count] for k in group})

        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if is_good(lowered(middle)) else (low, middle - 1)
        selection = lowered(low)
    return selection


def _shown(budgets: Mapping[str, float]) -> str:
    return ", ".join(f"{kind} {limit:g}" for kind, limit in budgets.items())
