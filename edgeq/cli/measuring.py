"""Commands that measure or prove a written file, here and on boards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeq.cli.group import main
from edgeq.cli.options import finish, model_options, output_options, progress_bar, report_options, use_threads


@main.command()
@click.argument("artifact")
@click.option("--data", required=True, help="Labelled images (data.yaml, labels.csv, class folders, scenes).")
@click.option("--data-images", type=click.IntRange(1), help="Measure on at most this many.")
@click.option("--against", help="A float model to compare with.")
@click.option("--preprocess", help="Overrides what the artifact declares: a preset or a JSON file.")
@click.option("--max-drop", multiple=True, metavar="METRIC=POINTS", help="Fail (exit 4) if below --against by more.")
@click.option("--board", "boards", multiple=True, metavar="NAME[,NAME]",
              help="Also on boards of: edgeq boards list, or @LABEL; repeatable.")  # fmt: skip
@model_options
@output_options
@click.pass_context
def validate(ctx: click.Context, /, as_json: bool, quiet: bool, threads: int | None, **options: Any) -> None:
    """Accuracy and latency of ARTIFACT in its own runtime, here and on boards, on labelled images."""
    from edgeq.flow import ValidateRequest, validate_artifact
    from edgeq.report import parse_budget

    use_threads(threads)
    budgets = dict(map(parse_budget, options.pop("max_drop")))
    with progress_bar(quiet or as_json) as progress:
        report = validate_artifact(ValidateRequest(**options, max_drop=budgets, threads=threads), progress)
    finish(ctx, report, as_json, quiet)


@main.command()
@click.argument("artifact")
@click.option("--against", help="The run folder that wrote it (default: its own folder), or a float model.")
@click.option("--data", "--calib", "calib", help="Images to run (default: noise).")
@click.option("-n", "--images", type=click.IntRange(1), default=4, show_default=True, help="Run this many inputs.")
@click.option("--preprocess", help="Overrides what the artifact declares: a preset or a JSON file.")
@click.option("--seed", type=int, default=0, show_default=True)
@model_options
@output_options
@click.pass_context
def verify(ctx: click.Context, /, as_json: bool, quiet: bool, threads: int | None, **options: Any) -> None:
    """Prove that ARTIFACT holds the numbers of its graph and computes what it means (exit 5 otherwise)."""
    from edgeq.flow.verify import VerifyRequest, verify_artifact

    use_threads(threads)
    with progress_bar(quiet or as_json) as progress:
        report = verify_artifact(VerifyRequest(**options, threads=threads), progress)
    finish(ctx, report, as_json, quiet)


def _numbers(_: click.Context, __: click.Parameter, text: str | None) -> tuple[int, ...]:
    """`1,2,4` as numbers."""
    try:
        return tuple(int(part) for part in (text or "").split(",") if part)
    except ValueError:
        raise click.BadParameter("numbers with commas, such as 1,2,4") from None


@main.command()
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option("--board", "boards", multiple=True, required=True, metavar="NAME[,NAME]",
              help="Boards of: edgeq boards list, or @LABEL; repeatable.")  # fmt: skip
@click.option("--runs", type=click.IntRange(1), default=50, show_default=True, help="Time this many runs.")
@click.option("--warm-up", type=click.IntRange(0), default=5, show_default=True, help="After this many others.")
@click.option("--repeat", type=click.IntRange(1), default=1, show_default=True,
              help="Load or build anew this many times; the middle one counts, and the spread is told.")  # fmt: skip
@click.option("--threads", callback=_numbers, metavar="N[,N]",
              help="Numbers of threads to try, the first is the one that counts [all cores].")  # fmt: skip
@click.option("--runtime", type=click.Choice(["onnxruntime", "litert", "tensorrt"]),
              help="What runs a file there [TensorRT for what was exported for it, else by the kind of file].")  # fmt: skip
@click.option("-O", "optimize", type=click.Choice(["-O2", "-O3", "-Os"]),
              help="How C is optimized [-O2 for simulated boards, -O3 for others].")  # fmt: skip
@click.option("--against", type=click.Path(path_type=Path),
              help="A float ONNX file: name the layers that its FP16 engine computes more quickly.")  # fmt: skip
@click.option("--layers", is_flag=True, help="Also print the instructions or times of every layer.")
@click.option("--picture", type=click.Path(path_type=Path), help="Draw the instructions of every layer (SVG).")
@click.option("--max-flash-kb", type=click.FloatRange(0), help="Fail (exit 4) if code and constants take more.")
@click.option("--max-ram-kb", type=click.FloatRange(0), help="Fail (exit 4) if arena and stack take more.")
@click.option("--max-latency-ms", type=click.FloatRange(0), help="Fail (exit 4) if the median run takes longer.")
@report_options
@click.pass_context
def bench(ctx: click.Context, /, as_json: bool, quiet: bool, layers: bool, **options: Any) -> None:
    """Run ARTIFACT on boards: times, instructions and memory, compared with the reference (exit 5 if a result differs)."""
    from edgeq.flow import BenchRequest, bench_artifact
    from edgeq.report import print_profile

    with progress_bar(quiet or as_json) as progress:
        report = bench_artifact(BenchRequest(**options), progress)
    if layers and not as_json:
        print_profile(report)
    finish(ctx, report, as_json, quiet)


@main.command("profile-ops")
@click.argument("model")
@click.option("-t", "--target", required=True, help="What to export for; see: edgeq targets.")
@click.option("--board", required=True, metavar="NAME", help="One board of: edgeq boards list.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The table to write (JSON).")
@click.option(
    "--choices", multiple=True, metavar="FORMATS", help="Formats: w4a8 (repeatable) [all that the target holds]."
)
@click.option("--calib", help="Calibration images [noise: times do not depend on them].")
@click.option("--preprocess", help="How images enter the model: yolo, yolox, imagenet, tf, cifar or a JSON file.")
@click.option("--runs", type=click.IntRange(1), default=50, show_default=True, help="Time this many runs.")
@click.option("--warm-up", type=click.IntRange(0), default=5, show_default=True, help="After this many others.")
@click.option("--mhz", type=click.FloatRange(0, min_open=True), default=100.0, show_default=True,
              help="Clock of a simulated board; one instruction a cycle, or its own cycles.")  # fmt: skip
@click.option("--fresh", is_flag=True, help="Measure again what is known.")
@click.option("--layers", is_flag=True, help="Also print the times of every operator.")
@model_options
@output_options
@click.pass_context
def profile_ops(ctx: click.Context, /, as_json: bool, quiet: bool, layers: bool, **options: Any) -> None:
    """What every operator of MODEL takes on a board in every format: the table for --max-latency-ms of export."""
    from edgeq.flow.profile_ops import ProfileRequest, profile_ops
    from edgeq.report import print_profile

    with progress_bar(quiet or as_json) as progress:
        report = profile_ops(ProfileRequest(**options), progress)
    if layers and not as_json:
        print_profile(report)
    finish(ctx, report, as_json, quiet)


@main.command()
@click.argument("model")
@click.argument("artifacts", nargs=-1, metavar="[LABEL=]ARTIFACT...")
@click.option("--data", required=True, help="Labelled images (data.yaml, labels.csv, class folders, scenes).")
@click.option("--data-images", type=click.IntRange(1), help="Measure on at most this many.")
@click.option("--preset", default="severity", show_default=True, help="severity: every kind at 1, 3, 5; or study.")
@click.option("--degrade", metavar="LIST", help="Instead of a preset: blur, contrast:3, noise-low, mixed, ...")
@click.option("--preprocess", help="How images enter the model: a preset or a JSON file.")
@click.option("--resamples", type=click.IntRange(20, 10000), default=300, show_default=True, help="Of the bootstrap.")
@click.option("--workers", type=click.IntRange(1, 1024), help="Processes of one thread each (default: all cores).")
@click.option("--out", type=click.Path(path_type=Path), help="Output folder (default: runs/edgeq/MODEL-robustness).")
@click.option("--exist-ok", is_flag=True, help="Replace the output folder if it exists.")
@click.option("--no-cache", is_flag=True, help="Measure every cell again.")
@click.option("--seed", type=int, default=42, show_default=True)
@model_options
@output_options
@click.pass_context
def robustness(ctx: click.Context, /, as_json: bool, quiet: bool, threads: int | None, **options: Any) -> None:
    """Accuracy of MODEL in float and of ARTIFACTs made from it under degradations, with intervals."""
    from rich.console import Console

    from edgeq.flow.robustness import RobustnessRequest, measure_robustness
    from edgeq.flow.robustness_tables import print_robustness

    with progress_bar(quiet or as_json) as progress:
        report = measure_robustness(RobustnessRequest(**options), progress)
    if not as_json:
        print_robustness(report, Console(soft_wrap=False))
    finish(ctx, report, as_json, quiet)
