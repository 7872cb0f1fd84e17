"""The group `edgeq`: defaults from a file, the closest command, and every error in one line with its exit code."""

from __future__ import annotations

import atexit
import gc
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import click

from edgeq import __version__
from edgeq.errors import EdgeqError, UsageError, did_you_mean

CONFIG_FILE = "edgeq.toml"
EXIT_INTERRUPTED = 130
ARGUMENTS = "edgeq.arguments"
FEWER_COLLECTIONS = 50_000
"""New objects before cycles are looked for: imports and graphs are many objects without cycles, and that takes a second."""


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
        gc.set_threshold(FEWER_COLLECTIONS)
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
        if caused_by_interrupt(error):
            _end_interrupted()
        if os.environ.get("EDGEQ_TRACEBACK"):
            raise
        while isinstance(error, ExceptionGroup):  # of work on several boards: the first that went wrong
            error = error.exceptions[0]
        where = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        _fail(f"internal error: {where}. Set EDGEQ_TRACEBACK=1 to see where, and please report it", 1)


def caused_by_interrupt(error: BaseException) -> bool:
    """Whether an interrupt was turned into another error on its way, as `__set_name__` does."""
    causes: list[BaseException | None] = [error]
    while (cause := causes[-1]) is not None and cause not in causes[:-1]:
        causes.append(cause.__cause__ or cause.__context__)
    return any(isinstance(cause, KeyboardInterrupt) for cause in causes)


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
