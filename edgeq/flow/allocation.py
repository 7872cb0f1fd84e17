"""Bit allocation in a run: choices and losses of a model, the budgets of the user, and the search that was asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from glob import escape
from typing import Any

from edgeq.calibrate.choose import choose
from edgeq.calibrate.estimators import Mse
from edgeq.errors import UsageError
from edgeq.flow.inputs import CalibrationSet
from edgeq.flow.limits import Budgets, check_limits, limits_of
from edgeq.flow.statistics import class_statistics, collect_statistics, inputs_of, objective_of, pooled, watched_values
from edgeq.formats import Int, bits_of
from edgeq.ir import ops as o
from edgeq.ir.graph import Graph, Type
from edgeq.passes.copies import with_narrow_copies
from edgeq.progress import Progress
from edgeq.quantize.allocate import (
    Item,
    Selection,
    changed,
    cost_of,
    difference,
    loss_of,
    meets,
    moves,
    solve,
    solve_by_bisection,
    solve_greedily,
)
from edgeq.quantize.asked import check_formats, weight_formats, with_spared_ends
from edgeq.quantize.closed_form import solve_closed
from edgeq.quantize.costs import BYTES, MILLISECONDS, read_latency_table
from edgeq.quantize.items import build_items, choices_of, read_classes, selected
from edgeq.quantize.losses import measure_losses, weight_errors
from edgeq.quantize.operators import weight_of
from edgeq.quantize.structure import analyse
from edgeq.recipe import Formats, Recipe, Rule, activation_format, parse_formats, weight_format
from edgeq.target import Target

WEIGHT_CHOICES, ACTIVATION_CHOICES = (2, 3, 4, 5, 6, 8), (3, 4, 5, 6, 8)
"""Bits tried by default where any format can be held."""

IMAGES = 12

IsGood = Callable[[Recipe], bool]
"""Whether a recipe keeps the accuracy that was asked for."""


@dataclass(frozen=True)
class Allocation:
    """The formats found: `items` with their choices, and the `selection` among them."""

    items: tuple[Item, ...]
    selection: Selection
    limits: dict[str, float]

    @property
    def rules(self) -> tuple[Rule, ...]:
        """A rule for every operator."""
        return tuple(Rule(escape(result), formats) for result, formats in selected(self.items, self.selection).items())

    def document(self) -> list[dict[str, Any]]:
        """One JSON entry for each operator: its formats, their loss, and the share of all loss."""
        total = max(loss_of(self.items, self.selection), 1e-300)
        chosen = [(item.operator, item.choices[k]) for item, k in zip(self.items, self.selection, strict=True)]
        return [
            {"operator": name, "formats": str(c.formats), "loss": c.loss, "share": c.loss / total, **c.costs}
            for name, c in chosen
        ]

    def notes(self) -> list[str]:
        """What was decided, in a line each."""
        counts = Counter(str(formats) for formats in selected(self.items, self.selection).values())
        found = ", ".join(f"{count} {formats}" for formats, count in sorted(counts.items()))
        used = ", ".join(
            f"{kind} {cost_of(self.items, self.selection, kind):,.6g} of {limit:,.6g}"
            for kind, limit in self.limits.items()
        )
        return [f"formats allocated: {found}", *([f"budgets: {used}"] if used else [])]


def within_budgets(
    graph: Graph,
    target: Target,
    recipe: Recipe,
    calibration: CalibrationSet,
    budgets: Budgets,
    digest: str,
    progress: Progress,
    *,
    use_cache: bool,
    is_good: IsGood | None,
) -> tuple[Recipe, list[str], list[dict[str, Any]]]:
    """`recipe` with the formats that were allocated, what to tell about it, and every operator's entry.

    Where `is_good` says that the accuracy is missed, the formats that lose most become finer, one by one, until it is
    kept or no finer ones are left within the size and latency allowed. Raises as `allocate`.
    """
    offered = offered_formats(target, budgets.choices)
    coarsest = Formats(*(min((getattr(f, part) for f in offered), key=bits_of) for part in ("weight", "activation")))
    recipe, notes = with_spared_ends(recipe, coarsest, graph, target)
    check_formats(graph, target, replace(recipe, rules=(*recipe.rules, Rule("*", coarsest))))
    found = allocate(
        graph, target, recipe, calibration, budgets, digest, progress, use_cache=use_cache, is_good=is_good
    )
    reasons = list[str]()
    if is_good is not None and budgets.search != "bisect":
        found, reasons = _kept_accurate(found, lambda trial: is_good(recipe.with_rules(trial.rules)))
    return recipe.with_rules(found.rules), [*notes, *found.notes(), *reasons], found.document()


def _kept_accurate(start: Allocation, is_good: Callable[[Allocation], bool]) -> tuple[Allocation, list[str]]:
    """The fewest steps up from `start` that `is_good` accepts, by doubling and halving; and the reason for each."""
    states, reasons, bad, last = [start], list[str](), -1, 0
    while not is_good(states[last]):
        bad, wanted = last, 2 * last + 2
        while len(states) < wanted:
            better, why = raised(states[-1])
            if why is None:
                break
            states.append(better)
            reasons.append(why)
        last = len(states) - 1
        if last == bad:
            return states[last], [
                *reasons,
                "no finer formats are left within size and latency, accuracy is still missed",
            ]
    while last - bad > 1:
        middle = (bad + last) // 2
        bad, last = (bad, middle) if is_good(states[middle]) else (middle, last)
    return states[last], reasons[:last]


def allocate(
    graph: Graph,
    target: Target,
    recipe: Recipe,
    calibration: CalibrationSet,
    budgets: Budgets,
    digest: str,
    progress: Progress,
    *,
    use_cache: bool,
    is_good: IsGood | None = None,
) -> Allocation:
    """The formats of every weighted operator of a simplified real `graph` that keep the budgets at the least loss.

    `recipe` fixes the operators that it names in full. `is_good` tells whether rules keep the accuracy, which the
    bisection asks. Raises UsageError for options that do not go together, BudgetError where nothing keeps them.
    """
    offered = offered_formats(target, budgets.choices)
    few = Recipe(rules=(Rule("*", Formats(None, Int(4))),))  # copies wherever any choice might want one
    split = with_narrow_copies(graph, few) if min(_bits(f) for f in offered) < 8 else graph
    structure = analyse(split, target, recipe)
    choices = choices_of(structure, recipe, offered)
    latency = read_latency_table(budgets.latency_table) if budgets.latency_table else None
    progress("measuring losses", 0, 0)
    observed = collect_statistics(split, watched_values(structure), calibration, digest, progress, use_cache=use_cache)
    per_class = class_statistics(structure, pooled(observed))
    errors = weight_errors(structure, {
        result: dict.fromkeys(f.weight for f in formats if f.weight is not None)
        for result, formats in choices.items() if weight_of(structure.graph.producer[result])
    })  # fmt: skip
    grids: dict[tuple[o.Value, int], Type] = {}
    for result, formats in choices.items():
        for key in (key for key in read_classes(structure, result) if key in per_class):
            for bits in {_bits(f) for f in formats}:
                site = Int(bits, signed=target.narrow.signed)
                through = structure.through(key)
                grid = choose(per_class[key], site, symmetric=target.symmetric, estimator=Mse(), through=through)
                grids[key, bits] = Type(structure.graph.types[key].shape, site, (grid[0],), grid[1])
    samples = list(inputs_of(structure.graph, calibration.sample(IMAGES)))
    losses = measure_losses(
        structure,
        errors,
        grids,
        samples,
        objective_of(structure, calibration.weigh),
        budgets.sensitivity,
        device=calibration.device,
    )
    items = build_items(structure, choices, losses, latency)
    limits = limits_of(structure, items, budgets, latency)
    check_limits(items, limits, budgets)
    progress("allocating bits", 0, 0)

    def keeps(selection: Selection) -> bool:
        return is_good is None or is_good(recipe.with_rules(Allocation(tuple(items), selection, limits).rules))

    return Allocation(tuple(items), _searched(items, limits, budgets, offered, keeps if is_good else None), limits)


def _bits(formats: Formats) -> int:
    return 8 if formats.activation is None else bits_of(formats.activation)


def offered_formats(target: Target, choices: Sequence[str]) -> list[Formats]:
    """The `choices` of the options, or the integers that `target` can hold, finest first. Raises UsageError."""
    if choices:
        found = [parse_formats(text) for text in choices]
        if any(f.weight is None or f.activation is None for f in found):
            raise UsageError("choices name both formats", value=", ".join(choices), allowed="such as w4a8")
        return found
    if target.emitter == "graph":
        weights = [weight_format(f"int{bits}") for bits in reversed(WEIGHT_CHOICES)]
        return [Formats(w, activation_format(f"int{a}")) for w in weights for a in reversed(ACTIVATION_CHOICES)]
    few = [f for f in weight_formats(target) if isinstance(f, Int) and f.bits <= 8]  # others are asked for by name
    held = sorted(few, key=bits_of, reverse=True)
    if len(held) < 2 or not target.is_integer:
        raise UsageError(
            f"{target.name} holds one format only, so there are no bits to allocate",
            next_step="edgeq quantize allocates any formats.",
        )
    return [Formats(weight, Int(target.narrow.bits)) for weight in held]


def _searched(
    items: Sequence[Item],
    limits: dict[str, float],
    budgets: Budgets,
    offered: Sequence[Formats],
    is_good: Callable[[Selection], bool] | None,
) -> Selection:
    match budgets.search:
        case "ilp":
            return solve(items, limits)
        case "greedy":
            return solve_greedily(items, limits)
        case "closed":
            if budgets.avg_bits is None:
                raise UsageError("--search closed solves for mean bits", next_step="Give --avg-bits.")
            return solve_closed(items, limits, budgets.avg_bits)
        case "bisect":
            if is_good is None:
                raise UsageError("--search bisect asks for the accuracy", next_step="Give --data and --max-drop.")
            return solve_by_bisection(items, offered[1:], is_good)


def raised(allocation: Allocation) -> tuple[Allocation, str | None]:
    """`allocation` with the one step towards finer formats that takes back most loss; and why, or None where none is left.

    Sizes and latencies stay within their budgets, mean bits give way.
    """
    items, now, before = allocation.items, allocation.selection, loss_of(allocation.items, allocation.selection)
    hard = {kind: limit for kind, limit in allocation.limits.items() if kind in (BYTES, MILLISECONDS)}
    gains = ((-difference(items, now, move, lambda choice: choice.loss), move) for move in moves(items, now))
    better = [(gain, move) for gain, move in gains if gain > 0 and meets(items, changed(now, move), hard)]
    if not better:
        return allocation, None
    gain, move = max(better, key=lambda step: step[0])
    selection, names = changed(now, move), ", ".join(items[k].operator for k in move)
    formats = selected(items, selection)[items[next(iter(move))].operator]
    why = f"raised to {formats}, which takes back {gain / max(before, 1e-300):.0%} of the loss: {names}"
    return replace(allocation, selection=selection), why
