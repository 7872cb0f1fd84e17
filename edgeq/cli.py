"""The command line: parse, call one function of the flow, print one report.

Results go to stdout (a table, or one JSON document with --json), everything else to stderr. Nothing heavy is
imported before a command runs.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from edgeq import __version__
from edgeq.cli_boards import boards
from edgeq.errors import EdgeqError, UsageError, did_you_mean

if TYPE_CHECKING:
    from edgeq.progress import Progress
    from edgeq.report import Report

CONFIG_FILE = "edgeq.toml"
EXIT_INTERRUPTED = 130
ARGUMENTS = "edgeq.arguments"

Command = Callable[..., Any]


class Commands(click.Group):
    """A group that suggests the closest command and turns every error into one line and its exit code."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0] if args else ""
        if name and self.get_command(ctx, name) is None:
            hint = did_you_mean(name, self.commands)
            ctx.fail(f"No such command {name!r}. {hint or 'Commands: ' + ', '.join(sorted(self.commands))}")
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[ARGUMENTS] = tuple(args)
        with _errors_in_one_line():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        with _errors_in_one_line():
            return super().invoke(ctx)


@contextmanager
def _errors_in_one_line() -> Iterator[None]:
    try:
        yield
    except EdgeqError as error:
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        _fail("interrupted", EXIT_INTERRUPTED)
    except (click.ClickException, click.exceptions.Exit, click.Abort):
        raise
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if os.environ.get("EDGEQ_TRACEBACK"):
            raise
        where = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        _fail(f"internal error: {where}. Set EDGEQ_TRACEBACK=1 to see where, and please report it", 1)


def _fail(message: str, code: int) -> NoReturn:
    arguments: tuple[str, ...] = click.get_current_context().meta[ARGUMENTS]
    if "--json" in arguments:
        command = next((argument for argument in arguments if argument in main.commands), "")
        document = {"schema": "edgeq.error/1", "command": command, "error": message, "exit": code}
        click.echo(json.dumps(document, indent=2))
    click.echo(f"error: {message}", err=True)
    sys.exit(code)


def _configured(ctx: click.Context, _: click.Parameter, path: Path | None) -> None:
    """Read option defaults from a TOML file: one table per command."""
    import tomllib

    path = path or (Path(CONFIG_FILE) if Path(CONFIG_FILE).is_file() else None)
    if path is None:
        return
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError("the configuration cannot be read", where=path, value=error) from error
    ctx.default_map = {table: _defaults(path, table, options) for table, options in tables.items()}


def _defaults(path: Path, table: str, options: object) -> dict[str, object]:
    """The options of one table by the names of their parameters."""
    if table not in main.commands or not isinstance(options, dict):
        raise UsageError(
            "the configuration holds one table of options per command",
            where=path,
            value=table,
            allowed=", ".join(main.commands),
            next_step=did_you_mean(table, main.commands),
        )
    parameters = {
        name.removeprefix("--"): parameter
        for parameter in main.commands[table].params
        for name in parameter.opts
        if name.startswith("--") and parameter.name
    }
    defaults: dict[str, object] = {}
    for option, value in options.items():
        parameter = parameters.get(option.replace("_", "-"))
        if parameter is None or parameter.name is None:
            raise UsageError(
                "unknown option in the configuration",
                where=f"{path} [{table}]",
                value=option,
                next_step=did_you_mean(option, parameters),
            )
        defaults[parameter.name] = [value] if parameter.multiple and isinstance(value, str) else value
    return defaults


@click.group(
    cls=Commands,
    context_settings={
        "auto_envvar_prefix": "EDGEQ",
        "help_option_names": ["-h", "--help"],
        "max_content_width": 110,
    },
)
@click.version_option(__version__, prog_name="edgeq")
@click.option(
    "--config",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    callback=_configured,
    expose_value=False,
    is_eager=True,
    help=f"Defaults of options, one table per command (default: {CONFIG_FILE} if present).",
)
def main() -> None:
    """Quantize vision models for small devices: exactly, measured, and checked against the artifact."""


main.add_command(boards)


def _model_options(command: Command) -> Command:
    for option in reversed(
        (
            click.option("--imgsz", help="Input size: 640, or 384x640 (height x width)."),
            click.option("--arch", help="Architecture of a bare state dict, e.g. timm:mobilenetv2_100,pad_type=same."),
            click.option("--trust-pickle", is_flag=True, help="Allow a checkpoint to run the code it contains."),
        )
    ):
        command = option(command)
    return command


def _report_options(command: Command) -> Command:
    quiet = click.option("-q", "--quiet", is_flag=True, help="No progress and no notes.")
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")(quiet(command))


def _output_options(command: Command) -> Command:
    threads = click.option("--threads", type=click.IntRange(1, 1024), help="CPU threads (default: all).")
    return _report_options(threads(command))


@main.command()
@click.argument("model")
@click.option("-t", "--target", required=True, help="What to export for; see: edgeq targets.")
@click.option("--calib", help="Calibration images: a folder, a list, a zip, or scenes for rendered ones.")
@click.option("--calib-images", type=click.IntRange(1), default=128, show_default=True, help="Use at most this many.")
@click.option("--data", help="Labelled images to measure accuracy on (data.yaml, labels.csv, class folders, scenes).")
@click.option("--data-images", type=click.IntRange(1), help="Measure on at most this many.")
@click.option("--preprocess", help="How images enter the model: yolo, yolox, imagenet, tf, cifar or a JSON file.")
@click.option("--estimator",
              help="Ranges: mse, minmax, percentile[:99.99], entropy, octav, or auto (tries several) [target's].")  # fmt: skip
@click.option("--float-share", type=click.FloatRange(0, 1), help="Share of the work that may stay in float [target's].")
@click.option("--keep-real", multiple=True, metavar="GLOB", help="Keep operators in float by their result's name.")
@click.option("--max-drop", multiple=True, metavar="METRIC=POINTS", help="Fail (exit 4) if accuracy drops more.")
@click.option("--raw-head", is_flag=True, help="Outputs of the head before decoding, with the decode as data.")
@click.option("--out", type=click.Path(path_type=Path), help="Output folder (default: runs/edgeq/MODEL-TARGET).")
@click.option("--exist-ok", is_flag=True, help="Replace the output folder if it exists.")
@click.option("--no-cache", is_flag=True, help="Do not reuse or store calibration statistics.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--dry-run", is_flag=True, help="Show the plan and the coverage; calibrate and write nothing.")
@_model_options
@_output_options
@click.pass_context
def export(ctx: click.Context, /, as_json: bool, quiet: bool, threads: int | None, **options: Any) -> None:
    """Quantize MODEL for a target, write the artifact, and check it against the reference."""
    from edgeq.flow import ExportRequest, export_model
    from edgeq.report import parse_budget

    _use_threads(threads)
    keep_real, budgets = options.pop("keep_real"), dict(map(parse_budget, options.pop("max_drop")))
    request = ExportRequest(**options, keep_real=tuple(keep_real), max_drop=budgets, threads=threads)
    with _progress(quiet or as_json) as progress:
        report = export_model(request, progress)
    _finish(ctx, report, as_json, quiet)


@main.command()
@click.argument("artifact")
@click.option("--data", required=True, help="Labelled images (data.yaml, labels.csv, class folders, scenes).")
@click.option("--data-images", type=click.IntRange(1), help="Measure on at most this many.")
@click.option("--against", help="A float model to compare with.")
@click.option("--preprocess", help="Overrides what the artifact declares: a preset or a JSON file.")
@click.option("--max-drop", multiple=True, metavar="METRIC=POINTS", help="Fail (exit 4) if below --against by more.")
@click.option("--board", "boards", multiple=True, metavar="NAME[,NAME]",
              help="Also on boards of: edgeq boards list, or @LABEL; repeatable.")  # fmt: skip
@_model_options
@_output_options
@click.pass_context
def validate(ctx: click.Context, /, as_json: bool, quiet: bool, threads: int | None, **options: Any) -> None:
    """Accuracy and latency of ARTIFACT in its own runtime, here and on boards, on labelled images."""
    from edgeq.flow import ValidateRequest, validate_artifact
    from edgeq.report import parse_budget

    _use_threads(threads)
    budgets = dict(map(parse_budget, options.pop("max_drop")))
    with _progress(quiet or as_json) as progress:
        report = validate_artifact(ValidateRequest(**options, max_drop=budgets, threads=threads), progress)
    _finish(ctx, report, as_json, quiet)


@main.command()
@click.argument("artifact")
@click.option("--against", help="The run folder that wrote it (default: its own folder), or a float model.")
@click.option("--data", "--calib", "calib", help="Images to run (default: noise).")
@click.option("-n", "--images", type=click.IntRange(1), default=4, show_default=True, help="Run this many inputs.")
@click.option("--preprocess", help="Overrides what the artifact declares: a preset or a JSON file.")
@click.option("--seed", type=int, default=0, show_default=True)
@_model_options
@_output_options
@click.pass_context
def verify(ctx: click.Context, /, as_json: bool, quiet: bool, threads: int | None, **options: Any) -> None:
    """Prove that ARTIFACT holds the numbers of its graph and computes what it means (exit 5 otherwise)."""
    from edgeq.flow.verify import VerifyRequest, verify_artifact

    _use_threads(threads)
    with _progress(quiet or as_json) as progress:
        report = verify_artifact(VerifyRequest(**options, threads=threads), progress)
    _finish(ctx, report, as_json, quiet)


@main.command()
@click.argument("model")
@click.option("-t", "--target", help="Also show what this target would run on integers.")
@click.option("--text", is_flag=True, help="Print the whole graph, one line per operator.")
@_model_options
@_output_options
@click.pass_context
def inspect(ctx: click.Context, /, as_json: bool, quiet: bool, threads: int | None, **options: Any) -> None:
    """What is inside MODEL: operators, sizes, head, attention, and a target's coverage."""
    from edgeq.inspection import inspect_model, print_inspection

    _use_threads(threads)
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
@_output_options
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
@click.option("--threads", callback=_numbers, metavar="N[,N]",
              help="Numbers of threads to try, the first is the one that counts [all cores].")  # fmt: skip
@click.option("-O", "optimize", type=click.Choice(["-O2", "-O3", "-Os"]),
              help="How C is optimized [-O2 for simulated boards, -O3 for others].")  # fmt: skip
@click.option("--layers", is_flag=True, help="Also print the instructions or times of every layer.")
@click.option("--max-flash-kb", type=click.FloatRange(0), help="Fail (exit 4) if code and constants take more.")
@click.option("--max-ram-kb", type=click.FloatRange(0), help="Fail (exit 4) if arena and stack take more.")
@click.option("--max-latency-ms", type=click.FloatRange(0), help="Fail (exit 4) if the median run takes longer.")
@_report_options
@click.pass_context
def bench(ctx: click.Context, /, as_json: bool, quiet: bool, layers: bool, **options: Any) -> None:
    """Run ARTIFACT on boards: times, instructions and memory, compared with the reference (exit 5 if a result differs)."""
    from edgeq.flow import BenchRequest, bench_artifact
    from edgeq.report import print_profile

    with _progress(quiet or as_json) as progress:
        report = bench_artifact(BenchRequest(**options), progress)
    if layers and not as_json:
        print_profile(report)
    _finish(ctx, report, as_json, quiet)


@main.command()
@_output_options
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
@_output_options
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


def _use_threads(threads: int | None) -> None:
    if threads:
        import torch

        torch.set_num_threads(threads)


@contextmanager
def _progress(silent: bool) -> Iterator[Progress]:
    from edgeq.progress import progress_on_terminal

    with progress_on_terminal(silent or not sys.stderr.isatty()) as progress:
        yield progress


def _finish(ctx: click.Context, report: Report, as_json: bool, quiet: bool) -> None:
    from rich.console import Console

    from edgeq.report import print_report

    if as_json:
        click.echo(report.to_json())
    else:
        print_report(report, Console(soft_wrap=False), quiet=quiet)
    ctx.exit(report.exit)


if __name__ == "__main__":
    main(prog_name="edgeq")
