"""Scalar functions as ONNX operators: by one operator of opset 13 where there is one, else by their formula."""

from __future__ import annotations

import math

from edgeq.emit.onnx_writer import AttributeValue, Tensor, Writer
from edgeq.ir.ops import BinaryName, Function, FunctionName

_OPERATORS: dict[FunctionName, str] = {
    "relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh", "softplus": "Softplus", "exp": "Exp", "log": "Log",
    "sqrt": "Sqrt", "reciprocal": "Reciprocal", "neg": "Neg", "abs": "Abs", "erf": "Erf", "sin": "Sin", "cos": "Cos",
    "floor": "Floor", "ceil": "Ceil", "round": "Round", "sign": "Sign", "not": "Not",
}  # fmt: skip

BINARY_OPERATORS: dict[BinaryName, str] = {
    "div": "Div", "pow": "Pow", "maximum": "Max", "minimum": "Min", "mod": "Mod", "equal": "Equal", "less": "Less",
    "less_equal": "LessOrEqual", "greater": "Greater", "greater_equal": "GreaterOrEqual", "and": "And", "or": "Or",
}  # fmt: skip


def write_function(function: Function, x: Tensor, out: Tensor, w: Writer) -> Tensor:
    """Nodes that compute `function` of the float tensor `x` into `out`."""

    def step(kind: str, *inputs: Tensor, name: str, **attributes: AttributeValue) -> Tensor:
        return w.node(kind, inputs, w.fresh(f"{out}.{name}"), **attributes)

    def number(value: float, name: str) -> Tensor:
        return w.scalar(value, f"{out}.{name}")

    match function.name:
        case "clip":
            return w.node("Clip", [x, _bound(function.a, out, w), _bound(function.b, out, w)], out)
        case "leaky_relu":
            return w.node("LeakyRelu", [x], out, alpha=function.a)
        case "elu":
            return w.node("Elu", [x], out, alpha=function.a)
        case "hardsigmoid":
            return w.node("HardSigmoid", [x], out, alpha=function.a, beta=function.b)
        case "silu":
            return w.node("Mul", [x, step("Sigmoid", x, name="gate")], out)
        case "hardswish":
            return w.node("Mul", [x, step("HardSigmoid", x, name="gate", alpha=1 / 6, beta=0.5)], out)
        case "mish":
            gate = step("Tanh", step("Softplus", x, name="softplus"), name="gate")
            return w.node("Mul", [x, gate], out)
        case "gelu":
            erf = step("Erf", step("Div", x, number(math.sqrt(2), "root"), name="scaled"), name="erf")
            doubled = step("Mul", x, step("Add", erf, number(1.0, "one"), name="gate"), name="doubled")
            return w.node("Mul", [doubled, number(0.5, "half")], out)
        case "gelu_tanh":
            cube = step("Mul", step("Mul", x, x, name="square"), x, name="cube")
            inner = step("Add", x, step("Mul", cube, number(0.044715, "weight"), name="bent"), name="sum")
            tanh = step("Tanh", step("Mul", inner, number(math.sqrt(2 / math.pi), "slope"), name="inner"), name="tanh")
            doubled = step("Mul", x, step("Add", tanh, number(1.0, "one"), name="gate"), name="doubled")
            return w.node("Mul", [doubled, number(0.5, "half")], out)
        case name:
            return w.node(_OPERATORS[name], [x], out)


def _bound(value: float, out: Tensor, w: Writer) -> Tensor:
    return "" if math.isinf(value) else w.scalar(value, f"{out}.limit")
