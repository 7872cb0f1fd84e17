"""Recipes: what the user asks of quantization beyond the target's own row.

Rules name operators by their results. They are read from the top and the first whose pattern matches decides. The
format of an operator's activations is that of the values it reads; what no weighted operator reads follows the target.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from glob import escape

from edgeq.catalogue import Blocks, Choice, KMeans, Nupes, find_choice, short_name
from edgeq.errors import UsageError
from edgeq.formats import REAL, Codebook, Float, Format, Int, Real, bits_of, level_table
from edgeq.ir.sound import format_problems

_SHORT = re.compile(r"(?:w(\d{1,2}))?(?:a(\d{1,2}))?")
_ALLOWED = "w4a8, w4, a8, int4/int8, post4/int16, e2m1/int8, real"


@dataclass(frozen=True)
class Formats:
    """Of one operator: the format of its weights, and of the values that it reads. None leaves it to the target."""

    weight: Format | None = None
    activation: Format | None = None

    def __str__(self) -> str:
        if self == KEPT_REAL:
            return "real"
        if isinstance(self.weight, Int | None) and isinstance(self.activation, Int | None):
            parts = (("w", self.weight), ("a", self.activation))
            return "".join(f"{letter}{part.bits}" for letter, part in parts if part is not None)
        return f"{self.weight or ''}/{self.activation or ''}"


KEPT_REAL = Formats(REAL, REAL)


@dataclass(frozen=True)
class Rule:
    """Operators whose result matches `pattern` (shell wildcards) take `formats`; KEPT_REAL keeps them in float."""

    pattern: str
    formats: Formats


@dataclass(frozen=True)
class Recipe:
    """How to quantize: the range estimator, formats by operator, and whether outputs are left as codes."""

    estimator: str = "mse"
    rules: tuple[Rule, ...] = field(default=())
    output_codes: bool = False

    def with_real(self, values: Iterable[str]) -> Recipe:
        """This recipe with the operators that compute `values` kept real."""
        return self.with_rules(Rule(escape(value), KEPT_REAL) for value in values)

    def with_rules(self, rules: Iterable[Rule]) -> Recipe:
        """This recipe with `rules` before its own."""
        return replace(self, rules=(*rules, *self.rules))

    def formats_of(self, result: str) -> Formats | None:
        """What the first rule that matches the operator of `result` says, or None."""
        return next((rule.formats for rule in self.rules if fnmatchcase(result, rule.pattern)), None)

    def keeps_real(self, result: str) -> bool:
        """Whether the operator of `result` stays in float."""
        return self.formats_of(result) == KEPT_REAL


def keep_real(pattern: str) -> Rule:
    """The rule of --keep-real."""
    return Rule(pattern, KEPT_REAL)


def parse_rule(text: str) -> Rule:
    """`PATTERN=FORMATS` of --format; raises UsageError.

    >>> parse_rule("stem*=w8a16")
    Rule(pattern='stem*', formats=Formats(weight=Int(bits=8, signed=True, narrow=True), activation=Int(bits=16, signed=True, narrow=False)))
    """
    pattern, separator, formats = text.rpartition("=")
    if not separator or not pattern:
        raise UsageError("cannot read the rule", value=text, allowed="PATTERN=FORMATS such as 'stem*=w8a8'")
    return Rule(pattern, parse_formats(formats))


def parse_formats(text: str) -> Formats:
    """`w4a8`, or w4 or a8 alone, or WEIGHT/ACTIVATION such as post4/int8, or real; raises UsageError.

    >>> print(parse_formats("w4a8"), parse_formats("e2m1/int8"), parse_formats("real"))
    w4a8 e2m1/int8 real
    """
    if text and (match := _SHORT.fullmatch(text)):
        weight, activation = match.groups()
        return Formats(
            weight_format(f"int{weight}") if weight else None,
            activation_format(f"int{activation}") if activation else None,
        )
    weight, separator, activation = text.partition("/")
    if not separator and text != "real":
        raise UsageError("unknown formats", value=text, allowed=_ALLOWED)
    return Formats(weight_format(weight), activation_format(activation)) if separator else KEPT_REAL


def _choice(name: str) -> Choice:
    found = find_choice(name)
    if isinstance(found, Float) and (wrong := next(format_problems(found), None)):
        raise UsageError("no such number format", value=name, allowed=wrong)
    return found


def weight_format(name: str) -> Format:
    """The weight format called `name`. Raises UsageError.

    Integers of 8 bits and more leave the most negative code unused, since kernels pair their products, and so do those of
    two, whose levels are -1, 0 and 1; where bits are few and a code counts, they have them all.

    >>> weight_format("int4"), str(weight_format("e2m1"))
    (Int(bits=4, signed=True, narrow=False), 'e2m1')
    """
    format_ = _choice(name)
    if isinstance(format_, Blocks):
        raise UsageError(
            "blocks of weights with a scale each are what some targets store, no format of layers", value=name,
            allowed="--target onnx-w4, onnx-mxfp4, coreml-w4, coreml-mxfp4",
            next_step=f"The nearest with a scale for each channel is {short_name(format_.element)}.",
        )  # fmt: skip
    if isinstance(format_, KMeans | Nupes):
        raise UsageError(
            "a family of tables is fitted to a weight", value=name, next_step="--weights and --format take it."
        )
    if isinstance(format_, Real):
        raise UsageError(
            "weights alone cannot stay real", value=name, next_step="PATTERN=real keeps operators in float."
        )
    if isinstance(format_, Int):
        if not 2 <= format_.bits <= 16:
            raise UsageError("no such weight format", value=name, allowed="int2 to int16")
        return replace(format_, signed=True, narrow=not 2 < format_.bits < 8)
    if bits_of(format_) > 8:
        raise UsageError("no such weight format", value=name, allowed="minifloats and tables of at most 8 bits")
    return format_


def activation_format(name: str) -> Int | Float | Codebook:
    """The activation format called `name`: integers of 2 to 16 bits, signed as the target has them, or a table.

    Tables (minifloats, POST, powers of two) hold zero and take at most eight bits. Raises UsageError.
    """
    format_ = _choice(name)
    if isinstance(format_, Int) and 2 <= format_.bits <= 16:
        return Int(format_.bits)
    if isinstance(format_, Float | Codebook) and bits_of(format_) <= 8 and 0 in level_table(format_):
        return format_
    raise UsageError("no such activation format", value=name, allowed="int2 to int16, e2m1 … e4m3, post4, pot4")
