"""Matrix products, softmax and layer normalization as stages."""

from __future__ import annotations

import numpy as np

from edgeq.emit.hls_context import Builder, refuse
from edgeq.emit.hls_stage import Stream, Table, Work
from edgeq.emit.hls_weighted import OVERHEAD
from edgeq.ir import ops as o
from edgeq.ir.bounds import epsilon_level, normal_fraction_bits, signed_bits

_NEAREST = "--target c-int8 computes it."


def matmul(this: Builder, op: o.MatMul) -> Stream:
    """Rows of a times a matrix b that is kept, a batch after another."""
    (rows, depth), columns = this.shape(op.a)[-2:], this.shape(op.b)[-1]
    batches = this.count(op.out) // (rows * columns)
    in_rows = all(this.axes(v) == tuple(range(len(this.shape(v)))) for v in (op.a, op.b, op.out))
    if not in_rows or this.count(op.a) != batches * rows * depth or this.count(op.b) != batches * depth * columns:
        raise refuse(op, "of images or of broadcast batches", _NEAREST)
    a, b = this.take(op.a), this.take(op.b)
    config = {"batches": batches, "rows": rows, "depth": depth, "columns": columns}
    cycles = batches * (depth * columns + rows * (depth + columns * (depth + OVERHEAD)))
    work = Work(cycles, ((depth * columns, b.bits), (depth, a.bits)), ((a.bits, b.bits),), this.bits(op.out))
    return this.add("matmul", op.out, "edgeq_attention.h", "matmul", config, (a, b), this.bits(op.out), work)


def softmax(this: Builder, op: o.Softmax) -> Stream:
    """Shares of exponentials from a table, by one rounded division each."""
    row = _row(this, op, op.axis)
    assert op.table is not None
    table = np.asarray(this.graph.constants[op.table], dtype=np.int64).reshape(-1)
    x, entry_bits = this.take(op.x), int(table.max()).bit_length()
    tables = (Table(this.table_name("exponentials"), f"ap_uint<{entry_bits}>", table, entry_bits),)
    config = {"rows": x.count // row, "row": row, "entries": len(table)}
    work = Work(3 * x.count, ((row, x.bits), (row, entry_bits)), adder_bits=32 * 32)
    return this.add("softmax", op.out, "edgeq_attention.h", "softmax", config, (x,), this.bits(op.out), work, tables)


def layer_norm(this: Builder, op: o.LayerNorm) -> Stream:
    """Exact sums of a row, an integer root, one product an element; then gamma and beta."""
    row = _row(this, op, op.axis)
    type_ = this.graph.types[op.x]
    epsilon = epsilon_level(op.epsilon, type_.scale[0], row)
    x = this.take(op.x)
    gamma = np.ones(1, np.int64) if op.gamma is None else this.levels(op.gamma).reshape(-1)
    beta = np.zeros(1, np.int64) if op.beta is None else this.levels(op.beta).reshape(-1)
    gamma, beta = (np.resize(numbers, row) for numbers in (gamma, beta))  # one number stands for all of a row
    tables = tuple(
        Table(this.table_name(name), f"ap_int<{bits}>", numbers, bits)
        for name, numbers in (("gammas", gamma), ("betas", beta))
        for bits in [signed_bits((int(numbers.min()), int(numbers.max())))]
    )
    config = {"rows": x.count // row, "row": row, "fraction": normal_fraction_bits(row)}
    work = Work(x.count + x.count // row * (row + 64), ((row, x.bits),), ((32, 18), (18, 17)), 64 * 4)
    return this.add(
        "layer_norm", op.out, "edgeq_attention.h", "layer_norm", config, (x,), this.bits(op.out), work, tables,
        (f"{epsilon}LL",),
    )  # fmt: skip


def _row(this: Builder, op: o.Softmax | o.LayerNorm, axis: int) -> int:
    """Elements of a row, which must be what flows last."""
    shape, axes = this.shape(op.x), this.axes(op.x)
    if axes[axis:] != tuple(range(axis, len(shape))) or (isinstance(op, o.Softmax) and axis != len(shape) - 1):
        raise refuse(op, "over another axis than the last", _NEAREST)
    return int(np.prod(shape[axis:]))
