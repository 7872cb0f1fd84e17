"""Recipes: what the user asks of quantization beyond the target's own row.

Rules are read from the top and the first whose pattern matches a value's name decides.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from glob import escape

from edgeq.formats import REAL, Format


@dataclass(frozen=True)
class Rule:
    """Values whose name matches `pattern` (shell wildcards) take `format`; `real` keeps the operator in float."""

    pattern: str
    format: Format


@dataclass(frozen=True)
class Recipe:
    """How to quantize: the range estimator, exceptions by value name, and whether outputs are left as codes."""

    estimator: str = "mse"
    rules: tuple[Rule, ...] = field(default=())
    output_codes: bool = False

    def with_real(self, values: Iterable[str]) -> Recipe:
        """This recipe with the operators that compute `values` kept real."""
        return replace(self, rules=(*(Rule(escape(value), REAL) for value in values), *self.rules))

    def format_of(self, value: str) -> Format | None:
        """The format that the first matching rule gives to `value`, or None."""
        return next((rule.format for rule in self.rules if fnmatchcase(value, rule.pattern)), None)
