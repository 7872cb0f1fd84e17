"""What an emitter hands back: a folder of files with their digests, and where each value can be read in them.

A folder appears whole or not at all: files are written into a temporary sibling folder, which is then renamed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from edgeq.errors import OutputError
from edgeq.ir.ops import Value

DEFAULT_ROOT = Path("runs/edgeq")
MANIFEST = "manifest.json"
GRAPH_FILE = "graph.edgeq"
"""The graph that was emitted, so that the artifact can be verified later."""


@dataclass(frozen=True)
class Artifact:
    """`files` maps each name in `folder` to its SHA-256; `primary` is the file a runtime loads.

    `tensors` names, for values of the emitted graph, the tensor of the primary file that holds them: codes where
    the value has codes of at most `code_bits` bits, reals otherwise. Values that the file folds into their neighbours
    are absent.
    `next_commands` is what a person runs next with the folder.
    """

    target: str
    folder: Path
    files: Mapping[str, str]
    primary: Path
    tensors: Mapping[Value, Value] = field(default_factory=dict)
    code_bits: int = 8
    next_commands: list[str] = field(default_factory=list)

    @property
    def primary_bytes(self) -> int:
        """Bytes of what a runtime loads: the file, or all files of a package."""
        inside = [self.primary] if self.primary.is_file() else self.primary.rglob("*")
        return sum(path.stat().st_size for path in inside if path.is_file())

    def document(self) -> list[dict[str, object]]:
        """One JSON entry per file: path, bytes, sha256."""
        return [
            {"path": str(self.folder / name), "bytes": (self.folder / name).stat().st_size, "sha256": digest}
            for name, digest in self.files.items()
        ]


def to_json(document: Mapping[str, object]) -> bytes:
    """`document` as readable JSON, the same bytes for the same content."""
    return (json.dumps(document, indent=2, ensure_ascii=False, default=str) + "\n").encode()


def digests(files: Mapping[str, bytes]) -> dict[str, str]:
    """SHA-256 of each file, in hexadecimal."""
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


def output_folder(out: Path | None, stem: str, target: str, *, exist_ok: bool = False) -> Path:
    """`out`, or the first of runs/edgeq/<stem>-<target>, …-2, …-3 that does not exist; nothing is created.

    Raises OutputError if `out` exists with something in it, unless `exist_ok`.
    """
    if out is None:
        return _unused(DEFAULT_ROOT / f"{stem}-{target}", exist_ok)
    if out.exists() and not out.is_dir():
        raise OutputError("the output is a file", value=out, next_step="Name a folder.")
    if out.is_dir() and not exist_ok and any(out.iterdir()):
        raise OutputError("the output folder is not empty", value=out, next_step="Use another, or add --exist-ok.")
    return out


def _unused(folder: Path, exist_ok: bool) -> Path:
    candidate, count = folder, 1
    while candidate.exists() and not exist_ok:
        count += 1
        candidate = folder.with_name(f"{folder.name}-{count}")
    return candidate


def write_files(folder: Path, files: Mapping[str, bytes], *, executable: frozenset[str] = frozenset()) -> None:
    """Write `files` into `folder`, all of them or none; a new folder appears only when complete.

    Other files of an existing folder stay. Raises OutputError (read-only place, full disk, a file in the way).
    """
    with filling(folder) as temporary:
        for name, content in files.items():
            write_file(temporary / name, content, 0o755 if name in executable else 0o644)


@contextmanager
def filling(folder: Path) -> Iterator[Path]:
    """A temporary folder to write into; when the work inside ends well its files become those of `folder`."""
    with _made_parents(folder), _temporary_sibling(folder) as temporary:
        yield temporary
        if not folder.is_dir():
            temporary.rename(folder)
            return
        for path in sorted(path for path in temporary.rglob("*") if path.is_file()):
            place = folder / path.relative_to(temporary)
            place.parent.mkdir(parents=True, exist_ok=True)
            path.replace(place)


def write_file(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write a file and make the folders above it; what is written is on the disk then."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    path.chmod(mode)


@contextmanager
def _made_parents(folder: Path) -> Iterator[None]:
    """Make the folders above `folder`, and remove them again if the work inside fails."""
    missing = [parent for parent in folder.absolute().parents if not parent.exists()]
    try:
        folder.absolute().parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise OutputError(
            f"cannot write the output ({error.strerror or error})",
            value=folder,
            next_step="Check the permissions and the free space of that folder.",
        ) from error
    finally:
        for parent in missing:
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()


@contextmanager
def _temporary_sibling(folder: Path) -> Iterator[Path]:
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.absolute().parent))
    try:
        temporary.chmod(0o755)
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
