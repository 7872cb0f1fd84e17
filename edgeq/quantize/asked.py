"""What a recipe asks of formats: a default for all operators, first and last layers apart, and what a target holds.

Layers that read the input or compute an output suffer most from few bits and cost little, so they keep eight bits
unless a rule names them: in what they read, their weights and what they give.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from glob import escape

import numpy as np

from edgeq.catalogue import NAMED, KMeans, Nupes, short_name
from edgeq.errors import UnsupportedError
from edgeq.formats import (
    INT8,
    INT8_NARROW,
    REAL,
    Codebook,
    Float,
    Format,
    Int,
    bits_of,
    fits_in_bytes,
    is_table,
    level_table,
    looks_up_wide,
)
from edgeq.ir import ops as o
from edgeq.ir.graph import Graph
from edgeq.passes.held import is_own, kept_table, table_type
from edgeq.quantize.fitted import fitted_family, fitted_rules, rules_of, stand_in
from edgeq.quantize.operators import is_expectation, is_weighted, moves_codes, weight_of
from edgeq.quantize.structure import analyse
from edgeq.recipe import Formats, Recipe, Rule, activation_format, weight_format
from edgeq.target import Target

_KNOWN: tuple[Format, ...] = (
    *(weight_format(f"int{bits}") for bits in range(2, 9)),
    *(Float(2, mantissa) for mantissa in range(1, 6)),
    *(Float(3, mantissa) for mantissa in range(1, 5)),
    *NAMED.values(),
)
"""What refusals may name instead."""


@dataclass(frozen=True)
class Asked:
    """The options of formats as they were given: --weights, --activations, and each --format."""

    weights: str | None = None
    activations: str | None = None
    rules: tuple[str, ...] = ()


def with_formats(recipe: Recipe, asked: Asked, graph: Graph, target: Target) -> tuple[Recipe, list[str]]:
    """`recipe` followed by the rules that `asked` means for `graph`, and notes on what was decided besides.

    Raises UsageError for text that names no format, and UnsupportedError for formats that `target` does not hold.
    """
    named = tuple(rule for text in asked.rules for rule in rules_of(text, graph))
    family = fitted_family(asked.weights or "")
    every = Formats(
        weight_format(asked.weights) if asked.weights and family is None else None,
        activation_format(asked.activations) if asked.activations else None,
    )
    own = replace(every, weight=target.weight) if every.weight is None and target.is_integer else every
    own = own if family is None else replace(own, weight=stand_in(family))
    start = replace(recipe, rules=(*recipe.rules, *named))
    found, notes = with_spared_ends(start, own, graph, target)
    behind = [value for value in _behind_first(graph, start) if found.formats_of(value) is None]
    if behind and own.activation is not None and bits_of(own.activation) < 8:
        notes.append(f"what first layers give is read in 8 bits: {_listed(behind)}")
        for value in behind:
            found = _with(found, escape(value), replace(every, activation=INT8), family, graph)
    found = _with(found, "*", every, family, graph)
    check_formats(graph, target, found)
    return found, notes + held_notes(graph, target, found)


def _with(recipe: Recipe, pattern: str, formats: Formats, family: KMeans | Nupes | None, graph: Graph) -> Recipe:
    """`recipe` followed by a rule, where a family is asked for with a table of its own for every layer."""
    fitted = fitted_rules(pattern, family, formats, graph) if family is not None else ()
    rule = (Rule(pattern, formats),) if formats != Formats() else ()
    return replace(recipe, rules=(*recipe.rules, *fitted, *rule))


def with_spared_ends(recipe: Recipe, formats: Formats, graph: Graph, target: Target) -> tuple[Recipe, list[str]]:
    """`recipe` followed by rules for first and last layers that it does not name, where `formats` have few bits."""
    spared = _spared(formats, target)
    every = dict.fromkeys(value for values in ends(graph) for value in values)
    kept = [value for value in every if spared != formats and recipe.formats_of(value) is None]
    rules = (Rule(escape(value), spared) for value in kept)
    return replace(recipe, rules=(*recipe.rules, *rules)), _notes(kept, spared)


def _notes(kept: list[o.Value], spared: Formats) -> list[str]:
    if not kept:
        return []
    return [f"first and last layers keep 8 bits ({spared}): {_listed(kept)}; --format 'NAME=w4a4' decides otherwise"]


def _listed(names: list[o.Value]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _spared(formats: Formats, target: Target) -> Formats:
    """`formats` with eight bits in place of fewer, where `target` holds them; pixels and what becomes scores are read as
    integers, since a minifloat is coarse where they are large."""
    weight, activation = formats.weight, formats.activation
    if weight is not None and bits_of(weight) < 8 and holds_weight(target, INT8_NARROW):
        weight = INT8_NARROW
    few = activation is not None and (bits_of(activation) < 8 or is_table(activation))
    return Formats(weight, INT8 if few else activation)


def ends(graph: Graph) -> tuple[list[o.Value], list[o.Value]]:
    """Results of the weighted operators with no other weighted operator before them, and of those with none behind them."""
    weighted = [op for op in graph.ops if _counts(op, graph)]
    before: set[o.Value] = set()
    for op in graph.ops:
        if any(value in before for value in o.operands(op)) or _counts(op, graph):
            before.update(o.results(op))
    behind: set[o.Value] = set()
    for op in reversed(graph.ops):
        if any(value in behind for value in o.results(op)) or _counts(op, graph):
            behind.update(o.operands(op))
    first = [o.results(op)[0] for op in weighted if not any(value in before for value in o.operands(op))]
    last = [o.results(op)[0] for op in weighted if o.results(op)[0] not in behind]
    return first, last


def _behind_first(graph: Graph, recipe: Recipe) -> list[o.Value]:
    """Results of the weighted operators that read, as it is or through functions, moves and pools, what first layers
    give of which `recipe` does not speak."""
    first = (value for value in ends(graph)[0] if recipe.formats_of(value) is None)
    given = set(first)
    found = []
    for op in graph.ops:
        if given.isdisjoint(o.operands(op)):
            continue
        if _counts(op, graph):
            found.append(o.results(op)[0])
        elif isinstance(op, o.Apply | o.Mul | o.AveragePool) or moves_codes(op):
            given.update(o.results(op))
    return found


def _counts(op: o.Op, graph: Graph) -> bool:
    return is_weighted(op) and not is_expectation(op, graph)


def holds_weight(target: Target, format_: Format) -> bool:
    """Whether files of `target` hold weights of this format; the reference takes all.

    They may hold the format itself, or one with a code more, or its levels as INT8 (edgeq/passes/held.py), or a table.
    """
    if target.emitter == "graph" or is_own(target, format_):
        return True
    if target.is_integer:
        return fits_in_bytes(format_) or (target.looks_up and looks_up_wide(format_))
    return target.stored_weights is not None and target.ios >= 18 and _has_half_table(format_)


def holds_activation(target: Target, format_: Format) -> bool:
    """Whether artifacts of `target` keep values so: in integers of all bits up to their own bytes, generated C in tables."""
    if is_table(format_):
        return target.emitter == "c" and target.narrow == INT8 and table_type(format_) is not None
    if target.runtime == "qonnx":
        return bits_of(format_) <= 8
    own = target.narrow.bits
    return target.is_integer and (bits_of(format_) == own or bits_of(format_) < own <= 8)


def _has_half_table(format_: Format) -> bool:
    """Whether a table of at most 256 half-precision numbers holds the levels, up to a power of two."""
    if bits_of(format_) > 8 or not isinstance(format_, Int | Float | Codebook):
        return False
    levels = np.arange(256.0) if isinstance(format_, Int) else level_table(format_).astype(np.float64)
    scaled = np.ldexp(levels, 1 - int(np.abs(levels).max()).bit_length())
    return bool(np.array_equal(scaled.astype(np.float16).astype(np.float64), scaled))


def nearest_held(target: Target, format_: Format) -> Format | None:
    """The format that `target` holds which is most like `format_`: in bits, then in kind. None if it holds none."""
    held = [known for known in _KNOWN if holds_weight(target, known)]
    return min(held, key=lambda known: _distance(known, format_), default=None)


def _distance(a: Format, b: Format) -> tuple[int, bool, int]:
    exponents = abs(a.exponent - b.exponent) if isinstance(a, Float) and isinstance(b, Float) else 0
    return abs(bits_of(a) - bits_of(b)), type(a) is not type(b), exponents


def check_formats(graph: Graph, target: Target, recipe: Recipe) -> None:
    """Raise UnsupportedError, naming the first operator, for formats that `target` cannot hold."""
    if target.emitter == "graph":
        return
    structure = analyse(graph, target, recipe) if target.is_integer else None
    for op in graph.ops:
        asked = recipe.formats_of(o.results(op)[0]) if is_weighted(op) else None
        if asked is None or recipe.keeps_real(o.results(op)[0]) or (structure and not structure.runs_on_codes(op)):
            continue
        if asked.weight is not None and weight_of(op) and not holds_weight(target, asked.weight):
            held = ", ".join(short_name(known) for known in _KNOWN if holds_weight(target, known))
            near = nearest_held(target, asked.weight)
            _refuse(target, "weights", o.results(op)[0], asked.weight, held or "none", near)
        if asked.activation in (None, REAL) or holds_activation(target, asked.activation):
            continue
        bytes_ = target.narrow.bits <= 8
        allowed = f"{'up to ' * bytes_}{target.narrow}" if structure else "real: this target computes on reals"
        near = nearest_activation(target, asked.activation) if structure else None
        _refuse(target, "activations", o.results(op)[0], asked.activation, allowed, near)


def nearest_activation(target: Target, format_: Format) -> Format:
    """The format of activations that `target` reads which is most like `format_`."""
    known = (
        *(Int(bits) for bits in range(2, 17)),
        *(table for table in _KNOWN if is_table(table) and 0 in level_table(table)),
    )
    held = (each for each in known if holds_activation(target, each))
    return min(held, key=lambda each: _distance(each, format_), default=target.narrow)


def weight_formats(target: Target) -> tuple[Format, ...]:
    """The formats of weights that files of `target` hold."""
    own = (target.weight,) if target.is_integer else ()
    return tuple(dict.fromkeys((*own, *target.more_weights)))


def _refuse(
    target: Target, what: str, where: o.Value, format_: Format, allowed: str, near: Format | None = None
) -> None:
    instead = f"The nearest that it holds is {short_name(near)}. " if near is not None else ""
    raise UnsupportedError(
        f"{target.name} holds no {what} of this format",
        where=where,
        value=short_name(format_),
        allowed=allowed,
        next_step=f"{instead}edgeq quantize takes every format and measures it in the reference.",
    )


def held_notes(graph: Graph, target: Target, recipe: Recipe) -> list[str]:
    """Which of the formats that `recipe` asks for files of `target` hold as INT8 codes of the same levels."""
    if target.emitter == "graph" or not target.is_integer:
        return []
    asked = (recipe.formats_of(o.results(op)[0]) for op in graph.ops if weight_of(op))
    wanted = [formats.weight for formats in asked if formats is not None and formats.weight is not None]
    table = kept_table(target, wanted)
    moved = (f for f in dict.fromkeys(wanted) if not is_own(target, f) and f != table and fits_in_bytes(f))
    names = [short_name(f) for f in moved]
    if not names:
        return []
    return [
        f"weights in {', '.join(names)} are stored as INT8 codes of the same levels: {target.name} has no such type"
    ]
