"""From a lowered graph to a design: every operator a stage, every value a stream, every value with several readers a fork.

Codes have no zero points here, so that codes are levels and padding is zero. Operators that leave the order of tokens as it
is are no stages.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np

from edgeq.emit import hls_attention, hls_layers, hls_moves, hls_weighted
from edgeq.emit.hls_context import Builder, program_of, refuse
from edgeq.emit.hls_stage import Design, Fold, HlsPort, Stream
from edgeq.errors import UnsupportedError
from edgeq.formats import Int, code_range
from edgeq.ir import ops as o
from edgeq.ir.bounds import is_codes
from edgeq.ir.graph import Graph

Ports = tuple[tuple[o.Value, o.Value], ...]
_MOVES = o.Reshape | o.Transpose | o.Slice | o.Expand | o.Pad | o.Gather
WIDEST_PORT = 16
_NEAREST = "--target c-int8 may compute it; --raw-head leaves a detector's decoding out."
_REAL = "--target onnx-int8 computes it in float; --raw-head leaves a detector's decoding out."


def build(graph: Graph, folds: Mapping[o.Value, Fold], prefix: str, title: str) -> Design:
    """The design of a lowered graph with the parallel units `folds`.

    Raises UnsupportedError, naming the operator, for what no stage computes.
    """
    inputs, outputs = _ports(graph)
    ops = [op for op in graph.ops if not _is_port(op)]
    _check(graph, ops)
    alias = _aliases(graph, ops, inputs, outputs)
    computing = [op for op in ops if o.results(op)[0] not in alias]
    readers = _readers(graph, computing, alias, outputs)
    this = Builder(graph, folds, inputs, outputs, dict(readers), alias)
    made: dict[o.Value, tuple[int, Stream]] = {}
    for _, value in inputs:
        this.give(value, this.stream_of(value, this.bits(value), this.count(value)))
    entering = _entering(this, inputs)
    for op in computing:
        value, stream = o.results(op)[0], _stage(this, op)
        made[value] = (len(this.stages), stream)
        this.give(value, stream)
    leaving = {value: this.take(value) for _, value in outputs}
    return Design(
        prefix, title,
        _named(this, inputs, "input"), _named(this, outputs, "output"), entering, leaving, tuple(this.stages),
        tuple(this.streams), made, "\n".join(this.preludes.values()), dict(this.bounds), alias,
        {value: this.shape(value) for value in made}, {value: this.axes(value) for value in made},
    )  # fmt: skip


def _entering(this: Builder, inputs: Ports) -> dict[o.Value, Stream]:
    forks = {stage.value: stage.reads[0] for stage in this.stages if stage.kind == "fork"}
    return {value: forks.get(value) or this.waiting[value][0] for _, value in inputs}


def _is_port(op: o.Op) -> bool:
    return isinstance(op, o.Quantize | o.Dequantize)


def _ports(graph: Graph) -> tuple[Ports, Ports]:
    inputs, outputs = [], []
    for name in graph.inputs:
        readers = graph.consumers.get(name, ())
        if is_codes(graph.types[name]):
            inputs.append((name, name))
        elif len(readers) == 1 and isinstance(readers[0], o.Quantize):
            inputs.append((name, readers[0].out))
        elif readers:
            raise UnsupportedError("a design reads an input as codes of one scale", where=name, next_step=_NEAREST)
    for name in graph.outputs:
        maker = graph.producer.get(name)
        value = maker.x if isinstance(maker, o.Dequantize) else name
        if not is_codes(graph.types[value]):
            kind = "the caller" if maker is None else type(maker).__name__
            raise UnsupportedError(f"an output that {kind} computes on real numbers", where=name, next_step=_REAL)
        outputs.append((name, value))
    return tuple(inputs), tuple(outputs)


def _check(graph: Graph, ops: list[o.Op]) -> None:
    for op in ops:
        value = o.results(op)[0]
        type_ = graph.types[value]
        if not is_codes(type_):
            raise refuse(op, "on real numbers", _REAL)
        if not isinstance(type_.format, Int):
            raise refuse(op, f"that gives {type_.format}", "Activations are integers of 2 to 16 bits: int8.")
        if type_.zero_point:
            raise refuse(op, "with a zero point", "Choose a target with symmetric codes: fpga-fx8.")


def _aliases(graph: Graph, ops: list[o.Op], inputs: Ports, outputs: Ports) -> dict[o.Value, o.Value]:
    """Results of operators that leave tokens in their order, and the values whose tokens they are."""
    program = program_of(graph, inputs, outputs)
    found: dict[o.Value, o.Value] = {}
    for op in ops:
        if isinstance(op, _MOVES) and not isinstance(op, o.Pad):
            value = o.results(op)[0]
            if np.array_equal(hls_moves.moved_sources(op, program), np.arange(graph.types[op.x].size)):
                found[value] = found.get(op.x, op.x)
    return found


def _readers(graph: Graph, ops: list[o.Op], alias: Mapping[o.Value, o.Value], outputs: Ports) -> Counter[o.Value]:
    """How often each value is read as a stream."""
    read = [value for _, value in outputs]
    for op in ops:
        operands = o.operands(op)
        if isinstance(op, o.Conv | o.ConvTranspose | o.Linear | o.Lookup | o.Gather | o.LayerNorm | o.Softmax):
            operands = operands[:1]
        read += operands
    roots = [alias.get(value, value) for value in read]
    return Counter(root for root in roots if root not in graph.constants)


def _stage(this: Builder, op: o.Op) -> Stream:
    """Append the stage of `op`; its result's stream."""
    match op:
        case o.Conv() | o.ConvTranspose() | o.Linear():
            return hls_weighted.weighted(this, op)
        case o.Requantize():
            return hls_layers.requantize(this, op)
        case o.Lookup():
            return hls_layers.lookup(this, op)
        case o.MaxPool() | o.AveragePool():
            return hls_layers.pool(this, op)
        case o.Mean():
            return hls_layers.mean(this, op)
        case o.Add() | o.Sub() | o.Mul():
            return hls_layers.elementwise(this, op)
        case o.Concat():
            return hls_moves.concat(this, op)
        case o.Resize():
            return hls_moves.resize(this, op)
        case o.Reshape() | o.Transpose() | o.Slice() | o.Expand() | o.Pad() | o.Gather():
            return hls_moves.move(this, op)
        case o.MatMul():
            return hls_attention.matmul(this, op)
        case o.Softmax():
            return hls_attention.softmax(this, op)
        case o.LayerNorm():
            return hls_attention.layer_norm(this, op)
        case _:
            raise refuse(op, "", _NEAREST)


def _named(this: Builder, ports: Ports, kind: str) -> tuple[HlsPort, ...]:
    symbols = [kind] if len(ports) == 1 else [f"{kind}_{k}" for k in range(len(ports))]
    return tuple(_port(this, name, symbol, value) for (name, value), symbol in zip(ports, symbols, strict=True))


def _port(this: Builder, name: str, symbol: str, value: o.Value) -> HlsPort:
    type_, maker = this.graph.types[value], this.graph.producer.get(value)
    code_bits = this.bits(value)
    bits = 8 if code_bits + int(not this.is_signed(value)) <= 8 else WIDEST_PORT
    if code_bits + int(not this.is_signed(value)) > WIDEST_PORT:
        raise UnsupportedError("a port has at most 16 bits", where=name, value=code_bits)
    ties: o.Ties = maker.ties if isinstance(maker, o.Quantize) else "even"
    axes = this.axes(value)
    return HlsPort(
        name,
        symbol,
        value,
        type_.shape,
        axes,
        bits,
        code_bits,
        type_.scale[0],
        name != value,
        ties,
        code_range(type_.format),
    )
