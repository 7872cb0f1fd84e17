"""The commands as functions: read edgeq/flow/export.py first. A command is loaded when it is named."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeq.flow.bench import BenchRequest, bench_artifact
    from edgeq.flow.export import export_model
    from edgeq.flow.request import ExportRequest
    from edgeq.flow.validate import ValidateRequest, validate_artifact

__all__ = [
    "BenchRequest",
    "ExportRequest",
    "ValidateRequest",
    "bench_artifact",
    "export_model",
    "validate_artifact",
]

_MODULES = {
    "BenchRequest": "bench",
    "ExportRequest": "request",
    "ValidateRequest": "validate",
    "bench_artifact": "bench",
    "export_model": "export",
    "validate_artifact": "validate",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'edgeq.flow' has no attribute {name!r}")
    return getattr(import_module(f"edgeq.flow.{_MODULES[name]}"), name)
