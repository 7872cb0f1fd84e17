"""Random small convolutional networks whose operators all stand before a weighted one, so that they run on codes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hypothesis import strategies as st

from edgeq.ir import ops as o
from edgeq.ir.graph import Editor, Graph, Type
from tests.draws import Draw, Draws

FUNCTIONS = (
    o.Function("relu"),
    o.Function("silu"),
    o.Function("clip", 0.0, 6.0),
    o.Function("leaky_relu", 0.1),
    o.Function("sigmoid"),
    o.Function("hardswish"),
    o.Function("gelu"),
    o.Function("tanh"),
)
LARGEST_SIDE = 12
LARGEST_ROW = 60


class _CodeNet(Draws):
    """`pool` holds feature maps [1,C,H,W]; the newest comes last."""

    def __init__(self, draw: Draw) -> None:
        super().__init__(draw)
        self.editor = Editor("random codes", ["images"], {"images": Type((1, self.integer(3, 6), 8, 9))})
        self.pool = ["images"]

    def shape(self, value: o.Value) -> tuple[int, ...]:
        return self.editor.types[value].shape

    def out(self) -> o.Value:
        return self.editor.fresh("value")

    def add(self, op: o.Op) -> o.Value:
        self.pool.append(self.editor.append(op))
        return self.pool[-1]

    def reals(self, *shape: int, spread: float = 1.0) -> o.Value:
        array = self.rng.normal(0, spread, shape) * self.rng.choice(
            [0.2, 1.0, 2.0], (shape[0], *([1] * (len(shape) - 1)))
        )
        return self.editor.constant("weight", array.astype(np.float32))

    def conv(self, x: o.Value, kernel: int | None = None, outputs: int | None = None) -> o.Value:
        channels = self.shape(x)[1]
        kernel = kernel or self.one_of(1, 3)
        groups = self.one_of(1, channels) if kernel == 3 else 1
        outputs = channels if groups > 1 else outputs or self.integer(2, 8)
        weight = self.reals(outputs, channels // groups, kernel, kernel, spread=(channels * kernel**2 / groups) ** -0.5)
        stride = self.one_of((1, 1), (2, 1)) if min(self.shape(x)[2:]) > 4 else (1, 1)
        padding = self.one_of((1, 1, 1, 1), (0, 0, 1, 1)) if kernel == 3 else (0, 0, 0, 0)
        if kernel == 3 and min(self.shape(x)[2:]) < 3:
            padding = (1, 1, 1, 1)
        bias = self.reals(outputs, spread=0.3) if self.chance() else None
        return self.add(o.Conv(x, weight, bias, self.out(), stride, padding, (1, 1), groups))

    def conv_transpose(self, x: o.Value) -> None:
        if max(self.shape(x)[2:]) * 2 > LARGEST_SIDE:
            return
        outputs = self.integer(2, 5)
        self.add(o.ConvTranspose(x, self.reals(self.shape(x)[1], outputs, 2, 2, spread=0.4), None, self.out(), (2, 2)))

    def function(self, x: o.Value) -> o.Value:
        return self.add(o.Apply(x, self.out(), self.one_of(*FUNCTIONS)))

    def residual(self, x: o.Value) -> None:
        channels = self.shape(x)[1]
        weight = self.reals(channels, channels, 3, 3, spread=0.2)
        y = self.add(o.Conv(x, weight, self.reals(channels), self.out(), padding=(1, 1, 1, 1)))
        y = self.function(y) if self.chance() else y
        kind = self.one_of(o.Add, o.Sub, o.Mul)
        y = self.add(kind(x, y, self.out()))
        if self.chance():
            self.function(y)

    def concat(self, x: o.Value) -> None:
        others = [value for value in self.pool if self.shape(value)[2:] == self.shape(x)[2:]]
        xs = (x, *(self.one_of(*others) for _ in range(self.integer(1, 2))))
        if sum(self.shape(value)[1] for value in xs) <= 24:
            self.add(o.Concat(xs, self.out(), 1))

    def window_op(self, x: o.Value) -> None:
        choices: tuple[Callable[[], o.Op], ...] = (
            lambda: o.MaxPool(x, self.out(), (3, 3), (1, 1), (1, 1, 1, 1)),
            lambda: o.MaxPool(x, self.out(), (2, 2), (2, 2)),
            lambda: o.AveragePool(x, self.out(), (2, 2), self.one_of((1, 1), (2, 2))),
        )
        if min(self.shape(x)[2:]) >= 3:
            self.add(self.one_of(*choices)())

    def resize(self, x: o.Value) -> None:
        factor = self.one_of((2, 2), (1, 2), (3, 1))
        size = (self.shape(x)[2] * factor[0], self.shape(x)[3] * factor[1])
        if max(size) <= 3 * LARGEST_SIDE:
            scale, mode = (float(factor[0]), float(factor[1])), self.one_of("nearest", "linear")
            coordinates = self.one_of("asymmetric", "half_pixel")
            self.add(
                o.Resize(x, self.out(), size, scale, mode, coordinates, self.one_of("floor", "round_prefer_floor"))
            )  # type: ignore[arg-type]

    def move(self, x: o.Value) -> None:
        shape = self.shape(x)
        swapped = (shape[0], shape[1], shape[3], shape[2])
        choices: tuple[Callable[[], o.Op], ...] = (
            lambda: o.Slice(x, self.out(), (0, shape[1] // 2, 0, 0), shape, (1, 1, 1, 1)),
            lambda: o.Pad(x, self.out(), (0, 0, 1, 0), (0, 0, 0, 1)),
            lambda: o.Pad(x, self.out(), (0, 0, 1, 0), (0, 0, 0, 1), 0.0, "edge"),
            lambda: o.Transpose(x, self.out(), (0, 1, 3, 2)),
            lambda: o.Reshape(x, self.out(), swapped),
        )
        if max(shape[2:]) <= LARGEST_SIDE:
            self.add(self.one_of(*choices)())

    def linear(self, x: o.Value, outputs: int) -> o.Value:
        size = self.shape(x)[-1]
        bias = self.reals(outputs, spread=0.3) if self.chance() else None
        return self.editor.append(o.Linear(x, self.reals(outputs, size, spread=size**-0.5), bias, self.out()))

    def norm(self, x: o.Value) -> o.Value:
        size = self.shape(x)[-1:]
        gamma, beta = (self.reals(*size) if self.chance() else None for _ in range(2))
        return self.editor.append(o.LayerNorm(x, gamma, beta, self.out(), len(self.shape(x)) - 1, 1e-5))

    def heads(self, x: o.Value, count: int) -> o.Value:
        _, tokens, width = self.shape(x)
        split = self.editor.append(o.Reshape(x, self.out(), (1, tokens, count, width // count)))
        return self.editor.append(o.Transpose(split, self.out(), (0, 2, 1, 3)))

    def attention(self, x: o.Value, size: int) -> o.Value:
        """Of tokens [1,T,C]: one layer for queries, keys and values, or several; with a bias of the scores or without."""
        tokens, count, width = self.shape(x)[1], self.integer(1, 2), 2 * self.integer(1, 4)
        if self.chance():
            joint, full = self.linear(x, 3 * width), (1, tokens, width)
            cuts = [(0, 0, k * width) for k in range(3)]
            ends = [(*full[:2], (k + 1) * width) for k in range(3)]
            parts = [
                self.editor.append(o.Slice(joint, self.out(), a, b, (1, 1, 1))) for a, b in zip(cuts, ends, strict=True)
            ]
        else:
            parts = [self.linear(x, width) for _ in range(3)]
        q, k, v = (self.heads(part, count) for part in parts)
        turned = self.editor.append(o.Transpose(k, self.out(), (0, 1, 3, 2)))
        scores = self.editor.append(o.MatMul(q, turned, self.out()))
        number = self.editor.constant("number", np.float32((width // count) ** -0.5))
        scores = self.editor.append(o.Mul(scores, number, self.out()))
        if self.chance():
            scores = self.editor.append(o.Add(scores, self.reals(1, count, tokens, tokens), self.out()))
        mixed = self.editor.append(o.MatMul(self.editor.append(o.Softmax(scores, self.out(), 3)), v, self.out()))
        back = self.editor.append(o.Transpose(mixed, self.out(), (0, 2, 1, 3)))
        return self.linear(self.editor.append(o.Reshape(back, self.out(), (1, tokens, width))), size)

    def transformer(self, x: o.Value) -> None:
        """A block over the pixels of a feature map as tokens."""
        channels, height, width = self.shape(x)[1:]
        if height * width > LARGEST_ROW:
            return
        flat = self.editor.append(o.Reshape(x, self.out(), (1, channels, height * width)))
        start = self.editor.append(o.Transpose(flat, self.out(), (0, 2, 1)))
        stream = self.editor.append(o.Add(start, self.attention(self.norm(start), channels), self.out()))
        if self.chance():
            hidden = self.linear(self.norm(stream), self.integer(3, 9))
            hidden = self.editor.append(o.Apply(hidden, self.out(), o.Function("gelu")))
            stream = self.editor.append(o.Add(stream, self.linear(hidden, channels), self.out()))
        stream = self.norm(stream) if self.chance() else stream
        turned = self.editor.append(o.Transpose(stream, self.out(), (0, 2, 1)))
        self.add(o.Reshape(turned, self.out(), (1, channels, height, width)))

    def graph(self, steps: int, transformers: bool) -> Graph:
        self.conv(self.pool[-1], 3, self.integer(4, 8))
        kinds = (
            self.conv, self.function, self.residual, self.concat, self.window_op, self.resize, self.move,
            self.conv_transpose, *([self.transformer] if transformers else []),
        )  # fmt: skip
        for _ in range(steps):
            self.one_of(*kinds)(self.pool[-1])
        feature = self.pool[-1]
        head = self.conv(feature, 1, self.integer(3, 6))
        pooled = self.add(o.Mean(feature, self.out(), (2, 3)))
        flat = self.add(o.Reshape(pooled, self.out(), (1, self.shape(pooled)[1])))
        scores = self.add(o.Linear(flat, self.reals(4, self.shape(flat)[1]), self.reals(4), self.out()))
        return self.editor.graph([head, scores])


@st.composite
def code_nets(draw: Draw, steps: int = 8, *, transformers: bool = False) -> Graph:
    """A real graph with a convolution first, up to `steps` operators, a 1x1 convolution and a classifier last."""
    net = _CodeNet(draw)
    return net.graph(net.integer(1, steps), transformers)
