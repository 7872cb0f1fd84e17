"""Steps of generated code: an operator on codes with all that settles its sums, and the program of such steps."""

from __future__ import annotations

from dataclasses import dataclass

from edgeq.formats import INT16, IntArray
from edgeq.ir import ops as o
from edgeq.ir.bounds import Interval
from edgeq.ir.graph import Graph, Type
from edgeq.passes.fused import Joining, Scoring
from edgeq.passes.orders import axes_in_memory

Weighted = o.Conv | o.ConvTranspose | o.Linear
Binary = o.Add | o.Sub | o.Mul
Moved = o.Reshape | o.Transpose | o.Slice | o.Expand
Moving = Moved | o.Gather | o.Pad | o.Concat
Anchor = (
    Weighted | Binary | Moving | o.AveragePool | o.Mean | o.MaxPool | o.Resize | o.Lookup | o.Requantize
    | o.MatMul | o.Softmax | o.LayerNorm
)  # fmt: skip
Settling = o.Requantize | o.DivideCodes


@dataclass(frozen=True)
class Term:
    """An operand of a sum: its codes, and the 32-bit term that each code stands for.

    8-bit codes have a `table` of them (int64 [256], lowest code first); for others a term is the `sign` times the code
    requantized by `ratio`, or the level itself.
    """

    value: o.Value
    table: IntArray | None
    sign: int = 1
    ratio: o.Requantize | None = None


@dataclass(frozen=True)
class Residual:
    """What a convolution adds to its codes: requantize(own[code] + other.table[other code]); `sums` bounds that sum."""

    own: IntArray
    other: Term
    requantize: o.Requantize
    sums: tuple[Interval, ...]


@dataclass(frozen=True)
class Kernel:
    """One step: `op` on codes, settled to codes, mapped through `table` (codes by code), plus a residual; gives `out`.

    `terms` are the operands of an Add or Sub; with `joining`, of an Add to a layer's sums, the other one alone. `scoring`
    says how the shares come about that a matrix product reads; `inner` are the proved intervals of either's sums. `moves` came before `op`, which moves codes too. `sums` are the proved intervals of the accumulator, one for each output
    channel of a weighted operator.
    """

    op: Anchor
    out: o.Value
    settling: Settling | None = None
    table: IntArray | None = None
    terms: tuple[Term, ...] = ()
    residual: Residual | None = None
    sums: tuple[Interval, ...] = ()
    moves: tuple[Moved, ...] = ()
    scoring: Scoring | None = None
    joining: Joining | None = None
    inner: tuple[Interval, ...] = ()

    @property
    def ops(self) -> tuple[o.Op, ...]:
        """The operators that do the work: what is computed on the way, then `op`."""
        if self.scoring:
            return self.scoring.scores, self.scoring.softmax, self.op
        return (self.joining.layer, self.op) if self.joining else (self.op,)

    @property
    def x(self) -> o.Value:
        """The operand of an operator that moves codes: where the first of a chain of them begins."""
        return o.operands(self.moves[0] if self.moves else self.op)[0]

    @property
    def reads(self) -> tuple[o.Value, ...]:
        """Values of codes that the step reads, constants among them; weights and biases are not."""
        if self.joining:
            return (self.joining.layer.x, *(term.value for term in self.terms))
        match self.op:
            case o.MatMul() if self.scoring:
                return (self.scoring.scores.a, self.scoring.scores.b, self.op.b)
            case _ if self.moves:
                return (self.x,)
            case o.Conv() | o.ConvTranspose() | o.Linear() | o.Gather() | o.LayerNorm() | o.Softmax():
                found: tuple[o.Value, ...] = (self.op.x,)
            case o.Add() | o.Sub():
                found = tuple(term.value for term in self.terms)
            case _:
                found = tuple(v for v in o.operands(self.op) if not (isinstance(self.op, o.Lookup) and v != self.op.x))
        return (*found, self.residual.other.value) if self.residual else found


@dataclass(frozen=True)
class Program:
    """`kernels` in execution order over the codes of `graph`.

    `inputs` and `outputs` are pairs (name in the model, value of codes): a real input is its quantized codes, a real
    output the codes that it dequantizes. Codes between kernels have `bits`, 8 or 16. `rows` are the values of rank 4
    that lie row by row, not as images.
    """

    graph: Graph
    kernels: tuple[Kernel, ...]
    inputs: tuple[tuple[o.Value, o.Value], ...]
    outputs: tuple[tuple[o.Value, o.Value], ...]
    bits: int = 8
    rows: frozenset[o.Value] = frozenset()

    def type(self, value: o.Value) -> Type:
        """Type of a value."""
        return self.graph.types[value]

    def bits_of(self, value: o.Value) -> int:
        """Bits that a code of a value takes in memory."""
        return 16 if self.type(value).format == INT16 else self.bits

    def size(self, value: o.Value) -> int:
        """What a value takes in memory, in units of `bits`."""
        return self.type(value).size * self.bits_of(value) // self.bits

    def axes(self, value: o.Value) -> tuple[int, ...]:
        """The axes of a value in the order in which memory holds them."""
        rank = len(self.type(value).shape)
        return tuple(range(rank)) if value in self.rows else axes_in_memory(rank)


def is_depthwise(op: o.Conv, graph: Graph) -> bool:
    """Whether every input channel has output channels of its own."""
    return op.groups == graph.types[op.x].shape[1] > 1
