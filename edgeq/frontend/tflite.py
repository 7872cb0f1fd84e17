"""From a .tflite file, whoever wrote it, to a graph.

Float files, and those whose weights alone are quantized, give a graph of reals; full-integer files a graph of codes
with the scales, zero points, weights and biases of the file, exactly. Images have their channels first here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeq.errors import EdgeqError
from edgeq.frontend.flatbuffer import Numbers
from edgeq.frontend.onnx_unsupported import Problem, unsupported
from edgeq.frontend.tflite_build import Handler, Importer
from edgeq.frontend.tflite_codes import CODES, dequantize
from edgeq.frontend.tflite_elementwise import ELEMENTWISE
from edgeq.frontend.tflite_file import FileOperator, TfliteFile, read_tflite
from edgeq.frontend.tflite_layout import LAYOUT
from edgeq.frontend.tflite_types import TO_FIRST
from edgeq.frontend.tflite_window import WINDOW
from edgeq.ir import ops as o
from edgeq.ir.graph import Graph, with_constants

REALS: dict[str, Handler] = {**ELEMENTWISE, **WINDOW, **LAYOUT, "DEQUANTIZE": dequantize}
INTEGERS: dict[str, Handler] = {**CODES, **LAYOUT}


@dataclass(frozen=True)
class Imported:
    """`graph`, and of each of its values that is a tensor of the file: the tensor's name, and where the value's axes
    lie in it. `columns` tells for weights behind a flattened image which column of the file each column is."""

    graph: Graph
    tensors: Mapping[o.Value, str]
    axes: Mapping[o.Value, tuple[int, ...]]
    columns: Mapping[o.Value, Numbers]

    @property
    def as_stored(self) -> Graph:
        """The graph with the columns of its weights in the order of the file."""
        weights = {value: self.graph.constants[value][:, np.argsort(order)] for value, order in self.columns.items()}
        return with_constants(self.graph, weights)


def import_tflite(source: str | Path | bytes | TfliteFile, *, name: str = "graph") -> Graph:
    """The network in a .tflite file (or its bytes) as a graph; ports of rank 4 are [N, C, H, W].

    Raises UsageError for a missing file and UnsupportedError for anything else that is not a network which edgeq can
    read; one error lists every unsupported operator.
    """
    return import_with_tensors(source, name=name).graph


def import_with_tensors(source: str | Path | bytes | TfliteFile, *, name: str = "graph") -> Imported:
    """As `import_tflite`, with what each value is in the file."""
    file = source if isinstance(source, TfliteFile) else read_tflite(source)
    importer = Importer(name, file)
    problems: list[Problem] = []
    for op in _live_operators(file):
        _translate(importer, op, problems)
    if problems:
        raise unsupported(problems)
    graph = importer.graph()
    known = {value: tensor.name for value, tensor in zip(importer.names, file.tensors, strict=True)}
    tensors = {value: known[value] for value in graph.types if value in importer.channels_first}
    axes = {
        value: TO_FIRST if importer.channels_first[value] else tuple(range(len(graph.types[value].shape)))
        for value in tensors
    }
    columns = {value: order for value, order in importer.columns.items() if value in graph.constants}
    return Imported(graph, tensors, axes, columns)


def _live_operators(file: TfliteFile) -> list[FileOperator]:
    """The operators that some output needs, in order."""
    live, needed = [], set(file.outputs)
    for op in reversed(file.operators):
        if needed.intersection(op.outputs):
            live.append(op)
            needed.update(op.inputs)
    return live[::-1]


def _translate(importer: Importer, op: FileOperator, problems: list[Problem]) -> None:
    where = importer.names[op.outputs[0]] if op.outputs else op.kind
    importer.on_codes = bool(op.outputs) and importer.file.tensors[op.outputs[0]].is_quantized
    handlers = INTEGERS if importer.on_codes else REALS
    if op.kind not in handlers:
        problems.append(Problem(op.kind, where, "on codes" if op.kind in REALS else ""))
        return
    if problems and not all(map(importer.is_known, op.inputs)):
        return  # it follows from a problem that is listed already
    importer.builder.hint = where
    try:
        handlers[op.kind](importer, op)
    except EdgeqError as error:
        problems.append(Problem(op.kind, where, str(error)))
    # The file is not to be trusted: an operand of impossible rank or an absurd attribute ends here.
    except (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, ValueError) as error:
        problems.append(Problem(op.kind, where, f"malformed: {error}"))
