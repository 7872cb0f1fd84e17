"""What a report of an export says besides its figures: coverage, what stayed in float, the images, what to do next."""

from __future__ import annotations

from edgeq.datasets.dataset import Dataset
from edgeq.emit.artifact import Artifact
from edgeq.flow.inputs import CalibrationSet, overlapping_images
from edgeq.flow.request import ExportRequest
from edgeq.ir.cost import constant_bytes, parameters, total_macs
from edgeq.ir.graph import Graph
from edgeq.passes.idle_channels import Reduced
from edgeq.quantize.coverage import coverage
from edgeq.quantize.lift import Lift
from edgeq.recipe import Recipe
from edgeq.report import Row
from edgeq.target import Target


def costs(graph: Graph) -> list[Row]:
    """Size and work of the float network."""
    return [
        Row("parameters", parameters(graph), "", 1, "fp32", "counted"),
        Row("macs", total_macs(graph), "", 1, "fp32", "counted"),
    ]


def sizes(lowered: Graph, artifact: Artifact, target: Target) -> list[Row]:
    """Size of what was written."""
    counted = constant_bytes(lowered, target.real_bits)
    return [
        Row("constant_bytes", counted, "B", 1, "reference", "constants in their formats"),
        Row("file_bytes", artifact.primary_bytes, "B", 1, "artifact", "size of the file"),
    ]


def coverage_notes(graph: Graph, target: Target, recipe: Recipe) -> list[str]:
    """How much runs on integers."""
    if not target.is_integer:
        return []
    found = coverage(graph, target, recipe)
    share = found.integer_macs / max(found.all_macs, 1)
    kinds = ", ".join(f"{count} {kind}" for kind, count in found.real.items())
    note = f"{found.integer_ops} of {found.all_ops} operators and {share:.1%} of the work run on integers"
    return [f"{note}; in float: {kinds}" if kinds else note]


def lift_notes(lifts: list[Lift]) -> list[str]:
    """What was kept in float, and why."""
    if not lifts:
        return []
    names = ", ".join(value for lift in lifts for value in lift.operators)
    noise, work = (sum(getattr(lift, share) for lift in lifts) for share in ("noise_share", "work_share"))
    return [
        f"kept in float, {noise:.0%} of the noise for {work:.1%} of the work: {names} (--float-share 0 turns it off)"
    ]


def idle_notes(reduced: Reduced) -> list[str]:
    """How many channels are not computed."""
    if not reduced.left_out:
        return []
    what = f"{reduced.left_out} of {reduced.channels} channels of its layers"
    work = f"{total_macs(reduced.graph):,} multiplications are left"
    return [f"{what} hold one code whatever the input, or are read by nobody, and are left out: {work}"]


def stored_notes(calibration: CalibrationSet | None) -> list[str]:
    """What stored weights lack without images."""
    if calibration is not None:
        return []
    return ["biases are not corrected; --calib IMAGES takes back the shift that rounded weights cause"]


def data_notes(calibration: CalibrationSet | None, data: Dataset | None) -> list[str]:
    """What is wrong with the images."""
    notes = []
    if calibration is not None:
        names = ", ".join(f"{item.path} ({item.reason})" for item in calibration.rejected[:5])
        if names:
            notes.append(f"left out {len(calibration.rejected)} unreadable calibration images: {names}")
        if len(calibration.images) < 16:
            notes.append(f"only {len(calibration.images)} calibration images; 64 or more give steadier ranges")
        shared = overlapping_images(calibration, data) if data else 0
        if shared:
            notes.append(f"warning: {shared} images both calibrate and measure, so the accuracy is not held out")
    return notes


def next_commands(request: ExportRequest, artifact: Artifact, target: Target) -> list[str]:
    """The commands that follow."""
    runtime = target.runtime
    validate = f"edgeq validate {artifact.primary} --data {request.data or 'DATA'} --against {request.model}"
    if target.emitter in ("c", "hls"):
        return [*artifact.next_commands, validate]
    if target.emitter == "graph":
        return []
    commands = [f"edgeq verify {artifact.primary}", validate]
    if artifact.primary.suffix in (".onnx", ".tflite") and runtime != "qonnx":
        commands.append(f"edgeq lint {artifact.primary} --for {runtime}")
    return [*commands, f"{artifact.folder}/build_engine.sh   # on the Jetson"] if runtime == "tensorrt" else commands
