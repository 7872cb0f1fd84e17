"""boards.toml: the boards of this user, one table each, in the user's configuration folder.

No secret is ever stored: boards are reached with keys, from files or as ssh-add holds them.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from edgeq.boards.board import BOARDS
from edgeq.emit.artifact import write_files
from edgeq.errors import UsageError, did_you_mean

FILE_VARIABLE = "EDGEQ_BOARDS_FILE"
LOCAL = "local"


@dataclass(frozen=True)
class Entry:
    """One board behind SSH.

    `user`, `key` and `known_hosts` default to what OpenSSH uses; `jump` is a host to go through, as [user@]host[:port].
    `work` is the folder in which work folders are made, `python` what runs the Python runtimes there.
    """

    name: str
    host: str
    port: int = 22
    user: str = ""
    key: str = ""
    jump: str = ""
    work: str = "/tmp"
    python: str = "python3"
    known_hosts: str = ""
    labels: tuple[str, ...] = ()


def boards_file() -> Path:
    """Where boards.toml lies: $EDGEQ_BOARDS_FILE, or edgeq/boards.toml in the user's configuration folder."""
    if named := os.environ.get(FILE_VARIABLE):
        return Path(named)
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "edgeq" / "boards.toml"


def read_entries() -> dict[str, Entry]:
    """The boards of the file by name; none if there is no file. Raises UsageError for one that cannot be understood."""
    path = boards_file()
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UsageError("the list of boards cannot be read", where=path, value=error) from error
    return {name: _entry(path, name, table) for name, table in tables.items()}


def _entry(path: Path, name: str, table: object) -> Entry:
    where = f"{path} [{name}]"
    if not isinstance(table, Mapping):
        raise UsageError("the list of boards holds one table per board", where=path, value=name)
    known = {field.name: field for field in fields(Entry) if field.name != "name"}
    for key, value in table.items():
        if key not in known:
            hint = "Boards are reached with keys; passwords are not stored." if "pass" in key else None
            raise UsageError("unknown field of a board", where=where, value=key, allowed=", ".join(known),
                             next_step=hint or did_you_mean(key, known))  # fmt: skip
        if not _has_type(key, value):
            raise UsageError("a field of a board has the wrong type", where=f"{where} {key}", value=value)
    labels = tuple(table.get("labels", ()))
    return checked(Entry(**{"host": "", **table, "name": name, "labels": labels}))


def _has_type(key: str, value: object) -> bool:
    if key == "labels":
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    return isinstance(value, int if key == "port" else str)


def checked(entry: Entry) -> Entry:
    """`entry` if its name is free and it can be a host. Raises UsageError."""
    reserved = {LOCAL, *(row.name for row in BOARDS)}
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", entry.name) or entry.name in reserved:
        raise UsageError("this cannot be the name of a board", value=entry.name,
                         allowed=f"letters, digits, . _ -; not {', '.join(sorted(reserved))}")  # fmt: skip
    if not entry.host or entry.host.startswith("-") or any(character.isspace() for character in entry.host):
        raise UsageError("this cannot be a host", where=entry.name, value=repr(entry.host))
    if not 0 < entry.port < 65536:
        raise UsageError("this cannot be a port", where=entry.name, value=entry.port, allowed="1 to 65535")
    if not entry.work.startswith("/"):
        raise UsageError("the work folder must be an absolute path", where=entry.name, value=entry.work)
    return entry


def add_entry(entry: Entry, *, replace: bool = False) -> Path:
    """Store a board; returns the file. Raises UsageError if the name is taken, OutputError if it cannot be written."""
    entries = read_entries()
    if entry.name in entries and not replace:
        raise UsageError("there is a board of this name", value=entry.name, next_step="Add --replace to change it.")
    return _write({**entries, entry.name: checked(entry)})


def remove_entry(name: str) -> Path:
    """Forget a board; returns the file. Raises UsageError if it is unknown."""
    entries = read_entries()
    find_entry(name, entries)
    return _write({key: entry for key, entry in entries.items() if key != name})


def find_entry(name: str, entries: Mapping[str, Entry]) -> Entry:
    """The board called `name`. Raises UsageError with the closest name otherwise."""
    if name not in entries:
        names = [LOCAL, *(row.name for row in BOARDS), *entries]
        raise UsageError(
            "unknown board", value=name, allowed=", ".join(names),
            next_step=did_you_mean(name, names) or f"Describe it first: edgeq boards add {name} --host HOST",
        )  # fmt: skip
    return entries[name]


def _write(entries: Mapping[str, Entry]) -> Path:
    path = boards_file()
    tables = []
    for entry in entries.values():
        usual = asdict(Entry("", ""))
        told = {key: value for key, value in asdict(entry).items() if key != "name" and value != usual[key]}
        tables.append("\n".join([f"[{_key(entry.name)}]", *(f"{key} = {_toml(value)}" for key, value in told.items())]))
    write_files(path.parent, {path.name: ("\n\n".join(tables) + "\n").encode()})
    return path


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _toml(name)


def _toml(value: Any) -> str:
    """Numbers, texts and lists of texts as TOML; JSON's escapes are a part of TOML's."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
