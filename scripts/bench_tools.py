"""One tool's conversion in a process of its own: what it took, or why there is nothing. The bench scripts share it.

Linux counts the parent's memory at the start of a child as the child's own peak, so a script that measures
conversions has to stay small until they are done: images are stored one at a time, models are not opened.
On a busy machine set OMP_NUM_THREADS=1: threads of OpenMP that wait for one another spin, which CPU seconds count.
"""

from __future__ import annotations

import compileall
import os
import statistics
import subprocess
import time
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

EDGEQ_WRITTEN = (0, 5)  # 5: the file is there, its agreement with the reference is below the target's promise
ROOT = Path(__file__).resolve().parents[1]
# Other tools use edgeq's repair of a CUDA-linked torchvision, must fetch nothing, and leave the user's settings alone.
PEER_SETTINGS = {"PYTHONPATH": str(ROOT), "YOLO_AUTOINSTALL": "false", "YOLO_OFFLINE": "true"}


@dataclass(frozen=True)
class Conversion:
    """Seconds by the clock and of CPU time, and the largest resident memory; `problem` says why there are none.

    `exit` is the process's own, where it wrote its file but was not content with it. `file_seconds` and
    `file_cpu_seconds` are those until the file was there, of a tool that then checks and measures it.
    """

    tool: str
    seconds: float | None = None
    cpu_seconds: float | None = None
    peak_mb: float | None = None
    problem: str | None = None
    exit: int = 0
    file_seconds: float | None = None
    file_cpu_seconds: float | None = None


def convert(
    tool: str,
    command: Sequence[str],
    out: Path,
    settings: Mapping[str, str] | None = None,
    accepted: Container[int] = (0,),
) -> Conversion:
    """Run `command`, which writes `out`, to its end; with other exit codes than those `accepted` it has failed."""
    environment = {**os.environ, **(settings or {})}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # what is installed is compiled once, not in every run
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment)
    assert process.stderr is not None
    with process.stderr as stream:
        errors = stream.read().decode(errors="replace").strip().splitlines()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.monotonic() - started
    if process.returncode not in accepted or not out.exists():
        return Conversion(tool, problem=reason(errors) or f"exit {process.returncode} without output")
    cpu = usage.ru_utime + usage.ru_stime
    peak_mb = round(usage.ru_maxrss / 1024)
    return Conversion(tool, round(seconds, 1), round(cpu, 1), peak_mb, exit=process.returncode)


def peer(tool: str, program: str, python: str, arguments: Sequence[str | Path], out: Path) -> Conversion:
    """Another tool's conversion, as the shortest program of its documentation; `out` is its last argument."""
    settings = {**PEER_SETTINGS, "YOLO_CONFIG_DIR": str(out.parent)}
    return convert(tool, [python, "-c", program, *map(str, arguments), str(out)], out, settings)


def compile_checkout() -> None:
    """Bytecode of edgeq's modules, as pip makes it of what it installs; the linked folders lie beside it."""
    for folder in ("edgeq", "calibrate", "runtimes", "boards", "datasets"):
        compileall.compile_dir(ROOT / folder, quiet=1)


def medians(rounds: Sequence[Sequence[Conversion]]) -> list[Conversion]:
    """Tool by tool the medians of its conversions; the problem of one that failed."""
    return [_median(found) for found in zip(*rounds, strict=True)]


def _median(found: Sequence[Conversion]) -> Conversion:
    last = found[-1]
    if failed := [item for item in found if item.problem]:
        return failed[-1]
    names = [name for name, value in vars(last).items() if isinstance(value, float)]
    return replace(last, **{name: round(statistics.median(getattr(item, name) for item in found), 1) for name in names})


def reason(errors: Sequence[str]) -> str:
    """The last line that names an error, else the last line."""
    named = [line for line in errors if "Error" in line.split(":")[0]]
    return (named or list(errors) or [""])[-1].strip()[:160]


def store_images(path: Path, images: Iterable[NDArray[np.float32]], count: int) -> None:
    """Write `count` images [1, C, H, W] as one .npy array [count, C, H, W], one at a time."""
    with path.open("wb") as file:
        for index, image in enumerate(images):
            if not index:
                header = {"descr": "<f4", "fortran_order": False, "shape": (count, *image.shape[1:])}
                np.lib.format.write_array_header_1_0(file, header)
            file.write(np.ascontiguousarray(image, dtype="<f4").tobytes())
