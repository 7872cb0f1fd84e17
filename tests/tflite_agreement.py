"""An emitted TFLite file beside the reference, operator by operator: each gets the file's own operands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from edgeq.emit.tflite import build_model
from edgeq.ir import ops as o
from edgeq.ir.bounds import is_codes
from edgeq.ir.graph import Array, Graph
from edgeq.reference.interpret import run
from edgeq.runtimes.litert import Kernels, LiteRtRuntime
from edgeq.target import Ports
from tests.lowering import between

Numbers = NDArray[np.float64]
Compared = tuple[o.Value, Numbers, Numbers]


def compare_locally(
    graph: Graph,
    inputs: Mapping[o.Value, Array],
    *,
    kernels: Kernels = "reference",
    ports: Ports = "real",
    meant: Graph | None = None,
) -> Iterator[Compared]:
    """(value, reference, file) for every output and for every value of codes that the file holds.

    The file is made of `graph`; it is compared with `meant`, if given, which has the same values.
    """
    content, tensors = build_model(graph, ports)
    watched = {v: t for v, t in tensors.items() if is_codes(graph.types[v]) and v not in graph.inputs}
    runtime = LiteRtRuntime(content, threads=1, kernels=kernels).watching(watched.values())
    found = runtime.run(inputs)
    codes = {value: found[tensor] for value, tensor in watched.items()}
    for value in [*watched, *(output for output in graph.outputs if output not in watched)]:
        part = between(meant or graph, codes, value)
        known = {name: codes[name] if name in codes else inputs[name] for name in part.inputs}
        mine = codes[value] if value in codes else found[value]
        yield value, run(part, known)[value].numpy().astype(np.float64), mine.astype(np.float64)


def operators(content: bytes) -> list[str]:
    """Names of the operators of a file, in order."""
    from ai_edge_litert import schema_py_generated as schema

    names = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    return [names[model.operatorCodes[op.opcodeIndex].builtinCode] for op in model.subgraphs[0].operators]
