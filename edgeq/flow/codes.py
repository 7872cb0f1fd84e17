"""`edgeq export` of a network that is quantized already: its integers are kept, and written as C."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from edgeq.emit.artifact import Artifact, output_folder
from edgeq.errors import UnsupportedError
from edgeq.flow.artifacts import emitter_of
from edgeq.flow.check import agreement, apply_agreement_promise
from edgeq.flow.export_notes import idle_notes
from edgeq.flow.manifest import SCHEMA
from edgeq.frontend.model import Model
from edgeq.ir.bounds import is_codes
from edgeq.ir.cost import total_macs
from edgeq.ir.file import digest
from edgeq.ir.verify import verify
from edgeq.passes.idle_channels import without_idle_channels
from edgeq.passes.micro import for_microcontrollers
from edgeq.progress import Progress
from edgeq.report import Report, Row
from edgeq.target import Target
from edgeq.targets import describe


def is_quantized(model: Model) -> bool:
    """Whether a model came with codes of its own."""
    return any(map(is_codes, model.graph.types.values()))


def export_codes(
    model: Model, target: Target, out: Path | None, seed: int, progress: Progress, *, exist_ok: bool
) -> tuple[Report, Artifact]:
    """Write a quantized model as C and compare it with the reference on random codes.

    Raises UnsupportedError for targets that quantize themselves.
    """
    if target.emitter != "c":
        raise UnsupportedError(
            "the model is already quantized", where=model.name,
            next_step="Give the float model, or a C target; edgeq verify proves a quantized one.",
        )  # fmt: skip
    micro = for_microcontrollers(model.graph)
    reduced = without_idle_channels(micro.graph)
    graph = reduced.graph
    verify(graph)
    report = Report("export", target.name)
    report.rows.append(Row("macs", total_macs(micro.graph), "", 1, "reference", "counted"))
    report.notes += [f"the softmax that gives {value} is left to the caller" for value in micro.cut]
    report.notes += idle_notes(reduced)
    report.manifest = {
        "schema": SCHEMA,
        "model": {"name": model.name, "sha256": model.digest},
        "target": describe(replace(target, rounding="gemmlowp2")),
        "graph_sha256": digest(graph),
    }
    folder = output_folder(out, model.name, target.name, exist_ok=exist_ok)
    artifact = emitter_of(target)(graph, target, folder, model.name, model.metadata, report.manifest)
    report.artifact = artifact.document()
    report.agreement = agreement(graph, artifact, None, seed, None, progress)
    apply_agreement_promise(report, target)
    report.next_commands = artifact.next_commands
    return report, artifact
