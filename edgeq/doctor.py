"""Which parts of edgeq work on this machine: packages, their versions, tools, and what would make the rest work."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import shutil
from dataclasses import dataclass
from typing import Literal

from rich.console import Console
from rich.table import Table

State = Literal["ok", "missing", "broken"]


@dataclass(frozen=True)
class Check:
    """One thing that was looked for; `fix` is the line that mends it."""

    name: str
    state: State
    found: str
    needed_for: str
    fix: str = ""


# (distribution, module, what it is for, extra that brings it; no extra: part of the core)
_PACKAGES = (
    ("numpy", "numpy", "everything", None),
    ("torch", "torch", "the reference interpreter and calibration", None),
    ("onnx", "onnx", "reading and writing ONNX", None),
    ("onnxruntime", "onnxruntime", "checking ONNX artifacts", None),
    ("opencv-python", "cv2", "images", None),
    ("pycocotools", "pycocotools", "detection accuracy", None),
    ("ai-edge-litert", "ai_edge_litert", "writing and running TFLite files", "tflite"),
    ("torchvision", "torchvision", "torchvision models", "yolo"),
    ("ultralytics", "ultralytics", "Ultralytics checkpoints (AGPL-3.0)", "yolo"),
    ("timm", "timm", "timm architectures", "yolo"),
    ("ziglang", "ziglang", "compiling for simulated boards", "mcu"),
    ("unicorn", "unicorn", "simulated boards", "mcu"),
    ("pythondata-cpu-ibex", "pythondata_cpu_ibex", "the board ibex-cycles", "cycles"),
    ("pythondata-cpu-cv32e40p", "pythondata_cpu_cv32e40p", "the board cv32e40p-cycles", "cycles"),
    ("asyncssh", "asyncssh", "boards over SSH", "boards"),
)
_TOOLS = (
    ("trtexec", "building TensorRT engines on this machine (they are usually built on the Jetson)"),
    ("cc", "checking generated C on this machine"),
    ("riscv64-unknown-elf-gcc", "the board rv32imc-sim (or the extra mcu)"),
    ("qemu-system-riscv32", "the board rv32imc-sim (or the extra mcu)"),
    ("verilator", "the boards ibex-cycles and cv32e40p-cycles"),
    ("arm-none-eabi-gcc", "the boards cortex-m4-sim, cortex-m7-sim (or the extra mcu) and cortex-m55-sim"),
    ("qemu-system-arm", "the boards cortex-m4-sim, cortex-m7-sim (or the extra mcu) and cortex-m55-sim"),
)


def _package(distribution: str, module: str, needed_for: str, extra: str | None) -> Check:
    fix = f'pip install "edgeq[{extra}]"' if extra else f"pip install {distribution}"
    if importlib.util.find_spec(module) is None:
        return Check(distribution, "missing" if extra else "broken", "not installed", needed_for, fix)
    try:
        version = importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        version = "installed, version unknown"
    return Check(distribution, "ok", version, needed_for)


def _numpy_with_legacy_runtime() -> list[Check]:
    if importlib.util.find_spec("tflite_runtime") is None:
        return []
    version = importlib.metadata.version("numpy")
    if int(version.split(".")[0]) < 2:
        return []
    fix = 'give tflite-runtime an environment of its own: pip install "edgeq[tflite-legacy]"'
    return [Check("tflite-runtime", "broken", f"numpy {version}", "old TensorFlow Lite runtimes", fix)]


def diagnose() -> list[Check]:
    """Every check, in reading order; nothing is installed or downloaded."""
    python = Check("python", "ok", f"{platform.python_version()} on {platform.machine()}", "everything")
    tools = [
        Check(name, "ok" if path else "missing", path or "not on the path", needed_for)
        for name, needed_for in _TOOLS
        for path in (shutil.which(name),)
    ]
    return [python, *(_package(*row) for row in _PACKAGES), *_numpy_with_legacy_runtime(), *tools]


def print_diagnosis(checks: list[Check]) -> None:
    """The checks as a table."""
    table = Table("part", "state", "found", "needed for", "to mend it")
    for check in checks:
        table.add_row(check.name, check.state, check.found, check.needed_for, check.fix)
    Console().print(table)
