"""Attention as C layers: products of two activations, softmax, and both together row by row."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from edgeq.emit.c_layer import Fields, Layer, LayerContext, output_fields, sizes_text
from edgeq.emit.c_layout import nest, places
from edgeq.emit.c_numbers import scaling
from edgeq.emit.c_plain import outer_count_inner
from edgeq.errors import UnsupportedError
from edgeq.ir import ops as o
from edgeq.passes.fused import Scoring


def softmax(this: LayerContext, op: o.Softmax) -> Layer:
    """Shares along one axis: 16-bit codes as they are, or 8-bit ones."""
    sizes = outer_count_inner(this, op.x, (op.axis,))
    if sizes is None:
        raise UnsupportedError("a softmax over this axis is not written for C", where=op.out, value=op.axis)
    wide = this.program.bits_of(this.kernel.out) > 8
    fields: Fields = {"exponentials": _exponentials(this, op)}
    fields |= {} if wide else this.shared(this.scaling([0]))
    fields |= dict(zip(("outer", "count", "inner"), sizes, strict=True))
    out = this.written_wide() if wide else this.written()
    call = f"edgeq_softmax{'_wide' if wide else ''}(&{this.name}, {this.read(op.x)}, {out})"
    return this.layer("edgeq_softmax.h", this.described("edgeq_softmax_layer", fields), [call], "softmax")


def _exponentials(this: LayerContext, op: o.Softmax) -> str:
    assert op.table is not None
    table = this.program.graph.constants[op.table]
    return this.bank.unsigned_halves(f"exponentials_{this.number}", table, "e^-x by steps of x")


def matmul(this: LayerContext, op: o.MatMul) -> Layer:
    """A product of two activations, matrix by matrix."""
    a, b = this.types[op.a].shape, this.types[op.b].shape
    batch = this.types[op.out].shape[:-2]
    loops = nest([np.broadcast_to(_starts(shape), batch).reshape(-1) for shape in (a, b)])
    if loops is None or len(loops) > 2:
        raise UnsupportedError("these matrices do not follow one another in memory", where=op.out, value=(a, b))
    loops = [(1, (0, 0))] * (2 - len(loops)) + loops
    wide = this.program.bits_of(op.a) > 8
    fields: Fields = {
        **this.shared(this.scaling([0])),
        "batch": [count for count, _ in loops],
        "a_stride": [strides[0] for _, strides in loops],
        "b_stride": [strides[1] for _, strides in loops],
        "rows": a[-2],
        "depth": a[-1],
        "columns": b[-1],
        "a_zero": this.zero(op.a),
        "b_zero": this.zero(op.b),
    }
    x = this.read_wide(op.a) if wide else this.read(op.a)
    call = f"edgeq_matmul{'_wide' if wide else ''}(&{this.name}, {x}, {this.read(op.b)}, {this.written()}, {this.scratch()})"
    described = this.described("edgeq_matmul_layer", fields)
    return this.layer("edgeq_matmul.h", described, [call], f"matrix product, {sizes_text((*a[-2:], b[-1]))}")


def _starts(shape: Sequence[int]) -> np.ndarray:
    """Where each matrix of a row-major value begins."""
    return np.asarray(places(tuple(shape), tuple(range(len(shape))))[..., 0, 0])


def attention(this: LayerContext, op: o.MatMul, scoring: Scoring) -> Layer:
    """Scores, softmax and the product with the values, row by row."""
    q, k, v = (this.types[value].shape for value in this.kernel.reads)
    scores = scaling(scoring.requantize, this.zero(scoring.requantize.out), [0], this.kernel.inner)
    fields: Fields = {
        "scores": list(scores.channels[0]),
        "scores_output": output_fields(scores),
        "exponentials": _exponentials(this, scoring.softmax),
        **this.shared(this.scaling([0])),
        "heads": prod(q[:-2]),
        "queries": q[-2],
        "keys": k[-1],
        "depth": q[-1],
        "width": v[-1],
        "q_zero": this.zero(scoring.scores.a),
        "k_zero": this.zero(scoring.scores.b),
        "v_zero": this.zero(op.b),
    }
    operands = ", ".join(map(this.read, this.kernel.reads))
    call = f"edgeq_attention(&{this.name}, {operands}, {this.written()}, {this.scratch()})"
    described = this.described("edgeq_attention_layer", fields)
    return this.layer("edgeq_attention.h", described, [call], f"attention, {sizes_text((*q[-2:], k[-1]))}")
