"""The import order of the architecture, read from the source; and that the command line starts light.

Every import counts, also one inside a function: laziness is about time, the order about what may know what.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# A module may import from its own line and from the lines above it.
LAYERS = (
    ("errors",),
    ("formats", "catalogue"),
    ("ir",),
    ("reference",),
    ("target", "recipe", "report", "progress", "drawing"),
    ("targets",),
    ("frontend", "zoo", "passes", "quantize"),
    ("emit", "lint", "readback"),
    ("flow", "inspection", "doctor"),
    ("cli", "__init__", "__main__"),
)
RANK = {part: rank for rank, parts in enumerate(LAYERS) for part in parts}
VERSION = "edgeq.__version__"  # files carry it, so every module may read it
SATELLITES = {"calibrate", "runtimes", "boards", "datasets"}
HEAVY = {
    "torch", "torchvision", "onnx", "onnxruntime", "cv2", "scipy", "pycocotools", "matplotlib", "timm",
    "ultralytics", "tensorflow", "coremltools", "ai_edge_litert", "jinja2", "ray", "asyncssh",
}  # fmt: skip


def modules() -> dict[str, Path]:
    """Every module of the package, satellites included, by its dotted name."""
    files = (path for folder in ("edgeq", *SATELLITES) for path in (ROOT / folder).rglob("*.py"))
    named = {}
    for path in files:
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[0] == "edgeq" and len(parts) > 1 and parts[1] in SATELLITES:
            continue  # the same file through its link
        name = ".".join(parts if parts[0] == "edgeq" else ("edgeq", *parts))
        named[name.removesuffix(".__init__")] = path
    return named


MODULES = modules()


def part_of(module: str) -> str:
    """`edgeq.emit.onnx` -> `emit`; the package itself -> `__init__`."""
    return module.split(".")[1] if "." in module else "__init__"


def imported_by(module: str) -> Iterator[tuple[str, int]]:
    """(module, line) of every edgeq module that `module` imports, whatever the form of the statement."""
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*above, node.module or ""]).rstrip(".") if node.level else (node.module or "")
            inner = [f"{base}.{alias.name}" for alias in node.names]
            names = [name if is_module(name) else base for name in inner if name != VERSION]
        else:
            continue
        yield from ((name, node.lineno) for name in names if name.split(".")[0] == "edgeq")


def is_module(name: str) -> bool:
    return name in MODULES or any(other.startswith(f"{name}.") for other in MODULES)


def edges() -> list[tuple[str, str, int]]:
    return [(module, target, line) for module in MODULES for target, line in imported_by(module)]


def layer_fault(module: str, target: str) -> str | None:
    """Why `module` must not import `target`, or None."""
    source, goal = part_of(module), part_of(target)
    if source in SATELLITES:
        return "a satellite must not import flow or cli" if goal in ("flow", "cli") else None
    if goal in SATELLITES:
        return None if source in ("flow", "cli") else "only flow and cli may import the satellites"
    if goal == "__init__":
        return None if source == "cli" else "import the module that defines it"
    return None if RANK[goal] <= RANK[source] else f"{goal} comes after {source}"


def test_the_scan_sees_the_package() -> None:
    assert {"edgeq", "edgeq.errors", "edgeq.ir.ops", "edgeq.datasets.scenes"} <= MODULES.keys()
    assert ("edgeq.formats", "edgeq.errors") in {(source, target) for source, target, _ in edges()}


def test_every_part_has_a_place_in_the_order() -> None:
    assert {part_of(module) for module in MODULES} <= RANK.keys() | SATELLITES


def test_imports_follow_the_order() -> None:
    faults = [
        f"{MODULES[module].relative_to(ROOT)}:{line} imports {target}: {fault}"
        for module, target, line in edges()
        if (fault := layer_fault(module, target))
    ]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    ("module", "target"),
    [
        ("edgeq.formats", "edgeq.ir.ops"),
        ("edgeq.reference.interpret", "edgeq.emit.onnx"),
        ("edgeq.emit.onnx", "edgeq.flow"),
        ("edgeq.quantize.scale", "edgeq.calibrate.observe"),
        ("edgeq.datasets.coco", "edgeq.flow"),
        ("edgeq.ir.ops", "edgeq"),
    ],
)
def test_a_forbidden_import_is_seen(module: str, target: str) -> None:
    assert layer_fault(module, target)


def test_no_module_imports_itself_in_a_circle() -> None:
    graph: dict[str, set[str]] = {module: set() for module in MODULES}
    for module, target, _ in edges():
        if target in MODULES and target != module:
            graph[module].add(target)
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))
    assert len(order) == len(MODULES)


def is_emitter(module: str) -> bool:
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    return any(isinstance(node, ast.FunctionDef) and node.name == "emit" for node in tree.body)


def test_emitters_never_import_each_other() -> None:
    emitters = {module for module in MODULES if part_of(module) == "emit" and is_emitter(module)}
    assert emitters, "no module of edgeq/emit defines emit()"
    assert not [
        f"{module}:{line} imports {target}"
        for module, target, line in edges()
        if module in emitters and target in emitters and target != module
    ]


def modules_after(statement: str) -> set[str]:
    """Full names of the modules in a fresh interpreter after `statement`."""
    script = f"{statement}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def loaded_by(statement: str) -> set[str]:
    """Top-level names of the modules in a fresh interpreter after `statement`."""
    return {name.split(".")[0] for name in modules_after(statement)}


def test_the_command_line_starts_without_heavy_packages() -> None:
    loaded = loaded_by("import edgeq.cli")
    assert "click" in loaded
    assert not loaded & HEAVY


def test_the_public_package_starts_without_heavy_packages() -> None:
    assert not loaded_by("import edgeq") & HEAVY


def test_commands_do_not_wait_for_the_compiler_of_torch() -> None:
    """A second of imports that only compiled training needs."""
    loaded = modules_after("import edgeq.flow.export, edgeq.flow.training_loop, edgeq.quantize.reconstruct")
    assert "torch.nn" in loaded and not loaded & {"torch._dynamo", "torch._inductor", "sympy"}
