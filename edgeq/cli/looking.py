"""Commands that only look: at a model, a file, targets, this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from edgeq.cli.group import main
from edgeq.cli.options import (
    finish,
    model_options,
    output_options,
    progress_bar,
    raw_head_option,
    study_options,
    use_threads,
)


@main.command()
@click.argument("model")
@click.option("-t", "--target", help="Also show what this target would run on integers.")
@click.option("--text", is_flag=True, help="Print the whole graph, one line per operator.")
@model_options
@output_options
@click.pass_context
def inspect(ctx: click.Context, /, as_json: bool, quiet: bool, threads: int | None, **options: Any) -> None:
    """What is inside MODEL: operators, sizes, head, attention, and a target's coverage."""
    from edgeq.inspection import inspect_model, print_inspection

    use_threads(threads)
    text = options.pop("text")
    found = inspect_model(**options)
    if as_json:
        click.echo(json.dumps(found.document(), indent=2))
    else:
        print_inspection(found, text=text)


@main.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--for", "runtime", type=click.Choice(["tensorrt", "onnxruntime", "litert", "tflm", "coreml"]),
              help="Whose rules [tensorrt for .onnx, litert for .tflite, coreml for .mlpackage].")  # fmt: skip
@output_options
@click.pass_context
def lint(ctx: click.Context, as_json: bool, quiet: bool, threads: int | None, model: Path, runtime: str | None) -> None:
    """Check the quantization of any ONNX, TFLite or CoreML file against a runtime's rules (exit 5 on an error)."""
    from edgeq.lint import lint_file, print_findings, usual_runtime

    runtime = runtime or usual_runtime(model)
    findings = lint_file(model, runtime)  # type: ignore[arg-type]  # click.Choice holds the literals
    failed = any(finding.severity == "error" for finding in findings)
    if as_json:
        rows = [vars(finding) for finding in findings]
        document = {"schema": "edgeq.lint/1", "command": "lint", "runtime": runtime, "findings": rows}
        click.echo(json.dumps({**document, "exit": 5 if failed else 0}, indent=2))
    else:
        print_findings(findings)
    ctx.exit(5 if failed else 0)


@main.command()
@click.argument("model")
@click.option("--board", default="pynq-z2", show_default=True, help="The FPGA board that designs must fit.")
@study_options
@click.option("--data", help="Labelled images: accuracy instead of signal over noise.")
@click.option("--data-images", type=click.IntRange(1), help="Measure on at most this many.")
@click.option(
    "--formats",
    multiple=True,
    metavar="FORMAT",
    help="Formats of weights: fx8, int4, e2m3, post4 (repeatable) [twelve].",
)
@click.option(
    "--fps", type=click.FloatRange(0, min_open=True), help="Frames a second [the most that all formats reach]."
)
@raw_head_option
@click.option("--out", type=click.Path(path_type=Path), help="Output folder (default: runs/edgeq/MODEL-explore).")
@model_options
@output_options
@click.pass_context
def explore(ctx: click.Context, /, as_json: bool, quiet: bool, threads: int | None, **options: Any) -> None:
    """What each format keeps of MODEL and what its design costs on an FPGA board: the front over formats."""
    from edgeq.flow.explore import ExploreRequest, explore_model

    use_threads(threads)
    with progress_bar(quiet or as_json) as progress:
        report = explore_model(ExploreRequest(**options), progress)
    finish(ctx, report, as_json, quiet)


@main.command()
@output_options
def targets(as_json: bool, quiet: bool, threads: int | None) -> None:
    """The targets that export can write for."""
    from edgeq.targets import TARGETS, describe

    if as_json:
        rows = [describe(target) for target in TARGETS]
        click.echo(
            json.dumps({"schema": "edgeq.targets/1", "command": "targets", "targets": rows, "exit": 0}, indent=2)
        )
        return
    width = max(len(target.name) for target in TARGETS)
    for target in TARGETS:
        also = f" (also: {', '.join(target.aliases)})" if target.aliases else ""
        click.echo(f"{target.name:{width}}  {target.summary}{also}")


@main.command()
@output_options
@click.pass_context
def doctor(ctx: click.Context, as_json: bool, quiet: bool, threads: int | None) -> None:
    """Which parts of edgeq work on this machine, and what would make the others work."""
    from edgeq.doctor import diagnose, print_diagnosis

    checks = diagnose()
    broken = any(check.state == "broken" for check in checks)
    if as_json:
        rows = [vars(check) for check in checks]
        click.echo(
            json.dumps(
                {"schema": "edgeq.doctor/1", "command": "doctor", "checks": rows, "exit": 7 if broken else 0},
                indent=2,
            )
        )
    else:
        print_diagnosis(checks)
    ctx.exit(7 if broken else 0)
