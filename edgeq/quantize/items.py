"""From a structure, choices of formats and measured losses to the items of bit allocation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from edgeq.formats import Int, bits_of
from edgeq.ir import ops as o
from edgeq.ir.graph import Graph
from edgeq.quantize.allocate import Choice, Item, Selection
from edgeq.quantize.costs import LatencyTable, costs_of
from edgeq.quantize.losses import Losses
from edgeq.quantize.operators import is_weighted, weight_of
from edgeq.quantize.structure import Structure
from edgeq.recipe import Formats, Recipe

Choices = Mapping[o.Value, tuple[Formats, ...]]
"""The formats that an operator may take, by its result."""


def weighted_results(structure: Structure) -> list[o.Value]:
    """Results of the weighted operators on codes, in order."""
    ops = (op for op in structure.graph.ops if is_weighted(op) and structure.runs_on_codes(op))
    return [o.results(op)[0] for op in ops]


def read_classes(structure: Structure, result: o.Value) -> tuple[o.Value, ...]:
    """Keys of the classes of values that a weighted operator reads, its weights apart."""
    op = structure.graph.producer[result]
    values = (op.a, op.b) if isinstance(op, o.MatMul) else o.operands(op)[:1]
    return tuple(dict.fromkeys(structure.key[value] for value in values))


def ties(structure: Structure) -> dict[o.Value, o.Value]:
    """For every weighted operator the name of its tie: operators that read a common class share one."""
    tie: dict[o.Value, o.Value] = {}  # by class
    for result in weighted_results(structure):
        classes = read_classes(structure, result)
        names = {tie.get(key, key) for key in classes}
        joined = min(names)
        tie.update({key: joined for key, name in [*tie.items(), *((k, k) for k in classes)] if name in names})
        tie.update(dict.fromkeys(classes, joined))
    return {result: tie[read_classes(structure, result)[0]] for result in weighted_results(structure)}


def choices_of(structure: Structure, recipe: Recipe, offered: Sequence[Formats]) -> dict[o.Value, tuple[Formats, ...]]:
    """The choices of every weighted operator: `offered`, or what a rule of `recipe` says; ties have one in common.

    Products of two activations have no weights. Where rules of one tie disagree, all read the widest.
    """
    found: dict[o.Value, list[Formats]] = {}
    for result in weighted_results(structure):
        asked = recipe.formats_of(result)
        fixed = [asked] if asked is not None and asked.weight is not None and asked.activation is not None else offered
        has_weight = weight_of(structure.graph.producer[result]) is not None
        found[result] = list(dict.fromkeys(f if has_weight else replace(f, weight=None) for f in fixed))
    groups: dict[o.Value, list[o.Value]] = {}
    for result, tie in ties(structure).items():
        groups.setdefault(tie, []).append(result)
    for group in groups.values():
        _agree(group, found)
    return {result: tuple(choices) for result, choices in found.items()}


def _agree(group: Iterable[o.Value], found: dict[o.Value, list[Formats]]) -> None:
    """Leave the activation formats that all of `group` may take."""
    offered = {result: {choice.activation for choice in found[result]} for result in group}
    common = set.intersection(*offered.values())
    if not common:
        widest = max((a for each in offered.values() for a in each if isinstance(a, Int)), key=bits_of)
        for result in group:
            found[result] = list(dict.fromkeys(replace(choice, activation=widest) for choice in found[result]))
        return
    for result in group:
        found[result] = [choice for choice in found[result] if choice.activation in common]


def build_items(
    structure: Structure, choices: Choices, losses: Losses, latency: LatencyTable | None = None
) -> list[Item]:
    """One item for each weighted operator; what a class costs and loses counts at the first operator that reads it."""
    graph, tied = structure.graph, ties(structure)
    counted: set[o.Value] = set()
    items = []
    for result, offered in choices.items():
        fresh = [key for key in read_classes(structure, result) if key not in counted]
        counted.update(fresh)
        made = (_choice(graph, result, formats, fresh, losses, latency) for formats in offered)
        items.append(Item(result, tied[result], tuple(made)))
    return items


def _choice(
    graph: Graph,
    result: o.Value,
    formats: Formats,
    fresh: Sequence[o.Value],
    losses: Losses,
    latency: LatencyTable | None,
) -> Choice:
    weight, activation = formats.weight, formats.activation
    loss = 0.0 if weight is None else losses.weights.get((result, weight), 0.0)
    if activation is not None:
        loss += sum(losses.activations.get((key, bits_of(activation)), 0.0) for key in fresh)
    return Choice(formats, loss, costs_of(graph.producer[result], graph, formats, fresh, latency))


def selected(items: Sequence[Item], selection: Selection) -> dict[o.Value, Formats]:
    """The formats of every operator."""
    return {item.operator: item.choices[k].formats for item, k in zip(items, selection, strict=True)}
