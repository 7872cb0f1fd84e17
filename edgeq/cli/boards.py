"""`edgeq boards`: the list of this user's boards, and what each of them is."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from edgeq.boards.probe import Facts

_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")


@click.group()
def boards() -> None:
    """Machines to run artifacts on: described once, reached over SSH with your keys."""


@boards.command()
@click.argument("name")
@click.option("--host", required=True, help="Its name or address.")
@click.option("--port", type=click.IntRange(1, 65535), default=22, show_default=True)
@click.option("--user", default="", help="Who to be there [your own name].")
@click.option("--key", default="", help="Private key [those that ssh-add holds and those in ~/.ssh].")
@click.option("--jump", default="", metavar="[USER@]HOST[:PORT]", help="A host to go through.")
@click.option("--work", default="/tmp", show_default=True, help="Where it has room for files; they are removed again.")
@click.option("--python", default="python3", show_default=True, help="Its Python that has the runtimes.")
@click.option("--known-hosts", default="", help="File of host keys [~/.ssh/known_hosts].")
@click.option("--label", "labels", multiple=True, help="A word to call several boards by: --board @WORD; repeatable.")
@click.option("--replace", is_flag=True, help="Change a board that is known.")
@_JSON
def add(as_json: bool, replace: bool, **fields: Any) -> None:
    """Describe the board NAME; it is not contacted."""
    from edgeq.boards.entries import Entry, add_entry

    path = add_entry(Entry(**fields), replace=replace)
    _print(as_json, "boards add", {"board": fields["name"], "file": str(path)}, lambda: [f"described in {path}",
           f"Next: edgeq boards probe {fields['name']}"])  # fmt: skip


@boards.command("list")
@_JSON
def list_(as_json: bool) -> None:
    """The boards that --board takes: this machine, simulated ones, and those of the list."""
    from dataclasses import asdict

    from edgeq.boards.board import BOARDS
    from edgeq.boards.entries import LOCAL, boards_file, read_entries

    entries = read_entries().values()
    document = {
        "file": str(boards_file()),
        "boards": [{"kind": "local", "name": LOCAL},
                   *({"kind": "simulated", "name": row.name, "summary": row.summary} for row in BOARDS),
                   *({"kind": "ssh", **asdict(entry)} for entry in entries)],
    }  # fmt: skip

    def lines() -> list[str]:
        told = [(LOCAL, "this machine"), *((row.name, f"simulated: {row.summary}") for row in BOARDS)]
        for entry in entries:
            labels = "".join(f" @{label}" for label in entry.labels)
            place = f"{entry.user + '@' if entry.user else ''}{entry.host}:{entry.port}"
            told.append((entry.name, f"{place}{' through ' + entry.jump if entry.jump else ''}{labels}"))
        return [f"{name:16}  {what}" for name, what in told]

    _print(as_json, "boards list", document, lines)


@boards.command()
@click.argument("names", nargs=-1, required=True)
@_JSON
def probe(as_json: bool, names: tuple[str, ...]) -> None:
    """What each of NAMES is: model, cores, memory, runtimes and versions, clocks, temperature, free disk."""
    from edgeq.flow.fleet import probe_boards

    found = probe_boards(names)
    document = {"boards": [{"name": name, **facts.document()} for name, facts in found.items()]}
    _print(as_json, "boards probe", document, lambda: [line for item in found.items() for line in _told(*item)])


def _told(name: str, facts: Facts) -> list[str]:
    """What a probe found, one line for each thing that the board tells."""
    clock = f"{facts.governor} {facts.clock_mhz:.0f} of {facts.max_clock_mhz:.0f} MHz" if facts.governor else ""
    locked = {True: "locked at the highest", False: "free"}.get(facts.clocks_locked, "")  # type: ignore[arg-type]
    trt = f"{facts.tensorrt} ({facts.trtexec})" if facts.tensorrt else facts.trtexec
    python = f"{facts.python} ({facts.python_path})" if facts.python else "none"
    lines = {
        "model": facts.model or facts.cpu, "SoC": facts.soc, "processor": f"{facts.cores} x {facts.machine}",
        "memory": f"{facts.memory_bytes / 2**20:,.0f} MiB", "OS": f"{facts.os}, {facts.kernel}".strip(", "),
        "Python": python, **facts.packages, "TensorRT": trt, "JetPack": facts.jetpack, "L4T": facts.l4t,
        "power mode": facts.nvpmodel, "jetson_clocks": locked, "compiler": facts.compiler, "clock": clock,
        "temperature": ", ".join(f"{zone} {value:.1f} C" for zone, value in facts.temperatures_c.items()),
        "throttling": ", ".join(facts.throttling), "free": f"{facts.free_bytes / 2**20:,.0f} MiB",
    }  # fmt: skip
    return [name, *(f"  {key:16} {value}" for key, value in lines.items() if value)]


@boards.command()
@click.argument("name")
@_JSON
def remove(as_json: bool, name: str) -> None:
    """Forget the board NAME."""
    from edgeq.boards.entries import remove_entry

    path = remove_entry(name)
    _print(as_json, "boards remove", {"board": name, "file": str(path)}, lambda: [f"removed from {path}"])


def _print(as_json: bool, command: str, document: dict[str, Any], lines: Callable[[], list[str]]) -> None:
    if as_json:
        click.echo(json.dumps({"schema": "edgeq.boards/1", "command": command, **document, "exit": 0}, indent=2))
    else:
        click.echo("\n".join(lines()))
