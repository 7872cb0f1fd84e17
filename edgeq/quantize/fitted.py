"""Rules that name a family of tables fitted to each weight (k-means, power laws): one rule a layer, with its own table."""

from __future__ import annotations

from fnmatch import fnmatchcase
from glob import escape

from edgeq.catalogue import FAMILIES, KMeans, Nupes
from edgeq.formats import Int
from edgeq.ir import ops as o
from edgeq.ir.graph import Graph
from edgeq.quantize.assign import weight_axis
from edgeq.quantize.operators import weight_of
from edgeq.quantize.weights import typed_weight
from edgeq.recipe import Formats, Rule, activation_format, parse_rule


def fitted_family(name: str) -> KMeans | Nupes | None:
    """The family of fitted tables called `name`, if it is one."""
    found = FAMILIES.get(name)
    return found if isinstance(found, KMeans | Nupes) else None


def rules_of(text: str, graph: Graph) -> tuple[Rule, ...]:
    """The rules that `PATTERN=FORMATS` means for `graph`. Raises UsageError for text that cannot be read."""
    pattern, _, formats = text.rpartition("=")
    weight, slash, activation = formats.partition("/")
    family = fitted_family(weight)
    if family is None or not pattern or not slash:
        return (parse_rule(text),)
    return fitted_rules(pattern, family, Formats(activation=activation_format(activation)), graph)


def fitted_rules(pattern: str, family: KMeans | Nupes, formats: Formats, graph: Graph) -> tuple[Rule, ...]:
    """Of each layer with weights whose result matches, `formats` with the table that is fitted to its weight."""
    found = []
    for op in graph.ops:
        weight, out = weight_of(op), o.results(op)[0]
        if weight in graph.constants and fnmatchcase(out, pattern):
            assert weight is not None
            table = typed_weight(graph.constants[weight], family, weight_axis(op), where=weight).format
            found.append(Rule(escape(out), Formats(table, formats.activation)))
    return tuple(found)


def stand_in(family: KMeans | Nupes) -> Int:
    """Integers of as many bits, for decisions that look at bits alone."""
    return Int(family.bits, narrow=True)
