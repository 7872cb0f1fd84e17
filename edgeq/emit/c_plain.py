"""Sums, products, pools, means and interpolation as C layers."""

from __future__ import annotations

import numpy as np

from edgeq.emit.c_layer import Fields, Layer, LayerContext, sizes_text
from edgeq.emit.c_layout import image, nest, places, to_memory
from edgeq.emit.c_terms import terms_of
from edgeq.errors import UnsupportedError
from edgeq.formats import IntArray
from edgeq.ir import ops as o
from edgeq.reference.meaning import interpolation_matrix
from edgeq.reference.samples import interpolated_from


def lookup(this: LayerContext, op: o.Lookup | o.Requantize) -> Layer:
    """A function of codes by its table."""
    if this.program.bits > 8:
        return _wide_function(this, op)
    call = f"edgeq_lookup({this.table()}, {this.read(op.x)}, {this.types[this.kernel.out].size}, {this.written()})"
    return this.layer("edgeq_elementwise.h", "", [call], "table of a function")


def _wide_function(this: LayerContext, op: o.Lookup | o.Requantize) -> Layer:
    """A function of 16-bit codes: interpolated where that is what its table says, or the whole table; or a rescaling."""
    tail = f"{this.read(op.x)}, {this.types[this.kernel.out].size}, {this.written()})"
    if isinstance(op, o.Requantize):
        fields: Fields = {"channel": list(this.rescaling(op)), "output": [1, op.low, op.high, 1, 0]}
        described = this.described("edgeq_rescale_layer", fields)
        return this.layer("edgeq_wide.h", described, [f"edgeq_rescale(&{this.name}, {tail}"], "codes rescaled")
    table = np.asarray(this.program.graph.constants[op.table], dtype=np.int64).reshape(-1)
    table = table if len(table) == 1 << 16 else np.concatenate([table[:1], table])
    samples = interpolated_from(table)
    if samples is None:
        whole = this.bank.halves(f"table_{this.number}", table, "codes by code")
        return this.layer("edgeq_wide.h", "", [f"edgeq_lookup_wide({whole}, {tail}"], "table of a function")
    named = this.bank.halves(f"samples_{this.number}", samples, "codes of every 128th code")
    return this.layer("edgeq_wide.h", "", [f"edgeq_interpolate({named}, {tail}"], "interpolated function")


def binary(this: LayerContext, op: o.Add | o.Sub | o.Mul, function: str) -> Layer:
    """A sum or product of two operands, one of which may broadcast."""
    a, b = (this.kernel.terms[k].value for k in (0, 1)) if this.kernel.terms else (op.a, op.b)
    loops = nest([_broadcast_places(this, v) for v in (a, b)])
    if loops is None or len(loops) > 3:
        raise UnsupportedError(
            "this broadcast is not written for C", where=op.out, value=(this.types[a].shape, this.types[b].shape)
        )
    loops = [(1, (0, 0))] * (3 - len(loops)) + loops
    fields: Fields = {}
    bias = 0
    if this.kernel.terms and this.program.bits > 8:
        fields["a_ratio"], fields["b_ratio"] = map(this.ratio, this.kernel.terms)
    elif this.kernel.terms:
        terms = [terms_of(this.program, term.table) for term in this.kernel.terms if term.table is not None]
        bias = sum(term.start for term in terms)
        for side, term in zip("ab", terms, strict=True):
            fields[f"{side}_terms"] = term.named(this.bank, f"{side}_{this.number}")
    else:
        fields |= {"a_zero": this.zero(a), "b_zero": this.zero(b)}
    fields |= this.shared(this.scaling([bias]))
    fields |= {"size": [count for count, _ in loops]}
    fields |= {f"{side}_stride": [s[k] for _, s in loops] for k, side in enumerate("ab")}
    call = f"{function}(&{this.name}, {this.read(a)}, {this.read(b)}, {this.written()})"
    described = this.described("edgeq_binary_layer", fields)
    return this.layer("edgeq_elementwise.h", described, [call], "sum" if this.kernel.terms else "product")


def pool(this: LayerContext, op: o.AveragePool | o.MaxPool, kernel: o.Pair, dilation: o.Pair, function: str) -> Layer:
    """The largest or the mean code of each window."""
    fields: Fields = {}
    if isinstance(op, o.AveragePool):
        this.check_sum()
        fields = this.averaged(op.x, kernel[0] * kernel[1])
        height, width, channels = image(this.types[op.x])
        if (kernel, op.padding, this.types[op.out].shape[2:]) == ((height, width), (0, 0, 0, 0), (1, 1)):
            return _mean(this, op.x, {**fields, "outer": 1, "count": height * width, "inner": channels})
    fields |= this.window(op.x, kernel, op.stride, op.padding, dilation)
    fields["zero"] = this.zero(op.x)
    call = f"{function}(&{this.name}, {this.read(op.x)}, {this.written()})"
    described = this.described("edgeq_pool_layer", fields)
    return this.layer("edgeq_pool.h", described, [call], f"{function[6:].replace('_', ' ')}, {sizes_text(kernel)}")


def mean(this: LayerContext, op: o.Mean) -> Layer:
    """A mean over axes that are neighbours in memory."""
    sizes = outer_count_inner(this, op.x, op.axes)
    if sizes is None:
        raise UnsupportedError("a mean over these axes is not written for C", where=op.out, value=op.axes)
    count = this.types[op.x].size // this.types[op.out].size
    this.check_sum()
    fields = {**this.shared(this.scaling([-this.zero(op.x) * count])), "divisor": 0}
    return _mean(this, op.x, {**fields, **dict(zip(("outer", "count", "inner"), sizes, strict=True))})


def _mean(this: LayerContext, x: o.Value, fields: Fields) -> Layer:
    call = f"edgeq_mean(&{this.name}, {this.read(x)}, {this.written()})"
    return this.layer("edgeq_mean.h", this.described("edgeq_mean_layer", fields), [call], "mean")


def resize(this: LayerContext, op: o.Resize) -> Layer:
    """Linear interpolation."""
    in_h, in_w, channels = image(this.types[op.x])
    mixes = []
    for k, size in enumerate((in_h, in_w)):
        matrix = interpolation_matrix(size, op.size[k], op.scale[k], op.mode, op.coordinates, True)
        mixes.append(_mixes(matrix.numpy()))
    fields = this.averaged(op.x, 1 << 20)
    fields |= {
        "rows": this.bank.mixes(f"rows_{this.number}", mixes[0], "rows that each output row mixes"),
        "columns": this.bank.mixes(f"columns_{this.number}", mixes[1], "columns that each output column mixes"),
        "in_w": in_w,
        "in_c": channels,
        "out_h": op.size[0],
        "out_w": op.size[1],
    }
    call = f"edgeq_resize(&{this.name}, {this.read(op.x)}, {this.written()})"
    described = this.described("edgeq_resize_layer", fields)
    return this.layer("edgeq_resize.h", described, [call], "linear interpolation")


def _broadcast_places(this: LayerContext, value: o.Value) -> IntArray:
    """For every code of the result, in memory order: the code of an operand that it reads."""
    out = this.kernel.out
    found = np.broadcast_to(places(this.types[value].shape, this.program.axes(value)), this.types[out].shape)
    return np.asarray(to_memory(found, this.program.axes(out)), dtype=np.int64)


def outer_count_inner(this: LayerContext, value: o.Value, axes: o.Ints) -> tuple[int, int, int] | None:
    """The sizes before, of and behind some axes of a value in memory; None unless they lie side by side there."""
    shape, order = this.types[value].shape, this.program.axes(value)
    joined = tuple(1 if axis in axes else size for axis, size in enumerate(shape))
    loops = nest([np.asarray(to_memory(np.broadcast_to(places(joined, order), shape), order), dtype=np.int64)])
    if loops is None:
        return None
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
