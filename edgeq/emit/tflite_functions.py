"""Scalar functions of reals as TFLite operators: by one operator where there is one, else by their formula."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from edgeq.emit.tflite_values import Values
from edgeq.emit.tflite_writer import Index
from edgeq.errors import UnsupportedError
from edgeq.ir import ops as o

_OPERATORS: Mapping[o.FunctionName, tuple[str, str | None]] = {
    "relu": ("RELU", None), "sigmoid": ("LOGISTIC", None), "tanh": ("TANH", None), "exp": ("EXP", "ExpOptions"),
    "log": ("LOG", None), "sqrt": ("SQRT", None), "neg": ("NEG", "NegOptions"), "abs": ("ABS", "AbsOptions"),
    "sin": ("SIN", None), "cos": ("COS", "CosOptions"), "floor": ("FLOOR", None), "ceil": ("CEIL", None),
    "round": ("ROUND", None), "sign": ("SIGN", "SignOptions"), "not": ("LOGICAL_NOT", "LogicalNotOptions"),
    "hardswish": ("HARD_SWISH", "HardSwishOptions"),
}  # fmt: skip

BINARY: Mapping[o.BinaryName, tuple[str, str | None]] = {
    "div": ("DIV", "DivOptions"), "pow": ("POW", "PowOptions"), "maximum": ("MAXIMUM", "MaximumMinimumOptions"),
    "minimum": ("MINIMUM", "MaximumMinimumOptions"), "mod": ("FLOOR_MOD", "FloorModOptions"),
    "equal": ("EQUAL", "EqualOptions"), "less": ("LESS", "LessOptions"), "less_equal": ("LESS_EQUAL", "LessEqualOptions"),
    "greater": ("GREATER", "GreaterOptions"), "greater_equal": ("GREATER_EQUAL", "GreaterEqualOptions"),
    "and": ("LOGICAL_AND", "LogicalAndOptions"), "or": ("LOGICAL_OR", "LogicalOrOptions"),
}  # fmt: skip

# erf by Abramowitz and Stegun 7.1.26, |error| < 1.5e-7: TFLite has no such operator.
_ERF = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)
_ERF_SLOPE = 0.3275911


class _Chain:
    """Operators one after another on tensors of one shape."""

    def __init__(self, out: o.Value, shape: tuple[int, ...], v: Values) -> None:
        self.out, self.shape, self.v = out, shape, v

    def step(self, kind: str, *inputs: Index, options: str | None = None, to: Index | None = None) -> Index:
        result = self.v.real(f"{self.out}.{kind.lower()}", self.shape) if to is None else to
        fields = {"fusedActivationFunction": 0} if options in _FUSED else {}
        self.v.file.operator(kind, list(inputs), [result], 1, options, **fields)
        return result

    def number(self, content: float) -> Index:
        return self.v.numbers(np.full((1,) * len(self.shape), content, dtype=np.float32), f"{self.out}.{content:.6g}")

    def add(self, a: Index, b: Index | float, to: Index | None = None) -> Index:
        return self._arithmetic("ADD", "AddOptions", a, b, to)

    def multiply(self, a: Index, b: Index | float, to: Index | None = None) -> Index:
        return self._arithmetic("MUL", "MulOptions", a, b, to)

    def _arithmetic(self, kind: str, options: str, a: Index, b: Index | float, to: Index | None) -> Index:
        operand = self.number(b) if isinstance(b, float) else b
        return self.step(kind, a, operand, options=options, to=to)


_FUSED = ("AddOptions", "MulOptions", "SubOptions", "DivOptions")


def write_function(function: o.Function, x: Index, to: Index, out: o.Value, v: Values) -> None:
    """Operators that compute `function` of the tensor `x` into `to`. Raises UnsupportedError."""
    c = _Chain(out, v.file.shape(x), v)
    match function.name:
        case "clip":
            _clip(function, x, to, c)
        case "leaky_relu":
            v.file.operator("LEAKY_RELU", [x], [to], 1, "LeakyReluOptions", alpha=function.a)
        case "elu":
            _elu(function.a, x, to, c)
        case "hardsigmoid":
            line = c.add(c.multiply(x, function.a), function.b)
            c.step(
                "MAXIMUM",
                c.step("MINIMUM", line, c.number(1.0), options=_LIMITS),
                c.number(0.0),
                options=_LIMITS,
                to=to,
            )
        case "silu":
            c.multiply(x, c.step("LOGISTIC", x), to)
        case "mish":
            c.multiply(x, c.step("TANH", _softplus(x, c)), to)
        case "softplus":
            _softplus(x, c, to)
        case "gelu" | "gelu_tanh":
            v.file.operator("GELU", [x], [to], 1, "GeluOptions", approximate=function.name == "gelu_tanh")
        case "erf":
            _erf(x, to, c)
        case "reciprocal":
            c.step("DIV", c.number(1.0), x, options="DivOptions", to=to)
        case name if name in _OPERATORS:
            kind, options = _OPERATORS[name]
            c.step(kind, x, options=options, to=to)
        case name:
            raise UnsupportedError("TFLite has no such function", where=out, value=name)


_LIMITS = "MaximumMinimumOptions"


def _clip(function: o.Function, x: Index, to: Index, c: _Chain) -> None:
    if (function.a, function.b) == (0.0, 6.0):
        c.step("RELU6", x, to=to)
        return
    bounded = [
        (kind, limit) for kind, limit in (("MINIMUM", function.b), ("MAXIMUM", function.a)) if math.isfinite(limit)
    ]
    for k, (kind, limit) in enumerate(bounded):
        x = c.step(kind, x, c.number(limit), options=_LIMITS, to=to if k == len(bounded) - 1 else None)
    if not bounded:
        c.v.reshape(x, to)


def _elu(slope: float, x: Index, to: Index, c: _Chain) -> None:
    """max(x, 0) + a (e^min(x, 0) - 1)."""
    below = c.step("EXP", c.step("MINIMUM", x, c.number(0.0), options=_LIMITS), options="ExpOptions")
    c.add(c.step("RELU", x), c.multiply(c.add(below, -1.0), slope), to)


def _softplus(x: Index, c: _Chain, to: Index | None = None) -> Index:
    """max(x, 0) + log(1 + e^-|x|), which no large x overflows."""
    decay = c.step(
        "EXP", c.step("NEG", c.step("ABS", x, options="AbsOptions"), options="NegOptions"), options="ExpOptions"
    )
    return c.add(c.step("RELU", x), c.step("LOG", c.add(decay, 1.0)), to)


def _erf(x: Index, to: Index, c: _Chain) -> None:
    """sign(x) (1 - (a1 t + … + a5 t^5) e^(-x^2)) with t = 1 / (1 + p |x|)."""
    size = c.step("ABS", x, options="AbsOptions")
    t = c.step("DIV", c.number(1.0), c.add(c.multiply(size, _ERF_SLOPE), 1.0), options="DivOptions")
    series = c.multiply(t, _ERF[-1])
    for coefficient in _ERF[-2::-1]:
        series = c.multiply(c.add(series, coefficient), t)
    bell = c.step("EXP", c.step("NEG", c.multiply(x, x), options="NegOptions"), options="ExpOptions")
    rest = c.step("SUB", c.number(1.0), c.multiply(series, bell), options="SubOptions")
    c.multiply(c.step("SIGN", x, options="SignOptions"), rest, to)
