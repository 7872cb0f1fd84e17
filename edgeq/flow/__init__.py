"""The commands as functions: read edgeq/flow/export.py first."""

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
