"""Commands that make something of a model: an artifact, an integer graph, a trained network, an insight."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeq.cli.group import main
from edgeq.cli.options import (
    budget_options,
    calibration_options,
    effort_option,
    finish,
    format_options,
    formats_of,
    model_options,
    output_options,
    progress_bar,
    raw_head_option,
    study_options,
    use_threads,
)

if TYPE_CHECKING:
    from edgeq.flow import ExportRequest
    from edgeq.progress import Progress
    from edgeq.report import Report


def _with_latency_gate(request: ExportRequest, gate: str, progress: Progress) -> Report:
    from edgeq.flow.latency_gate import export_with_latency_gate  # loads all that boards need

    return export_with_latency_gate(request, gate, progress)


def _export(ctx: click.Context, as_json: bool, quiet: bool, threads: int | None, options: dict[str, Any]) -> None:
    from edgeq.flow import ExportRequest, export_model
    from edgeq.flow.calib_mode import ModeRequest
    from edgeq.flow.limits import Budgets
    from edgeq.flow.memory_budget import MemoryBudget
    from edgeq.flow.processes import is_first
    from edgeq.report import parse_budget, parse_size

    use_threads(threads)
    mode = ModeRequest(*(options.pop(f"calib_{name}") for name in ("mode", "degrade", "share", "risk")))
    names = ("avg_bits", "max_latency_ms", "latency_table", "sensitivity", "search")
    size = options.pop("max_size")
    budgets = Budgets(
        **{name: options.pop(name) for name in names},
        choices=tuple(options.pop("choices")),
        max_size=None if size is None else parse_size(size),
    )
    drops, gate = dict(map(parse_budget, options.pop("max_drop"))), options.pop("latency_gate", None)
    memory = MemoryBudget(options.pop("max_ram_kb", None), options.pop("max_flash_kb", None))
    request = ExportRequest(
        **formats_of(options),
        **options,
        calibration=mode,
        budgets=budgets,
        max_drop=drops,
        memory=memory,
        threads=threads,
    )
    with progress_bar(quiet or as_json) as progress:
        report = _with_latency_gate(request, gate, progress) if gate else export_model(request, progress)
    if request.training is not None and not is_first():
        ctx.exit(report.exit)
    finish(ctx, report, as_json, quiet)


@main.command()
@click.argument("model")
@click.option("-t", "--target", required=True, help="What to export for; see: edgeq targets.")
@calibration_options
@effort_option
@format_options
@budget_options
@click.option("--float-share", type=click.FloatRange(0, 1), help="Share of the work that may stay in float [target's].")
@raw_head_option
@click.option("--max-ram-kb", type=click.FloatRange(0), help="Fail (exit 4) if the arena of generated C is larger.")
@click.option("--max-flash-kb", type=click.FloatRange(0), help="Fail (exit 4) if constants of generated C take more.")
@click.option("--fpga", metavar="BOARD", help="The FPGA board whose resources a design may use [pynq-z2].")
@click.option(
    "--fps", type=click.FloatRange(0, min_open=True), help="Frames a second that a design must reach [as fast as fits]."
)
@click.option("--latency-gate", metavar="BOARD",
              help="Keep in float what the TensorRT of this board runs more slowly in INT8.")  # fmt: skip
@model_options
@output_options
@click.pass_context
def export(ctx: click.Context, /, as_json: bool, quiet: bool, threads: int | None, **options: Any) -> None:
    """Quantize MODEL for a target, write the artifact, and check it against the reference."""
    _export(ctx, as_json, quiet, threads, options)


@main.command()
@click.argument("model")
@calibration_options
@effort_option
@format_options
@budget_options
@model_options
@output_options
@click.pass_context
def quantize(ctx: click.Context, /, as_json: bool, quiet: bool, threads: int | None, **options: Any) -> None:
    """Quantize MODEL to any formats, for no runtime: writes the integer graph, measured in the reference."""
    _export(ctx, as_json, quiet, threads, {**options, "target": "reference"})


@main.command()
@click.argument("model")
@study_options
@click.option("-t", "--target", default="reference", show_default=True, help="Whose formats and rounding.")
@click.option("--estimator", help="Ranges: mse, minmax, percentile[:99.99], entropy, octav, or auto [target's].")
@format_options
@click.option("--least-db", type=float, default=20.0, show_default=True, help="A layer below this is bad.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for a page with pictures of all ranges.")
@model_options
@output_options
@click.pass_context
def debug(ctx: click.Context, /, as_json: bool, quiet: bool, threads: int | None, **options: Any) -> None:
    """Which layers of MODEL lose most when it is quantized, where it goes wrong first, and what would help."""
    from edgeq.flow.debug import DebugRequest, debug_model
    from edgeq.report import print_insight

    use_threads(threads)
    request = DebugRequest(**formats_of(options), **options)
    with progress_bar(quiet or as_json) as progress:
        report = debug_model(request, progress)
    if not as_json:
        print_insight(report)
    finish(ctx, report, as_json, quiet)


@main.command()
@click.argument("model")
@click.option("-t", "--target", default="reference", show_default=True, help="What to export for; see: edgeq targets.")
@click.option(
    "--train-data", required=True, help="Images to train on; classifiers and detectors also learn from their labels."
)
@click.option("--epochs", type=click.IntRange(1), default=10, show_default=True)
@click.option("--batch", type=click.IntRange(1), default=64, show_default=True, help="Images in a step.")
@click.option(
    "--rate",
    type=click.FloatRange(0, min_open=True),
    help="Learning rate of AdamW, in units of the weights' usual size [0.01 for 400 steps, less for fewer, up to 0.02 for more].",
)
@click.option("--decay", type=click.FloatRange(0), default=1e-4, show_default=True, help="Weight decay.")
@click.option("--no-flip", is_flag=True, help="Do not mirror images at random.")
@click.option("--no-shift", is_flag=True, help="Do not shift images at random.")
@click.option("--compile", "compiled", is_flag=True, help="Compile the step: slow to start, quick to run.")
@click.option("--half", is_flag=True, help="Compute in bfloat16 where that is safe.")
@click.option(
    "--learn",
    default="",
    metavar="NAME",
    help="Learn besides: offsets (LSQ+), adaptive (ASQ: a scale for each image), binary-points (QFX).",
)
@click.option(
    "--freeze",
    type=click.FloatRange(0, 1),
    metavar="SHARE",
    help="Fix weights whose codes turn back in more than this share of the steps, such as 0.01 (at first four times it).",
)
@click.option(
    "--settle",
    type=click.FloatRange(0, 1),
    default=0.0,
    metavar="SHARE",
    help="Keep all codes of weights over this last share of the training, such as 0.1, and learn scales and biases on.",
)
@click.option(
    "--sharpness",
    type=click.FloatRange(0, min_open=True),
    metavar="RADIUS",
    help="Seek flat minima, and fix scales that stand against it (GAQAT); twice the time.",
)
@click.option(
    "--features",
    type=click.FloatRange(0),
    default=0.0,
    metavar="WEIGHT",
    help="Follow what leaves blocks of the float network, too, so much beside its outputs, such as 1.",
)
@click.option("--patience", type=click.IntRange(1), help="End after so many epochs without a better state.")
@click.option("--minutes", type=click.FloatRange(0, min_open=True), help="End after this time; the schedule fits it.")
@raw_head_option
@calibration_options
@format_options
@budget_options
@model_options
@output_options
@click.pass_context
def train(ctx: click.Context, /, as_json: bool, quiet: bool, threads: int | None, **options: Any) -> None:
    """Train MODEL under rounding, with its float self as the teacher, and export it; a killed run goes on where it was.

    torchrun --nproc-per-node 4 -m edgeq train ... shares every batch among four GPUs.
    """
    from edgeq.flow.training import Training
    from edgeq.quantize.grids import Strategy

    names = [
        "epochs",
        "batch",
        "rate",
        "decay",
        "compiled",
        "half",
        "freeze",
        "settle",
        "sharpness",
        "features",
        "patience",
        "minutes",
    ]
    own = {name: options.pop(name) for name in names} | {"learn": Strategy.named(options.pop("learn"))}
    flip, shift = not options.pop("no_flip"), not options.pop("no_shift")
    options["training"] = Training(**own, flip=flip, shift=shift, seed=options["seed"])
    options["calib"] = options["calib"] or options["train_data"]
    _export(ctx, as_json, quiet, threads, options)


@main.command()
@click.argument("model")
@click.option(
    "--tensor", "tensors", multiple=True, metavar="GLOB", help="Only layers whose result's name matches [all]."
)
@click.option(
    "--formats", metavar="LIST", help="Formats to compare: int4,e2m1,post4,mxfp4 ... [all usual ones of 3 to 8 bits]."
)
@click.option("-t", "--target", default="reference", show_default=True, help="Recommend formats that it holds.")
@click.option(
    "--avg-bits",
    type=click.FloatRange(2, 16),
    default=4.0,
    show_default=True,
    help="Recommend at most this many on average.",
)
@click.option(
    "--rounding",
    type=click.Choice(["nearest-even", "half-up", "up", "down", "zero", "stochastic"]),
    default="nearest-even",
    show_default=True,
    help="Which of the two levels around a number it becomes.",
)
@click.option("--calib", help="Images, to measure what layers read, too: a folder, a list, a zip, or scenes.")
@click.option("--calib-images", type=click.IntRange(1), default=8, show_default=True, help="Use at most this many.")
@click.option("--preprocess", help="How images enter the model: yolo, yolox, imagenet, tf, cifar or a JSON file.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder for a page with pictures, and the figures as JSON."
)
@click.option("--exist-ok", is_flag=True, help="Replace the output folder if it exists.")  # fmt: skip
@model_options
@output_options
@click.pass_context
def formats(ctx: click.Context, /, as_json: bool, quiet: bool, threads: int | None, **options: Any) -> None:
    """Signal over noise of every layer of MODEL in every number format, and which format each should take."""
    from rich.console import Console

    from edgeq.flow.format_study import FormatsRequest, study_formats
    from edgeq.flow.formats_table import print_formats

    use_threads(threads)
    names = tuple(name for name in (options.pop("formats") or "").split(",") if name)
    with progress_bar(quiet or as_json) as progress:
        found = study_formats(FormatsRequest(**options, formats=names), progress)
    if as_json:
        click.echo(json.dumps(found.document(), indent=2))
    else:
        print_formats(found, Console(soft_wrap=False), quiet=quiet)
