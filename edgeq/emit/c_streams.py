"""The residual stream of a transformer as C layers: sums of 16-bit codes, layers that join it, normalizations of it."""

from __future__ import annotations

import numpy as np

from edgeq.emit.c_layer import Fields, Layer, LayerContext, comment, initializers, output_fields, sizes_text
from edgeq.emit.c_numbers import long_scaling, scaling
from edgeq.emit.c_weighted import SUMS
from edgeq.errors import UnsupportedError
from edgeq.formats import INT32
from edgeq.ir import ops as o
from edgeq.ir.bounds import (
    epsilon_level,
    normal_fraction_bits,
    normalized_count,
)
from edgeq.passes.fused import Joining
from edgeq.passes.kernel import Term


def stream_sum(this: LayerContext, op: o.Add | o.Sub) -> Layer:
    """A sum that 16-bit codes take part in; with a layer's sums as one operand if it joins the stream."""
    addends = [_addend(this, f"addend_{this.number}_{k}", term) for k, term in enumerate(this.kernel.terms)]
    descriptors = "".join(text for text, _, _ in addends)
    numbers = this.scaling([0])
    fields: Fields = {
        "channel": list(numbers.channels[0]),
        "output": output_fields(numbers),
        "is_wide": int(this.program.bits_of(this.kernel.out) > 8),
    }
    if this.kernel.joining:
        return _joining(this, this.kernel.joining, descriptors, addends[0][1:], fields)
    counts = [this.types[term.value].size for term in this.kernel.terms]
    if not _repeats(this):
        raise UnsupportedError("this broadcast is not written for C", where=op.out, value=this.types[op.out].shape)
    fields |= {"count": this.types[this.kernel.out].size, "a_count": counts[0], "b_count": counts[1]}
    fields |= {"a": f"&{addends[0][1]}", "b": f"&{addends[1][1]}"}
    described = descriptors + this.described("edgeq_stream_layer", fields)
    call = f"edgeq_stream(&{this.name}, {addends[0][2]}, {addends[1][2]}, {this.written()})"
    return this.layer("edgeq_stream.h", described, [call], "sum of a stream")


def _repeats(this: LayerContext) -> bool:
    """Whether the codes of each operand lie as those of the result, or repeat from the start where it is shorter."""
    out = this.types[this.kernel.out].shape
    for term in this.kernel.terms:
        shape, order = this.types[term.value].shape, this.program.axes(term.value)
        own = (1,) * (len(out) - len(shape)) + shape
        first = next((k for k, size in enumerate(own) if size > 1), len(out))
        if own[first:] != out[first:] or (own != out and order != tuple(range(len(shape)))):
            return False
    return (
        len({this.program.axes(v) for v in (*this.kernel.reads, this.kernel.out) if len(this.types[v].shape) == 4}) < 2
    )


def _addend(this: LayerContext, name: str, term: Term) -> tuple[str, str, str]:
    """The descriptor of an operand, its name, and the address of its codes."""
    if term.table is not None:
        fields: Fields = {"table": this.bank.words(f"{name}_terms", term.table, "terms by code"), "sign": 1}
        return _described(name, fields), name, this.read(term.value)
    if term.ratio is None:
        raise UnsupportedError("a sum of plain 16-bit codes is not written for C", where=this.kernel.out)
    low, high = -(1 << 15) - this.zero(term.value), (1 << 15) - 1 - this.zero(term.value)
    numbers = scaling(term.ratio, this.zero(term.ratio.out), [-this.zero(term.value)], [(low, high)])
    fields = {
        "table": "NULL",
        "sign": term.sign,
        "channel": list(numbers.channels[0]),
        "output": output_fields(numbers),
    }
    return _described(name, fields), name, this.read(term.value)


def _described(name: str, fields: Fields) -> str:
    return f"static const edgeq_addend {name} = {{\n{initializers(fields)}}};\n"


def _joining(this: LayerContext, joining: Joining, descriptors: str, addend: tuple[str, str], fields: Fields) -> Layer:
    layer = joining.layer
    weight, bias = this.folded(layer)
    bits = this.bits(layer, weight.shape[1])
    is_long = this.care(weight, bias, layer.out, bits)
    assert this.types[joining.requantize.out].format == INT32
    rule = scaling if this.wide_table is None else long_scaling
    numbers = rule(joining.requantize, 0, bias, this.kernel.inner)
    inner: Fields = {
        "weights": this.packed_in_fours(weight, bits),
        "bits": bits,
        "channels": this.channels(numbers, 1, 4, joining.requantize),
        "output": output_fields(numbers),
        "rows": this.types[layer.x].size // weight.shape[1],
        "inputs": weight.shape[1],
        "outputs": len(weight),
        "is_long": is_long,
    }
    name = f"joining_{this.number}"
    descriptors += f"static const edgeq_join_layer {name} = {{\n{initializers(inner)}}};\n"
    described = descriptors + this.described("edgeq_stream_layer", {**fields, "a": f"&{addend[0]}"})
    call = f"edgeq_join(&{this.name}, &{name}, {this.read(layer.x)}, {addend[1]}, {this.written()})"
    return this.layer(
        f"{SUMS[bits]} edgeq_join.h", described, [call], f"fully connected, {sizes_text(weight.shape)}, joins a stream"
    )


def layer_norm(this: LayerContext, op: o.LayerNorm) -> Layer:
    """A normalization of the last axes."""
    type_, constants = this.types[op.x], this.program.graph.constants
    count = normalized_count(op, type_.shape)
    numbers = this.scaling([0])
    title = comment(this.kernel.out)

    def spread(value: o.Value) -> np.ndarray:
        return np.broadcast_to(constants[value], type_.shape[op.axis :])

    fields: Fields = {
        "gamma": "NULL" if op.gamma is None else this.bank.halves(f"gamma_{this.number}", spread(op.gamma), title),
        "beta": "NULL" if op.beta is None else this.bank.words(f"beta_{this.number}", spread(op.beta), title),
        "epsilon": epsilon_level(op.epsilon, type_.scale[0], count),
        **this.shared(numbers),
        "rows": type_.size // count,
        "count": count,
        "fraction": normal_fraction_bits(count),
    }
    wide = this.program.bits_of(op.x) > 8
    x = this.read_wide(op.x) if wide else this.read(op.x)
    call = f"edgeq_layer_norm{'_wide' if wide else ''}(&{this.name}, {x}, {this.written()})"
    described = this.described("edgeq_layer_norm_layer", fields)
    return this.layer("edgeq_layer_norm.h", described, [call], "layer normalization")
