"""Requantization, functions, pools and elementwise operators as stages."""

from __future__ import annotations

import numpy as np

from edgeq.emit.hls_context import Builder, loop_config, loops, power_above, refuse
from edgeq.emit.hls_numbers import Rescaling, rescaling
from edgeq.emit.hls_stage import Stream, Table, Work
from edgeq.emit.hls_weighted import OVERHEAD
from edgeq.formats import Int, code_range
from edgeq.ir import ops as o

BROADCAST_LOOPS = 5


def requantize(this: Builder, op: o.Requantize) -> Stream:
    """A stage with one multiplier, or with none where all scales are powers of two."""
    numbers, x = rescaling(op, this.bounds[op.x]), this.take(op.x)
    bits = this.bits(op.out)
    code_bits = bits + int(not this.is_signed(op.out))
    low, high = code_range(Int(bits, this.is_signed(op.out)))
    channels = len(numbers.shifts)
    config: dict[str, int | str] = {
        "channels": channels, "pixels": x.count // channels, "width": numbers.width, "fraction": numbers.fraction,
        "code_bits": code_bits, "low": max(op.low, low), "high": min(op.high, high),
    }  # fmt: skip
    if channels > 1 and this.axes(op.x)[-1] != this.graph.types[op.x].axis:
        raise refuse(op, "with scales along another axis than the channels", "Use one scale for the tensor.")
    shifts = Table(this.table_name("shifts"), "ap_uint<6>", np.array(numbers.shifts, dtype=np.int64), 6)
    if numbers.is_shift:
        work = Work(x.count, adder_bits=numbers.width + bits)
        return this.add(
            "requantize", op.out, "edgeq_requantize.h", "requantize_by_shifts", config, (x,), bits, work, (shifts,)
        )
    return _with_multipliers(this, op, x, numbers, config, shifts)


def _with_multipliers(
    this: Builder, op: o.Requantize, x: Stream, numbers: Rescaling, config: dict[str, int | str], shifts: Table
) -> Stream:
    wide = max(q.bit_length() for q in numbers.multipliers)
    multipliers = Table(
        this.table_name("scales"), f"ap_uint<{wide}>", np.array(numbers.multipliers, dtype=np.int64), wide
    )
    bits = this.bits(op.out)
    work = Work(x.count, multipliers=((x.bits, wide + 1),), adder_bits=numbers.width + bits)
    return this.add(
        "requantize", op.out, "edgeq_requantize.h", "requantize", {**config, "multiplier_bits": wide}, (x,), bits, work,
        (multipliers, shifts),
    )  # fmt: skip


def lookup(this: Builder, op: o.Lookup) -> Stream:
    """A function as a table from codes to codes."""
    x, bits = this.take(op.x), this.bits(op.out)
    lowest, _ = code_range(this.graph.types[op.x].format)
    entries = np.asarray(this.graph.constants[op.table], dtype=np.int64).reshape(-1)
    type_ = f"ap_{'' if this.is_signed(op.out) else 'u'}int<{bits}>"
    table = Table(this.table_name("table"), type_, entries, bits)
    config = {"entries": len(entries), "lowest": lowest, "count": x.count}
    return this.add("lookup", op.out, "edgeq_requantize.h", "lookup", config, (x,), bits, Work(x.count), (table,))


def pool(this: Builder, op: o.MaxPool | o.AveragePool) -> Stream:
    """The largest level or the sum of every window."""
    x, bits = this.take(op.x), this.bits(op.out)
    dilation = op.dilation if isinstance(op, o.MaxPool) else (1, 1)
    ring = min(power_above((op.kernel[0] - 1) * dilation[0] + 1), power_above(this.image(op.x)[0]))
    names = (
        "in_h in_w in_c out_h out_w out_c kernel_h kernel_w stride_h stride_w pad_top pad_left dilation_h dilation_w"
    )
    numbers = (*this.image(op.x), *this.image(op.out), *op.kernel, *op.stride, *op.padding[:2], *dilation)
    rule = "edgeq::largest" if isinstance(op, o.MaxPool) else "edgeq::total"
    geometry = dict(zip(names.split(), numbers, strict=True))
    config: dict[str, int | str] = {**geometry, "rows": ring, "rule": rule}
    first = code_range(Int(bits, this.is_signed(op.out)))[0] if isinstance(op, o.MaxPool) else 0
    cycles = x.count + this.count(op.out) * (op.kernel[0] * op.kernel[1] + OVERHEAD)
    work = Work(cycles, ((ring * this.image(op.x)[1] * this.image(op.x)[2], x.bits),), adder_bits=bits)
    more = (f"ap_{'' if this.is_signed(op.out) else 'u'}int<{bits}>({first})",)
    return this.add("pool", op.out, "edgeq_pool.h", "pool", config, (x,), bits, work, more=more)


def mean(this: Builder, op: o.Mean) -> Stream:
    """The sum over all pixels, a channel at a time."""
    axes, shape = this.axes(op.x), this.shape(op.x)
    summed = [axis for axis in axes if axis in op.axes or shape[axis] == 1]
    kept = [axis for axis in axes if axis not in op.axes and shape[axis] > 1]
    if axes[: len(axes) - len(kept)] != tuple(summed) and tuple(axes[-len(kept) :]) != tuple(kept):
        raise refuse(op, "over axes that flow inside others", "Take the mean over rows and columns.")
    channels = int(np.prod([shape[axis] for axis in kept]))
    x, bits = this.take(op.x), this.bits(op.out)
    config = {"pixels": x.count // channels, "channels": channels}
    work = Work(x.count + channels, ((channels, bits),), adder_bits=bits)
    return this.add("mean", op.out, "edgeq_pool.h", "sum_pixels", config, (x,), bits, work)


_RULES = {o.Add: "edgeq::sum", o.Sub: "edgeq::difference", o.Mul: "edgeq::product"}


def elementwise(this: Builder, op: o.Add | o.Sub | o.Mul) -> Stream:
    """Two streams token by token; an operand that is broadcast, or constant, lies in memory."""
    in_step = [np.array_equal(this.sources(v, op.out), np.arange(this.count(op.out))) for v in (op.a, op.b)]
    constant = [this.root(v) in this.graph.constants for v in (op.a, op.b)]
    bits, rule = this.bits(op.out), _RULES[type(op)]
    work = Work(this.count(op.out), (), *_units(this, op, bits))
    if all(in_step) and not any(constant):
        reads = (this.take(op.a), this.take(op.b))
        config: dict[str, int | str] = {"count": this.count(op.out), "rule": rule}
        return this.add("join", op.out, "edgeq_elementwise.h", "combine", config, reads, bits, work)
    straight = next((k for k in (0, 1) if in_step[k] and not constant[k]), None)
    if straight is None:
        raise refuse(op, "that broadcasts both operands", "Expand one of them first.")
    if straight == 1 and isinstance(op, o.Sub):
        rule = "edgeq::reversed_difference"
    return _with_kept(this, op, straight, rule, work, constant[1 - straight])


def _units(this: Builder, op: o.Add | o.Sub | o.Mul, bits: int) -> tuple[tuple[tuple[int, int], ...], int]:
    return (((this.bits(op.a), this.bits(op.b)),), 0) if isinstance(op, o.Mul) else ((), bits)


def _with_kept(
    this: Builder, op: o.Add | o.Sub | o.Mul, straight: int, rule: str, work: Work, is_constant: bool
) -> Stream:
    main, kept = (op.a, op.b) if straight == 0 else (op.b, op.a)
    found = loops(this.sources(kept, op.out), BROADCAST_LOOPS, op.out)
    if found is None:
        raise refuse(op, "whose broadcast is no nest of loops", "Expand the operand first.")
    config = {**loop_config(found), "rule": rule}
    if is_constant:
        bits = this.bits(kept) + int(not this.is_signed(kept))
        table = Table(this.table_name("operand"), f"ap_int<{bits}>", this.levels(this.root(kept)), bits)
        return this.add(
            "combine", op.out, "edgeq_elementwise.h", "combine_with", config, (this.take(main),), this.bits(op.out), work,
            (table,),
        )  # fmt: skip
    count = this.count(kept)
    reads = (this.take(main), this.take(kept))
    work = Work(work.cycles + count, ((count, reads[1].bits),), work.multipliers, work.adder_bits)
    return this.add(
        "combine",
        op.out,
        "edgeq_elementwise.h",
        "combine_broadcast",
        {**config, "kept": count},
        reads,
        this.bits(op.out),
        work,
    )
