"""Commands over many runs or many images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeq.calibrate.severity import MOST_SEVERE, SCALES, STUDY
from edgeq.cli.group import main
from edgeq.cli.options import Command, finish, output_options, progress_bar, report_options, use_threads
from edgeq.errors import UsageError


@main.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN RUN... | SWEEP --by AXIS")
@click.option("--by", metavar="AXIS", help="Of one sweep: the values of this axis side by side.")
@click.option("--where", multiple=True, metavar="AXIS=GLOB", help="Cells of the sweep: target=c-*; repeatable.")
@click.option("--out", type=click.Path(path_type=Path), help="Also write the comparison as JSON, CSV and HTML here.")
@click.option("--exist-ok", is_flag=True, help="Replace the output folder if it exists.")
@output_options
@click.pass_context
def compare(
    ctx: click.Context, /, as_json: bool, quiet: bool, threads: int | None, runs: tuple[str, ...], by: str | None,
    where: tuple[str, ...], **options: Any,
) -> None:  # fmt: skip
    """The figures of several run folders, or of cells of a sweep, side by side, and the options in which runs differ."""
    from edgeq.flow.compare import compare_cells, compare_runs

    if (by is None and where) or (by is not None and len(runs) != 1):
        raise UsageError("--by compares the cells of one sweep", value=" ".join(runs))
    report = compare_runs(runs, **options) if by is None else compare_cells(Path(runs[0]), by, where, **options)
    finish(ctx, report, as_json, quiet)


@main.command()
@click.argument("sweep", type=click.Path(path_type=Path))
@click.option("--where", multiple=True, metavar="AXIS=GLOB", help="Cells of the sweep: board=pi*; repeatable.")
@click.option("--cost", metavar="METRIC", help="What is to be low [latency, else instructions, else size].")
@click.option("--quality", metavar="METRIC", help="What is to be good [the accuracy of the task].")
@click.option("--out", type=click.Path(path_type=Path), help="Where to write [the sweep's folder].")
@click.option("--table", type=click.Path(path_type=Path), help="Also all figures of those cells: .csv or .parquet.")
@report_options
@click.pass_context
def report(ctx: click.Context, /, as_json: bool, quiet: bool, **options: Any) -> None:
    """What no other cell of SWEEP beats in cost and quality at once, and a page with charts of all."""
    from edgeq.flow.sweep_report import SweepReportRequest, print_fronts, report_sweep

    found = report_sweep(SweepReportRequest(**options))
    if not as_json:
        print_fronts(found)
    finish(ctx, found, as_json, quiet)


def _severity_options(command: Command) -> Command:
    for kind, scale in reversed(SCALES.items()):
        levels = ", ".join(f"{level:g}" for level in scale.levels)
        severity = click.IntRange(1, MOST_SEVERE)
        command = click.option(f"--{kind}", type=severity, help=f"{scale.meaning}: {levels}.")(command)
    return command


@main.command()
@click.argument("images")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Output folder (default: runs/edgeq/NAME-degraded).")
@click.option(
    "--study", metavar="NAME", help=f"Instead of severities: {', '.join(STUDY)}, or mixed (half of the images)."
)
@click.option("--exist-ok", is_flag=True, help="Write into a folder that holds something.")
@click.option("--seed", type=int, default=42, show_default=True)
@_severity_options
@output_options
@click.pass_context
def degrade(
    ctx: click.Context, /, images: str, out: Path | None, study: str | None, exist_ok: bool, seed: int,
    as_json: bool, quiet: bool, threads: int | None, **severities: int | None,
) -> None:  # fmt: skip
    """Degrade the IMAGES of a folder (severity 1 to 5 of one or several kinds), the same bytes on every machine."""
    from edgeq.flow.degrade import DegradeRequest, degrade_images

    chosen = tuple((kind.replace("_", "-"), value) for kind, value in severities.items() if value is not None)
    request = DegradeRequest(images, chosen, study, out, exist_ok, seed)
    with progress_bar(quiet or as_json) as progress:
        report = degrade_images(request, progress)
    finish(ctx, report, as_json, quiet)


@main.command()
@click.argument("plan", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the store and the exports.")
@click.option("--resume", is_flag=True, help="Go on with the sweep in that folder.")
@click.option("--address", help="A Ray cluster that makes the exports [this process]; its nodes must see --out.")
@output_options
@click.pass_context
def sweep(ctx: click.Context, /, as_json: bool, quiet: bool, threads: int | None, **options: Any) -> None:
    """Every cell of PLAN (models, recipes, targets, boards, degradations): exported, measured on its board, and stored."""
    from edgeq.flow.sweep import SweepRequest, sweep

    use_threads(threads)
    with progress_bar(quiet or as_json) as progress:
        report = sweep(SweepRequest(**options, threads=threads), progress)
    finish(ctx, report, as_json, quiet)
