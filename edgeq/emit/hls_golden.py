"""What a test bench feeds and expects: codes of a generator that C++ repeats, and checksums of every value."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import torch

from edgeq.emit.c_golden import golden_codes
from edgeq.emit.c_layout import to_memory
from edgeq.emit.hls_stage import Design
from edgeq.formats import bits_of, code_range
from edgeq.ir import ops as o
from edgeq.ir.graph import Array, Graph
from edgeq.reference.interpret import Interpreter

SEED = 1
FIRST_CODES = 16


@dataclass(frozen=True)
class Golden:
    """CRC-32 of each value of `Design.made` and of each output, as little-endian words of 64 bits; the first codes."""

    layers: tuple[int, ...]
    outputs: tuple[int, ...]
    first_codes: tuple[int, ...]


def golden(graph: Graph, design: Design) -> Golden:
    """The reference on the generator's codes."""
    shapes = {port.name: port.shape for port in design.inputs}
    given = {
        port.value: _codes(array, graph, port.value)
        for port, array in zip(design.inputs, golden_codes(shapes, SEED).values(), strict=True)
    }
    by_name = {port.name: given[port.value].numpy() for port in design.inputs}
    seen: dict[o.Value, Array] = {}
    ports = {port.value: port.axes for port in design.outputs}

    def watch(name: o.Value, tensor: torch.Tensor) -> torch.Tensor | None:
        tensor = given.get(name, tensor)
        if name in design.made or name in ports:
            seen[name] = to_memory(tensor.numpy().astype("<i8"), design.axes.get(name) or ports[name])
        return given.get(name)

    with torch.no_grad():
        Interpreter(graph)(by_name, watch)
    outputs = [seen[port.value] for port in design.outputs]
    return Golden(
        tuple(zlib.crc32(seen[value].tobytes()) for value in design.made),
        tuple(zlib.crc32(output.tobytes()) for output in outputs),
        tuple(outputs[0][:FIRST_CODES].tolist()),
    )


def _codes(array: Array, graph: Graph, value: o.Value) -> torch.Tensor:
    """8-bit codes, cut to the width that the value has."""
    format_ = graph.types[value].format
    codes = np.ascontiguousarray(array).astype(np.int64)
    codes = codes if code_range(format_)[0] else codes & 255
    return torch.from_numpy(codes >> max(8 - bits_of(format_), 0))
