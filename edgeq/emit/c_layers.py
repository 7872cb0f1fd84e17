"""Each kernel as C: the constants and the descriptor of its layer, and the call that runs it."""

from __future__ import annotations

from edgeq.emit import c_attention, c_banded, c_moves, c_plain, c_streams, c_weighted
from edgeq.emit.c_bank import Bank
from edgeq.emit.c_layer import Layer, LayerContext
from edgeq.emit.c_place import Placed
from edgeq.emit.c_steps import is_channelwise, is_planewise
from edgeq.ir import ops as o
from edgeq.passes.kernel import Kernel, Program
from edgeq.target import Instructions


def print_work(program: Program, placed: Placed, bank: Bank, instructions: Instructions, place: int) -> Layer:
    """The layer of the step in this place, a kernel or a chain of them in bands. Raises UnsupportedError."""
    step, work = placed.kernels[place]
    number = str(place + 1)
    if isinstance(work, Kernel):
        return print_layer(LayerContext(program, placed, bank, instructions, number, step, work))
    return c_banded.print_bands(program, placed, bank, instructions, number, step, work, print_layer)


def print_layer(this: LayerContext) -> Layer:
    """The layer of one kernel. Raises UnsupportedError for the few shapes that no kernel is written for."""
    op = this.kernel.op
    match op:
        case o.Conv() if is_channelwise(op, this.program.graph, this.instructions):
            return c_weighted.channelwise(this, op)
        case o.Conv() if is_planewise(op, this.program.graph, this.instructions):
            return c_weighted.depthwise(this, op)
        case o.Conv():
            return c_weighted.conv(this, op)
        case o.ConvTranspose():
            return c_weighted.conv_transpose(this, op)
        case o.Add() | o.Sub() if this.kernel.joining or this.takes_wide():
            return c_streams.stream_sum(this, op)
        case o.Linear():
            return c_weighted.linear(this, op)
        case o.Add() | o.Sub():
            return c_plain.binary(this, op, "edgeq_add")
        case o.Mul():
            return c_plain.binary(this, op, "edgeq_multiply")
        case o.AveragePool():
            return c_plain.pool(this, op, op.kernel, (1, 1), "edgeq_average_pool")
        case o.MaxPool():
            return c_plain.pool(this, op, op.kernel, op.dilation, "edgeq_max_pool")
        case o.MatMul() if this.kernel.scoring:
            return c_attention.attention(this, op, this.kernel.scoring)
        case o.MatMul():
            return c_attention.matmul(this, op)
        case o.Softmax():
            return c_attention.softmax(this, op)
        case o.LayerNorm():
            return c_streams.layer_norm(this, op)
        case o.Mean():
            return c_plain.mean(this, op)
        case o.Resize() if op.mode == "linear":
            return c_plain.resize(this, op)
        case o.Lookup() | o.Requantize():
            return c_plain.lookup(this, op)
        case o.Concat():
            return c_moves.concat(this, op)
        case _:
            return c_moves.move(this, op)
