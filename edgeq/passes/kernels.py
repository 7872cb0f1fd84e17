"""Kernels: a lowered graph regrouped into steps that read codes of 8 bits, or all of 16, and write such codes.

A device has no room for accumulators, so none is ever stored: an operator that accumulates takes along the
requantization after it, then a table of a function, then (a convolution) the addition of a residual. A requantization
that widens codes for an addition becomes a table of 32-bit terms. Values between kernels are all that memory holds.
Tables over 16-bit codes would be too large: functions then stay kernels of their own, and terms are computed.

Transformers keep two kinds of 16-bit codes beside the 8-bit ones: their residual stream, which only sums and
normalizations read, and the shares of a softmax.

Everything that has no such form is refused at once, by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from edgeq.errors import UnsupportedError
from edgeq.formats import INT16, Int, IntArray, code_range, decode, looks_up, looks_up_wide
from edgeq.ir import ops as o
from edgeq.ir.bounds import Interval, accumulates, channel_bounds, is_codes, level_bounds
from edgeq.ir.graph import Graph, Type
from edgeq.passes.fused import Fused, Joining, find_fused
from edgeq.passes.kernel import (
    Anchor,
    Kernel,
    Moved,
    Program,
    Residual,
    Settling,
    Term,
    Weighted,
    is_depthwise,
)
from edgeq.passes.orders import row_values
from edgeq.reference.arithmetic import requantize

WEIGHT_BITS = 8
MOST_TOLD = 5
"""So many of the operators that integers cannot compute are named."""


def program(graph: Graph) -> Program:
    """The kernels of a lowered graph. Raises UnsupportedError naming everything that integers alone cannot do."""
    return _Grouping(graph).run()


def _code_bits(graph: Graph) -> int:
    """Bits of the codes that enter: 16 if an input has so many, else 8."""
    readers = [op for name in graph.inputs for op in graph.consumers.get(name, ())]
    entering = [*graph.inputs, *(op.out for op in readers if isinstance(op, o.Quantize))]
    return 16 if any(graph.types[value].format == INT16 for value in entering) else 8


class _Grouping:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.bounds = level_bounds(graph)
        self.bits = _code_bits(graph)
        self.absorbed: set[int] = set()
        self.problems: list[str] = []

    def run(self) -> Program:
        inputs, outputs = self._inputs(), self._outputs()
        self.kept = {codes for _, codes in outputs}
        self.rows = row_values(self.graph, [value for _, value in (*inputs, *outputs)])
        self.fused = find_fused(self.graph, self.kept) if self.bits == 8 else Fused()
        inside = self.fused.inside
        kernels = []
        for op in self.graph.ops:
            is_port = isinstance(op, o.Quantize | o.Dequantize)
            if not (is_port or id(op) in self.absorbed or o.results(op)[0] in inside or self._is_term(op)):
                kernels.append(self._kernel(op))
        if self.problems:
            told = list(dict.fromkeys(self.problems))
            more = f"; and {len(told) - MOST_TOLD} more" if len(told) > MOST_TOLD else ""
            raise UnsupportedError(
                "integers alone cannot compute this network",
                where=self.graph.name,
                value="; ".join(told[:MOST_TOLD]) + more,
                next_step="Cut a detector's decode off with --raw-head, or choose a target that keeps some in float, such as onnx-int8.",
            )
        return Program(self.graph, tuple(k for k in kernels if k), tuple(inputs), tuple(outputs), self.bits, self.rows)

    def _is_stored(self, type_: Type) -> bool:
        """Whether values of this type are codes that memory holds between kernels."""
        return is_codes(type_) and type_.format in (Int(self.bits), Int(self.bits, narrow=True))

    def _is_wide(self, type_: Type) -> bool:
        """Whether values of this type are 16-bit codes among 8-bit ones."""
        return self.bits == 8 and is_codes(type_) and type_.format == INT16

    # --- ports ------------------------------------------------------------------------------------------------

    def _inputs(self) -> list[tuple[o.Value, o.Value]]:
        found = []
        for name in self.graph.inputs:
            readers = self.graph.consumers.get(name, ())
            if self._is_stored(self.graph.types[name]):
                found.append((name, name))
            elif len(readers) == 1 and isinstance(readers[0], o.Quantize) and name not in self.graph.outputs:
                found.append((name, readers[0].out))
            elif readers:
                self.problems.append(f"input {name!r} is read as a real number or under several scales")
        return found

    def _outputs(self) -> list[tuple[o.Value, o.Value]]:
        found = []
        for name in self.graph.outputs:
            maker = self.graph.producer.get(name)
            codes = maker.x if isinstance(maker, o.Dequantize) else name
            if self._is_stored(self.graph.types[codes]):
                found.append((name, codes))
            elif maker is None or not is_codes(self.graph.types[codes]):
                self.problems.append(f"output {name!r} is a real number that {_kind(maker)} computes")
            else:
                self.problems.append(f"output {name!r} is {self.graph.types[codes].format}, not int{self.bits}")
        return found

    # --- grouping ---------------------------------------------------------------------------------------------

    def _next(self, value: o.Value) -> o.Op | None:
        """The only reader of a value that is not an output."""
        readers = self.graph.consumers.get(value, ())
        return readers[0] if len(readers) == 1 and value not in self.kept and value not in self.graph.outputs else None

    def _is_term(self, op: o.Op) -> bool:
        """Whether `op` widens 8-bit codes, perhaps in two steps, and only sums read the result."""
        if not isinstance(op, o.Requantize) or op.out in self.graph.outputs or len(op.multiplier) > 1:
            return False
        maker = self.graph.producer.get(op.x)
        if not (self._is_stored(self.graph.types[op.x]) or self._is_wide(self.graph.types[op.x])) and not (
            self.bits == 8 and isinstance(maker, o.Requantize) and self._widens(maker)
        ):
            return False
        readers = self.graph.consumers.get(op.out, ())
        is_code = self._is_stored(self.graph.types[op.out]) or self._is_wide(self.graph.types[op.out])
        return not is_code and all(isinstance(reader, o.Add | o.Sub) or self._is_term(reader) for reader in readers)

    def _widens(self, op: o.Requantize) -> bool:
        return self._is_stored(self.graph.types[op.x]) and not self._is_stored(self.graph.types[op.out])

    def _kernel(self, op: o.Op) -> Kernel | None:
        if problem := self._problem(op):
            self.problems.append(problem)
            follower = self._next(o.results(op)[0])
            if isinstance(follower, Settling):
                self.absorbed.add(id(follower))  # named once is enough
            return None
        assert isinstance(op, Anchor)
        kernel = Kernel(op, o.results(op)[0])
        if isinstance(op, o.MatMul) and op.out in self.fused.scorings:
            scoring = self.fused.scorings[op.out]
            kernel = replace(kernel, scoring=scoring, inner=(self.bounds[scoring.scores.out],))
        if isinstance(op, o.Add) and op.out in self.fused.joinings:
            return self._joined(kernel, self.fused.joinings[op.out])
        if isinstance(op, Moved):
            return self._with_moves(kernel)
        if isinstance(op, o.Requantize | o.Lookup):
            if self.bits > 8:
                return replace(kernel, settling=op if isinstance(op, o.Requantize) else None)
            return self._with_tables(replace(kernel, table=self._table(op)))
        if not accumulates(op) or (isinstance(op, o.Softmax) and self._is_wide(self.graph.types[op.out])):
            return kernel
        follower = self._next(kernel.out)
        if self.bits > 8 or (isinstance(follower, Settling) and self._is_wide(self.graph.types[follower.out])):
            return self._settled(kernel)
        return self._with_residual(self._with_tables(self._settled(kernel)))

    def _settled(self, kernel: Kernel) -> Kernel:
        follower = self._next(kernel.out)
        assert isinstance(follower, Settling)
        self.absorbed.add(id(follower))
        terms: tuple[Term, ...] = ()
        if isinstance(kernel.op, o.Add | o.Sub) and not kernel.joining:
            sign = -1 if isinstance(kernel.op, o.Sub) else 1
            terms = (self._term(kernel.op.a), self._term(kernel.op.b, sign))
        sums: tuple[Interval, ...] = (self.bounds[kernel.out],)
        if isinstance(kernel.op, Weighted):
            sums = tuple(channel_bounds(self.graph, kernel.op, self.bounds.__getitem__))
        return replace(kernel, out=follower.out, settling=follower, terms=terms, sums=sums)

    def _joined(self, kernel: Kernel, joining: Joining) -> Kernel:
        """An addition to the sums of a layer; the other operand is its only term."""
        add = kernel.op
        assert isinstance(add, o.Add)
        other = add.a if joining.requantize.out == add.b else add.b
        inner = tuple(channel_bounds(self.graph, joining.layer, self.bounds.__getitem__))
        return replace(self._settled(replace(kernel, joining=joining, inner=inner)), terms=(self._term(other),))

    def _with_moves(self, kernel: Kernel) -> Kernel:
        """Absorb the operators that alone move on what this one moved."""
        follower = self._next(kernel.out)
        while isinstance(follower, Moved) and not self._problem(follower):
            assert isinstance(kernel.op, Moved)
            self.absorbed.add(id(follower))
            kernel = replace(kernel, op=follower, out=follower.out, moves=(*kernel.moves, kernel.op))
            follower = self._next(kernel.out)
        return kernel

    def _with_tables(self, kernel: Kernel) -> Kernel:
        """Absorb functions of the codes, one after another, into one table."""
        follower = self._next(kernel.out)
        while isinstance(follower, o.Lookup | o.Requantize) and not self._problem(follower):
            if not self._is_stored(self.graph.types[follower.out]):
                break
            table = self._table(follower)
            kernel = replace(
                kernel, out=follower.out, table=table if kernel.table is None else table[kernel.table + 128]
            )
            self.absorbed.add(id(follower))
            follower = self._next(kernel.out)
        return kernel

    def _with_residual(self, kernel: Kernel) -> Kernel:
        """Absorb the addition that alone reads a convolution's codes, directly or widened, if its other operand exists."""
        if not isinstance(kernel.op, o.Conv) or is_depthwise(kernel.op, self.graph):
            return kernel
        add = self._next(kernel.out)
        while isinstance(add, o.Requantize) and self._is_term(add):
            add = self._next(add.out)
        if not isinstance(add, o.Add | o.Sub) or self._problem(add) or not self._same_shape(add):
            return kernel
        terms = [self._term(add.a), self._term(add.b, -1 if isinstance(add, o.Sub) else 1)]
        own, other = terms if terms[0].value == kernel.out else terms[::-1]
        if own.value != kernel.out or other.value == kernel.out or not self._is_ready(other.value, kernel):
            return kernel
        follower = self._next(add.out)
        if not isinstance(follower, Settling) or not self._is_stored(self.graph.types[follower.out]):
            return kernel  # the sum is a stream of 16-bit codes, which convolutions do not write
        summed = self._settled(Kernel(add, add.out))
        assert isinstance(summed.settling, o.Requantize)
        self.absorbed.add(id(add))
        assert own.table is not None
        residual = Residual(own.table, other, summed.settling, summed.sums)
        return replace(kernel, out=summed.out, residual=residual)

    def _same_shape(self, add: o.Add | o.Sub) -> bool:
        shapes = {self.graph.types[v].shape for v in (add.a, add.b, add.out)}
        return len(shapes) == 1

    def _is_ready(self, value: o.Value, kernel: Kernel) -> bool:
        """Whether `value` is computed before the convolution runs, so that it can be added there."""
        order = {o.results(op)[0]: place for place, op in enumerate(self.graph.ops)}
        return order.get(value, -1) < order[kernel.op.out]

    def _term(self, value: o.Value, sign: int = 1) -> Term:
        maker = self.graph.producer.get(value)
        source = maker.x if isinstance(maker, o.Requantize) and self._is_term(maker) else value
        if self.bits > 8 or self._is_wide(self.graph.types[source]):
            return Term(source, None, sign, maker if isinstance(maker, o.Requantize) and source != value else None)
        if isinstance(maker, o.Requantize) and self._is_term(maker):
            inner = self._term(maker.x)
            assert inner.table is not None
            return Term(inner.value, sign * self._requantized(maker, inner.table))
        type_ = self.graph.types[value]
        low, high = code_range(type_.format)
        return Term(value, sign * decode(type_.format, _codes(low, high), type_.zero_point))

    def _levels(self, op: o.Requantize) -> IntArray:
        """Level of the result for every code of the operand, -128 first (a narrow format lends -127 its neighbour)."""
        from_type = self.graph.types[op.x]
        return self._requantized(
            op, decode(from_type.format, _codes(*code_range(from_type.format)), from_type.zero_point)
        )

    def _requantized(self, op: o.Requantize, levels: IntArray) -> IntArray:
        to = self.graph.types[op.out]
        level, multiplier, shift = (torch.tensor(n, dtype=torch.int64) for n in (levels, op.multiplier[0], op.shift[0]))
        codes = requantize(level, multiplier, shift, op.rounding).numpy() + to.zero_point
        return decode(to.format, np.clip(codes, op.low, op.high), to.zero_point)

    def _table(self, op: o.Lookup | o.Requantize) -> IntArray:
        """Code of the result for every code of the operand, -128 first."""
        if isinstance(op, o.Requantize):
            return self._levels(op) + self.graph.types[op.out].zero_point
        table = np.asarray(self.graph.constants[op.table], dtype=np.int64).reshape(-1)
        return table if len(table) == 256 else np.concatenate([table[:1], table])

    # --- what has no form -------------------------------------------------------------------------------------

    def _problem(self, op: o.Op) -> str | None:
        """What keeps an operator from being a kernel; an accumulator's reader has no problem of its own."""
        return next(self._problems(op), None)

    def _problems(self, op: o.Op) -> Iterator[str]:
        result, types = o.results(op)[0], self.graph.types
        kind = f"{type(op).__name__} {result!r}"
        if not isinstance(op, Anchor) or not is_codes(types[result]):
            yield f"{kind} works on real numbers"
            return
        joining = self.fused.joinings.get(result)
        for value in _activations(op):
            if not self._may_read(op, value) and not (joining and value == joining.requantize.out):
                yield f"{kind} reads {types[value].format}"
        if joining:
            yield from self._problems_inside(joining.layer, joining.requantize)
        if isinstance(op, o.MatMul) and (scoring := self.fused.scorings.get(result)):
            yield from self._problems_inside(scoring.scores, scoring.requantize)
        if isinstance(op, Weighted):
            yield from (f"{kind}: {problem}" for problem in self._weight_problems(op))
        if (
            isinstance(op, o.Conv | o.ConvTranspose | o.MaxPool | o.AveragePool | o.Resize)
            and types[op.x].shape[0] != 1
        ):
            yield f"{kind} has a batch of {types[op.x].shape[0]}"
        in_rows = isinstance(op, o.Linear | o.MatMul | o.LayerNorm)
        if in_rows and any(len(types[v].shape) == 4 and v not in self.rows for v in (*_activations(op), result)):
            yield f"{kind} works on an image"
        if self.bits > 8 and isinstance(op, o.MatMul | o.Softmax | o.LayerNorm):
            yield f"{kind} reads {types[_activations(op)[0]].format}"
        if isinstance(op, o.Gather) and op.indices not in self.graph.constants:
            yield f"{kind} has computed indices"
        if isinstance(op, o.Softmax) and self._is_wide(types[result]):
            return
        if accumulates(op):
            follower = self._next(result)
            if not isinstance(follower, Settling) or not self._may_give(op, types[follower.out]):
                yield f"{kind} gives {types[result].format} that no int{self.bits} requantization reads"
            elif isinstance(follower, o.DivideCodes):
                if not isinstance(op, o.AveragePool | o.Resize) or self.bits > 8:
                    yield f"{kind} is divided"
            elif not isinstance(op, Weighted) and len(follower.multiplier) > 1:
                yield f"{kind} has several scales"
            elif follower.rounding not in (("single", "gemmlowp2") if self.bits == 8 else ("single", "single15")):
                yield f"{kind} rounds by the rule {follower.rounding}, which needs floating point"
        elif not self._may_give(op, types[result]):
            yield f"{kind} gives {types[result].format}"

    def _may_read(self, op: o.Op, value: o.Value) -> bool:
        """Whether `op` has a kernel that reads codes of this type: 16-bit ones among 8-bit ones only in a few places."""
        maker, type_ = self.graph.producer.get(value), self.graph.types[value]
        if self._is_wide(type_):
            return isinstance(op, o.LayerNorm | Moved | o.Pad) or (isinstance(op, o.MatMul) and value == op.a)
        return self._is_stored(type_) or (isinstance(op, o.Add | o.Sub) and maker is not None and self._is_term(maker))

    def _may_give(self, op: o.Op, type_: Type) -> bool:
        """Whether `op` has a kernel that writes codes of this type."""
        return self._is_stored(type_) or (self._is_wide(type_) and isinstance(op, o.Add | o.Sub | Moved | o.Pad))

    def _problems_inside(self, op: o.Linear | o.MatMul, settling: o.Requantize) -> Iterator[str]:
        """Of an operator that another kernel computes on its way."""
        kind = f"{type(op).__name__} {op.out!r}"
        if not all(self._is_stored(self.graph.types[value]) for value in _activations(op)):
            yield f"{kind} reads other codes than int8"
        if isinstance(op, o.Linear):
            yield from (f"{kind}: {problem}" for problem in self._weight_problems(op))
        elif len(settling.multiplier) > 1:
            yield f"{kind} has several scales"
        if settling.rounding != "single":
            yield f"{kind} rounds by the rule {settling.rounding}"

    def _weight_problems(self, op: Weighted) -> Iterator[str]:
        type_ = self.graph.types[op.weight]
        constants = [v for v in (op.weight, op.bias) if v is not None]
        if not all(v in self.graph.constants for v in constants):
            yield "weight and bias must be constants"
        own = isinstance(type_.format, Int) and type_.format.bits <= WEIGHT_BITS and type_.format.signed
        table = looks_up(type_.format) or (self.bits == 8 and looks_up_wide(type_.format))
        if not own and not table:
            yield f"weights of format {type_.format}"
        elif type_.zero_point:
            yield "weights with a zero point"


def _codes(low: int, high: int) -> IntArray:
    """Codes by index from -128 on; where the format lacks -128 it stands for the lowest code."""
    return np.clip(np.arange(-128, 128), low, high)


def _activations(op: o.Op) -> tuple[o.Value, ...]:
    match op:
        case (
            o.Conv() | o.ConvTranspose() | o.Linear() | o.Gather() | o.Lookup() | o.Softmax() | o.LayerNorm()
        ):  # fmt: skip
            return (op.x,)
        case _:
            return o.operands(op)


def _kind(op: o.Op | None) -> str:
    return "the caller" if op is None else type(op).__name__
