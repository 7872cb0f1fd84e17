"""The meaning of lowered graphs once more: nested loops over plain Python integers, one formula per operator.

Nothing here uses torch, numpy arithmetic or the code under test. Codes are int, reals are Fraction.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import product

from edgeq.ir import ops as o
from edgeq.ir.graph import Graph, Type
from tests import plain

Number = int | Fraction
Index = tuple[int, ...]


@dataclass(frozen=True)
class Grid:
    """Numbers in row-major order."""

    shape: tuple[int, ...]
    data: list[Number]

    def __getitem__(self, index: Index) -> Number:
        flat = 0
        for position, size in zip(index, self.shape, strict=True):
            assert 0 <= position < size, (index, self.shape)
            flat = flat * size + position
        return self.data[flat]

    def inside(self, index: Index) -> bool:
        return all(0 <= position < size for position, size in zip(index, self.shape, strict=True))


def indices(shape: Iterable[int]) -> Iterable[Index]:
    return product(*(range(size) for size in shape))


def grid(shape: tuple[int, ...], at: Callable[[Index], Number]) -> Grid:
    return Grid(shape, [at(index) for index in indices(shape)])


def broadcast(x: Grid, index: Index) -> Number:
    """x at an index of a shape that x broadcasts to."""
    last = index[len(index) - len(x.shape) :]
    return x[tuple(0 if size == 1 else position for position, size in zip(last, x.shape, strict=True))]


def insert(index: Index, axis: int, position: int) -> Index:
    return (*index[:axis], position, *index[axis + 1 :])


class Evaluator:
    """Values of one graph for one set of inputs."""

    def __init__(self, graph: Graph, inputs: Mapping[o.Value, list[Number]]) -> None:
        self.graph = graph
        self.values = {name: Grid(graph.types[name].shape, list(data)) for name, data in inputs.items()}
        for name, array in graph.constants.items():
            self.values[name] = Grid(tuple(array.shape), [int(code) for code in array.reshape(-1).tolist()])
        for op in graph.ops:
            for name, found in zip(o.results(op), self.results(op), strict=True):
                self.values[name] = found

    def type(self, name: o.Value) -> Type:
        return self.graph.types[name]

    def levels(self, name: o.Value) -> Grid:
        type_, x = self.type(name), self.values[name]
        return Grid(x.shape, [plain.level(type_.format, int(code), type_.zero_point) for code in x.data])

    def results(self, op: o.Op) -> list[Grid]:
        shapes = [self.type(name).shape for name in o.results(op)]
        if isinstance(op, o.TopK):
            return self.top_k(op, shapes[0])
        at = self.element(op)
        return [grid(shapes[0], at)]

    def element(self, op: o.Op) -> Callable[[Index], Number]:
        """The result of `op` as a function of the index."""
        match op:
            case o.Conv():
                return self.conv(op)
            case o.ConvTranspose():
                return self.conv_transpose(op)
            case o.Linear():
                return self.linear(op)
            case o.MatMul():
                return self.matmul(op)
            case o.Add() | o.Sub() | o.Mul():
                return self.arithmetic(op)
            case o.AveragePool() | o.MaxPool():
                return self.pool(op)
            case o.Mean() | o.Reduce():
                return self.reduce(op)
            case o.Resize():
                return self.nearest(op) if op.mode == "nearest" else self.linear_resize(op)
            case o.Quantize() | o.Dequantize() | o.Requantize() | o.DivideCodes() | o.Lookup():
                return self.recode(op)
            case o.Pad():
                return self.pad(op)
            case o.ArgMax():
                return self.arg_max(op)
            case o.Softmax():
                return self.softmax(op)
            case o.LayerNorm():
                return self.layer_norm(op)
            case _:
                return self.move(op)

    def biases(self, name: o.Value | None, channels: int) -> list[Number]:
        return [0] * channels if name is None else self.levels(name).data

    def conv(self, op: o.Conv) -> Callable[[Index], Number]:
        x, weight = self.levels(op.x), self.levels(op.weight)
        outputs, inputs, height, width = weight.shape
        biases = self.biases(op.bias, outputs)

        def at(index: Index) -> Number:
            n, channel, row, column = index
            first = channel // (outputs // op.groups) * inputs
            total = biases[channel]
            for i, k, j in indices((inputs, height, width)):
                y = row * op.stride[0] + k * op.dilation[0] - op.padding[0]
                z = column * op.stride[1] + j * op.dilation[1] - op.padding[1]
                if x.inside((n, first + i, y, z)):
                    total += weight[channel, i, k, j] * x[n, first + i, y, z]
            return total

        return at

    def conv_transpose(self, op: o.ConvTranspose) -> Callable[[Index], Number]:
        x, weight = self.levels(op.x), self.levels(op.weight)
        inputs, outputs, height, width = weight.shape
        biases = self.biases(op.bias, outputs * op.groups)
        totals: dict[Index, Number] = {}
        for n, i, row, column in indices(x.shape):
            for channel, k, j in indices((outputs, height, width)):
                y = row * op.stride[0] + k * op.dilation[0] - op.padding[0]
                z = column * op.stride[1] + j * op.dilation[1] - op.padding[1]
                target = (n, i // (inputs // op.groups) * outputs + channel, y, z)
                totals[target] = totals.get(target, 0) + weight[i, channel, k, j] * x[n, i, row, column]
        return lambda index: totals.get(index, 0) + biases[index[1]]

    def linear(self, op: o.Linear) -> Callable[[Index], Number]:
        x, weight = self.levels(op.x), self.levels(op.weight)
        biases = self.biases(op.bias, weight.shape[0])

        def at(index: Index) -> Number:
            *rest, channel = index
            products = (weight[channel, k] * x[(*rest, k)] for k in range(weight.shape[1]))
            return sum(products) + biases[channel]

        return at

    def matmul(self, op: o.MatMul) -> Callable[[Index], Number]:
        a, b = self.levels(op.a), self.levels(op.b)

        def at(index: Index) -> Number:
            *batch, row, column = index
            return sum(broadcast(a, (*batch, row, k)) * broadcast(b, (*batch, k, column)) for k in range(a.shape[-1]))

        return at

    def arithmetic(self, op: o.Add | o.Sub | o.Mul) -> Callable[[Index], Number]:
        a, b = self.levels(op.a), self.levels(op.b)
        match op:
            case o.Add():
                return lambda index: broadcast(a, index) + broadcast(b, index)
            case o.Sub():
                return lambda index: broadcast(a, index) - broadcast(b, index)
            case o.Mul():
                return lambda index: broadcast(a, index) * broadcast(b, index)

    def pool(self, op: o.AveragePool | o.MaxPool) -> Callable[[Index], Number]:
        x = self.values[op.x] if isinstance(op, o.MaxPool) else self.levels(op.x)
        dilation = op.dilation if isinstance(op, o.MaxPool) else (1, 1)

        def at(index: Index) -> Number:
            n, channel, row, column = index
            found = []
            for k, j in indices(op.kernel):
                y = row * op.stride[0] + k * dilation[0] - op.padding[0]
                z = column * op.stride[1] + j * dilation[1] - op.padding[1]
                if x.inside((n, channel, y, z)):
                    found.append(x[n, channel, y, z])
            return max(found) if isinstance(op, o.MaxPool) else sum(found)

        return at

    def softmax(self, op: o.Softmax) -> Callable[[Index], Number]:
        assert op.table is not None
        x, table = self.levels(op.x), [int(entry) for entry in self.levels(op.table).data]

        def at(index: Index) -> Number:
            row = [int(x[insert(index, op.axis, k)]) for k in range(x.shape[op.axis])]
            return plain.shares(row, table)[index[op.axis]]

        return at

    def layer_norm(self, op: o.LayerNorm) -> Callable[[Index], Number]:
        x, scale = self.levels(op.x), self.type(op.x).scale[0]
        rest = list(indices(x.shape[op.axis :]))
        epsilon = max(1, round(op.epsilon * (len(rest) / scale) ** 2))
        gamma, beta = (None if name is None else self.levels(name) for name in (op.gamma, op.beta))
        rows: dict[Index, list[int]] = {}

        def at(index: Index) -> Number:
            first, last = index[: op.axis], index[op.axis :]
            if first not in rows:
                rows[first] = plain.normalized([int(x[(*first, *other)]) for other in rest], epsilon)
            y = rows[first][rest.index(last)]
            return y * (1 if gamma is None else broadcast(gamma, last)) + (0 if beta is None else broadcast(beta, last))

        return at

    def reduce(self, op: o.Mean | o.Reduce) -> Callable[[Index], Number]:
        x = self.levels(op.x) if isinstance(op, o.Mean) else self.values[op.x]
        fold = sum if isinstance(op, o.Mean) else {"max": max, "min": min}[op.function]

        def at(index: Index) -> Number:
            sizes = [size if axis in op.axes else 1 for axis, size in enumerate(x.shape)]
            found = [x[tuple(i + k for i, k in zip(index, step, strict=True))] for step in indices(sizes)]
            return fold(found)

        return at

    def positions(self, op: o.Resize, axis: int) -> list[float]:
        """Source coordinates of the pixels along rows (0) or columns (1)."""
        size, out, scale = self.type(op.x).shape[2 + axis], op.size[axis], op.scale[axis]
        match op.coordinates:
            case "align_corners":
                return [i * ((size - 1) / (out - 1)) if out > 1 else 0.0 for i in range(out)]
            case "asymmetric":
                return [i / scale for i in range(out)]
            case "pytorch_half_pixel" if out == 1:
                return [0.0]
            case _:
                return [(i + 0.5) / scale - 0.5 for i in range(out)]

    def nearest(self, op: o.Resize) -> Callable[[Index], Number]:
        x = self.values[op.x]
        rounds: dict[str, Callable[[float], int]] = {
            "floor": math.floor,
            "ceil": math.ceil,
            "round_prefer_floor": lambda p: math.ceil(p - 0.5),
            "round_prefer_ceil": lambda p: math.floor(p + 0.5),
        }
        rows, columns = (
            [min(max(rounds[op.nearest](p), 0), x.shape[2 + axis] - 1) for p in self.positions(op, axis)]
            for axis in (0, 1)
        )
        return lambda index: x[index[0], index[1], rows[index[2]], columns[index[3]]]

    def linear_resize(self, op: o.Resize) -> Callable[[Index], Number]:
        """Weights of the two neighbours on an axis are w and 1024 - w."""
        x = self.levels(op.x)

        def taps(axis: int, out: int) -> list[tuple[int, int]]:
            last = x.shape[2 + axis] - 1
            position = min(max(self.positions(op, axis)[out], 0.0), float(last))
            first = math.floor(position)
            upper = math.ceil((position - first) * 1024 - 0.5 - 1e-6)  # ties downward
            return [(first, 1024 - upper), (min(first + 1, last), upper)]

        def at(index: Index) -> Number:
            n, channel, row, column = index
            pairs = product(taps(0, row), taps(1, column))
            return sum(v * w * x[n, channel, y, z] for (y, v), (z, w) in pairs)

        return at

    def recode(
        self, op: o.Quantize | o.Dequantize | o.Requantize | o.DivideCodes | o.Lookup
    ) -> Callable[[Index], Number]:
        x, from_type, to = self.values[op.x], self.type(op.x), self.type(op.out)

        def channel(index: Index, entries: int) -> int:
            return 0 if entries == 1 or from_type.axis is None else index[from_type.axis]

        def at(index: Index) -> Number:
            match op:
                case o.Quantize():
                    scale = plain.float32(to.scale[0])
                    by = plain.float32(1 / scale) if op.reciprocal else 1 / scale
                    ratio = plain.float32(x[index] * by)
                    if op.ties == "away":
                        ratio = Fraction(plain.rounded_away(ratio))
                    return plain.encoded(to.format, ratio, to.zero_point)
                case o.Lookup():
                    first = plain.ends(from_type.format)[0]
                    return self.values[op.table][(int(x[index]) - first,)]
            level = plain.level(from_type.format, int(x[index]), from_type.zero_point)
            if isinstance(op, o.Dequantize):
                scale = from_type.scale[channel(index, len(from_type.scale))]
                return plain.float32(plain.float32(level) * plain.float32(scale))
            if isinstance(op, o.DivideCodes):
                code = plain.rounded_away(Fraction(level, op.divisor) + to.zero_point)
                return min(max(code, op.low), op.high)
            c = channel(index, len(op.multiplier))
            code = plain.requantized(level, op.multiplier[c], op.shift[c], op.rounding) + to.zero_point
            return min(max(code, op.low), op.high)

        return at

    def pad(self, op: o.Pad) -> Callable[[Index], Number]:
        x, type_ = self.values[op.x], self.type(op.x)
        value = plain.encoded(type_.format, Fraction(op.value / type_.scale[0]), type_.zero_point)

        def source(position: int, size: int) -> int:
            if op.mode == "edge":
                return min(max(position, 0), size - 1)
            return -position if position < 0 else 2 * (size - 1) - position if position >= size else position

        def at(index: Index) -> Number:
            moved = tuple(i - b for i, b in zip(index, op.before, strict=True))
            if op.mode == "constant":
                return x[moved] if x.inside(moved) else value
            return x[tuple(source(i, size) for i, size in zip(moved, x.shape, strict=True))]

        return at

    def ranked(self, x: Grid, index: Index, axis: int, largest: bool) -> list[int]:
        """Positions along `axis`, best first, equal ones in order."""
        sign = -1 if largest else 1
        return sorted(range(x.shape[axis]), key=lambda k: (sign * x[insert(index, axis, k)], k))

    def arg_max(self, op: o.ArgMax) -> Callable[[Index], Number]:
        x = self.values[op.x]
        return lambda index: self.ranked(x, index, op.axis, True)[0]

    def top_k(self, op: o.TopK, shape: tuple[int, ...]) -> list[Grid]:
        x = self.values[op.x]

        def position(index: Index) -> int:
            return self.ranked(x, index, op.axis, op.largest)[index[op.axis]]

        values = grid(shape, lambda index: x[insert(index, op.axis, position(index))])
        return [values, grid(shape, position)]

    def move(self, op: o.Op) -> Callable[[Index], Number]:
        """Operators that copy elements."""
        values = self.values
        match op:
            case o.Slice():
                x = values[op.x]
                return lambda index: x[tuple(a + i * s for a, i, s in zip(op.starts, index, op.steps, strict=True))]
            case o.Transpose():
                x = values[op.x]
                return lambda index: x[tuple(index[op.permutation.index(axis)] for axis in range(len(index)))]
            case o.Reshape():
                order = dict(zip(indices(op.shape), values[op.x].data, strict=True))
                return lambda index: order[index]
            case o.Expand():
                return lambda index: broadcast(values[op.x], index)
            case o.Gather():
                depth = len(values[op.indices].shape)
                x, chosen = values[op.x], values[op.indices]
                return lambda index: x[
                    (
                        *index[: op.axis],
                        int(chosen[index[op.axis : op.axis + depth]]),
                        *index[op.axis + depth :],
                    )
                ]
            case o.GatherElements():
                x, chosen = values[op.x], values[op.indices]
                return lambda index: x[insert(index, op.axis, int(chosen[index]))]
            case o.Where():
                held, a, b = values[op.condition], values[op.a], values[op.b]
                return lambda index: broadcast(a if broadcast(held, index) else b, index)
            case o.Concat():
                return self.concat(op)
            case _:
                raise TypeError(type(op).__name__)

    def concat(self, op: o.Concat) -> Callable[[Index], Number]:
        xs = [self.values[name] for name in op.xs]

        def at(index: Index) -> Number:
            position = index[op.axis]
            for x in xs:
                if position < x.shape[op.axis]:
                    return x[insert(index, op.axis, position)]
                position -= x.shape[op.axis]
            raise IndexError(index)

        return at


def evaluate(graph: Graph, inputs: Mapping[o.Value, list[Number]]) -> dict[o.Value, list[Number]]:
    """Every value of `graph` in row-major order: codes as int, reals as Fraction."""
    return {name: found.data for name, found in Evaluator(graph, inputs).values.items()}
