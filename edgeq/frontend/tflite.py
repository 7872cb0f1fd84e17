"""From a .tflite file, whoever wrote it, to a graph.

Float files, and those whose weights alone are quantized, give a graph of reals; full-integer files a graph of codes
with the scales, zero points, weights and biases of the file, exactly. Images have their channels first here.
"""

from __future__ import annotations

from pathlib import Path

from edgeq.errors import EdgeqError, UnsupportedError
from edgeq.frontend.onnx_unsupported import Problem, unsupported
from edgeq.frontend.tflite_build import Handler, Importer
from edgeq.frontend.tflite_codes import CODES, dequantize
from edgeq.frontend.tflite_elementwise import ELEMENTWISE
from edgeq.frontend.tflite_file import FileOperator, TfliteFile, read_tflite
from edgeq.frontend.tflite_layout import LAYOUT
from edgeq.frontend.tflite_window import WINDOW
from edgeq.ir.graph import Graph

REALS: dict[str, Handler] = {**ELEMENTWISE, **WINDOW, **LAYOUT, "DEQUANTIZE": dequantize}
INTEGERS: dict[str, Handler] = {**CODES, **LAYOUT}


def import_tflite(source: str | Path | bytes | TfliteFile, *, name: str = "graph") -> Graph:
    """The network in a .tflite file (or its bytes) as a graph; ports of rank 4 are [N, C, H, W].

    Raises UsageError for a missing file and UnsupportedError for anything else that is not a network which edgeq can
    read; one error lists every unsupported operator.
    """
    file = source if isinstance(source, TfliteFile) else read_tflite(source)
    importer = Importer(name, file)
    problems: list[Problem] = []
    for op in _live_operators(file):
        _translate(importer, op, problems)
    if problems:
        raise unsupported(problems)
    return importer.graph()


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
    except UnsupportedError as error:
        problems.append(Problem(op.kind, where, str(error)))
    except EdgeqError:
        raise
    # The file is not to be trusted: an operand of impossible rank or an absurd attribute ends here.
    except (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, ValueError) as error:
        problems.append(Problem(op.kind, where, f"malformed: {error}"))
