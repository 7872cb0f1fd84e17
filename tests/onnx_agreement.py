"""An emitted ONNX model beside the reference, operator by operator: each gets the model's own operands.

So one unequal code cannot spread, and the first operator that differs is the one at fault.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from edgeq.emit.onnx import build_model, to_bytes
from edgeq.emit.onnx_writer import Runtime, is_narrow
from edgeq.ir import ops as o
from edgeq.ir.graph import Array, Graph
from edgeq.reference.interpret import run
from edgeq.runtimes.onnxruntime import OnnxRuntime
from tests.lowering import between

Numbers = NDArray[np.float64]
Compared = tuple[o.Value, Numbers, Numbers]


def compare_locally(
    graph: Graph, runtime: Runtime, inputs: Mapping[o.Value, Array], *, optimize: bool = True
) -> Iterator[Compared]:
    """(value, reference, model) for every real output and every value with 8-bit codes in the model."""
    model, tensors = build_model(graph, runtime)
    watched = {
        value: tensors[value] for op in graph.ops for value in o.results(op)
        if value in tensors and is_narrow(graph.types[value])
    }  # fmt: skip
    watched |= {output: output for output in graph.outputs}
    session = OnnxRuntime(to_bytes(model), threads=1, optimize=optimize)
    found = session.watching(watched.values()).run(inputs)
    codes = {value: found[tensor] for value, tensor in watched.items() if is_narrow(graph.types[value])}
    for value, tensor in watched.items():
        part = between(graph, codes, value)
        known = {name: codes[name] if name in codes else inputs[name] for name in part.inputs}
        yield value, run(part, known)[value].numpy().astype(np.float64), found[tensor].astype(np.float64)
