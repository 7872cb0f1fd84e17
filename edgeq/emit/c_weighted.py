"""Convolutions and matrix products as C layers."""

from __future__ import annotations

from edgeq.emit.c_layer import Fields, Layer, LayerContext, initializers, output_fields, sizes_text
from edgeq.emit.c_layout import image
from edgeq.emit.c_lines import line_of, sums_are_lines
from edgeq.emit.c_needs import Need
from edgeq.emit.c_numbers import Scaling, scaling
from edgeq.emit.c_pack import PIXEL_BLOCK, PIXELS, ROW_BLOCK
from edgeq.emit.c_steps import plane_of, widens_pixels
from edgeq.emit.c_terms import terms_of
from edgeq.errors import UnsupportedError
from edgeq.formats import IntArray
from edgeq.ir import ops as o
from edgeq.passes.kernel import Residual

# Headers of packed weights, by their bits.
SUMS = {8: "", 4: "edgeq_dot_w4.h", 2: "edgeq_dot_w2.h"}
UNPACKING = {8: "", 4: "edgeq_unpack.h", 2: "edgeq_unpack.h"}


def _long(this: LayerContext, is_long: int) -> str:
    return "edgeq_long.h" if is_long and this.program.bits > 8 else ""


def conv(this: LayerContext, op: o.Conv) -> Layer:
    """A convolution, with what follows it: a table, a residual."""
    weight, bias = this.folded(op)
    outputs = len(weight)
    numbers = this.scaling(bias)
    kernel, block = (weight.shape[2], weight.shape[3]), PIXEL_BLOCK[this.instructions]
    bits = this.bits(op, weight[0].size)
    is_long = this.care(weight, bias, op.out, bits)
    residual, summed, in_place = this.kernel.residual, "NULL", this.step in this.placed.direct
    descriptor, needs = "", this.unusual(numbers)
    if residual:
        descriptor, summed, more = sum_descriptor(this)
        needs |= more
    fields: Fields = {
        "weights": this.packed(weight.transpose(0, 2, 3, 1).reshape(outputs, -1), op.groups, block, bits),
        "bits": bits,
        "channels": this.channels(numbers, op.groups, block),
        "output": output_fields(numbers),
        "table": this.table(),
        "sum": summed,
        **this.window(op.x, kernel, op.stride, op.padding, op.dilation),
        "out_c": outputs,
        "groups": op.groups,
        "zero": this.zero(op.x),
        "is_long": is_long,
        "direct": int(in_place or widens_pixels(this.kernel, this.program, this.instructions)),
        "reverse": int(this.step in this.placed.memory.reverse),
    }
    addend = this.read(residual.other.value) if residual else "NULL"
    call = f"edgeq_conv(&{this.name}, {this.read(op.x)}, {addend}, {this.written()}, {this.scratch()})"
    kind = "pointwise convolution" if kernel == (1, 1) else f"convolution, {sizes_text(kernel)}"
    note = kind + (", with a residual" if residual else "")
    return this.layer(
        f"{_long(this, is_long)} {SUMS[bits]} edgeq_conv.h",
        descriptor + this.described("edgeq_conv_layer", fields),
        [call],
        note,
        needs | _large(fields) | _grouping(this, op.groups, outputs // op.groups, bits),
        _spare(this, weight[0].size * outputs),
    )


def _large(fields: Fields) -> set[Need]:
    """Whether a size, which is no less than 0, needs more than 16 bits; zero points and indices of tables may be less."""
    sizes = {name: n for name, n in fields.items() if isinstance(n, int) and name not in ("zero", "is_long")}
    return {"large"} if any(n >> 16 for n in sizes.values()) else set()


def _grouping(this: LayerContext, groups: int, outputs: int, bits: int) -> set[Need]:
    """What a convolution needs for its groups, of so many outputs each."""
    found: set[Need] = {"groups"} if groups > 1 else set()
    found |= {"parts"} if outputs % PIXEL_BLOCK[this.instructions] else set()
    return found | ({"pairs"} if bits < 8 else set())


def _spare(this: LayerContext, each: int) -> int:
    """Multiplications for missing pixels, if `each` has so many."""
    pixels = this.types[this.kernel.out].size // image(this.types[this.kernel.out])[2]
    return -pixels % PIXELS[this.instructions] * each


def sum_descriptor(this: LayerContext) -> tuple[str, str, set[Need]]:
    """The descriptor of a residual, the expression that points to it, and what its output needs."""
    residual = this.kernel.residual
    assert residual is not None
    op = residual.requantize
    numbers = scaling(op, this.types[op.out].zero_point, [0], residual.sums)
    name = f"sum_{this.number}"
    fields = (_line if sums_are_lines(this.program) else _terms)(this, residual, numbers)
    fields["output"] = output_fields(numbers)
    return f"static const edgeq_sum {name} = {{\n{initializers(fields)}}};\n", f"&{name}", this.unusual(numbers)


def _line(this: LayerContext, residual: Residual, numbers: Scaling) -> Fields:
    line = line_of(residual, this.program)
    assert line is not None
    return {"own": line.own, "other": line.other, "start": line.start, "shift": line.shift}


def _terms(this: LayerContext, residual: Residual, numbers: Scaling) -> Fields:
    assert residual.other.table is not None
    own, other = (terms_of(this.program, table) for table in (residual.own, residual.other.table))
    return {
        "own": own.named(this.bank, f"own_{this.number}"),
        "other": other.named(this.bank, f"other_{this.number}"),
        "channel": [own.start + other.start, *numbers.channels[0][1:]],
    }


def depthwise(this: LayerContext, op: o.Conv) -> Layer:
    """A convolution whose input channels each have outputs of their own."""
    weight, bias = this.folded(op)
    is_long = this.care(weight, bias, op.out)
    if is_long and this.wide_table is None:
        raise UnsupportedError("a sum over codes of a depthwise convolution may exceed 32 bits", where=op.out)
    numbers = this.scaling(bias)
    kernel = (weight.shape[2], weight.shape[3])
    plane = plane_of(op, kernel, this.types[this.kernel.out])
    bits = this.bits(op)
    fields: Fields = {
        "weights": this.in_order(weight, bits),
        "bits": bits,
        "channels": this.channels(numbers),
        "output": output_fields(numbers),
        "table": this.table(),
        **this.window(op.x, kernel, op.stride, op.padding, op.dilation),
        "out_c": len(weight),
        "multiplier": len(weight) // op.groups,
        "plane_h": plane[0],
        "plane_w": plane[1],
        "zero": this.zero(op.x),
        "is_long": is_long,
    }
    call = f"edgeq_depthwise(&{this.name}, {this.read(op.x)}, {this.written()}, {this.scratch()})"
    described = this.described("edgeq_depthwise_layer", fields)
    return this.layer(
        f"{UNPACKING[bits]} edgeq_depthwise.h",
        described,
        [call],
        f"depthwise convolution, {sizes_text(kernel)}",
        this.unusual(numbers) | _large(fields) | ({"unusual"} if this.kernel.table is not None else set()),
    )


def channelwise(this: LayerContext, op: o.Conv) -> Layer:
    """A depthwise convolution with one output channel per input channel, on vectors of channels."""
    weight, bias = this.folded(op)
    this.is_long(weight, bias, op.out)
    numbers = this.scaling(bias)
    kernel = (weight.shape[2], weight.shape[3])
    fields: Fields = {
        "weights": this.in_order(weight[:, 0].transpose(1, 2, 0), 8),
        "channels": this.channels(numbers, 1, PIXEL_BLOCK[this.instructions]),
        "output": output_fields(numbers),
        "table": this.table(),
        **this.window(op.x, kernel, op.stride, op.padding, op.dilation),
        "zero": this.zero(op.x),
    }
    call = f"edgeq_channelwise(&{this.name}, {this.read(op.x)}, {this.written()}, {this.scratch()})"
    described = this.described("edgeq_channelwise_layer", fields)
    return this.layer("edgeq_channelwise.h", described, [call], f"depthwise convolution, {sizes_text(kernel)}")


def conv_transpose(this: LayerContext, op: o.ConvTranspose) -> Layer:
    """A transposed convolution."""
    weight, bias = this.weights(op)
    numbers = this.scaling(bias)
    kernel = (weight.shape[2], weight.shape[3])
    bits = this.bits(op)
    fields: Fields = {
        "weights": this.in_order(weight.transpose(0, 2, 3, 1), bits),
        "bits": bits,
        "channels": this.channels(numbers),
        "output": output_fields(numbers),
        "table": this.table(),
        **this.window(op.x, kernel, op.stride, op.padding, op.dilation),
        "out_c": len(weight),
        "groups": op.groups,
        "zero": this.zero(op.x),
        "is_long": 0 if this.wide_table is None else this.care(weight, bias, op.out),
    }
    call = f"edgeq_conv_transpose(&{this.name}, {this.read(op.x)}, {this.written()})"
    described = this.described("edgeq_conv_transpose_layer", fields)
    return this.layer(
        f"{UNPACKING[bits]} edgeq_conv_transpose.h", described, [call], f"transposed convolution, {sizes_text(kernel)}"
    )


def linear(this: LayerContext, op: o.Linear) -> Layer:
    """A matrix product with constant weights; of several rows, a pointwise convolution over them."""
    weight, bias = this.folded(op)
    numbers = this.scaling(bias)
    bits = this.bits(op, weight.shape[1])
    is_long = this.care(weight, bias, op.out, bits)
    if this.types[op.x].size > weight.shape[1]:
        return _rows(this, op, weight, numbers, bits, is_long)
    block = ROW_BLOCK[this.instructions]
    fields: Fields = {
        "weights": this.packed(weight, 1, block, bits),
        "bits": bits,
        "channels": this.channels(numbers, 1, block),
        "output": output_fields(numbers),
        "table": this.table(),
        "rows": this.types[op.x].size // weight.shape[1],
        "inputs": weight.shape[1],
        "outputs": len(weight),
        "is_long": is_long,
    }
    call = f"edgeq_linear(&{this.name}, {this.read(op.x)}, {this.written()})"
    described = this.described("edgeq_linear_layer", fields)
    return this.layer(
        f"{_long(this, is_long)} {SUMS[bits]} edgeq_linear.h",
        described,
        [call],
        f"fully connected, {sizes_text(weight.shape)}",
        this.unusual(numbers),
    )


def _rows(this: LayerContext, op: o.Linear, weight: IntArray, numbers: Scaling, bits: int, is_long: int) -> Layer:
    """Rows of a matrix product two at a time, as pixels of a column."""
    rows, block = this.types[op.x].size // weight.shape[1], PIXEL_BLOCK[this.instructions]
    fields: Fields = {
        "weights": this.packed(weight, 1, block, bits),
        "bits": bits,
        "channels": this.channels(numbers, 1, block),
        "output": output_fields(numbers),
        "table": this.table(),
        "sum": "NULL",
        "in_h": rows,
        "in_w": 1,
        "in_c": weight.shape[1],
        "out_h": rows,
        "out_w": 1,
        "out_c": len(weight),
        **dict.fromkeys(("kernel_h", "kernel_w", "stride_h", "stride_w", "dilation_h", "dilation_w", "groups"), 1),
        "is_long": is_long,
        "direct": 1,
    }
    call = f"edgeq_conv(&{this.name}, {this.read(op.x)}, NULL, {this.written()}, {this.scratch()})"
    return this.layer(
        f"{_long(this, is_long)} {SUMS[bits]} edgeq_conv.h",
        this.described("edgeq_conv_layer", fields),
        [call],
        f"fully connected, {sizes_text(weight.shape)}, {rows} rows",
        this.unusual(numbers) | _large(fields) | _grouping(this, 1, len(weight), bits),
        -rows % PIXELS[this.instructions] * weight.size,
    )
