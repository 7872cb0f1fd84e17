"""Reading the numbers back from written files: to list them, to judge them, and to prove that they arrived."""

from __future__ import annotations

from pathlib import Path

from edgeq.errors import UnsupportedError, UsageError
from edgeq.readback.stored import Stored, StoredOperator, StoredTensor

__all__ = ["Stored", "StoredOperator", "StoredTensor", "read_stored"]

SUFFIXES = (".onnx", ".tflite", ".mlpackage")


def read_stored(path: str | Path) -> Stored:
    """Every quantized tensor of the file at `path`.

    Raises UsageError for a missing file and UnsupportedError for one that is no model of its kind.
    """
    path = Path(path)
    if not path.exists():
        raise UsageError("there is no such file", value=path)
    match path.suffix:
        case ".onnx":
            from edgeq.readback.onnx import read_stored as read_onnx

            return read_onnx(path)
        case ".tflite":
            from edgeq.readback.tflite import read_stored as read_tflite

            return read_tflite(path)
        case ".mlpackage":
            from edgeq.readback.coreml import read_stored as read_coreml

            return read_coreml(path)
        case _:
            raise UnsupportedError(
                "the numbers of this kind of file cannot be read", where=path, allowed=", ".join(SUFFIXES)
            )
