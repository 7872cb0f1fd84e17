"""The operators: one frozen dataclass per operator, with its formula.

Fields annotated `Value`, `Value | None` or `tuple[Value, ...]` name values; those whose name starts with `out` are
results, all others operands. Every other field is an attribute with a fixed, printable type.

The same operator works on real values and on integer levels. Formulas are over levels; each result's scale
follows from the operands' scales (stated where it is not "unchanged"). Layout is NCHW, weights are [out, in, …].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Literal, TypeVar, get_args

Value = str
Pair = tuple[int, int]
Ints = tuple[int, ...]
Quad = tuple[int, int, int, int]

FunctionName = Literal[
    "relu", "clip", "leaky_relu", "elu", "sigmoid", "silu", "hardsigmoid", "hardswish", "gelu", "gelu_tanh", "tanh",
    "mish", "softplus", "exp", "log", "sqrt", "reciprocal", "neg", "abs", "erf", "sin", "cos", "floor", "ceil",
    "round", "sign", "not",
]  # fmt: skip
BinaryName = Literal[
    "div", "pow", "maximum", "minimum", "mod", "equal", "less", "less_equal", "greater", "greater_equal", "and", "or"
]
ReduceName = Literal["sum", "max", "min", "l2"]
Rounding = Literal["gemmlowp2", "gemmlowp2-up", "single", "single15", "fp32rne", "fc-float"]
ResizeMode = Literal["nearest", "linear", "cubic"]
Coordinates = Literal["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"]
NumberKind = Literal["real", "index", "bool"]
Ties = Literal["even", "away"]
NearestRounding = Literal["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"]


@dataclass(frozen=True)
class Function:
    """A scalar function of one variable; `a` and `b` are its parameters.

    clip: min(max(x, a), b); leaky_relu: x if x >= 0 else a x; elu: x if x >= 0 else a (e^x - 1);
    hardsigmoid: min(max(a x + b, 0), 1); hardswish: x min(max(x / 6 + 1/2, 0), 1); silu: x / (1 + e^-x).
    """

    name: FunctionName
    a: float = 0.0
    b: float = 0.0

    def __str__(self) -> str:
        return self.name if (self.a, self.b) == (0.0, 0.0) else f"{self.name}({self.a!r}, {self.b!r})"


@dataclass(frozen=True)
class Conv:
    """out[n,o,p] = bias[o] + sum_{i,k} weight[o,i,k] x[n, g(o)+i, p stride + k dilation - padding]; scale s_x s_w[o].

    x [N,C,H,W], weight [O,C/groups,kh,kw], bias [O]; padding is (top, left, bottom, right) with level 0.
    """

    x: Value
    weight: Value
    bias: Value | None
    out: Value
    stride: Pair = (1, 1)
    padding: Quad = (0, 0, 0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1


@dataclass(frozen=True)
class ConvTranspose:
    """The adjoint of Conv in x; weight [C,O/groups,kh,kw], bias [O]; scale s_x s_w[o].

    H_out = (H - 1) stride - top - bottom + dilation (kh - 1) + output_padding + 1.
    """

    x: Value
    weight: Value
    bias: Value | None
    out: Value
    stride: Pair = (1, 1)
    padding: Quad = (0, 0, 0, 0)
    output_padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1


@dataclass(frozen=True)
class Linear:
    """out[…,o] = bias[o] + sum_k weight[o,k] x[…,k]; scale s_x s_w[o]."""

    x: Value
    weight: Value
    bias: Value | None
    out: Value


@dataclass(frozen=True)
class MatMul:
    """out = a @ b over the last two axes, the others broadcast; scale s_a s_b."""

    a: Value
    b: Value
    out: Value


@dataclass(frozen=True)
class Add:
    """out = a + b, broadcast; on levels both operands have one scale."""

    a: Value
    b: Value
    out: Value


@dataclass(frozen=True)
class Sub:
    """out = a - b, broadcast; on levels both operands have one scale."""

    a: Value
    b: Value
    out: Value


@dataclass(frozen=True)
class Mul:
    """out = a b, broadcast; scale s_a s_b."""

    a: Value
    b: Value
    out: Value


@dataclass(frozen=True)
class Binary:
    """out = function(a, b), broadcast; on reals and indices only."""

    a: Value
    b: Value
    out: Value
    function: BinaryName


@dataclass(frozen=True)
class Apply:
    """out = function(x), element by element; on codes it is lowered to Lookup or to the clamp of Requantize."""

    x: Value
    out: Value
    function: Function


@dataclass(frozen=True)
class ChannelAffine:
    """out[n,c,…] = scale[c] x[n,c,…] + shift[c]: an inference-time batch normalization that was not folded."""

    x: Value
    scale: Value
    shift: Value
    out: Value


@dataclass(frozen=True)
class Softmax:
    """out = e^(x - max) / sum e^(x - max) along `axis` (non-negative).

    On levels e^-d is table[d] 2^-15 and the result is rounded to multiples of its scale, 1 / (2^15 - 1)
    (edgeq/reference/softmax.py); reals need no `table`.
    """

    x: Value
    out: Value
    axis: int
    table: Value | None = None


@dataclass(frozen=True)
class LayerNorm:
    """out = (x - mean) / sqrt(variance + epsilon) gamma + beta, over axes `axis`… (biased variance).

    On levels the quotient is rounded to multiples of 2^-b (edgeq/reference/layer_norm.py), and the scale of result and
    beta is 2^-b s_gamma.
    """

    x: Value
    gamma: Value | None
    beta: Value | None
    out: Value
    axis: int
    epsilon: float


@dataclass(frozen=True)
class GroupNorm:
    """LayerNorm over each of `groups` channel groups and all positions of x [N,C,…]; gamma, beta [C]."""

    x: Value
    gamma: Value | None
    beta: Value | None
    out: Value
    groups: int
    epsilon: float


@dataclass(frozen=True)
class MaxPool:
    """Largest level in each window; padding never wins."""

    x: Value
    out: Value
    kernel: Pair
    stride: Pair = (1, 1)
    padding: Quad = (0, 0, 0, 0)
    dilation: Pair = (1, 1)


@dataclass(frozen=True)
class AveragePool:
    """Mean of each window. On levels it is the sum and the scale is s_x / (kh kw), so windows must be full.

    With `count_padding` false the padded taps are left out of the count (reals only when padding is not zero).
    """

    x: Value
    out: Value
    kernel: Pair
    stride: Pair = (1, 1)
    padding: Quad = (0, 0, 0, 0)
    count_padding: bool = True


@dataclass(frozen=True)
class Mean:
    """Mean over `axes`, kept as size 1. On levels it is the sum over n elements and the scale is s_x / n."""

    x: Value
    out: Value
    axes: Ints


@dataclass(frozen=True)
class Reduce:
    """sum, max, min or l2 norm over `axes`, kept as size 1; on levels all but the norm, in the operand's scale."""

    x: Value
    out: Value
    function: ReduceName
    axes: Ints


@dataclass(frozen=True)
class Resize:
    """Resample the last two axes to `size`; `scale` (in output pixels per input pixel) sets the coordinate map.

    On levels, linear weights are rounded to multiples of 2^-10 per axis (ties give the nearer pixel more) and the
    scale is s_x 2^-20; nearest is exact.
    `cubic` uses the Keys kernel with a = -0.75 and exists on reals only.
    """

    x: Value
    out: Value
    size: Pair
    scale: tuple[float, float]
    mode: ResizeMode = "nearest"
    coordinates: Coordinates = "half_pixel"
    nearest: NearestRounding = "round_prefer_floor"


@dataclass(frozen=True)
class Concat:
    """The operands one after another along `axis`; on codes all have the type of the result."""

    xs: tuple[Value, ...]
    out: Value
    axis: int


@dataclass(frozen=True)
class Slice:
    """x[start : stop : step] for every axis; stop is exclusive and may be -1 only with a negative step ("before 0")."""

    x: Value
    out: Value
    starts: Ints
    stops: Ints
    steps: Ints


@dataclass(frozen=True)
class Pad:
    """x enlarged by `before` and `after` on every axis: with the real number `value`, by reflection or by the edge."""

    x: Value
    out: Value
    before: Ints
    after: Ints
    value: float = 0.0
    mode: Literal["constant", "reflect", "edge"] = "constant"


@dataclass(frozen=True)
class Reshape:
    """The same elements in row-major order with `shape`."""

    x: Value
    out: Value
    shape: Ints


@dataclass(frozen=True)
class Transpose:
    """out[i_p0, i_p1, …] = x[i_0, i_1, …] with the axes permuted: axis k of the result is axis permutation[k] of x."""

    x: Value
    out: Value
    permutation: Ints


@dataclass(frozen=True)
class Expand:
    """x broadcast to `shape`."""

    x: Value
    out: Value
    shape: Ints


@dataclass(frozen=True)
class Gather:
    """x with axis `axis` replaced by the axes of `indices`, which select along it."""

    x: Value
    indices: Value
    out: Value
    axis: int


@dataclass(frozen=True)
class GatherElements:
    """out[i][j] = x[indices[i][j]][j] along `axis`."""

    x: Value
    indices: Value
    out: Value
    axis: int


@dataclass(frozen=True)
class TopK:
    """The k largest (or smallest) along `axis`, sorted, and their positions; of equals the first comes first."""

    x: Value
    out_values: Value
    out_indices: Value
    k: int
    axis: int
    largest: bool = True


@dataclass(frozen=True)
class ArgMax:
    """Position of the first maximum along `axis`, kept as size 1."""

    x: Value
    out: Value
    axis: int


@dataclass(frozen=True)
class Where:
    """a where condition holds, else b; broadcast."""

    condition: Value
    a: Value
    b: Value
    out: Value


@dataclass(frozen=True)
class Cast:
    """x as another kind of number: real, index (64-bit integer, rounded toward zero) or truth value."""

    x: Value
    out: Value
    to: NumberKind


@dataclass(frozen=True)
class Quantize:
    """real -> codes of the result's type: nearest level of x / scale, saturating; ties to even or away from zero.

    With `reciprocal` it is x times 1 / scale, each rounded to single precision.
    """

    x: Value
    out: Value
    ties: Ties = "even"
    reciprocal: bool = False


@dataclass(frozen=True)
class Dequantize:
    """codes -> real: scale * level."""

    x: Value
    out: Value


@dataclass(frozen=True)
class Requantize:
    """Codes of one integer scale to another: clamp(round(level multiplier 2^(shift - 31)) + zero point, low, high).

    `multiplier` (30 or 31 significant bits) and `shift` have one entry or one per channel of the operand's axis;
    `rounding` names the exact rule (edgeq/reference/arithmetic.py). low and high are codes.
    """

    x: Value
    out: Value
    multiplier: Ints
    shift: Ints
    rounding: Rounding
    low: int
    high: int


@dataclass(frozen=True)
class DivideCodes:
    """A sum of `divisor` levels to their mean, rounded as a code; scale divisor s_x.

    clamp(round((level + divisor z) / divisor), low, high) with the result's zero point z, ties away from zero. The
    rule of TFLite's average pooling and bilinear resize, which work on codes as if they were levels.
    """

    x: Value
    out: Value
    divisor: int
    low: int
    high: int


@dataclass(frozen=True)
class Lookup:
    """out = table[code(x) - lowest code of x]; `function` is the real function that the table tabulates."""

    x: Value
    table: Value
    out: Value
    function: Function


Op = (
    Conv | ConvTranspose | Linear | MatMul | Add | Sub | Mul | Binary | Apply | ChannelAffine | Softmax | LayerNorm
    | GroupNorm | MaxPool | AveragePool | Mean | Reduce | Resize | Concat | Slice | Pad | Reshape | Transpose | Expand
    | Gather | GatherElements | TopK | ArgMax | Where | Cast | Quantize | Dequantize | Requantize | DivideCodes
    | Lookup
)  # fmt: skip

AnyOp = TypeVar("AnyOp", bound=Op)
OPS: tuple[type[Op], ...] = get_args(Op)
_VALUE_TYPES = ("Value", "Value | None", "tuple[Value, ...]")


@cache
def _value_fields(kind: type[Op], *, results: bool) -> tuple[str, ...]:
    found = (field for field in fields(kind) if field.type in _VALUE_TYPES)
    return tuple(field.name for field in found if field.name.startswith("out") == results)


def _values(op: Op, *, results: bool) -> Iterator[Value]:
    for name in _value_fields(type(op), results=results):  # type: ignore[arg-type]  # a class is hashable
        content = getattr(op, name)
        if isinstance(content, tuple):
            yield from content
        elif content is not None:
            yield content


def operands(op: Op) -> tuple[Value, ...]:
    """Names of the values that `op` reads, in field order."""
    return tuple(_values(op, results=False))


def results(op: Op) -> tuple[Value, ...]:
    """Names of the values that `op` computes, in field order."""
    return tuple(_values(op, results=True))


def attributes(op: Op) -> dict[str, object]:
    """The fields of `op` that are not value names."""
    return {f.name: getattr(op, f.name) for f in fields(op) if f.type not in _VALUE_TYPES}


def rename(
    op: AnyOp, new_name: Callable[[Value], Value], *, where: Literal["operands", "results", "both"] = "both"
) -> AnyOp:
    """`op` with its value names mapped through `new_name`."""
    changed: dict[str, object] = {}
    for field in fields(op):
        if field.type not in _VALUE_TYPES or (
            field.name.startswith("out") == (where == "operands") and where != "both"
        ):
            continue
        content = getattr(op, field.name)
        if isinstance(content, tuple):
            changed[field.name] = tuple(map(new_name, content))
        elif content is not None:
            changed[field.name] = new_name(content)
    return replace(op, **changed)  # type: ignore[arg-type]  # a field's type holds for every op that has it
