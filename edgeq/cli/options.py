"""Options that commands share, and what every command does with them: threads, progress, one report at the end."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from edgeq.progress import Progress
    from edgeq.report import Report

Command = Callable[..., Any]


def model_options(command: Command) -> Command:
    """How a model is read."""
    for option in reversed(
        (
            click.option("--imgsz", help="Input size: 640, or 384x640 (height x width)."),
            click.option("--arch", help="Architecture of a bare state dict, e.g. timm:mobilenetv2_100,pad_type=same."),
            click.option("--trust-pickle", is_flag=True, help="Allow a checkpoint to run the code it contains."),
        )
    ):
        command = option(command)
    return command


def report_options(command: Command) -> Command:
    """How a report is printed."""
    quiet = click.option("-q", "--quiet", is_flag=True, help="No progress and no notes.")
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")(quiet(command))


def output_options(command: Command) -> Command:
    """How a report is printed, and by how many threads it is made."""
    threads = click.option("--threads", type=click.IntRange(1, 1024), help="CPU threads (default: all).")
    return report_options(threads(command))


def calibration_options(command: Command) -> Command:
    """What `export`, `quantize` and `train` have in common: images, gates, where to write."""
    for option in reversed(
        (
            click.option("--calib", help="Calibration images: a folder, a list, a zip, or scenes for rendered ones."),
            click.option("--calib-images", type=click.IntRange(1), help="Use at most this many [16 for --effort fast, else 128]."),
            click.option("--calib-mode", default="clean", show_default=True, metavar="MODE",
                         help="Images that calibrate: clean, mixed with degraded ones, robust (guards hard ones), or auto."),
            click.option("--calib-degrade", default="study", show_default=True, metavar="LIST",
                         help="Degradations and weights: blur:2=3,noise-low; or the study's seven."),
            click.option("--calib-share", type=click.FloatRange(0, 1, min_open=True), default=0.5, show_default=True,
                         help="Share of the images that are degraded."),
            click.option("--calib-risk", default="cvar", show_default=True, metavar="RISK",
                         help="What robust minimizes over images: mean, worst (kind) or cvar (worst quarter)."),
            click.option("--data", help="Labelled images to measure accuracy on (data.yaml, labels.csv, class folders, scenes)."),
            click.option("--data-images", type=click.IntRange(1), help="Measure on at most this many."),
            click.option("--preprocess", help="How images enter the model: yolo, yolox, imagenet, tf, cifar or a JSON file."),
            click.option("--estimator", help="Ranges: mse, minmax, percentile[:99.99], entropy, octav, or auto (least noise at the outputs) [target's]."),
            click.option("--max-drop", multiple=True, metavar="METRIC=POINTS", help="Fail (exit 4) if accuracy drops more."),
            click.option("--out", type=click.Path(path_type=Path), help="Output folder (default: runs/edgeq/MODEL-TARGET)."),
            click.option("--exist-ok", is_flag=True, help="Replace the output folder if it exists."),
            click.option("--no-cache", is_flag=True, help="Do not reuse or store calibration statistics."),
            click.option("--seed", type=int, default=0, show_default=True),
            click.option("--device", help="Where images are computed: cpu, or cuda [a GPU if there is one]."),
            click.option("--dry-run", is_flag=True, help="Show the plan and the coverage; calibrate and write nothing."),
        )
    ):  # fmt: skip
        command = option(command)
    return command


def study_options(command: Command) -> Command:
    """What commands that study a quantized model have in common: images, and where they report."""
    for option in reversed(
        (
            click.option("--calib", required=True, help="Calibration images: a folder, a list, a zip, or scenes for rendered ones."),
            click.option("--calib-images", type=click.IntRange(1), default=64, show_default=True, help="Use at most this many."),
            click.option("-n", "--images", type=click.IntRange(1), default=8, show_default=True, help="Measure noise on so many."),
            click.option("--preprocess", help="How images enter the model: yolo, yolox, imagenet, tf, cifar or a JSON file."),
            click.option("--exist-ok", is_flag=True, help="Replace the output folder if it exists."),
            click.option("--no-cache", is_flag=True, help="Do not reuse or store calibration statistics."),
        )
    ):  # fmt: skip
        command = option(command)
    return command


def effort_option(command: Command) -> Command:
    """Work for accuracy."""
    efforts = click.Choice(["fast", "balanced", "best"])
    text = "Work for accuracy: nearest rounding, second-order, learned [fast at 8 bits, else balanced]."
    return click.option("--effort", type=efforts, help=text)(command)


def raw_head_option(command: Command) -> Command:
    """A detector without its decoding."""
    text = "Outputs of the head before decoding, with the decode as data."
    return click.option("--raw-head", is_flag=True, help=text)(command)


def format_options(command: Command) -> Command:
    """Formats by operator."""
    for option in reversed(
        (
            click.option("--weights", metavar="FORMAT", help="Format of all weights: int4, post4, e2m1 ... [target's]."),
            click.option("--activations", metavar="FORMAT", help="Format of what weighted operators read: int8, int4, e2m3 ... [target's]."),
            click.option("--format", "rules", multiple=True, metavar="GLOB=FORMATS",
                         help="Formats of operators by their result's name: w4a8, post4/int8 or real; the first match wins."),
            click.option("--keep-real", multiple=True, metavar="GLOB", help="Keep operators in float by their result's name."),
        )
    ):  # fmt: skip
        command = option(command)
    return command


def budget_options(command: Command) -> Command:
    """Allocation of bits."""
    for option in reversed(
        (
            click.option("--avg-bits", type=click.FloatRange(1, 16), help="Allocate bits by layer: at most this many on average."),
            click.option("--max-size", metavar="SIZE", help="Allocate bits by layer: weights and biases in at most 120kB, 1.5MB."),
            click.option("--max-latency-ms", type=click.FloatRange(0), help="Allocate bits by layer: at most this by --latency-table."),
            click.option("--latency-table", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Milliseconds by layer and formats (JSON)."),
            click.option("--choices", multiple=True, metavar="FORMATS", help="Formats to choose from: w4a8 (repeatable) [all that the target holds]."),
            click.option("--sensitivity", type=click.Choice(["noise", "measured", "hessian", "fisher", "lrp", "error", "bits"]), default="noise", show_default=True, help="What few bits cost."),
            click.option("--search", type=click.Choice(["ilp", "greedy", "bisect", "closed"]), default="ilp", show_default=True, help="How bits are allocated."),
        )
    ):  # fmt: skip
        command = option(command)
    return command


def formats_of(options: dict[str, Any]) -> dict[str, Any]:
    """The options of formats, taken out of `options`, as fields of a request."""
    from edgeq.quantize.asked import Asked

    asked = Asked(options.pop("weights"), options.pop("activations"), tuple(options.pop("rules")))
    return {"formats": asked, "keep_real": tuple(options.pop("keep_real"))}


def use_threads(threads: int | None) -> None:
    """Of torch; None leaves them as they are."""
    if threads:
        import torch

        torch.set_num_threads(threads)


@contextmanager
def progress_bar(silent: bool) -> Iterator[Progress]:
    """A bar on the terminal, unless `silent`."""
    from edgeq.progress import progress_on_terminal

    with progress_on_terminal(silent or not sys.stderr.isatty()) as progress:
        yield progress


def finish(ctx: click.Context, report: Report, as_json: bool, quiet: bool) -> None:
    """Print the report and end with its exit code."""
    from rich.console import Console

    from edgeq.report import print_report

    if as_json:
        click.echo(report.to_json())
    else:
        print_report(report, Console(soft_wrap=False), quiet=quiet)
    ctx.exit(report.exit)
