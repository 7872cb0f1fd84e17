"""Which emitter writes an artifact and which runtime runs it: by the target's row, and by the file's suffix."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edgeq.emit.artifact import Artifact
from edgeq.errors import UnsupportedError, UsageError
from edgeq.runtimes.runtime import Runtime
from edgeq.target import Target

Emit = Callable[..., Artifact]


def emitter_of(target: Target) -> Emit:
    """The emitter that `target` names; every emitter has the signature of edgeq/emit/onnx.py."""
    match target.emitter:
        case "onnx":
            from edgeq.emit.onnx import emit
        case "coreml":
            from edgeq.emit.coreml import emit
        case "tflite":
            from edgeq.emit.tflite import emit
        case "c":
            from edgeq.emit.c import emit
        case "hls":
            from edgeq.emit.hls import emit
        case "graph":
            from edgeq.emit.graph import emit
    return emit


def _onnx(path: Path, threads: int | None, exact: bool) -> Runtime:
    from edgeq.runtimes.onnxruntime import OnnxRuntime
    from edgeq.runtimes.qonnx import QonnxRuntime, is_qonnx

    return QonnxRuntime(path, threads=threads) if is_qonnx(path) else OnnxRuntime(path, threads=threads)


def _coreml(path: Path, threads: int | None, _: bool) -> Runtime:
    from edgeq.runtimes.coreml import CoreMLRuntime

    return CoreMLRuntime(path, threads=threads)


def _litert(path: Path, threads: int | None, exact: bool) -> Runtime:
    from edgeq.runtimes.litert import LiteRtRuntime

    return LiteRtRuntime(path, threads=threads, kernels="reference" if exact else "default")


def _native(path: Path, threads: int | None, _: bool) -> Runtime:
    from edgeq.runtimes.native import NativeRuntime

    return NativeRuntime(path)


def _hls(path: Path, threads: int | None, _: bool) -> Runtime:
    from edgeq.runtimes.csim import HlsRuntime

    return HlsRuntime(path)


_RUNTIMES: dict[str, Callable[[Path, int | None, bool], Runtime]] = {
    ".onnx": _onnx,
    ".mlpackage": _coreml,
    ".tflite": _litert,
    ".c": _native,
    ".cpp": _hls,
}
RUNNABLE = tuple(_RUNTIMES)
"""Suffixes of what runs here."""


def open_runtime(path: Path, threads: int | None = None, *, exact: bool = False) -> Runtime:
    """The artifact at `path` loaded in the runtime for its kind.

    With `exact` the runtime's kernels are those whose arithmetic the integer graph spells, where it has several: the
    reference kernels of LiteRT, of which the default ones are quicker approximations. Raises UsageError if there is
    nothing, UnsupportedError for kinds that nothing here runs.
    """
    if not path.exists():
        raise UsageError("no such artifact", where=path, next_step="edgeq export prints the path of what it wrote.")
    if path.suffix not in _RUNTIMES:
        raise UnsupportedError("this kind of artifact cannot be run here", where=path, allowed=", ".join(_RUNTIMES))
    return _RUNTIMES[path.suffix](path, threads, exact)
