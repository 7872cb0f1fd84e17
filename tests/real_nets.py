"""Random small graphs of real, index and truth values, over every operator that has a meaning on them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import get_args

import numpy as np
from hypothesis import strategies as st

from edgeq.formats import INDEX, REAL, Format
from edgeq.ir import ops as o
from edgeq.ir.fit import problems
from edgeq.ir.graph import Array, Editor, Graph, Type
from edgeq.ir.infer import result_shapes
from tests.draws import NAMES, Draw, Draws, Shape

LARGEST_VALUE = 400
PARAMETERS = {
    "clip": (-0.5, 1.5),
    "leaky_relu": (0.1, 0.0),
    "elu": (1.0, 0.0),
    "hardsigmoid": (1 / 6, 0.5),
}
ARITHMETIC: tuple[o.BinaryName, ...] = ("div", "pow", "maximum", "minimum", "mod")
COMPARISONS: tuple[o.BinaryName, ...] = ("equal", "less", "less_equal", "greater", "greater_equal")


class _RealNet(Draws):
    """A graph under construction; `pool` holds four-dimensional reals that operators may read."""

    def __init__(self, draw: Draw) -> None:
        super().__init__(draw)
        self.editor = Editor("random reals")
        self.pool: list[o.Value] = []
        self.names = 0

    def name(self) -> o.Value:
        self.names += 1
        return f"{self.draw(NAMES)}{self.names}"

    def shape(self, value: o.Value) -> Shape:
        return self.editor.types[value].shape

    def reals(self, *shape: int) -> o.Value:
        return self.constant(self.rng.normal(0, 1, shape).astype(np.float32), REAL)

    def constant(self, array: Array, format_: Format) -> o.Value:
        return self.editor.constant(self.name(), array, Type(array.shape, format_))

    def add(self, op: o.Op) -> o.Value | None:
        """Append `op` unless its result would be large."""
        assert not list(problems(op, self.shape)), op
        shape = result_shapes(op, self.shape)[0]
        if math.prod(shape) > LARGEST_VALUE:
            return None
        value = self.editor.append(op)
        if len(shape) == 4 and self.editor.types[value].is_real:
            self.pool.append(value)
        return value

    def optional(self, *shape: int) -> o.Value | None:
        return self.reals(*shape) if self.chance() else None

    # --- operators --------------------------------------------------------------------------------------------

    def conv(self, x: o.Value) -> None:
        shape = self.shape(x)
        kernel, stride, padding, dilation = self.window(shape)
        groups = self.one_of(*(g for g in range(1, shape[1] + 1) if shape[1] % g == 0))
        outputs = groups * self.integer(1, 2)
        weight = self.reals(outputs, shape[1] // groups, *kernel)
        self.add(o.Conv(x, weight, self.optional(outputs), self.name(), stride, padding, dilation, groups))

    def conv_transpose(self, x: o.Value) -> None:
        channels = self.shape(x)[1]
        groups = self.one_of(*(g for g in range(1, channels + 1) if channels % g == 0))
        outputs, stride = self.integer(1, 2), (self.integer(1, 2), self.integer(1, 2))
        weight = self.reals(channels, outputs, 2, 3)
        padding, extra = (0, self.integer(0, 1), 0, self.integer(0, 1)), (stride[0] - 1, 0)
        bias = self.optional(outputs * groups)
        op = o.ConvTranspose(x, weight, bias, self.name(), stride, padding, extra, (1, 1), groups)
        self.add(op)

    def matrices(self, x: o.Value) -> None:
        size = self.shape(x)[-1]
        outputs = self.integer(1, 4)
        if self.chance():
            self.add(o.Linear(x, self.reals(outputs, size), self.optional(outputs), self.name()))
        else:
            self.add(o.MatMul(x, self.reals(self.shape(x)[1], size, outputs), self.name()))

    def arithmetic(self, x: o.Value) -> None:
        b = self.one_of(x, self.reals(self.shape(x)[1], 1, 1), self.reals())
        kind = self.integer(0, 3)
        if kind == 3:
            self.add(o.Binary(x, b, self.name(), self.one_of(*ARITHMETIC)))
        else:
            self.add([o.Add, o.Sub, o.Mul][kind](x, b, self.name()))  # type: ignore[arg-type]

    def function(self, x: o.Value) -> None:
        name = self.one_of(*(n for n in get_args(o.FunctionName) if n != "not"))
        self.add(o.Apply(x, self.name(), o.Function(name, *PARAMETERS.get(name, (0.0, 0.0)))))

    def normalize(self, x: o.Value) -> None:
        channels, axis = self.shape(x)[1], self.integer(0, 3)
        groups = self.one_of(*(g for g in range(1, channels + 1) if channels % g == 0))
        rest = self.shape(x)[axis:]
        choices: tuple[Callable[[], o.Op], ...] = (
            lambda: o.ChannelAffine(x, self.reals(channels), self.reals(channels), self.name()),
            lambda: o.GroupNorm(x, self.optional(channels), self.optional(channels), self.name(), groups, 1e-5),
            lambda: o.LayerNorm(x, self.optional(*rest), self.optional(*rest), self.name(), axis, 1e-3),
            lambda: o.Softmax(x, self.name(), axis),
        )
        self.add(self.one_of(*choices)())

    def pool_or_reduce(self, x: o.Value) -> None:
        kernel, stride, padding, dilation = self.window(self.shape(x))
        choices: tuple[Callable[[], o.Op], ...] = (
            lambda: o.MaxPool(x, self.name(), kernel, stride, padding, dilation),
            lambda: o.AveragePool(x, self.name(), kernel, stride, (0, 0, 0, 0), self.chance()),
            lambda: o.Mean(x, self.name(), self.axes()),
            lambda: o.Reduce(x, self.name(), self.one_of(*get_args(o.ReduceName)), self.axes()),
        )
        self.add(self.one_of(*choices)())

    def move(self, x: o.Value) -> None:
        shape = self.shape(x)
        choices: tuple[Callable[[], o.Op], ...] = (
            lambda: self.slice(shape, x, self.name()),
            lambda: self.pad(shape, x, self.name(), self.one_of(0.0, -math.inf, 1.25)),
            lambda: self.reshape(shape, x, self.name()),
            lambda: o.Transpose(x, self.name(), self.permutation()),
            lambda: o.Expand(x, self.name(), tuple(2 if size == 1 else size for size in shape)),
            lambda: self.resize(shape, x, self.name(), *get_args(o.ResizeMode)),
            lambda: o.Concat((x, x, self.reals(*shape)), self.name(), self.integer(0, 3)),
        )
        self.add(self.one_of(*choices)())

    def select(self, x: o.Value) -> None:
        shape, axis = self.shape(x), self.integer(0, 3)
        size = shape[axis]
        chosen = self.rng.integers(-size, size, (1, 2))
        each = self.rng.integers(0, size, shape)
        choices: tuple[Callable[[], o.Op], ...] = (
            lambda: o.Gather(x, self.constant(chosen, INDEX), self.name(), axis),
            lambda: o.GatherElements(x, self.constant(each, INDEX), self.name(), axis),
            lambda: o.TopK(x, self.name(), self.name(), self.integer(1, size), axis, self.chance()),
            lambda: o.ArgMax(x, self.name(), axis),
        )
        self.add(self.one_of(*choices)())

    def conditional(self, x: o.Value) -> None:
        condition = self.add(o.Binary(x, self.reals(1), self.name(), self.one_of(*COMPARISONS)))
        if condition is None:
            return
        negated = self.add(o.Apply(condition, self.name(), o.Function("not")))
        self.add(o.Where(negated or condition, x, self.reals(), self.name()))
        index = self.add(o.Cast(x, self.name(), self.one_of(*get_args(o.NumberKind))))
        self.add(o.Cast(index or x, self.name(), "real"))

    def graph(self, steps: int) -> Graph:
        name, shape = self.name(), tuple(self.integer(1, 5) for _ in range(4))
        self.editor.inputs, self.editor.types[name] = (name,), Type(shape)
        self.pool.append(name)
        kinds = (
            self.conv, self.conv_transpose, self.matrices, self.arithmetic, self.function, self.normalize,
            self.pool_or_reduce, self.move, self.select, self.conditional,
        )  # fmt: skip
        for _ in range(steps):
            self.one_of(*kinds)(self.one_of(*self.pool[::-1]))
        read = {value for op in self.editor.ops for value in o.operands(op)}
        unread = [value for op in self.editor.ops for value in o.results(op) if value not in read]
        return self.editor.graph(unread or [name])


@st.composite
def real_graphs(draw: Draw, steps: int = 8) -> Graph:
    """A graph of one real input and up to `steps` operators; every result that no operator reads is an output."""
    net = _RealNet(draw)
    return net.graph(net.integer(1, steps))
