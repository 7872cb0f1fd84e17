"""What the printing of every layer shares: addresses, constants, requantization numbers, descriptors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgeq.emit.c_bank import Bank
from edgeq.emit.c_layout import image, to_memory
from edgeq.emit.c_needs import Need
from edgeq.emit.c_numbers import Channel, Scaling, channels_by_bias, long_scaling, scaling
from edgeq.emit.c_pack import in_order, packed, padded_to, weight_bits, wide_codes
from edgeq.emit.c_place import Placed
from edgeq.errors import UnsupportedError
from edgeq.formats import Format, IntArray, decode, looks_up, looks_up_wide
from edgeq.ir import ops as o
from edgeq.ir.cost import macs
from edgeq.ir.graph import Graph, Type
from edgeq.passes.kernel import Kernel, Program, Term
from edgeq.target import Instructions

Fields = dict[str, object]


@dataclass(frozen=True)
class Layer:
    """One layer in C: `headers` it needs, `descriptor` (may be empty), `calls`, and a line about it.

    `needs` names the code that a model without such layers leaves out; `spare` are the multiplications for pixels that are
    missing in a group of three.
    """

    value: o.Value
    kind: str
    macs: int
    headers: tuple[str, ...]
    descriptor: str
    calls: tuple[str, ...]
    note: str
    needs: frozenset[Need] = frozenset()
    spare: int = 0


@dataclass(frozen=True)
class LayerContext:
    """One kernel to be printed: layer `number`, step `step` of the memory plan. Constants go into `bank`.

    A layer that runs in bands has kernels 3a, 3b ... with a descriptor for each `band`.
    """

    program: Program
    placed: Placed
    bank: Bank
    instructions: Instructions
    number: str
    step: int
    kernel: Kernel
    band: str = ""

    @property
    def types(self) -> Mapping[o.Value, Type]:
        """Types of all values."""
        return self.program.graph.types

    @property
    def name(self) -> str:
        """The name of the descriptor."""
        return f"layer_{self.number}{self.band}"

    def read(self, value: o.Value) -> str:
        """The address of an operand."""
        if value in self.program.graph.constants:
            codes = to_memory(self.program.graph.constants[value], self.program.axes(value))
            add = self.bank.codes if self.program.bits == 8 else self.bank.halves
            return add(f"constant_{self.number}", codes, f"constant {comment(value)}")
        return f"arena + {self.placed.offset(value)}"

    def read_wide(self, value: o.Value) -> str:
        """The address of an operand of 16-bit codes among 8-bit ones."""
        return f"(const int16_t *)(const void *)({self.read(value)})"

    def written(self) -> str:
        """The address of the result."""
        return f"arena + {self.placed.offset(self.kernel.out)}"

    def written_wide(self) -> str:
        """The address of a result of 16-bit codes among 8-bit ones."""
        return f"(int16_t *)(void *)({self.written()})"

    def scratch(self) -> str:
        """The address of the layer's scratch memory."""
        offset = self.placed.memory.scratch.get(self.step)
        return "NULL" if offset is None else f"arena + {offset}"

    def takes_wide(self) -> bool:
        """Whether an operand or the result has 16-bit codes among 8-bit ones."""
        return any(self.program.bits_of(v) > self.program.bits for v in (*self.kernel.reads, self.kernel.out))

    def table(self) -> str:
        """The table of the function that follows, or NULL."""
        table = self.kernel.table
        return "NULL" if table is None else self.bank.codes(f"table_{self.number}", table, "codes by code")

    def zero(self, value: o.Value) -> int:
        """The zero point of a value."""
        return self.types[value].zero_point

    def scaling(self, biases: Sequence[int]) -> Scaling:
        """The numbers of the requantization, one channel per bias."""
        op = self.kernel.settling
        assert isinstance(op, o.Requantize)
        is_long = self.program.bits > 8 or (self.wide_table is not None and not self.kernel.joining)
        rule = long_scaling if is_long else scaling
        return rule(op, self.types[op.out].zero_point, biases, self.kernel.sums)

    def rescaling(self, op: o.Requantize) -> Channel:
        """The numbers of a requantization from codes to codes, on 16 bits."""
        reach = (1 << self.program.bits) + abs(self.zero(op.x))
        numbers = long_scaling(op, self.zero(op.out), [-self.zero(op.x)], [(-reach, reach)])
        return numbers.channels[0]

    def ratio(self, term: Term) -> list[int]:
        """What makes a 32-bit term of a sum from a 16-bit code: sign, multiplier, zero point, shift."""
        if term.ratio is None:
            return [term.sign, 2, self.zero(term.value), 1]
        _, q, _, shift = self.rescaling(term.ratio)
        reach = (1 << (self.program.bits - 1)) + abs(self.zero(term.value))
        if reach * q >> shift >= (1 << 30) or self.zero(term.ratio.out):
            raise UnsupportedError("a term of a sum may exceed 32 bits", where=term.value)
        return [term.sign, q, self.zero(term.value), shift]

    def check_sum(self) -> None:
        """Raise UnsupportedError if a plain sum of codes may exceed 32 bits."""
        if any(max(-low, high) >= 1 << 31 for low, high in self.kernel.sums):
            raise UnsupportedError("a sum over codes may exceed 32 bits", where=self.kernel.out)

    def averaged(self, x: o.Value, weight: int) -> Fields:
        """The fields of a layer with one scale, whose sums of codes carry `weight` times the input's zero point."""
        op = self.kernel.settling
        bias = -weight * self.zero(x)
        if not isinstance(op, o.DivideCodes):
            return {**self.shared(self.scaling([bias])), "divisor": 0}
        bias += op.divisor * self.zero(op.out)
        shared = self.shared(Scaling(((bias, 0, 0, 0),), 1, op.low, op.high, self.zero(op.out)))
        return {**shared, "divisor": op.divisor}

    def shared(self, numbers: Scaling) -> Fields:
        """The fields of a layer with one scale."""
        return {"channel": list(numbers.channels[0]), "output": output_fields(numbers), "table": self.table()}

    def weights(self, op: o.Conv | o.ConvTranspose | o.Linear) -> tuple[IntArray, list[int]]:
        """Weights with the output channel first, and biases."""
        constants = self.program.graph.constants
        weight = decode(self.types[op.weight].format, constants[op.weight])
        if isinstance(op, o.ConvTranspose):
            grouped = weight.reshape(op.groups, -1, *weight.shape[1:])
            weight = grouped.swapaxes(1, 2).reshape(-1, grouped.shape[1], *weight.shape[2:])
        bias = [0] * len(weight) if op.bias is None else [int(b) for b in constants[op.bias]]
        return weight, bias

    def folded(self, op: o.Conv | o.Linear) -> tuple[IntArray, list[int]]:
        """Weights, and biases that take the input's zero point out of sums over codes."""
        weight, bias = self.weights(op)
        sums = weight.reshape(len(weight), -1).sum(1)
        return weight, [b - self.zero(op.x) * int(w) for b, w in zip(bias, sums, strict=True)]

    def care(self, weight: IntArray, folded: Sequence[int], where: o.Value, bits: int = 8) -> int:
        """The field `is_long` of a layer whose weights take `bits`: whether it `is_long`; with wide levels one more than
        the index of their table, negative where codes share bytes.
        """
        if self.wide_table is not None:
            place = wide_tables(self.program.graph).index(self.wide_table) + 1
            return place if bits == 8 else -place
        return int(self.is_long(weight, folded, where))

    def is_long(self, weight: IntArray, folded: Sequence[int], where: o.Value) -> bool:
        """Whether sums need more care: over 16-bit codes they may exceed 32 bits, in any order; over 8-bit codes two
        products with weights of -128 exceed 16. Raises UnsupportedError if sums over 8-bit codes may exceed 32 bits.
        """
        reach = (1 << (self.program.bits - 1)) * np.abs(weight.reshape(len(weight), -1)).sum(1)
        found = any(abs(b) + int(r) >= 1 << 31 for b, r in zip(folded, reach, strict=True))
        if found and self.program.bits == 8:
            raise UnsupportedError("a sum over codes may exceed 32 bits", where=where)
        return found or (self.instructions == "rvv" and bool((weight == -128).any()))

    def channels(self, numbers: Scaling, groups: int = 1, block: int = 1, joining: o.Requantize | None = None) -> str:
        """Channels of each group, padded to whole blocks. A layer that joins a stream has a requantization of its own."""
        op, sums = (joining, self.kernel.inner) if joining else (self.kernel.settling, self.kernel.sums)
        assert isinstance(op, o.Requantize)
        is_long = self.program.bits > 8 or self.wide_table is not None
        channels = list(numbers.channels) if is_long else channels_by_bias(op, numbers, sums)
        padded, each = [], len(channels) // groups
        padding = [(0, 0, numbers.middle, 1)] * (-each % padded_to(block, self.instructions))
        for g in range(groups):
            padded += [*channels[g * each : (g + 1) * each], *padding]
        title = f"bias and scale of {comment(self.kernel.out)}"
        return self.bank.channels(f"channels_{self.number}", padded, numbers.middle, title)

    def bits(self, op: o.Conv | o.ConvTranspose | o.Linear, longest: int = 0) -> int:
        """Bits that a weight of `op` takes in memory, in sums of `longest` products of codes."""
        if self.program.bits > 8:
            return 8
        return weight_bits(self.types[op.weight].format, longest, self.instructions)

    @property
    def table_of_weights(self) -> Format | None:
        """The format of the layer's weights, where it is a table that is looked up."""
        found = self._weight_format
        return found if found is not None and looks_up(found) else None

    @property
    def wide_table(self) -> Format | None:
        """The format of the layer's weights, where it is a table of levels of more than a byte."""
        found = self._weight_format
        return found if found is not None and looks_up_wide(found) else None

    @property
    def _weight_format(self) -> Format | None:
        weighted = [op for op in self.kernel.ops if isinstance(op, o.Conv | o.ConvTranspose | o.Linear)]
        return next((self.types[op.weight].format for op in weighted), None)

    def packed(self, rows: IntArray, groups: int, block: int, bits: int) -> str:
        """Rows [outputs, k] of each group as edgeq_dot.h of the kernels in use reads them."""
        table = self.table_of_weights or self.wide_table
        return self._weights(packed(rows.reshape(groups, -1, rows.shape[1]), block, self.instructions, bits, table))

    def packed_in_fours(self, rows: IntArray, bits: int) -> str:
        """Rows [outputs, k] as edgeq_four.h of the kernels in use reads them."""
        # RISC-V vectors have sixteen elements side by side, AVX2 uses the portable kernel.
        others: dict[Instructions, Instructions] = {"rvv": "mve", "avx2": "portable"}
        order = others.get(self.instructions, self.instructions)
        return self._weights(packed(rows[None], 4, order, bits, self.table_of_weights or self.wide_table))

    def in_order(self, weight: IntArray, bits: int) -> str:
        """Weights one after another, as edgeq_unpack.h reads them; codes where levels exceed a byte."""
        stored = weight if self.wide_table is None else wide_codes(weight, self.wide_table)
        return self._weights(in_order(stored, bits, self.table_of_weights))

    def _weights(self, codes: IntArray) -> str:
        return self.bank.codes(f"weights_{self.number}", codes, f"weights of {comment(self.kernel.out)}")

    def unusual(self, numbers: Scaling) -> set[Need]:
        """What a layer with weights, or the sum after one, needs where its output is not the one that edgeq_usual gives."""
        op, ends = self.kernel.settling, 1 << (self.program.bits - 1)
        factor = 4 if isinstance(op, o.Requantize) and op.rounding == "gemmlowp2" else 1
        return set() if output_fields(numbers)[:4] == [factor, -ends, ends - 1, 1] else {"unusual"}

    def layer(
        self, headers: str, descriptor: str, calls: list[str], note: str, needs: Iterable[Need] = (), spare: int = 0
    ) -> Layer:
        """The finished layer; `note` says what it is."""
        if self.table_of_weights is not None:
            headers = headers.replace("edgeq_dot_w4.h", "edgeq_dot_t4.h").replace("unpack.h", "unpack_t4.h")
        if self.wide_table is not None:
            headers = f"edgeq_levels.h {headers.replace('edgeq_dot_w4.h', '')}"
        kind = note.split(",", maxsplit=1)[0]
        work = sum(macs(op, self.program.graph) for op in self.kernel.ops)
        asked: frozenset[Need] = frozenset(needs) | ({"tables"} if self.kernel.table is not None else set())
        return Layer(self.kernel.out, kind, work, tuple(headers.split()), descriptor, tuple(calls), note, asked, spare)

    def described(self, type_name: str, fields: Fields) -> str:
        """A descriptor of the type `type_name`."""
        return f"static const {type_name} {self.name} = {{\n{initializers(fields)}}};\n"

    def window(self, x: o.Value, kernel: o.Pair, stride: o.Pair, padding: o.Quad, dilation: o.Pair) -> Fields:
        """The fields of a window over an image."""
        in_h, in_w, in_c = image(self.types[x])
        out_h, out_w, _ = image(self.types[self.kernel.out])
        names = "in_h in_w in_c out_h out_w kernel_h kernel_w stride_h stride_w pad_top pad_left dilation_h dilation_w"
        numbers = (in_h, in_w, in_c, out_h, out_w, *kernel, *stride, *padding[:2], *dilation)
        return dict(zip(names.split(), numbers, strict=True))


def wide_tables(graph: Graph) -> tuple[Format, ...]:
    """The formats of weights whose levels exceed a byte, in the order in which layers come."""
    weights = (op.weight for op in graph.ops if isinstance(op, o.Conv | o.ConvTranspose | o.Linear))
    return tuple(dict.fromkeys(f for f in (graph.types[weight].format for weight in weights) if looks_up_wide(f)))


def comment(text: str) -> str:
    """`text` (the name of a value, which may hold anything) fit for a C comment."""
    plain = "".join(c if c.isascii() and c.isprintable() else "?" for c in text)
    return plain.replace("*/", "* /").replace("/*", "/ *").replace("\\", "/").replace("??", "? ?")


def sizes_text(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes))


def output_fields(numbers: Scaling) -> list[int]:
    shifts = int(all(shift > 0 for _, q, _, shift in numbers.channels if q))
    return [numbers.factor, numbers.low, numbers.high, shifts, numbers.middle]


def initializers(fields: Fields) -> str:
    """Designated initializers; runs of small numbers share a line."""
    lines, line = [], ""
    for name, value in fields.items():
        text = f".{name} = {'{' + ', '.join(map(str, value)) + '}' if isinstance(value, list) else value},"
        if line and len(line) + len(text) > 100:
            lines.append(line)
            line = ""
        line = f"{line} {text}".strip()
    return "".join(f"    {text}\n" for text in [*lines, line] if text)
