"""Running an artifact on a board with an operating system: what goes there, what comes back.

An ONNX or TFLite file is run by the Python of the board with the one file runtimes/device/bench.py; generated C is built
there by its own compiler, or here by a cross compiler where it has none, and needs no Python.
"""

from __future__ import annotations

import asyncio
import importlib.util
import io
import json
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeq.boards.board import Board, Codes, Content, Finished
from edgeq.boards.build import FIRMWARE
from edgeq.boards.probe import Facts
from edgeq.emit.c_layout import from_memory, to_memory
from edgeq.errors import BoardError
from edgeq.runtimes.device import bench
from edgeq.runtimes.folder import code_type
from edgeq.runtimes.latency import MEASURED_RUNS, WARM_UP_RUNS

Array = NDArray[np.generic]
TIMEOUT_S = 3600.0
BENCH = Path(bench.__file__)
SHELL_NOT_FOUND = 127

# Machine by `uname -m`: the cross compiler, and the target of zig, which comes as a wheel.
CROSS = {
    "x86_64": ("x86_64-linux-gnu-gcc", "x86_64-linux-musl"),
    "aarch64": ("aarch64-linux-gnu-gcc", "aarch64-linux-musl"),
    "armv7l": ("arm-linux-gnueabihf-gcc", "arm-linux-musleabihf"),
    "riscv64": ("riscv64-linux-gnu-gcc", "riscv64-linux-musl"),
}


class Device(Board, Protocol):
    """A board with an operating system, which may have a Python."""

    @property
    def python(self) -> str:
        """The Python that has the runtimes."""
        ...


@dataclass(frozen=True)
class Settings:
    """How to measure: without `runs` only outputs are wanted. `threads` empty means all cores; `optimize` is for C.

    `fresh` builds an engine even where the board has kept one. `layers` adds the time of every layer or node, in a
    program of its own: to watch them takes time.
    """

    threads: tuple[int, ...] = ()
    warm_up: int = WARM_UP_RUNS
    runs: int = MEASURED_RUNS
    optimize: str = "-O3"
    fresh: bool = False
    layers: bool = False


@dataclass(frozen=True)
class Ran:
    """What came back: for each sample its outputs by port, and the document of runtimes/device/bench.py."""

    outputs: Sequence[Mapping[str, Array]]
    document: Mapping[str, Any]
    facts: Facts = field(default_factory=Facts)


# --- files that a Python runtime runs ---------------------------------------------------------------------------------


async def run_file(
    board: Device,
    kind: str,
    artifact: Path,
    samples: Sequence[Sequence[Array]],
    ports: Sequence[str],
    settings: Settings,
) -> Ran:
    """Run a file on `samples` (the arrays of the input ports in order, as the file stores them).

    `kind` is "onnxruntime" or "litert"; `ports` are the names of the outputs. Raises BoardError.
    """
    facts = await board.probe()
    _need_python(board, facts)
    fed = {f"{n}.{k}": array for n, arrays in enumerate(samples) for k, array in enumerate(arrays)}
    job = {
        "kind": kind, "artifact": f"model{artifact.suffix}", "samples": len(samples), "inputs": "inputs.npz",
        "outputs": "outputs.npz", "threads": list(settings.threads) or [facts.cores or 1],
        "warm_up": settings.warm_up, "runs": settings.runs, "layers": settings.layers,
    }  # fmt: skip
    await board.put({f"model{artifact.suffix}": artifact, "inputs.npz": _npz(fed)})
    document = await bench_job(board, job)
    with np.load(io.BytesIO(await board.get("outputs.npz")), allow_pickle=False) as given:
        outputs = [{port: given[f"{n}.{k}"] for k, port in enumerate(ports)} for n in range(len(samples))]
    return Ran(outputs, document, facts)


def _npz(arrays: Mapping[str, Array]) -> bytes:
    content = io.BytesIO()
    np.savez(content, **arrays)  # type: ignore[arg-type]  # its stub takes the names for options
    return content.getvalue()


def _need_python(board: Device, facts: Facts) -> None:
    if not facts.python:
        raise BoardError(
            "the board has no Python that runs", where=board.name, value=board.python,
            next_step=f"Install Python 3.7 or newer there, or name another: edgeq boards add {board.name} --python PATH."
            " Generated C needs none.",
        )  # fmt: skip


async def bench_job(board: Device, job: Mapping[str, Any]) -> dict[str, Any]:
    """Send bench.py with a job; the document that it writes. Raises BoardError."""
    await board.put({"bench.py": BENCH, "job.json": json.dumps(job).encode()})
    done = await board.run([board.python, "bench.py", "job.json", "result.json"], timeout_s=TIMEOUT_S)
    if done.exit == bench.NO_RUNTIME:
        package = {"onnxruntime": "onnxruntime", "litert": "ai-edge-litert"}[job["kind"]]
        raise BoardError(
            f"the board's Python has no {package}", where=board.name, value=done.complaint,
            next_step=f"Install it there: {board.python} -m pip install {package}",
        )  # fmt: skip
    _check(board, done, "the run failed")
    found: dict[str, Any] = json.loads(await board.get("result.json"))
    return found


def _check(board: Board, done: Finished, what: str) -> None:
    if done.exit:
        killed = " (killed: is its memory large enough?)" if done.exit in (137, -9) else ""
        raise BoardError(what + killed, where=board.name, value=done.complaint)


# --- generated C ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Program:
    """Generated C that lies built on a board: the manifest's document, how it was built, and what the board is."""

    document: Mapping[str, Any]
    compiler: str
    facts: Facts


async def build_c(board: Device, folder: Path, document: Mapping[str, Any], settings: Settings) -> Program:
    """Build the generated C of `folder` on the board, or for it. Raises BoardError."""
    facts = await board.probe()
    return Program(document, await _build(board, facts, folder, document, settings), facts)


async def run_c(board: Device, program: Program, samples: Sequence[Mapping[str, Codes]], settings: Settings) -> Ran:
    """Run a program on `samples` (codes by input, channels first). Raises BoardError."""
    document = program.document
    inputs = b"".join(to_memory(sample[port["name"]]).tobytes() for sample in samples for port in document["inputs"])
    await board.put({"inputs.bin": inputs})
    ports = [
        f"{side[:-4]}:{port['offset']}:{port['bytes']}" for side in ("inputs", "outputs") for port in document[side]
    ]
    arguments = [str(len(samples)), str(settings.warm_up), str(settings.runs), *ports]
    layers = [layer["value"] for layer in document["layers"]] if settings.layers else []
    job = {"kind": "program", "artifact": "bench", "arguments": arguments, "compiler": program.compiler, "layers": layers,
           "samples": len(samples), "warm_up": settings.warm_up, "runs": settings.runs}  # fmt: skip
    with_state = program.facts.python and settings.runs
    told = await (bench_job(board, job) if with_state else _bare(board, job))
    return Ran(_split(await board.get("outputs.bin"), document, len(samples)), told, program.facts)


async def _bare(board: Device, job: Mapping[str, Any]) -> dict[str, Any]:
    """The same without a Python on the board: times, but not the board's state meanwhile."""
    done = await board.run(["./bench", *job["arguments"]], timeout_s=TIMEOUT_S)
    _check(board, done, "the run failed")
    timings = [bench.timing_of_program(done.stdout, job["warm_up"], job["layers"])] if job["runs"] else []
    runtime = {"name": "generated C", "version": job["compiler"]}
    return {"schema": bench.SCHEMA, "runtime": runtime, "timings": timings, "samples": job["samples"]}


def _split(content: bytes, document: Mapping[str, Any], samples: int) -> list[dict[str, Array]]:
    """The outputs of every sample, which lie one after another."""
    ports, code = document["outputs"], code_type(document["code_bits"] // 8)
    flat = np.frombuffer(content, dtype=code).reshape(samples, -1)
    ends = np.cumsum([0, *(port["bytes"] // code.itemsize for port in ports)])
    return [
        {port["name"]: from_memory(row[ends[k] : ends[k + 1]], tuple(port["shape"])) for k, port in enumerate(ports)}
        for row in flat
    ]


async def _build(board: Device, facts: Facts, folder: Path, document: Mapping[str, Any], settings: Settings) -> str:
    """Put the program `bench` on the board; returns how it was built. Raises BoardError."""
    prefix = document["prefix"]
    watched = [f"-DBENCH_LAYERS={len(document['layers'])}"] if settings.layers else []
    arguments = [
        "-std=gnu99", settings.optimize, f'-DBENCH_MODEL="{prefix}_model.c"', f"-DBENCH_RUN={prefix}_run",
        f"-DBENCH_ARENA={prefix}_arena", *watched, "-o", "bench", "host.c", f"{prefix}_weights.c",
    ]  # fmt: skip
    sources = [
        *sorted(folder.glob("*.h")),
        folder / f"{prefix}_model.c",
        folder / f"{prefix}_weights.c",
        FIRMWARE / "host.c",
    ]
    files: dict[str, Content] = {path.name: path for path in sources}
    if facts.compiler:
        await board.put(files)
        native = ["-mcpu=native"] if facts.machine.startswith(("aarch64", "arm")) else ["-march=native"]
        for flags in (native, []):  # some compilers do not know the processor they run on
            done = await board.run([facts.compiler, *flags, *arguments])
            if not done.exit:
                return " ".join([Path(facts.compiler).name, settings.optimize, *flags, "on the board"])
        raise BoardError("the board's compiler refused the program", where=board.name, value=_first_error(done))
    compiler = _cross_compiler(board, facts)
    with tempfile.TemporaryDirectory(prefix="edgeq-build-") as temporary:
        for name, path in files.items():
            shutil.copyfile(str(path), Path(temporary) / name)
        process = await asyncio.create_subprocess_exec(
            *compiler, "-static", *arguments, cwd=temporary, stderr=asyncio.subprocess.PIPE
        )  # fmt: skip
        _, err = await process.communicate()
        if process.returncode:
            failed = Finished(1, "", err.decode(errors="replace"))
            raise BoardError("the cross compiler refused the program", where=compiler[0], value=_first_error(failed))
        await board.put({"bench": Path(temporary) / "bench"})
    _check(board, await board.run(["chmod", "700", "bench"]), "cannot make the program executable")
    return f"{Path(compiler[0]).name} {settings.optimize} here" if "ziglang" not in compiler else "zig here"


def _first_error(done: Finished) -> str:
    return next((line for line in done.stderr.splitlines() if "error" in line), done.complaint)


def _cross_compiler(board: Board, facts: Facts) -> list[str]:
    gcc, target = CROSS.get(facts.machine, ("", ""))
    if gcc and shutil.which(gcc):
        return [gcc]
    if target and importlib.util.find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "cc", "-target", target]
    raise BoardError(
        "the board has no C compiler, and there is none for it here", where=board.name, value=facts.machine or "unknown",
        next_step='Install gcc there, or here: pip install "edgeq[mcu]"' if target else "Install gcc there.",
    )  # fmt: skip
