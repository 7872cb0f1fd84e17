"""The shape of the tree: the four linked folders, and what no tracked file may hold."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SATELLITES = ("calibrate", "runtimes", "boards", "datasets")
SYMLINK_MODE = "120000"

# Written in pieces so that this file passes its own test.
UNWANTED = {
    "a path of one machine": r"/wo" r"rk/|/ro" r"ot/|/ho" r"me/\w|/Us" r"ers/\w",
    "a package registry": r"pypi\.o" r"rg|pythonho" r"sted|deb\.deb" r"ian|npmj" r"s\.|download\.pyto" r"rch",
    "who wrote it": r"(?<!ssh-)\bage" r"nts?\b|\bsub-?age" r"nt|\bclau" r"de\b|\bcopil" r"ot\b",
    "the tracker": r"\biss" r"ues? #?\d|\bpull requ" r"est #?\d",
    "unfinished work": r"\bTO" r"DO\b|\bFIX" r"ME\b|\bXX" r"X\b",
}
WEIGHTS_AND_IMAGES = {".pt", ".pth", ".th", ".safetensors", ".onnx", ".tflite", ".zip", ".gz", ".jpg", ".jpeg", ".png"}


@cache
def tracked() -> dict[str, str]:
    """Path -> git mode of every tracked file; of every file where the tree came without its history."""
    if not (ROOT / ".git").exists():
        return {str(path.relative_to(ROOT)): mode(path) for path in files_below(ROOT)}
    listing = subprocess.run(
        ["git", "-c", f"safe.directory={ROOT}", "ls-files", "--stage", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    rows = (row.split("\t", 1) for row in listing.split("\0") if row)
    return {path: info.split()[0] for info, path in rows if os.path.lexists(ROOT / path)}


def files_below(folder: Path) -> Iterator[Path]:
    """Files and links that .gitignore does not leave out."""
    ignored = [line.rstrip("/") for line in (ROOT / ".gitignore").read_text(encoding="utf-8").split()]
    for path in sorted(folder.iterdir()):
        if any(fnmatch(path.name, pattern) for pattern in ignored):
            continue
        if path.is_dir() and not path.is_symlink():
            yield from files_below(path)
        else:
            yield path


def mode(path: Path) -> str:
    if path.is_symlink():
        return SYMLINK_MODE
    return "100755" if os.access(path, os.X_OK) else "100644"


@pytest.mark.parametrize("name", SATELLITES)
def test_satellite_is_a_committed_relative_link(name: str) -> None:
    link = ROOT / "edgeq" / name
    assert link.is_symlink()
    assert os.readlink(link) == f"../{name}"
    assert link.resolve() == ROOT / name
    assert tracked()[f"edgeq/{name}"] == SYMLINK_MODE


@pytest.mark.parametrize("name", SATELLITES)
def test_satellite_has_no_package_file(name: str) -> None:
    """With one, the folder would import as a top-level package and shadow others of that name."""
    assert (ROOT / name).is_dir()
    assert not list((ROOT / name).rglob("__init__.py"))


def test_the_top_level_holds_only_the_known_folders() -> None:
    folders = {path.split("/")[0] for path in tracked() if "/" in path}
    assert folders <= {"edgeq", *SATELLITES, "tests", "scripts", ".ci"}


def test_scripts_can_be_executed() -> None:
    scripts = [path for path in tracked() if path.startswith(("scripts/", ".ci/")) and "." not in Path(path).name]
    assert {"scripts/setup", "scripts/demo", "scripts/test", "scripts/check", ".ci/run"} <= set(scripts)
    assert all(tracked()[path] == "100755" for path in scripts)


def texts() -> list[tuple[str, str]]:
    found = []
    for path in tracked():
        content = (ROOT / path).read_bytes() if (ROOT / path).is_file() else b""
        if content and b"\0" not in content:
            found.append((path, content.decode("utf-8")))
    return found


@pytest.mark.parametrize("what", UNWANTED)
def test_no_tracked_file_names(what: str) -> None:
    pattern = re.compile(UNWANTED[what], re.IGNORECASE)
    hits = [
        f"{path}:{number}: {line.strip()[:100]}"
        for path, text in texts()
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]
    assert not hits, "\n".join(hits)


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("a path of one machine", "/ro" + "ot/x"),
        ("a package registry", "pypi.o" + "rg"),
        ("who wrote it", "the age" + "nt"),
        ("the tracker", "see iss" + "ue 12"),
        ("unfinished work", "TO" + "DO"),
    ],
)
def test_the_unwanted_words_are_found(what: str, text: str) -> None:
    assert re.search(UNWANTED[what], text, re.IGNORECASE)
    assert not re.search(UNWANTED[what], "ssh-agent, a framework, a root of two, we issue it", re.IGNORECASE)


@pytest.mark.real
def test_nothing_tracked_comes_from_the_real_data(real: Path) -> None:
    """Neither a name of its models and images nor the bytes of any of its files."""
    originals = [path for path in real.rglob("*") if path.is_file() and path.stat().st_size > 0]
    names = {path.stem.lower() for path in originals if path.suffix in WEIGHTS_AND_IMAGES}
    sizes = {path.stat().st_size for path in originals}
    files = [ROOT / path for path in tracked() if (ROOT / path).is_file()]
    weights = [file for file in files if file.suffix in WEIGHTS_AND_IMAGES]
    assert not [str(file) for file in weights if file.stem.lower() in names]
    same_size = [file for file in files if file.stat().st_size in sizes]
    wanted = {file.stat().st_size for file in same_size}
    digests = {digest(path) for path in originals if path.stat().st_size in wanted}
    assert not [str(file) for file in same_size if file.stat().st_size and digest(file) in digests]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
