"""The command line: parse, call one function of the flow, print one report.

Results go to stdout (a table, or one JSON document with --json), everything else to stderr. Nothing heavy is
imported before a command runs.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from edgeq import __version__
from edgeq.calibrate.severity import MOST_SEVERE, SCALES, STUDY
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
        _end_interrupted()
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


def _end_interrupted() -> NoReturn:
    """End with the promised code: an interrupt inside code that C runs marks the interpreter to end by the signal."""
    _say("interrupted", EXIT_INTERRUPTED)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(EXIT_INTERRUPTED)


def _fail(message: str, code: int) -> NoReturn:
    _say(message, code)
    sys.exit(code)


def _say(message: str, code: int) -> None:
    arguments: tuple[str, ...] = click.get_current_context().meta[ARGUMENTS]
    if "--json" in arguments:
        command = next((argument for argument in arguments if argument in main.commands), "")
        document = {"schema": "edgeq.error/1", "command": command, "error": message, "exit": code}
        click.echo(json.dumps(document, indent=2))
    click.echo(f"error: {message}", err=True)


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


def _calibration_options(command: Command) -> Command:
    """What `export`, `quantize` and `train` have in common: images, gates, where to write."""
    for option in reversed(
        (
            click.option("--calib", help="Calibration images: a folder, a list, a zip, or scenes for rendered ones."),
            click.option("--calib-images", type=click.IntRange(1), default=128, show_default=True,
                         help="Use at most this many."),
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
            click.option("--estimator", help="Ranges: mse, minmax, percentile[:99.99], entropy, octav, or auto (tries several) [target's]."),
            click.option("--max-drop", multiple=True, metavar="METRIC=POINTS", help="Fail (exit 4) if accuracy drops more."),
            click.option("--out", type=click.Path(path_type=Path), help="Output folder (default: runs/edgeq/MODEL-TARGET)."),
            click.option("--exist-ok", is_flag=True, help="Replace the output folder if it exists."),
            click.option("--no-cache", is_flag=True, help="Do not reuse or store calibration statistics."),
            click.option("--seed", type=int, default=0, show_default=True),
            click.option("--dry-run", is_flag=True, help="Show the plan and the coverage; calibrate and write nothing."),
        )
    ):  # fmt: skip
        command = option(command)
    return command


def _effort_option(command: Command) -> Command:
    efforts = click.Choice(["fast", "balanced", "best"])
    text = "Work for accuracy: nearest rounding, second-order, learned [fast at 8 bits, else balanced]."
    return click.option("--effort", type=efforts, help=text)(command)


def _format_options(command: Command) -> Command:
    """Formats by operator."""
    for option in reversed(
        (
            click.option("--weights", metavar="FORMAT", help="Format of all weights: int4, post4, e2m1 ... [target's]."),
            click.option("--activations", metavar="FORMAT", help="Format of what weighted operators read: int8, int4 ... [target's]."),
            click.option("--format", "rules", multiple=True, metavar="GLOB=FORMATS",
                         help="Formats of operators by their result's name: w4a8, post4/int8 or real; the first match wins."),
            click.option("--keep-real", multiple=True, metavar="GLOB", help="Keep operators in float by their result's name."),
        )
    ):  # fmt: skip
        command = option(command)
    return command


def _budget_options(command: Command) -> Command:
    """Allocation of bits."""
    for option in reversed(
        (
            click.option("--avg-bits", type=click.FloatRange(1, 16), help="Allocate bits by layer: at most this many on average."),
            click.option("--max-size", metavar="SIZE", help="Allocate bits by layer: weights and biases in at most 120kB, 1.5MB."),
            click.option("--max-latency-ms", type=click.FloatRange(0), help="Allocate bits by layer: at most this by --latency-table."),
            click.option("--latency-table", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Milliseconds by layer and formats (JSON)."),
            click.option("--choices", multiple=True, metavar="FORMATS", help="Formats to choose from: w4a8 (repeatable) [all that the target holds]."),
            click.option("--sensitivity", type=click.Choice(["noise", "measured", "hessian", "fisher", "error", "bits"]), default="noise", show_default=True, help="What few bits cost."),
            click.option("--search", type=click.Choice(["ilp", "greedy", "bisect", "closed"]), default="ilp", show_default=True, help="How bits are allocated."),
        )
    ):  # fmt: skip
        command = option(command)
    return command


def _formats(options: dict[str, Any]) -> dict[str, Any]:
    """The options of formats, taken out of `options`, as fields of a request."""
    from edgeq.quantize.asked import Asked

    asked = Asked(options.pop("weights"), options.pop("activations"), tuple(options.pop("rules")))
    return {"formats": asked, "keep_real": tuple(options.pop("keep_real"))}


def _export(ctx: click.Context, as_json: bool, quiet: bool, threads: int | None, options: dict[str, Any]) -> None:
    from edgeq.flow import ExportRequest, export_model
    from edgeq.flow.allocation import Budgets
    from edgeq.flow.calib_mode import ModeRequest
    from edgeq.flow.latency_gate import export_with_latency_gate
    from edgeq.report import parse_budget, parse_size

    _use_threads(threads)
    mode = ModeRequest(*(options.pop(f"calib_{name}") for name in ("mode", "degrade", "share", "risk")))
    names = ("avg_bits", "max_latency_ms", "latency_table", "sensitivity", "search")
    size = options.pop("max_size")
    budgets = Budgets(
        **{name: options.pop(name) for name in names},
        choices=tuple(options.pop("choices")),
        max_size=None if size is None else parse_size(size),
    )
    drops, gate = dict(map(parse_budget, options.pop("max_drop"))), options.pop("latency_gate", None)
    request = ExportRequest(
        **_formats(options), **options, calibration=mode, budgets=budgets, max_drop=drops, threads=threads
    )
    with _progress(quiet or as_json) as progress:
        report = export_with_latency_gate(request, gate, progress) if gate else export_model(request, progress)
    _finish(ctx, report, as_json, quiet)


@main.command()
@click.argument("model")
@click.option("-t", "--target", required=True, help="What to export for; see: edgeq targets.")
@_calibration_options
@_effort_option
@_format_options
@_budget_options
@click.option("--float-share", type=click.FloatRange(0, 1), help="Share of the work that may stay in float [target's].")
@click.option("--raw-head", is_flag=True, help="Outputs of the head before decoding, with the decode as data.")
@click.option("--fpga", metavar="BOARD", help="The FPGA board whose resources a design may use [pynq-z2].")
@click.option(
    "--fps", type=click.FloatRange(0, min_open=True), help="Frames a second that a design must reach [as fast as fits]."
)
@click.option("--latency-gate", metavar="BOARD",
              help="Keep in float what the TensorRT of this board runs more slowly in INT8.")  # fmt: skip
@_model_options
@_output_options
@click.pass_context
def export(ctx: click.Context, /, as_json: bool, quiet: bool, threads: int | None, **options: Any) -> None:
    """Quantize MODEL for a target, write the artifact, and check it against the reference."""
    _export(ctx, as_json, quiet, threads, options)


@main.command()
@click.argument("model")
@_calibration_options
@_effort_option
@_format_options
@_budget_options
@_model_options
@_output_options
@click.pass_context
def quantize(ctx: click.Context, /, as_json: bool, quiet: bool, threads: int | None, **options: Any) -> None:
    """Quantize MODEL to any formats, for no runtime: writes the integer graph, measured in the reference."""
    _export(ctx, as_json, quiet, threads, {**options, "target": "reference"})


@main.command()
@click.argument("model")
@click.option(
    "--calib", required=True, help="Calibration images: a folder, a list, a zip, or scenes for rendered ones."
)
@click.option("--calib-images", type=click.IntRange(1), default=64, show_default=True, help="Use at most this many.")
@click.option("-n", "--images", type=click.IntRange(1), default=8, show_default=True, help="Measure noise on so many.")
@click.option("-t", "--target", default="reference", show_default=True, help="Whose formats and rounding.")
@click.option("--preprocess", help="How images enter the model: yolo, yolox, imagenet, tf, cifar or a JSON file.")
@click.option("--estimator", help="Ranges: mse, minmax, percentile[:99.99], entropy, octav, or auto [target's].")
@_format_options
@click.option("--least-db", type=float, default=20.0, show_default=True, help="A layer below this is bad.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for a page with pictures of all ranges.")
@click.option("--exist-ok", is_flag=True, help="Replace the output folder if it exists.")
@click.option("--no-cache", is_flag=True, help="Do not reuse or store calibration statistics.")
@_model_options
@_output_options
@click.pass_context
def debug(ctx: click.Context, /, as_json: bool, quiet: bool, threads: int | None, **options: Any) -> None:
    """Which layers of MODEL lose most when it is quantized, where it goes wrong first, and what would help."""
    from edgeq.flow.debug import DebugRequest, debug_model
    from edgeq.report import print_insight

    _use_threads(threads)
    request = DebugRequest(**_formats(options), **options)
    with _progress(quiet or as_json) as progress:
        report = debug_model(request, progress)
    if not as_json:
        print_insight(report)
    _finish(ctx, report, as_json, quiet)


@main.command()
@click.argument("model")
@click.option("-t", "--target", default="reference", show_default=True, help="What to export for; see: edgeq targets.")
@click.option("--train-data", required=True, help="Images to train on; a classifier also learns from their labels.")
@click.option("--epochs", type=click.IntRange(1), default=10, show_default=True)
@click.option("--batch", type=click.IntRange(1), default=64, show_default=True, help="Images in a step.")
@click.option(
    "--rate", type=click.FloatRange(0, min_open=True), default=1e-3, show_default=True, help="Learning rate of AdamW."
)
@click.option("--decay", type=click.FloatRange(0), default=1e-4, show_default=True, help="Weight decay.")
@click.option("--no-flip", is_flag=True, help="Do not mirror images at random.")
@click.option("--no-shift", is_flag=True, help="Do not shift images at random.")
@click.option("--device", help="cpu, or cuda [a GPU if there is one].")
@click.option("--compile", "compiled", is_flag=True, help="Compile the step: slow to start, quick to run.")
@_calibration_options
@_format_options
@_budget_options
@_model_options
@_output_options
@click.pass_context
def train(ctx: click.Context, /, as_json: bool, quiet: bool, threads: int | None, **options: Any) -> None:
    """Train MODEL under rounding, with its float self as the teacher, and export it; a killed run goes on where it was."""
    from edgeq.flow.train import Training

    own = {name: options.pop(name) for name in ("epochs", "batch", "rate", "decay", "device", "compiled")}
    flip, shift = not options.pop("no_flip"), not options.pop("no_shift")
    options["training"] = Training(**own, flip=flip, shift=shift, seed=options["seed"])
    options["calib"] = options["calib"] or options["train_data"]
    _export(ctx, as_json, quiet, threads, options)


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
@click.option("--latency-table", type=click.Path(path_type=Path),
              help="Add what every layer takes to this JSON file, for --max-latency-ms of export.")  # fmt: skip
@click.option("--mhz", type=click.FloatRange(0, min_open=True), default=100.0, show_default=True,
              help="Clock of --latency-table, one instruction a cycle.")  # fmt: skip
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
@_model_options
@_output_options
@click.pass_context
def robustness(ctx: click.Context, /, as_json: bool, quiet: bool, threads: int | None, **options: Any) -> None:
    """Accuracy of MODEL in float and of ARTIFACTs made from it under degradations, with intervals."""
    from rich.console import Console

    from edgeq.flow.robustness import RobustnessRequest, measure_robustness
    from edgeq.flow.robustness_tables import print_robustness

    with _progress(quiet or as_json) as progress:
        report = measure_robustness(RobustnessRequest(**options), progress)
    if not as_json:
        print_robustness(report, Console(soft_wrap=False))
    _finish(ctx, report, as_json, quiet)


@main.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN RUN...")
@click.option("--out", type=click.Path(path_type=Path), help="Also write the comparison as JSON, CSV and HTML here.")
@click.option("--exist-ok", is_flag=True, help="Replace the output folder if it exists.")
@_output_options
@click.pass_context
def compare(
    ctx: click.Context, as_json: bool, quiet: bool, threads: int | None,
    runs: tuple[str, ...], out: Path | None, exist_ok: bool,
) -> None:  # fmt: skip
    """The figures of several run folders side by side, and the options in which they differ."""
    from edgeq.flow.compare import compare_runs

    _finish(ctx, compare_runs(runs, out, exist_ok=exist_ok), as_json, quiet)


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
@_output_options
@click.pass_context
def degrade(
    ctx: click.Context, /, images: str, out: Path | None, study: str | None, exist_ok: bool, seed: int,
    as_json: bool, quiet: bool, threads: int | None, **severities: int | None,
) -> None:  # fmt: skip
    """Degrade the IMAGES of a folder (severity 1 to 5 of one or several kinds), the same bytes on every machine."""
    from edgeq.flow.degrade import DegradeRequest, degrade_images

    chosen = tuple((kind.replace("_", "-"), value) for kind, value in severities.items() if value is not None)
    request = DegradeRequest(images, chosen, study, out, exist_ok, seed)
    with _progress(quiet or as_json) as progress:
        report = degrade_images(request, progress)
    _finish(ctx, report, as_json, quiet)


@main.command()
@click.argument("plan", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the store and the exports.")
@click.option("--resume", is_flag=True, help="Go on with the sweep in that folder.")
@click.option("--address", help="A Ray cluster that makes the exports [this process]; its nodes must see --out.")
@_output_options
@click.pass_context
def sweep(ctx: click.Context, /, as_json: bool, quiet: bool, threads: int | None, **options: Any) -> None:
    """Every cell of PLAN (models, recipes, targets, boards): exported, measured on its board, and stored."""
    from edgeq.flow.sweep import SweepRequest, sweep

    _use_threads(threads)
    with _progress(quiet or as_json) as progress:
        report = sweep(SweepRequest(**options, threads=threads), progress)
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
