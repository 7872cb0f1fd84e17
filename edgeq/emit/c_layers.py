"""Each kernel as C: the constants and the descriptor of its layer, and the call that runs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeq.emit.c_bank import Bank
from edgeq.emit.c_layout import image, nest, places, source_places, to_memory
from edgeq.emit.c_numbers import Scaling, scaling
from edgeq.emit.c_pack import PIXEL_BLOCK, ROW_BLOCK, packed
from edgeq.emit.c_steps import Placed, plane_of
from edgeq.errors import UnsupportedError
from edgeq.formats import IntArray, encode
from edgeq.ir import ops as o
from edgeq.ir.cost import macs
from edgeq.passes.kernels import Kernel, Program, is_depthwise
from edgeq.reference.meaning import interpolation_matrix
from edgeq.target import Instructions

Fields = dict[str, object]


@dataclass(frozen=True)
class Layer:
    """One layer in C: `headers` it needs, `descriptor` (may be empty), `calls`, and a line about it."""

    value: o.Value
    kind: str
    macs: int
    headers: tuple[str, ...]
    descriptor: str
    calls: tuple[str, ...]
    note: str


class Printer:
    """Prints the kernels of one program; constants go into `bank`."""

    def __init__(self, program: Program, placed: Placed, bank: Bank, instructions: Instructions) -> None:
        self.program, self.placed, self.bank, self.instructions = program, placed, bank, instructions
        self.types = program.graph.types

    def layer(self, number: int, step: int, kernel: Kernel) -> Layer:
        """The `number`-th layer, which is step `step` of the memory plan."""
        self.number, self.step, self.kernel = number, step, kernel
        self.name = f"layer_{number}"
        op = kernel.op
        match op:
            case o.Conv() if is_depthwise(op, self.program.graph):
                return self._depthwise(op)
            case o.Conv():
                return self._conv(op)
            case o.ConvTranspose():
                return self._conv_transpose(op)
            case o.Linear():
                return self._linear(op)
            case o.Add() | o.Sub():
                return self._binary(op, "edgeq_add")
            case o.Mul():
                return self._binary(op, "edgeq_multiply")
            case o.AveragePool():
                return self._pool(op, op.kernel, (1, 1), "edgeq_average_pool")
            case o.MaxPool():
                return self._pool(op, op.kernel, op.dilation, "edgeq_max_pool")
            case o.Mean():
                return self._mean(op)
            case o.Resize() if op.mode == "linear":
                return self._resize(op)
            case o.Lookup() | o.Requantize():
                table = self._table()
                call = f"edgeq_lookup({table}, {self.read(op.x)}, {self.types[kernel.out].size}, {self.written()})"
                return self._layer("edgeq_elementwise.h", "", [call], "table of a function")
            case o.Concat():
                return self._concat(op)
            case _:
                return self._move(op)

    # --- pieces -----------------------------------------------------------------------------------------------

    def read(self, value: o.Value) -> str:
        """The address of an operand."""
        if value in self.program.graph.constants:
            codes = to_memory(self.program.graph.constants[value])
            return self.bank.codes(f"constant_{self.number}", codes, f"constant {comment(value)}")
        return f"arena + {self.placed.offset(value)}"

    def written(self) -> str:
        """The address of the result."""
        return f"arena + {self.placed.offset(self.kernel.out)}"

    def _scratch(self) -> str:
        offset = self.placed.memory.scratch.get(self.step)
        return "NULL" if offset is None else f"arena + {offset}"

    def _table(self) -> str:
        table = self.kernel.table
        return "NULL" if table is None else self.bank.codes(f"table_{self.number}", table, "codes by code")

    def _zero(self, value: o.Value) -> int:
        return self.types[value].zero_point

    def _scaling(self, biases: Sequence[int]) -> Scaling:
        op = self.kernel.settling
        assert isinstance(op, o.Requantize)
        return scaling(op, self.types[op.out].zero_point, biases, self.kernel.sums)

    def _averaged(self, x: o.Value, weight: int) -> Fields:
        """The fields of a layer with one scale, whose sums of codes carry `weight` times the input's zero point."""
        op = self.kernel.settling
        bias = -weight * self._zero(x)
        if not isinstance(op, o.DivideCodes):
            return {**self._shared(self._scaling([bias])), "divisor": 0}
        bias += op.divisor * self._zero(op.out)
        shared = self._shared(Scaling(((bias, 0, 0, 0),), 1, op.low, op.high))
        return {**shared, "divisor": op.divisor}

    def _shared(self, numbers: Scaling) -> Fields:
        """The fields of a layer with one scale."""
        return {"channel": list(numbers.channels[0]), "output": _output(numbers), "table": self._table()}

    def _weights(self, op: o.Conv | o.ConvTranspose | o.Linear) -> tuple[IntArray, list[int]]:
        """Weights with the output channel first, and biases."""
        constants = self.program.graph.constants
        weight = np.asarray(constants[op.weight], dtype=np.int64)
        if isinstance(op, o.ConvTranspose):
            grouped = weight.reshape(op.groups, -1, *weight.shape[1:])
            weight = grouped.swapaxes(1, 2).reshape(-1, grouped.shape[1], *weight.shape[2:])
        bias = [0] * len(weight) if op.bias is None else [int(b) for b in constants[op.bias]]
        return weight, bias

    def _folded(self, op: o.Conv | o.Linear) -> tuple[IntArray, list[int]]:
        """Weights, and biases that take the input's zero point out of sums over codes."""
        weight, bias = self._weights(op)
        flat = weight.reshape(len(weight), -1)
        folded = [b - self._zero(op.x) * int(w) for b, w in zip(bias, flat.sum(1), strict=True)]
        for b, reach in zip(folded, 128 * np.abs(flat).sum(1), strict=True):
            if abs(b) + int(reach) >= 1 << 31:
                raise UnsupportedError("a sum over codes may exceed 32 bits", where=op.out)
        return weight, folded

    def _channels(self, numbers: Scaling, outputs: int, groups: int, block: int) -> str:
        """Channels of each group, padded to whole blocks."""
        padded = []
        each = outputs // groups
        for g in range(groups):
            padded += [*numbers.channels[g * each : (g + 1) * each], *[(0, 0, 0, 1)] * (-each % block)]
        return self.bank.channels(f"channels_{self.number}", padded, f"bias and scale of {comment(self.kernel.out)}")

    def _packed(self, rows: IntArray, groups: int, block: int) -> str:
        """Rows [outputs, k] of each group as edgeq_dot.h of the kernels in use reads them."""
        codes = packed(rows.reshape(groups, -1, rows.shape[1]), block, self.instructions)
        return self.bank.codes(f"weights_{self.number}", codes, f"weights of {comment(self.kernel.out)}")

    def _layer(self, headers: str, descriptor: str, calls: list[str], note: str) -> Layer:
        kind = note.split(",", maxsplit=1)[0]
        work = macs(self.kernel.op, self.program.graph)
        return Layer(self.kernel.out, kind, work, tuple(headers.split()), descriptor, tuple(calls), note)

    def _described(self, type_name: str, fields: Fields) -> str:
        return f"static const {type_name} {self.name} = {{\n{_fields(fields)}}};\n"

    # --- weighted operators -----------------------------------------------------------------------------------

    def _window(self, x: o.Value, kernel: o.Pair, stride: o.Pair, padding: o.Quad, dilation: o.Pair) -> Fields:
        in_h, in_w, in_c = image(self.types[x])
        out_h, out_w, _ = image(self.types[self.kernel.out])
        names = "in_h in_w in_c out_h out_w kernel_h kernel_w stride_h stride_w pad_top pad_left dilation_h dilation_w"
        numbers = (in_h, in_w, in_c, out_h, out_w, *kernel, *stride, *padding[:2], *dilation)
        return dict(zip(names.split(), numbers, strict=True))

    def _conv(self, op: o.Conv) -> Layer:
        weight, bias = self._folded(op)
        outputs = len(weight)
        numbers = self._scaling(bias)
        kernel, block = (weight.shape[2], weight.shape[3]), PIXEL_BLOCK[self.instructions]
        residual, summed = self.kernel.residual, "NULL"
        descriptor = ""
        if residual:
            descriptor, summed = self._sum_descriptor()
        fields: Fields = {
            "weights": self._packed(weight.transpose(0, 2, 3, 1).reshape(outputs, -1), op.groups, block),
            "channels": self._channels(numbers, outputs, op.groups, block),
            "output": _output(numbers),
            "table": self._table(),
            "sum": summed,
            **self._window(op.x, kernel, op.stride, op.padding, op.dilation),
            "out_c": outputs,
            "groups": op.groups,
            "zero": self._zero(op.x),
            "direct": int(self.step in self.placed.direct),
            "reverse": int(self.step in self.placed.memory.reverse),
        }
        addend = self.read(residual.other.value) if residual else "NULL"
        call = f"edgeq_conv(&{self.name}, {self.read(op.x)}, {addend}, {self.written()}, {self._scratch()})"
        note = f"convolution, {_shape(kernel)}" + (", with a residual" if residual else "")
        return self._layer("edgeq_conv.h", descriptor + self._described("edgeq_conv_layer", fields), [call], note)

    def _sum_descriptor(self) -> tuple[str, str]:
        residual = self.kernel.residual
        assert residual is not None
        op = residual.requantize
        numbers = scaling(op, self.types[op.out].zero_point, [0], residual.sums)
        name = f"sum_{self.number}"
        fields: Fields = {
            "own": self.bank.words(f"own_{self.number}", residual.own, "terms by code"),
            "other": self.bank.words(f"other_{self.number}", residual.other.table, "terms by code"),
            "channel": list(numbers.channels[0]),
            "output": _output(numbers),
        }
        return f"static const edgeq_sum {name} = {{\n{_fields(fields)}}};\n", f"&{name}"

    def _depthwise(self, op: o.Conv) -> Layer:
        weight, bias = self._folded(op)
        numbers = self._scaling(bias)
        kernel = (weight.shape[2], weight.shape[3])
        plane = plane_of(op, kernel, self.types[self.kernel.out])
        title = comment(self.kernel.out)
        fields: Fields = {
            "weights": self.bank.codes(f"weights_{self.number}", weight, f"weights of {title}"),
            "channels": self.bank.channels(f"channels_{self.number}", numbers.channels, f"bias and scale of {title}"),
            "output": _output(numbers),
            "table": self._table(),
            **self._window(op.x, kernel, op.stride, op.padding, op.dilation),
            "out_c": len(weight),
            "multiplier": len(weight) // op.groups,
            "plane_h": plane[0],
            "plane_w": plane[1],
            "zero": self._zero(op.x),
        }
        call = f"edgeq_depthwise(&{self.name}, {self.read(op.x)}, {self.written()}, {self._scratch()})"
        described = self._described("edgeq_depthwise_layer", fields)
        return self._layer("edgeq_depthwise.h", described, [call], f"depthwise convolution, {_shape(kernel)}")

    def _conv_transpose(self, op: o.ConvTranspose) -> Layer:
        weight, bias = self._weights(op)
        numbers = self._scaling(bias)
        kernel = (weight.shape[2], weight.shape[3])
        title = comment(self.kernel.out)
        fields: Fields = {
            "weights": self.bank.codes(f"weights_{self.number}", weight.transpose(0, 2, 3, 1), f"weights of {title}"),
            "channels": self.bank.channels(f"channels_{self.number}", numbers.channels, f"bias and scale of {title}"),
            "output": _output(numbers),
            "table": self._table(),
            **self._window(op.x, kernel, op.stride, op.padding, op.dilation),
            "out_c": len(weight),
            "groups": op.groups,
            "zero": self._zero(op.x),
        }
        call = f"edgeq_conv_transpose(&{self.name}, {self.read(op.x)}, {self.written()})"
        described = self._described("edgeq_conv_transpose_layer", fields)
        return self._layer("edgeq_conv_transpose.h", described, [call], f"transposed convolution, {_shape(kernel)}")

    def _linear(self, op: o.Linear) -> Layer:
        weight, bias = self._folded(op)
        numbers = self._scaling(bias)
        fields: Fields = {
            "weights": self._packed(weight, 1, ROW_BLOCK),
            "channels": self._channels(numbers, len(weight), 1, ROW_BLOCK),
            "output": _output(numbers),
            "table": self._table(),
            "rows": self.types[op.x].size // weight.shape[1],
            "inputs": weight.shape[1],
            "outputs": len(weight),
        }
        call = f"edgeq_linear(&{self.name}, {self.read(op.x)}, {self.written()})"
        described = self._described("edgeq_linear_layer", fields)
        return self._layer("edgeq_linear.h", described, [call], f"fully connected, {_shape(weight.shape)}")

    # --- elementwise and windows ------------------------------------------------------------------------------

    def _binary(self, op: o.Add | o.Sub | o.Mul, function: str) -> Layer:
        a, b = (self.kernel.terms[k].value for k in (0, 1)) if self.kernel.terms else (op.a, op.b)
        shape = self.types[self.kernel.out].shape
        loops = nest([_broadcast_places(self.types[v].shape, shape) for v in (a, b)])
        if loops is None or len(loops) > 3:
            raise UnsupportedError(
                "this broadcast is not written for C", where=op.out, value=(self.types[a].shape, self.types[b].shape)
            )
        loops = [(1, (0, 0))] * (3 - len(loops)) + loops
        fields: Fields = {}
        if self.kernel.terms:
            tables = [term.table for term in self.kernel.terms]
            fields["a_table"] = self.bank.words(f"a_{self.number}", tables[0], "terms by code")
            fields["b_table"] = self.bank.words(f"b_{self.number}", tables[1], "terms by code")
        else:
            fields |= {"a_zero": self._zero(a), "b_zero": self._zero(b)}
        fields |= self._shared(self._scaling([0]))
        fields |= {"size": [count for count, _ in loops]}
        fields |= {f"{side}_stride": [s[k] for _, s in loops] for k, side in enumerate("ab")}
        call = f"{function}(&{self.name}, {self.read(a)}, {self.read(b)}, {self.written()})"
        described = self._described("edgeq_binary_layer", fields)
        return self._layer("edgeq_elementwise.h", described, [call], "sum" if self.kernel.terms else "product")

    def _pool(self, op: o.AveragePool | o.MaxPool, kernel: o.Pair, dilation: o.Pair, function: str) -> Layer:
        fields: Fields = {}
        if isinstance(op, o.AveragePool):
            fields = self._averaged(op.x, kernel[0] * kernel[1])
        fields |= self._window(op.x, kernel, op.stride, op.padding, dilation)
        fields["zero"] = self._zero(op.x)
        call = f"{function}(&{self.name}, {self.read(op.x)}, {self.written()})"
        described = self._described("edgeq_pool_layer", fields)
        return self._layer("edgeq_pool.h", described, [call], f"{function[6:].replace('_', ' ')}, {_shape(kernel)}")

    def _mean(self, op: o.Mean) -> Layer:
        shape = self.types[op.x].shape
        summed = np.broadcast_to(places(tuple(1 if k in op.axes else s for k, s in enumerate(shape))), shape)
        loops = nest([np.asarray(to_memory(summed), dtype=np.int64)])
        sizes = _outer_count_inner(loops or [])
        if loops is None or sizes is None:
            raise UnsupportedError("a mean over these axes is not written for C", where=op.out, value=op.axes)
        count = self.types[op.x].size // self.types[op.out].size
        fields = self._shared(self._scaling([-self._zero(op.x) * count]))
        fields |= dict(zip(("outer", "count", "inner"), sizes, strict=True))
        call = f"edgeq_mean(&{self.name}, {self.read(op.x)}, {self.written()})"
        return self._layer("edgeq_mean.h", self._described("edgeq_mean_layer", fields), [call], "mean")

    def _resize(self, op: o.Resize) -> Layer:
        in_h, in_w, channels = image(self.types[op.x])
        mixes = []
        for k, size in enumerate((in_h, in_w)):
            matrix = interpolation_matrix(size, op.size[k], op.scale[k], op.mode, op.coordinates, True)
            mixes.append(_mixes(matrix.numpy()))
        fields = self._averaged(op.x, 1 << 20)
        fields |= {
            "rows": self.bank.mixes(f"rows_{self.number}", mixes[0], "rows that each output row mixes"),
            "columns": self.bank.mixes(f"columns_{self.number}", mixes[1], "columns that each output column mixes"),
            "in_w": in_w,
            "in_c": channels,
            "out_h": op.size[0],
            "out_w": op.size[1],
        }
        call = f"edgeq_resize(&{self.name}, {self.read(op.x)}, {self.written()})"
        described = self._described("edgeq_resize_layer", fields)
        return self._layer("edgeq_resize.h", described, [call], "linear interpolation")

    # --- moves ------------------------------------------------------------------------------------------------

    def _concat(self, op: o.Concat) -> Layer:
        found = places(self.types[self.kernel.out].shape)
        start, descriptors, calls = 0, [], []
        for index, x in enumerate(op.xs):
            size = self.types[x].shape[op.axis]
            into = to_memory(np.take(found, range(start, start + size), op.axis)).astype(np.int64)
            name = f"{self.name}_{index}"
            walk, first = self._walk(name, np.arange(len(into)), into)
            descriptors.append(walk)
            calls.append(f"edgeq_copy_walk(&{name}, {self.read(x)}, {self.written()} + {first[1]})")
            start += size
        return self._layer("edgeq_copy.h", "".join(descriptors), calls, "concatenation")

    def _move(self, op: o.Op) -> Layer:
        x, kind = o.operands(op)[0], type(op).__name__.lower()
        indices = self.program.graph.constants[op.indices] if isinstance(op, o.Gather) else None
        source = source_places(op, self.types[x].shape, indices)
        inside = np.flatnonzero(source >= 0)
        calls = []
        if isinstance(op, o.Pad) and len(inside) < len(source):
            type_ = self.types[x]
            code = int(encode(type_.format, [op.value / type_.scale[0]], type_.zero_point)[0])
            calls.append(f"edgeq_fill({self.written()}, {code}, {len(source)})")
        if not len(inside):
            return self._layer("edgeq.h", "", calls, kind)
        loops = nest([source[inside], inside])
        if loops is not None and len(loops) <= 5 + int(loops[-1][1] == (1, 1)):
            walk, (f, t) = self._walk(self.name, source[inside], inside)
            calls.append(f"edgeq_copy_walk(&{self.name}, {self.read(x)} + {f}, {self.written()} + {t})")
            return self._layer("edgeq_copy.h", walk, calls, kind)
        if len(inside) < len(source):
            raise UnsupportedError("this padding is not written for C", where=o.results(op)[0])
        run = _common_run(source)
        starts = self.bank.words(f"starts_{self.number}", source[::run], "where each run of codes begins")
        calls.append(f"edgeq_copy_listed({starts}, {len(source) // run}, {run}, {self.read(x)}, {self.written()})")
        return self._layer("edgeq_copy.h", "", calls, kind)

    def _walk(self, name: str, source: IntArray, into: IntArray) -> tuple[str, tuple[int, int]]:
        """A descriptor that copies bytes `source` to bytes `into`, and where both begin."""
        loops = nest([source, into])
        if loops is None:
            raise UnsupportedError("this move is not written for C", where=self.kernel.out)
        run = loops.pop()[0] if loops and loops[-1][1] == (1, 1) else 1
        if len(loops) > 5:
            raise UnsupportedError("this move has too many axes for C", where=self.kernel.out)
        loops = [(1, (0, 0))] * (5 - len(loops)) + loops
        fields: Fields = {
            "run": run,
            "size": [count for count, _ in loops],
            "from_stride": [strides[0] for _, strides in loops],
            "to_stride": [strides[1] for _, strides in loops],
        }
        return f"static const edgeq_walk {name} = {{\n{_fields(fields)}}};\n", (int(source[0]), int(into[0]))


def comment(text: str) -> str:
    """`text` (the name of a value, which may hold anything) fit for a C comment."""
    plain = "".join(c if c.isascii() and c.isprintable() else "?" for c in text)
    return plain.replace("*/", "* /").replace("/*", "/ *").replace("\\", "/").replace("??", "? ?")


def _shape(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes))


def _output(numbers: Scaling) -> list[int]:
    return [numbers.factor, numbers.low, numbers.high]


def _fields(fields: Fields) -> str:
    """Designated initializers; runs of small numbers share a line."""
    lines, line = [], ""
    for name, value in fields.items():
        text = f".{name} = {'{' + ', '.join(map(str, value)) + '}' if isinstance(value, list) else value},"
        if line and len(line) + len(text) > 100:
            lines.append(line)
            line = ""
        line = f"{line} {text}".strip()
    return "".join(f"    {text}\n" for text in [*lines, line] if text)


def _broadcast_places(shape: tuple[int, ...], out: tuple[int, ...]) -> IntArray:
    """For every byte of a result of shape `out`, in memory order: the byte of an operand of `shape` that it reads."""
    return np.asarray(to_memory(np.broadcast_to(places(shape), out)), dtype=np.int64)


def _outer_count_inner(loops: list[tuple[int, tuple[int, ...]]]) -> tuple[int, int, int] | None:
    """Loops of a mean as (outer, summed, inner) sizes; the summed loop has stride 0."""
    summed = [k for k, (_, (stride,)) in enumerate(loops) if stride == 0]
    if not summed:
        return int(np.prod([count for count, _ in loops])), 1, 1
    if len(summed) > 1:
        return None
    (at,) = summed
    outer, inner = (int(np.prod([count for count, _ in part])) for part in (loops[:at], loops[at + 1 :]))
    return outer, loops[at][0], inner


def _mixes(matrix: np.ndarray) -> IntArray:
    """Rows (first, second, weight of second) of an interpolation matrix."""
    found = []
    for row in matrix:
        used = np.flatnonzero(row)
        found.append((used[0], used[-1], row[used[-1]] if len(used) > 1 else 0))
    return np.asarray(found, dtype=np.int64)


def _common_run(source: IntArray) -> int:
    """The largest number of consecutive bytes that the whole map copies at a time."""
    breaks = np.flatnonzero(np.diff(source) != 1) + 1
    return int(np.gcd.reduce([len(source), *breaks]))
