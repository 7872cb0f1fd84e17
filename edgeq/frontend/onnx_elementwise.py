"""ONNX operators that act element by element."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import numpy as np

from edgeq.errors import UnsupportedError
from edgeq.frontend.onnx_build import Builder, Handler, Node, Numbers, number_kind
from edgeq.ir import ops as o

INFINITY = float("inf")


def unary(name: o.FunctionName) -> Handler:
    """The handler of an operator that is a scalar function without parameters."""
    return lambda b, n: b.apply(n.operand(0), name)


def _leaky_relu(b: Builder, n: Node) -> o.Value:
    return b.apply(n.operand(0), "leaky_relu", n.real("alpha", 0.01))


def _elu(b: Builder, n: Node) -> o.Value:
    return b.apply(n.operand(0), "elu", n.real("alpha", 1.0))


def _selu(b: Builder, n: Node) -> o.Value:
    alpha, gamma = n.real("alpha", 1.6732632423543772), n.real("gamma", 1.0507009873554805)
    return scaled(b, b.apply(n.operand(0), "elu", alpha), gamma)


def _celu(b: Builder, n: Node) -> o.Value:
    alpha = n.real("alpha", 1.0)
    return scaled(b, b.apply(scaled(b, n.operand(0), 1 / alpha), "elu", 1.0), alpha)


def _softsign(b: Builder, n: Node) -> o.Value:
    x = n.operand(0)
    return b.emit(o.Binary(x, b.emit(o.Add(b.apply(x, "abs"), b.constant(1.0), "")), "", "div"))


def _hard_sigmoid(b: Builder, n: Node) -> o.Value:
    return b.apply(n.operand(0), "hardsigmoid", n.real("alpha", 0.2), n.real("beta", 0.5))


def _gelu(b: Builder, n: Node) -> o.Value:
    return b.apply(n.operand(0), "gelu_tanh" if n.text("approximate", "none") == "tanh" else "gelu")


def _swish(b: Builder, n: Node) -> o.Value:
    x, alpha = n.operand(0), n.real("alpha", 1.0)
    if alpha == 1.0:
        return b.apply(x, "silu")
    return b.emit(o.Mul(x, b.apply(scaled(b, x, alpha), "sigmoid"), ""))


def scaled(b: Builder, x: o.Value, factor: float) -> o.Value:
    """x times a number; x itself for 1."""
    return x if factor == 1.0 else b.emit(o.Mul(x, b.constant(np.float32(factor)), ""))


def _clip(b: Builder, n: Node) -> o.Value:
    x, low, high = n.operand(0), n.optional(1), n.optional(2)
    fixed = all(value is None or b.array(value) is not None for value in (low, high))
    if fixed and b.kind(x) == "real":
        bottom = b.reals(low, "the minimum")[0] if low else -INFINITY
        top = b.reals(high, "the maximum")[0] if high else INFINITY
        return clipped(b, x, bottom, top)
    x = b.emit(o.Binary(x, low, "", "maximum")) if low else x
    return b.emit(o.Binary(x, high, "", "minimum")) if high else x


def clipped(b: Builder, x: o.Value, low: float, high: float) -> o.Value:
    """min(max(x, low), high); an empty interval gives `high`, as ONNX defines it."""
    if (low, high) == (-INFINITY, INFINITY):
        return x
    return b.apply(x, "relu") if (low, high) == (0.0, INFINITY) else b.apply(x, "clip", min(low, high), high)


def _prelu(b: Builder, n: Node) -> o.Value:
    x, slope = n.operand(0), n.operand(1)
    slopes = b.array(slope)
    if slopes is not None and slopes.size and np.all(slopes == slopes.flat[0]):
        return b.apply(x, "leaky_relu", float(slopes.flat[0]))
    negative = b.emit(o.Mul(slope, b.apply(x, "clip", -INFINITY, 0.0), ""))
    return b.emit(o.Add(b.apply(x, "relu"), negative, ""))


def _arithmetic(op: type[o.Add] | type[o.Sub] | type[o.Mul]) -> Handler:
    return lambda b, n: b.emit(op(n.operand(0), n.operand(1), ""))


def _compared(function: o.BinaryName) -> Handler:
    return lambda b, n: b.emit(o.Binary(n.operand(0), n.operand(1), "", function))


def _div(b: Builder, n: Node) -> o.Value:
    x, divisor = n.operand(0), n.operand(1)
    numbers = b.array(divisor)
    if b.kind(x) == "real" and numbers is not None and is_power_of_two(numbers):
        return b.emit(o.Mul(x, b.constant(1 / numbers), ""))
    if b.kind(x) == "index" and numbers is not None and not numbers.all():
        raise UnsupportedError("integer division by zero")
    return b.emit(o.Binary(x, divisor, "", "div"))


def is_power_of_two(numbers: Numbers) -> bool:
    """Whether every entry is ±2^k, so that dividing by it equals multiplying by its reciprocal."""
    mantissa, exponent = np.frexp(numbers.astype(np.float64))
    return bool(np.all((np.abs(mantissa) == 0.5) & (np.abs(exponent) < 126)))


def _pow(b: Builder, n: Node) -> o.Value:
    x, exponent = n.operand(0), n.operand(1)
    numbers, kind = b.array(exponent), b.kind(x)
    if kind == "real" and numbers is not None and numbers.size == 1:
        found = _power(b, x, float(numbers.flat[0]))
        if found is not None:
            return found
    if b.kind(exponent) != kind:
        x, exponent = (b.emit(o.Cast(value, "", "real")) for value in (x, exponent))
    result = b.emit(o.Binary(x, exponent, "", "pow"))
    return b.emit(o.Cast(result, "", kind)) if b.kind(result) != kind else result


def _power(b: Builder, x: o.Value, exponent: float) -> o.Value | None:
    match exponent:
        case 1.0:
            return x
        case 2.0:
            return b.emit(o.Mul(x, x, ""))
        case 3.0:
            return b.emit(o.Mul(x, b.emit(o.Mul(x, x, "")), ""))
        case 0.5:
            return b.apply(x, "sqrt")
        case -0.5:
            return b.apply(b.apply(x, "sqrt"), "reciprocal")
        case -1.0:
            return b.apply(x, "reciprocal")
        case _:
            return None


def _mod(b: Builder, n: Node) -> o.Value:
    x, divisor = n.operand(0), n.operand(1)
    numbers = b.array(divisor)
    if b.kind(x) == "index" and numbers is not None and not numbers.all():
        raise UnsupportedError("integer division by zero")
    if b.kind(x) == "index" and n.integer("fmod", 0):
        whole = b.emit(o.Mul(b.emit(o.Binary(x, divisor, "", "div")), divisor, ""))
        return b.emit(o.Sub(x, whole, ""))
    return b.emit(o.Binary(x, divisor, "", "mod"))


def _folded(combine: Callable[[Builder, o.Value, o.Value], o.Value]) -> Handler:
    """The handler of an operator with any number of operands."""
    return lambda b, n: reduce(lambda x, y: combine(b, x, y), [n.operand(k) for k in range(len(n.inputs))])


def _maximum(b: Builder, x: o.Value, y: o.Value) -> o.Value:
    return _extreme(b, x, y, "maximum")


def _minimum(b: Builder, x: o.Value, y: o.Value) -> o.Value:
    return _extreme(b, x, y, "minimum")


def _extreme(b: Builder, x: o.Value, y: o.Value, function: o.BinaryName) -> o.Value:
    for value, limit in ((x, y), (y, x)):
        number = b.array(limit)
        if number is not None and number.size == 1 and number.ndim <= len(b.shape(value)) and b.kind(value) == "real":
            low, high = (
                (float(number.flat[0]), INFINITY) if function == "maximum" else (-INFINITY, float(number.flat[0]))
            )
            return clipped(b, value, low, high)
    return b.emit(o.Binary(x, y, "", function))


def _sum(b: Builder, x: o.Value, y: o.Value) -> o.Value:
    return b.emit(o.Add(x, y, ""))


def _mean(b: Builder, n: Node) -> o.Value:
    total = _folded(_sum)(b, n)
    assert isinstance(total, str)
    return scaled(b, total, 1 / len(n.inputs))


def _xor(b: Builder, n: Node) -> o.Value:
    return b.apply(b.emit(o.Binary(n.operand(0), n.operand(1), "", "equal")), "not")


def _where(b: Builder, n: Node) -> o.Value:
    return b.emit(o.Where(n.operand(0), n.operand(1), n.operand(2), ""))


def _cast(b: Builder, n: Node) -> o.Value:
    return cast(b, n.operand(0), number_kind(n.integer("to", 1)))


def _cast_like(b: Builder, n: Node) -> o.Value:
    return cast(b, n.operand(0), b.kind(n.operand(1)))


def cast(b: Builder, x: o.Value, kind: o.NumberKind) -> o.Value:
    """x as another kind of number. Widths are not kept: float16 is read as float32, int8 as int64."""
    return x if b.kind(x) == kind else b.emit(o.Cast(x, "", kind))


def _same(b: Builder, n: Node) -> o.Value:
    return n.operand(0)


def _dropout(b: Builder, n: Node) -> o.Value | tuple[o.Value, ...]:
    x, training = n.operand(0), n.optional(2)
    if training is not None and any(b.integers(training, "the training mode")):
        raise UnsupportedError("dropout in training mode", next_step="Export in eval mode.")
    if not n.uses_output(1):
        return x
    return x, b.constant(np.ones(b.shape(x), bool))


def _tangent(b: Builder, n: Node) -> o.Value:
    x = n.operand(0)
    return b.emit(o.Binary(b.apply(x, "sin"), b.apply(x, "cos"), "", "div"))


ELEMENTWISE: dict[str, Handler] = {
    "Abs": unary("abs"),
    "Add": _arithmetic(o.Add),
    "And": _compared("and"),
    "Cast": _cast,
    "CastLike": _cast_like,
    "Ceil": unary("ceil"),
    "Celu": _celu,
    "Clip": _clip,
    "Cos": unary("cos"),
    "Div": _div,
    "Dropout": _dropout,
    "Elu": _elu,
    "Equal": _compared("equal"),
    "Erf": unary("erf"),
    "Exp": unary("exp"),
    "Floor": unary("floor"),
    "Gelu": _gelu,
    "Greater": _compared("greater"),
    "GreaterOrEqual": _compared("greater_equal"),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": unary("hardswish"),
    "Identity": _same,
    "LeakyRelu": _leaky_relu,
    "Less": _compared("less"),
    "LessOrEqual": _compared("less_equal"),
    "Log": unary("log"),
    "Max": _folded(_maximum),
    "Mean": _mean,
    "Min": _folded(_minimum),
    "Mish": unary("mish"),
    "Mod": _mod,
    "Mul": _arithmetic(o.Mul),
    "Neg": unary("neg"),
    "Not": unary("not"),
    "Or": _compared("or"),
    "PRelu": _prelu,
    "Pow": _pow,
    "Reciprocal": unary("reciprocal"),
    "Relu": unary("relu"),
    "Round": unary("round"),
    "Selu": _selu,
    "Sigmoid": unary("sigmoid"),
    "Sign": unary("sign"),
    "Sin": unary("sin"),
    "Softplus": unary("softplus"),
    "Softsign": _softsign,
    "Sqrt": unary("sqrt"),
    "Sub": _arithmetic(o.Sub),
    "Sum": _folded(_sum),
    "Swish": _swish,
    "Tan": _tangent,
    "Tanh": unary("tanh"),
    "Where": _where,
    "Xor": _xor,
}
