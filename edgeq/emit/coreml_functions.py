"""Scalar functions and arithmetic on two values as MIL operators: by one operator where there is one, else by formula."""

from __future__ import annotations

import numpy as np

from edgeq.emit.coreml_program import Shape, Tensor
from edgeq.emit.coreml_writer import Writer
from edgeq.formats import INDEX
from edgeq.ir import ops as o

_OPERATORS: dict[o.FunctionName, str] = {
    "relu": "relu", "sigmoid": "sigmoid", "silu": "silu", "tanh": "tanh", "softplus": "softplus", "exp": "exp",
    "log": "log", "sqrt": "sqrt", "abs": "abs", "erf": "erf", "sin": "sin", "cos": "cos", "floor": "floor",
    "ceil": "ceil", "round": "round", "sign": "sign", "not": "logical_not",
}  # fmt: skip

_BINARY: dict[o.BinaryName, str] = {
    "div": "real_div", "pow": "pow", "maximum": "maximum", "minimum": "minimum", "mod": "mod", "equal": "equal",
    "less": "less", "less_equal": "less_equal", "greater": "greater", "greater_equal": "greater_equal",
    "and": "logical_and", "or": "logical_or",
}  # fmt: skip
_TRUTHS = {"equal", "less", "less_equal", "greater", "greater_equal", "and", "or"}


def write_function(function: o.Function, x: Tensor, out: str, w: Writer) -> Tensor:
    """Operators that compute `function` of the real tensor `x`; the result is called like `out`."""

    def op(kind: str, **inputs: Tensor | float | str) -> Tensor:
        return w.op(kind, out, x.shape, x.dtype, **inputs)

    lowest, largest = w.limits
    match function.name:
        case "clip":
            return op("clip", x=x, alpha=max(function.a, lowest), beta=min(function.b, largest))
        case "leaky_relu" | "elu":
            return op(function.name, x=x, alpha=function.a)
        case "hardsigmoid":
            return op("sigmoid_hard", x=x, alpha=function.a, beta=function.b)
        case "hardswish":
            return op("mul", x=x, y=op("sigmoid_hard", x=x, alpha=1 / 6, beta=0.5))
        case "mish":
            return op("mul", x=x, y=op("tanh", x=op("softplus", x=x)))
        case "gelu":
            return op("gelu", x=x, mode="EXACT")
        case "gelu_tanh":
            return op("gelu", x=x, mode="TANH_APPROXIMATION")
        case "neg":
            return op("mul", x=x, y=w.constant(-1, out, x.dtype))
        case "reciprocal":
            return op("real_div", x=w.constant(1.0, out, x.dtype), y=x)
        case name:
            return op(_OPERATORS[name], x=x)


def write_binary(op: o.Binary, w: Writer) -> Tensor:
    """`op` on reals, indices or truth values."""
    a, b, shape = w.real(op.a), w.real(op.b), w.shape(op.out)
    dtype = "bool" if op.function in _TRUTHS else a.dtype
    if op.function == "div" and w.type(op.a).format == INDEX:
        return _truncated(a, b, shape, op.out, w, signed=not (_is_natural(op.a, w) and _is_natural(op.b, w)))
    if op.function == "mod" and w.type(op.a).format != INDEX:
        return _remainder(a, b, shape, op.out, w)
    return w.op(_BINARY[op.function], op.out, shape, dtype, x=a, y=b)


def _truncated(a: Tensor, b: Tensor, shape: Shape, out: str, w: Writer, *, signed: bool) -> Tensor:
    """a / b rounded toward zero; MIL rounds down."""
    if not signed:
        return w.op("floor_div", out, shape, "int32", x=a, y=b)
    signs = [w.op("sign", f"{out}_sign", x.shape, "int32", x=x) for x in (a, b)]
    sizes = [w.op("abs", f"{out}_size", x.shape, "int32", x=x) for x in (a, b)]
    quotient = w.op("floor_div", f"{out}_quotient", shape, "int32", x=sizes[0], y=sizes[1])
    sign = w.op("mul", f"{out}_sign", shape, "int32", x=signs[0], y=signs[1])
    return w.op("mul", out, shape, "int32", x=quotient, y=sign)


def _remainder(a: Tensor, b: Tensor, shape: Shape, out: str, w: Writer) -> Tensor:
    """The remainder with the sign of a; MIL's has the sign of b."""
    sizes = [w.op("abs", f"{out}_size", x.shape, x=x) for x in (a, b)]
    size = w.op("mod", f"{out}_size", shape, x=sizes[0], y=sizes[1])
    return w.op("mul", out, shape, x=size, y=w.op("sign", f"{out}_sign", a.shape, x=a))


def _is_natural(value: o.Value, w: Writer) -> bool:
    """Whether an index is known not to be negative."""
    if value in w.graph.constants:
        return bool(w.graph.constants[value].min(initial=0) >= 0)
    match w.graph.producer.get(value):
        case o.TopK() | o.ArgMax():
            return True
        case o.Binary(function="div" | "mod") as op:
            return _is_natural(op.a, w) and _is_natural(op.b, w)
        case o.Reshape() | o.Expand() | o.Slice() | o.Transpose() | o.Gather() | o.GatherElements() as op:
            return _is_natural(op.x, w)
        case _:
            return False


def natural(indices: o.Value, size: int, w: Writer) -> Tensor:
    """Indices of which negative ones, which count from the end of `size` elements, are made positive."""
    if indices in w.graph.constants:
        return w.constant(w.graph.constants[indices].astype(np.int64) % size, indices, "int32")
    tensor = w.real(indices)
    if _is_natural(indices, w):
        return tensor
    return w.op("mod", f"{indices}_natural", tensor.shape, "int32", x=tensor, y=w.constant(size, "size", "int32"))
