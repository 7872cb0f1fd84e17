"""Recognising a scalar function that an exporter wrote as several operators.

Whatever the spelling, x * sigmoid(x), x / (1 + e^-x) and x * 0.5 * (1 + tanh(x / 2)) are one function of x. So the
operators between a value and an earlier value x are evaluated, in float64, on a fixed set of points, and compared
with each known function there. The operators that may lie between are elementary functions and arithmetic with
scalar constants; such an expression of at most MAX_OPERATORS operators that agrees on all points is that function.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from edgeq.ir import ops as o
from edgeq.passes.rewrite import Sweep
from edgeq.reference.meaning import apply_function

MAX_OPERATORS = 12
TOLERANCE = 2e-6  # relative to 1 + |function|: exporters round constants such as sqrt(2) to float32

Points = npt.NDArray[np.float64]
_SCALAR = (o.Apply, o.Mul, o.Add, o.Sub, o.Binary)

_MAGNITUDES = np.concatenate([np.linspace(0.0, 12.0, 193), np.geomspace(1e-3, 1e4, 60)])
POINTS: Points = np.unique(np.concatenate([-_MAGNITUDES, _MAGNITUDES]))


def _curve(function: o.Function) -> Points:
    with torch.no_grad():
        found: Points = apply_function(function, torch.from_numpy(POINTS)).numpy()
    return found


_NAMES: tuple[o.FunctionName, ...] = (
    "relu",
    "sigmoid",
    "silu",
    "hardswish",
    "gelu",
    "gelu_tanh",
    "tanh",
    "mish",
    "softplus",
    "abs",
)
_FIXED = {name: _curve(o.Function(name)) for name in _NAMES}


def _equal(a: Points, b: Points) -> bool:
    return bool(np.all(np.abs(a - b) <= TOLERANCE * (1 + np.abs(b))))


def named(curve: Points) -> o.Function | None:
    """The function that takes the values `curve` on POINTS."""
    if not np.isfinite(curve).all():
        return None
    for name, known in _FIXED.items():
        if _equal(curve, known):
            return o.Function(name)
    for guess in (_as_clip(curve), _as_hardsigmoid(curve), _as_leaky_relu(curve), _as_elu(curve)):
        if guess is not None and _equal(curve, _curve(guess)):
            return guess
    return None


def _at(curve: Points, x: float) -> float:
    return float(curve[np.searchsorted(POINTS, x)])


def _as_clip(curve: Points) -> o.Function | None:
    low, high = _tidy(curve[0]), _tidy(curve[-1])
    return o.Function("clip", low, high) if POINTS[0] < low < high < POINTS[-1] else None


def _as_hardsigmoid(curve: Points) -> o.Function | None:
    middle = _at(curve, 0.0)
    inside = np.flatnonzero((curve > 0.05) & (curve < 0.95))
    if not 0 < middle < 1 or len(inside) < 2:
        return None
    rise, run = (values[inside[-1]] - values[inside[0]] for values in (curve, POINTS))
    return o.Function("hardsigmoid", _tidy(rise / run), _tidy(middle))


def _as_leaky_relu(curve: Points) -> o.Function | None:
    slope = -_at(curve, -1.0)
    return o.Function("leaky_relu", _tidy(slope)) if 0 < slope < 1 else None


def _as_elu(curve: Points) -> o.Function | None:
    return o.Function("elu", _tidy(-curve[0])) if curve[0] < 0 else None


def _tidy(number: float) -> float:
    """The simplest nearby number: constants went through float32."""
    for simple in (round(number, 6), round(number * 6) / 6):
        if abs(simple - number) <= 1e-7 * max(1.0, abs(number)):
            return float(simple)
    return float(number)


def as_scalar_function(s: Sweep, op: o.Op) -> o.Op | None:
    """`op` as a known function of an earlier value, if it is one and not already spelled so."""
    (out, *others) = o.results(op)
    if others or not isinstance(op, _SCALAR) or not s.is_real(out):
        return None
    for x in _earlier(s, op):
        curve = _evaluate(s, op, x) if s.shape(x) == s.shape(out) and s.is_real(x) else None
        function = named(curve) if curve is not None else None
        if function is not None:
            return o.Apply(x, out, function)
    return None


def _earlier(s: Sweep, op: o.Op) -> list[o.Value]:
    """Values that `op` may be a function of, nearest first, with at least one more operator between them."""
    waiting, found, between = list(o.operands(op)), dict[o.Value, None](), [op]
    while waiting and len(between) < MAX_OPERATORS:
        value = waiting.pop(0)
        if value in found or s.array(value) is not None:
            continue
        found[value] = None
        producer = s.made_by(value)
        if isinstance(producer, _SCALAR):
            between.append(producer)
            waiting.extend(o.operands(producer))
    if len(between) == 1 or not any(map(_is_curved, between)):
        return []
    return [x for x in found if not (isinstance(op, o.Apply) and op.x == x)]


def _is_curved(op: o.Op) -> bool:
    """Whether `op` can make a product or sum of straight lines anything else."""
    return isinstance(op, o.Apply) or (isinstance(op, o.Binary) and op.function in ("maximum", "minimum"))


def _evaluate(s: Sweep, op: o.Op, x: o.Value) -> Points | None:
    """`op` on POINTS in the place of `x`; None if it depends on anything else."""
    known: dict[o.Value, Points | None] = {x: POINTS}

    def value(name: o.Value) -> Points | None:
        if name not in known:
            number, producer = s.number(name), s.made_by(name)
            known[name] = None
            if number is not None:
                known[name] = np.full_like(POINTS, number)
            elif isinstance(producer, _SCALAR) and len(known) < 2 * MAX_OPERATORS:
                known[name] = step(producer)
        return known[name]

    def step(inner: o.Op) -> Points | None:
        operands = [value(name) for name in o.operands(inner)]
        if any(array is None for array in operands):
            return None
        with np.errstate(all="ignore"):
            return _combine(inner, [array for array in operands if array is not None])

    return step(op)


_BINARY: dict[str, Callable[[Points, Points], Points]] = {
    "div": np.divide,
    "pow": np.power,
    "maximum": np.maximum,
    "minimum": np.minimum,
}


def _combine(op: o.Op, operands: list[Points]) -> Points | None:
    match op:
        case o.Apply():
            return apply_function(op.function, torch.from_numpy(operands[0])).numpy()
        case o.Mul():
            return operands[0] * operands[1]
        case o.Add():
            return operands[0] + operands[1]
        case o.Sub():
            return operands[0] - operands[1]
        case o.Binary() if op.function in _BINARY:
            return _BINARY[op.function](*operands)
        case _:
            return None
