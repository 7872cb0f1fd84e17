"""What is installed: the wheel's contents, and that the declared dependencies are those the code imports."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SATELLITES = ("calibrate", "runtimes", "boards", "datasets")
SHIPPED = ("pyproject.toml", "README.md", "LICENSE", "edgeq", *SATELLITES)
# Distribution names whose import name differs.
IMPORT_NAMES = {
    "opencv-python": "cv2",
    "pillow": "PIL",
    "protobuf": "google",
    "pyyaml": "yaml",
    "ai-edge-litert": "ai_edge_litert",
    "tflite-runtime": "tflite_runtime",
}
# Imported by a package that edgeq imports, and not among that package's own dependencies.
NEEDED_BY_TORCH = {"onnxscript"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the tree, links kept as links, so that nothing stays in the tree."""
    tree = tmp_path_factory.mktemp("tree")
    for name in SHIPPED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, tree / name)
    out = tmp_path_factory.mktemp("wheel")
    options = ["--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", str(out)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, "."], cwd=tree, check=True)
    (built,) = out.glob("*.whl")
    return built


def wheel_files(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


def shipped_files() -> set[str]:
    """Every file of the package, by its path in the wheel."""
    found = set()
    for folder in ("edgeq", *SATELLITES):
        for path in (ROOT / folder).rglob("*"):
            inside = path.relative_to(ROOT)
            through_link = inside.parts[0] == "edgeq" and inside.parts[1] in SATELLITES
            if path.is_file() and not through_link and "__pycache__" not in inside.parts:
                found.add(str(inside if folder == "edgeq" else Path("edgeq") / inside))
    return found


def test_wheel_has_one_top_level_name(wheel: Path) -> None:
    """An installed Hugging Face `datasets` is therefore neither shadowed nor overwritten."""
    tops = {name.split("/")[0] for name in wheel_files(wheel)}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"edgeq"}


def test_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    expected = shipped_files()
    assert {"edgeq/errors.py", "edgeq/datasets/scenes.py", "edgeq/py.typed"} <= expected
    assert not expected - wheel_files(wheel)


def test_installed_wheel_imports_from_its_own_folder(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    script = "import edgeq, edgeq.datasets.scenes as s; print(edgeq.__file__); print(s.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True,
        env={"PYTHONPATH": str(tmp_path), "PATH": ""},
    )  # fmt: skip
    assert all(Path(line).is_relative_to(tmp_path) for line in done.stdout.split())


def test_wheel_names_the_command_and_the_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        info = next(name for name in archive.namelist() if name.endswith("entry_points.txt"))
        assert "edgeq = edgeq.cli:main" in archive.read(info).decode()
        assert any(name.endswith("LICENSE") for name in archive.namelist())


def project() -> dict[str, object]:
    table: dict[str, object] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return table


def import_names(requirements: list[str]) -> set[str]:
    names = [re.split(r"[<>=!~\[; ]", requirement)[0].lower() for requirement in requirements]
    return {IMPORT_NAMES.get(name, name) for name in names}


def imported_packages() -> set[str]:
    """Top-level names of all third-party imports in the package, lazy ones included."""
    names = set()
    for path in shipped_files():
        if not path.endswith(".py"):
            continue
        real = ROOT / path if (ROOT / path).exists() else ROOT / path.removeprefix("edgeq/")
        for node in ast.walk(ast.parse(real.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.split(".")[0])
    return names - set(sys.stdlib_module_names) - {"edgeq"}


def test_every_import_is_declared() -> None:
    table = project()
    core, extras = table["dependencies"], table["optional-dependencies"]
    assert isinstance(core, list) and isinstance(extras, dict)
    optional = [line for name, lines in extras.items() if name != "dev" for line in lines]
    assert not imported_packages() - import_names(core) - import_names(optional)


def test_every_core_dependency_is_used() -> None:
    core = project()["dependencies"]
    assert isinstance(core, list) and len(core) > 5
    assert not import_names(core) - imported_packages() - NEEDED_BY_TORCH
