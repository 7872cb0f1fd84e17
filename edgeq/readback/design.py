"""The constants of a written design beside those of its graph: weights, biases, scales, clamps, tables, widths, ports.

Each operator's stage is found by the value that it computes. Widths are those that the proof of ranges asks for. What only
moves codes has no numbers that differ unseen: running it compares every value.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import numpy as np

from edgeq.formats import Int, IntArray, code_range, decode
from edgeq.ir import ops as o
from edgeq.ir.bounds import Interval, epsilon_level, is_codes, level_bounds, signed_bits
from edgeq.ir.graph import Graph
from edgeq.readback.compare import Comparison, Pair, compare_pairs
from edgeq.readback.hls import WrittenDesign, WrittenStage
from edgeq.reference.meaning import interpolation_matrix

Pairs = Iterator[Pair]


def compare_design(graph: Graph, design: WrittenDesign) -> Comparison:
    """Every constant of `design` against the lowered `graph`."""
    return compare_pairs(graph, _all(graph, design))


def _all(graph: Graph, design: WrittenDesign) -> Iterator[tuple[str, list[Pair]]]:
    bounds = level_bounds(graph)
    yield from _ports(graph, design)
    for op in graph.ops:
        value = o.results(op)[0]
        stage = design.stages.get(design.layers.get(value, ""))
        if stage is not None:
            yield value, [*_widths(stage, bounds[value]), *_numbers(graph, op, stage, design)]
        elif isinstance(op, o.Conv | o.ConvTranspose | o.Linear | o.Requantize | o.Lookup | o.Softmax | o.LayerNorm):
            yield value, [("the stage", "there", "none")]


def _ports(graph: Graph, design: WrittenDesign) -> Iterator[tuple[str, list[Pair]]]:
    for port in (*design.described["inputs"], *design.described["outputs"]):
        value = str(port["value"])
        if value not in graph.types or not is_codes(graph.types[value]):
            yield str(port["name"]), [("the port", "a value of codes", value)]
            continue
        scale = graph.types[value].scale[0]
        found = design.scales.get(str(port["symbol"]))
        yield value, [("the port's scale", scale, found), ("the scale in the manifest", scale, port["scale"])]


def _result_width(stage: WrittenStage) -> tuple[int, bool]:
    """Bits of the result's stream, and whether it has a sign; streams of the operand come first or, of joins, last."""
    names = [name for name in stage.widths if name in stage.arguments]
    return stage.widths[names[0] if stage.kind == "concat" else names[-1]]


def _widths(stage: WrittenStage, proved: Interval) -> Pairs:
    """The result's stream holds every level that is possible."""
    bits, is_signed = _result_width(stage)
    needed = signed_bits(proved) if is_signed else max(proved[1].bit_length(), 1)
    yield "the width of its stream", "enough", "enough" if bits >= needed else f"{bits} bits of {needed}"


def _numbers(graph: Graph, op: o.Op, stage: WrittenStage, design: WrittenDesign) -> Pairs:
    match op:
        case o.Conv() | o.ConvTranspose() | o.Linear():
            yield from _weighted(graph, op, stage, design)
        case o.Requantize():
            yield from _requantize(op, stage, design)
        case o.Lookup():
            entries = np.asarray(graph.constants[op.table], dtype=np.int64).reshape(-1)
            yield "the table", entries, _or_empty(design.table(stage, "table"))
            yield "the lowest code", code_range(graph.types[op.x].format)[0], stage.number("lowest")
        case o.Softmax():
            assert op.table is not None
            entries = np.asarray(graph.constants[op.table], dtype=np.int64).reshape(-1)
            yield "the exponentials", entries, _or_empty(design.table(stage, "exponentials"))
        case o.LayerNorm():
            yield from _layer_norm(graph, op, stage, design)
        case o.MaxPool() | o.AveragePool():
            dilation = op.dilation if isinstance(op, o.MaxPool) else (1, 1)
            yield from _window(stage, op.kernel, op.stride, op.padding[:2], dilation)
        case o.Add() | o.Sub() | o.Mul():
            yield from _operand(graph, op, stage, design)
        case o.Resize() if op.mode == "linear":
            yield from _interpolation(graph, op, stage, design)
        case _:
            return


def _or_empty(found: IntArray | None) -> IntArray:
    return np.zeros(0, np.int64) if found is None else found


# --- weights ------------------------------------------------------------------------------------------------------


def _weighted(
    graph: Graph, op: o.Conv | o.ConvTranspose | o.Linear, stage: WrittenStage, design: WrittenDesign
) -> Pairs:
    type_ = graph.types[op.weight]
    wanted = _as_convolution(op, decode(type_.format, graph.constants[op.weight]))
    found = design.levels_of(str(stage.config["product"]), _unfolded(stage, _or_empty(design.table(stage, "weights"))))
    yield "weight level", wanted, found
    bias = np.zeros(len(wanted), np.int64) if op.bias is None else np.asarray(graph.constants[op.bias], dtype=np.int64)
    yield "bias level", bias, _or_empty(design.table(stage, "biases"))
    if isinstance(op, o.Conv):
        yield from _window(stage, wanted.shape[2:], op.stride, op.padding[:2], op.dilation)
        yield "the groups", op.groups, stage.number("groups")


def _as_convolution(op: o.Conv | o.ConvTranspose | o.Linear, levels: IntArray) -> IntArray:
    """[outputs, inputs of a group, rows, columns]; a transposed convolution is one with the kernel turned round."""
    if isinstance(op, o.Linear):
        return levels[:, :, None, None]
    if isinstance(op, o.Conv):
        return levels
    groups = np.split(levels[:, :, ::-1, ::-1], op.groups)
    return np.concatenate([group.swapaxes(0, 1) for group in groups])


def _unfolded(stage: WrittenStage, table: IntArray) -> IntArray:
    """The table of edgeq_conv.h, weights[fold * steps + step][pe * simd + lane], as it is indexed there."""
    pe, simd, inputs = stage.number("pe"), stage.number("simd"), stage.number("inputs_of_group")
    rows, columns = stage.number("kernel_h"), stage.number("kernel_w")
    folds, blocks = stage.number("folds"), inputs // max(simd, 1)
    if table.size != folds * rows * columns * blocks * pe * simd:
        return np.zeros(0, np.int64)
    steps = table.reshape(folds, rows, columns, blocks, pe, simd)
    return steps.transpose(0, 4, 3, 5, 1, 2).reshape(folds * pe, inputs, rows, columns)


def _window(stage: WrittenStage, *parts: tuple[int, ...]) -> Pairs:
    names = (("kernel_h", "kernel_w"), ("stride_h", "stride_w"), ("pad_top", "pad_left"), ("dilation_h", "dilation_w"))
    for pair, wanted in zip(names, parts, strict=True):
        for name, number in zip(pair, wanted, strict=True):
            yield name, number, stage.number(name)


# --- everything else ----------------------------------------------------------------------------------------------


def _requantize(op: o.Requantize, stage: WrittenStage, design: WrittenDesign) -> Pairs:
    """Multipliers, shifts and the fraction are one exact factor for each channel."""
    shifts = _or_empty(design.table(stage, "shifts"))
    multipliers = design.table(stage, "scales")
    factors = np.ones_like(shifts) if multipliers is None else multipliers
    unit = Fraction(1, 1 << stage.number("fraction"))
    wanted = [q * Fraction(2) ** (e - 31) for q, e in zip(op.multiplier, op.shift, strict=True)]
    found = [int(m) * Fraction(2) ** int(s) * unit for m, s in zip(factors, shifts, strict=True)]
    yield "the factor", np.array(wanted, dtype=object), np.array(found, dtype=object)
    least, most = code_range(Int(*_result_width(stage)))
    low, high = max(op.low, least), min(op.high, most)
    yield "the least code", low, max(stage.number("low"), low - 1)
    yield "the largest code", high, min(stage.number("high"), high + 1)


def _layer_norm(graph: Graph, op: o.LayerNorm, stage: WrittenStage, design: WrittenDesign) -> Pairs:
    row = stage.number("row")
    for what, name, default in (("gammas", op.gamma, 1), ("betas", op.beta, 0)):
        wanted = np.full(1, default) if name is None else _levels(graph, name).reshape(-1)
        yield what, np.resize(wanted, row), _or_empty(design.table(stage, what))
    yield "epsilon", epsilon_level(op.epsilon, graph.types[op.x].scale[0], row), int(stage.arguments[-1].rstrip("L"))


def _levels(graph: Graph, value: o.Value) -> IntArray:
    type_ = graph.types[value]
    return decode(type_.format, graph.constants[value], type_.zero_point)


def _operand(graph: Graph, op: o.Add | o.Sub | o.Mul, stage: WrittenStage, design: WrittenDesign) -> Pairs:
    """A constant operand lies in the order of tokens, so that its numbers are compared by how often each occurs."""
    found = design.table(stage, "operand")
    constant = next((v for v in (op.a, op.b) if v in graph.constants), None)
    if constant is not None and found is not None:
        yield "the operand", np.sort(_levels(graph, constant).reshape(-1)), np.sort(found)


def _interpolation(graph: Graph, op: o.Resize, stage: WrittenStage, design: WrittenDesign) -> Pairs:
    """The tables as the matrices that they stand for: 2^10 - weight at the lower position, weight at the higher one."""
    for axis, (what, size) in enumerate((("rows", stage.number("in_h")), ("columns", stage.number("in_w")))):
        wanted = interpolation_matrix(size, op.size[axis], op.scale[axis], "linear", op.coordinates, True).numpy()
        found = np.zeros_like(wanted)
        for k, (lower, higher, weight) in enumerate(_or_empty(design.table(stage, what)).reshape(-1, 3)[: len(found)]):
            found[k, lower] += 1024 - weight
            found[k, higher] += weight
        yield what, wanted, found
