"""Random small lowered integer graphs in every format and rounding rule; verify accepts each by construction.

Accumulators are as wide as a bound needs that is computed here from formats alone, not by edgeq/ir/bounds.py.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import get_args

import numpy as np
from hypothesis import strategies as st

from edgeq.formats import BOOL, INDEX, INT8, INT16, INT32, REAL, UINT16, Fixed, Format, Int, code_range, level_range
from edgeq.ir import ops as o
from edgeq.ir.fit import problems
from edgeq.ir.graph import Array, Editor, Graph, Type
from edgeq.ir.infer import result_shapes
from edgeq.ir.sound import ordered
from edgeq.reference.arithmetic import quantize_multiplier
from tests.draws import FORMATS, INTEGER_FORMATS, NAMES, WEIGHT_FORMATS, Draw, Draws, Shape, random_codes

LARGEST_VALUE = 400
TABLE_CODES = 1 << 10
Weighted = o.Conv | o.ConvTranspose | o.Linear


def peak(type_: Type) -> int:
    """Largest magnitude of a level."""
    low, high = level_range(type_.format, type_.zero_point)
    return max(abs(low), abs(high))


class _IntegerNet(Draws):
    """A graph under construction; `pool` holds four-dimensional codes with one scale that operators may read."""

    def __init__(self, draw: Draw) -> None:
        super().__init__(draw)
        self.editor = Editor("random integers")
        self.pool: list[o.Value] = []
        self.loose: dict[o.Value, None] = {}
        self.peaks: dict[o.Value, int] = {}
        self.names = 0

    # --- pieces -----------------------------------------------------------------------------------------------

    def name(self) -> o.Value:
        """A name that is not taken, for a value that may only be added later."""
        self.names += 1
        return f"{self.draw(NAMES)}{self.names}"

    def type(self, value: o.Value) -> Type:
        return self.editor.types[value]

    def shape(self, value: o.Value) -> Shape:
        return self.editor.types[value].shape

    def pick(self) -> o.Value:
        """A value to read: mostly the newest."""
        return self.one_of(*self.pool[::-1])

    def random_type(self, shape: Shape, formats: st.SearchStrategy[Format]) -> Type:
        format_ = self.draw(formats)
        scale = self.one_of(0.5, 0.0625, 0.037, 0.81) if not isinstance(format_, Fixed) else 2.0**-format_.fraction
        return Type(shape, format_, (scale,), self.zero_point(format_))

    def zero_point(self, format_: Format) -> int:
        if not isinstance(format_, Int):
            return 0
        low, high = code_range(format_)
        middle = (low + high + 1) // 2
        return int(self.rng.choice([middle] * 5 + [max(low, middle - 1), min(high, middle + 3), low, high]))

    def add(self, op: o.Op, *types: Type) -> o.Value:
        value = self.editor.append(op, *types)
        for operand in o.operands(op):
            self.loose.pop(operand, None)
        self.loose.update(dict.fromkeys(o.results(op)))
        return value

    def keep(self, op: o.Op, type_: Type) -> None:
        """Append an operator whose result others may read; do nothing if it would be large."""
        (shape,) = result_shapes(op, self.shape)
        assert not list(problems(op, self.shape)), op
        if math.prod(shape) <= LARGEST_VALUE:
            self.pool.append(self.add(op, replace(type_, shape=shape)))

    def constant(self, array: Array, type_: Type) -> o.Value:
        return self.editor.constant(self.name(), array, type_)

    def input(self) -> None:
        shape = (self.one_of(1, 2), self.one_of(3, 2, 4, 1), self.one_of(4, 3, 5, 1), self.one_of(4, 5, 2, 1))
        type_, name = self.random_type(shape, FORMATS), self.name()
        if self.chance():
            self.editor.types[name] = type_
            self.pool.append(name)
        else:
            self.editor.types[name] = Type(shape)
            ties: o.Ties = "away" if isinstance(type_.format, Int | Fixed) and self.chance() else "even"
            self.pool.append(self.add(o.Quantize(name, self.name(), ties), type_))
        self.editor.inputs = (*self.editor.inputs, name)

    # --- accumulators -----------------------------------------------------------------------------------------

    def accumulate(
        self, op: o.Op, scale: tuple[float, ...], bound: int, axis: int | None = None, divisor: int = 1
    ) -> None:
        """Append an operator with an accumulator for levels up to `bound`, and bring it back to few bits.

        With a divisor it is a sum of so many levels, which may become their mean.
        """
        (shape,) = result_shapes(op, self.shape)
        assert not list(problems(op, self.shape)), op
        if math.prod(shape) > LARGEST_VALUE:
            return
        bits = bound.bit_length() + 1
        format_ = Int(self.one_of(max(32, bits), bits))
        acc = self.add(op, Type(shape, format_, scale, axis=axis if len(scale) > 1 else None))
        self.peaks[acc] = bound
        summed = divisor > 1 and self.chance()
        self.pool.append(self.divide(acc, divisor) if summed else self.requantize(acc, self.target_type(acc)))
        if self.chance():
            self.loose[acc] = None

    def target_type(self, x: o.Value) -> Type:
        """An integer type into which the levels of `x` fit, or overflow by up to a factor of 64."""
        format_ = self.draw(INTEGER_FORMATS)
        low, high = code_range(format_)
        largest = (
            max(self.type(x).scale)
            * self.peaks.get(x, peak(self.type(x)))
            / float(self.rng.choice([1, 3, 3, 8, 8, 40]))
        )
        scale = max(largest, 1e-9) / max(1, (high - low) // 2)
        if isinstance(format_, Fixed):
            format_ = replace(format_, fraction=round(-math.log2(scale)))
            scale = 2.0**-format_.fraction
        return Type((), format_, (scale,), self.zero_point(format_))

    def requantize(self, x: o.Value, to: Type) -> o.Value:
        from_type = self.type(x)
        exact = self.chance()
        ratios = [scale / to.scale[0] for scale in from_type.scale]
        stored = ratios if exact else [float(np.float32(ratio)) for ratio in ratios]
        multiplier, shift = zip(*map(quantize_multiplier, stored), strict=True)
        low, high = code_range(to.format)
        if to.format != INT32 and self.one_of(False, False, True):
            middle = (low + high) // 2
            low, high = self.integer(low, middle), self.integer(middle, high)
        bound = self.peaks.get(x, peak(from_type))
        fits = bound.bit_length() + 1 + max(0, *shift) <= 32
        rounding = self.one_of(*(rule for rule in get_args(o.Rounding) if fits or not rule.startswith("gemmlowp2")))
        out = self.add(
            o.Requantize(x, self.name(), multiplier, shift, rounding, low, high), replace(to, shape=from_type.shape)
        )
        self.peaks[out] = min(peak(to), math.ceil(bound * max(ratios) * 1.001) + 4)
        return out

    def divide(self, x: o.Value, divisor: int) -> o.Value:
        """The mean of a sum of `divisor` levels as codes of 8 bits."""
        zero_point = self.integer(-128, 127)
        low = self.integer(-128, 0)
        type_ = Type(self.shape(x), INT8, (self.type(x).scale[0] * divisor,), zero_point)
        return self.add(o.DivideCodes(x, self.name(), divisor, low, self.integer(low, 127)), type_)

    def weight(self, shape: Shape, axis: int, per_channel: bool) -> tuple[o.Value, Type]:
        type_ = self.random_type(shape, WEIGHT_FORMATS)
        if isinstance(type_.format, Int):
            type_ = replace(type_, zero_point=self.one_of(0, 0, type_.zero_point))
        if per_channel and not isinstance(type_.format, Fixed) and shape[axis] > 1:
            factors = self.rng.choice([0.25, 0.7, 1.0, 1.9], shape[axis])
            type_ = replace(type_, scale=tuple((factors * type_.scale[0]).tolist()), axis=axis)
        return self.constant(random_codes(self.rng, type_.format, shape), type_), type_

    def bias(self, channels: int, scale: tuple[float, ...], bound: int) -> o.Value | None:
        if self.chance():
            return None
        codes = self.rng.integers(-bound, bound, channels, endpoint=True)
        return self.constant(codes, Type((channels,), INT32, scale, axis=0 if len(scale) > 1 else None))

    def weighted(self, op: Weighted, weight: Type, taps: int, channels: int, axis: int) -> None:
        x = self.type(op.x)
        scale = tuple(x.scale[0] * s for s in weight.scale)
        product = peak(x) * peak(weight) * taps
        bias_bound = min(product, 1 << 20)
        op = replace(op, bias=self.bias(channels, scale, bias_bound))
        self.accumulate(op, scale, product + bias_bound, axis)

    # --- operators --------------------------------------------------------------------------------------------

    def conv(self, x: o.Value) -> None:
        shape = self.shape(x)
        kernel, stride, padding, dilation = self.window(shape)
        groups = self.one_of(*(g for g in range(1, shape[1] + 1) if shape[1] % g == 0))
        outputs = groups * self.integer(1, 2)
        weight, type_ = self.weight((outputs, shape[1] // groups, *kernel), 0, self.chance())
        op = o.Conv(x, weight, None, self.name(), stride, padding, dilation, groups)
        self.weighted(op, type_, math.prod(type_.shape[1:]), outputs, 1)

    def conv_transpose(self, x: o.Value) -> None:
        shape = self.shape(x)
        kernel, stride, padding, dilation = self.window(shape)
        groups = self.one_of(*(g for g in range(1, shape[1] + 1) if shape[1] % g == 0))
        outputs = self.integer(1, 2)
        weight, type_ = self.weight((shape[1], outputs, *kernel), 1, groups == 1 and self.chance())
        extra = tuple(self.integer(0, max(s, d) - 1) for s, d in zip(stride, dilation, strict=True))
        op = o.ConvTranspose(x, weight, None, self.name(), stride, padding, extra, dilation, groups)  # type: ignore[arg-type]
        if min(result_shapes(op, self.shape)[0]) < 1:
            op = replace(op, padding=(0, 0, 0, 0))
        self.weighted(op, type_, math.prod(type_.shape), outputs * groups, 1)

    def linear(self, x: o.Value) -> None:
        outputs, inputs = self.integer(1, 4), self.shape(x)[-1]
        weight, type_ = self.weight((outputs, inputs), 0, self.chance())
        self.weighted(o.Linear(x, weight, None, self.name()), type_, inputs, outputs, 3)

    def matmul(self, a: o.Value) -> None:
        n, c, h, w = self.shape(a)
        others = [v for v in self.pool if self.shape(v) == (n, c, h, w)]
        b = self.one_of(*others)
        turned = self.add(o.Transpose(b, self.name(), (0, 1, 3, 2)), replace(self.type(b), shape=(n, c, w, h)))
        scale = self.type(a).scale[0] * self.type(b).scale[0]
        self.accumulate(o.MatMul(a, turned, self.name()), (scale,), w * peak(self.type(a)) * peak(self.type(b)))

    def partner(self, a: o.Value) -> o.Value:
        """A value that broadcasts with `a`: one of the pool, or one number per channel."""
        shape = self.shape(a)
        fitting = [
            v for v in self.pool if all(s in (1, t) or t == 1 for s, t in zip(self.shape(v), shape, strict=True))
        ]
        if self.chance():
            return self.one_of(*fitting)
        type_ = self.random_type((1, shape[1], 1, 1), WEIGHT_FORMATS)
        return self.constant(random_codes(self.rng, type_.format, type_.shape), type_)

    def softmax(self, x: o.Value) -> None:
        type_, axis = self.type(x), self.integer(0, 3)
        if not isinstance(type_.format, Int | Fixed) or (count := self.codes(x)) > TABLE_CODES:
            return
        powers = [round(32768 * math.exp(-d * type_.scale[0])) for d in range(count)]
        table = self.constant(np.array(powers), Type((count,), UINT16, (2.0**-15,)))
        self.accumulate(o.Softmax(x, self.name(), axis, table), (1 / 32767,), 32767)

    def codes(self, x: o.Value) -> int:
        low, high = code_range(self.type(x).format)
        return high - low + 1

    def layer_norm(self, x: o.Value) -> None:
        shape, axis = self.shape(x), self.integer(0, 3)
        count = math.prod(shape[axis:])
        if not isinstance(self.type(x).format, Int | Fixed):
            return
        halves = next(h for h in range(16) if 4**h >= count)
        unit, bound, gamma, beta = 2.0 ** (halves - 15), math.isqrt(count << (2 * (15 - halves))) + 8, None, None
        if self.chance():
            format_ = self.one_of(INT16, Int(8), Int(4))
            array = random_codes(self.rng, format_, self.one_of(shape[axis:], shape[-1:]))
            gamma_type = Type(array.shape, format_, (self.one_of(0.25, 0.037),))
            gamma, unit, bound = self.constant(array, gamma_type), unit * gamma_type.scale[0], bound << 15
        if self.chance():
            array = self.rng.integers(-bound, bound, shape[-1:], endpoint=True)
            beta, bound = self.constant(array, Type(array.shape, INT32, (unit,))), 2 * bound
        epsilon = self.one_of(1e-5, 1e-3, 0.0)
        self.accumulate(o.LayerNorm(x, gamma, beta, self.name(), axis, epsilon), (unit,), bound)

    def mul(self, a: o.Value) -> None:
        b = self.partner(a)
        scale = self.type(a).scale[0] * self.type(b).scale[0]
        self.accumulate(o.Mul(a, b, self.name()), (scale,), peak(self.type(a)) * peak(self.type(b)))

    def sum(self, a: o.Value) -> None:
        b = self.partner(a)
        scale = self.type(a).scale
        if self.type(b).scale != scale or self.chance():
            common = Type((), INT32, (scale[0] * 2.0 ** -self.integer(0, 8),))
            a, b = self.requantize(a, common), self.requantize(b, common)
            scale = common.scale
        bound = sum(self.peaks.get(v, peak(self.type(v))) for v in (a, b))
        op = o.Add(a, b, self.name()) if self.chance() else o.Sub(a, b, self.name())
        self.accumulate(op, scale, bound)

    def average(self, x: o.Value) -> None:
        kernel, stride, padding, _ = self.window(self.shape(x))
        padding = (min(padding[0], kernel[0] - 1), min(padding[1], kernel[1] - 1), 0, 0)
        op = o.AveragePool(x, self.name(), kernel, stride, padding)
        taps = math.prod(kernel)
        self.accumulate(op, (self.type(x).scale[0] / taps,), taps * peak(self.type(x)), divisor=taps)

    def mean(self, x: o.Value) -> None:
        axes = self.axes()
        taps = math.prod(self.shape(x)[axis] for axis in axes)
        op, bound = o.Mean(x, self.name(), axes), taps * peak(self.type(x))
        self.accumulate(op, (self.type(x).scale[0] / taps,), bound, divisor=taps)

    def interpolate(self, x: o.Value) -> None:
        op = self.resize(self.shape(x), x, self.name(), "linear")
        self.accumulate(op, (self.type(x).scale[0] * 2.0**-20,), peak(self.type(x)) << 20, divisor=1 << 20)

    def move(self, x: o.Value) -> None:
        """An operator that moves or selects codes."""
        shape, out = self.shape(x), self.name()
        indices = self.rng.integers(0, shape[1], self.integer(1, 3))
        choice = self.integer(0, 7)
        match choice:
            case 0:
                op: o.Op = self.slice(shape, x, out)
            case 1:
                op = self.pad(shape, x, out, self.one_of(0.0, 0.5, -3.0))
            case 2:
                op = self.reshape(shape, x, out)
            case 3:
                op = o.Transpose(x, out, self.permutation())
            case 4:
                op = o.Expand(x, out, tuple(2 if size == 1 else size for size in shape))
            case 5:
                op = o.Gather(x, self.constant(indices, Type(indices.shape, INDEX)), out, 1)
            case 6:
                op = self.resize(shape, x, out, "nearest")
            case _:
                op = o.Where(self.condition(shape), x, x, out)
        self.keep(op, self.type(x))

    def condition(self, shape: Shape) -> o.Value:
        return self.constant(self.rng.random(shape) < 0.5, Type(shape, BOOL))

    def compare(self, x: o.Value) -> None:
        """An operator that compares codes, which must be in the order of their levels."""
        if not ordered(self.type(x)):
            return
        kernel, stride, padding, dilation = self.window(self.shape(x))
        axis = self.integer(0, 3)
        match self.integer(0, 3):
            case 0:
                self.keep(o.MaxPool(x, self.name(), kernel, stride, padding, dilation), self.type(x))
            case 1:
                self.keep(o.Reduce(x, self.name(), self.one_of("max", "min"), self.axes()), self.type(x))
            case 2:
                self.add(o.ArgMax(x, self.name(), axis))
            case _:
                k = self.integer(1, self.shape(x)[axis])
                shape = tuple(k if i == axis else s for i, s in enumerate(self.shape(x)))
                op = o.TopK(x, self.name(), self.name(), k, axis, self.chance())
                self.pool.append(self.add(op, replace(self.type(x), shape=shape), Type(shape, INDEX)))

    def concat(self, x: o.Value) -> None:
        axis = self.integer(0, 3)
        rest = [s for i, s in enumerate(self.shape(x)) if i != axis]
        fitting = [v for v in self.pool if [s for i, s in enumerate(self.shape(v)) if i != axis] == rest]
        to = self.target_type(x)
        xs = tuple(self.requantize(self.one_of(*fitting), to) for _ in range(self.integer(1, 3)))
        self.keep(o.Concat(xs, self.name(), axis), to)

    def lookup(self, x: o.Value) -> None:
        low, high = code_range(self.type(x).format)
        if high - low >= TABLE_CODES:
            return
        to = self.random_type((high - low + 1,), FORMATS)
        table = self.constant(random_codes(self.rng, to.format, to.shape), to)
        self.keep(o.Lookup(x, table, self.name(), o.Function("silu")), to)

    def step(self) -> None:
        steps = (
            self.conv, self.conv, self.conv, self.move, self.conv_transpose, self.linear, self.matmul, self.mul, self.softmax,
            self.sum, self.average, self.mean, self.interpolate, self.move, self.compare, self.concat, self.lookup,
            self.layer_norm,
        )  # fmt: skip
        self.one_of(*steps)(self.pick())

    def graph(self) -> Graph:
        if self.chance():
            last = self.pool[-1]
            self.add(o.Dequantize(last, self.name()), Type(self.shape(last), REAL))
        outputs = list(self.loose) or [self.pool[-1]]
        return self.editor.graph(outputs)


@st.composite
def integer_graphs(draw: Draw, steps: int = 6) -> Graph:
    """A lowered graph of one or two inputs and up to `steps` operators with their requantizations."""
    net = _IntegerNet(draw)
    for _ in range(net.integer(1, 2)):
        net.input()
    for _ in range(net.integer(1, steps)):
        net.step()
    return net.graph()
