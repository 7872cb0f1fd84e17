"""The commands as functions: read edgeq/flow/export.py first."""

from edgeq.flow.export import ExportRequest, export_model
from edgeq.flow.validate import ValidateRequest, validate_artifact

__all__ = ["ExportRequest", "ValidateRequest", "export_model", "validate_artifact"]
