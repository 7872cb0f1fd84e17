"""One artifact on one board: inputs as the model has them go in, outputs as the model has them come out.

What lies between, the layout and the codes of the file, is undone here by the same code that serves the runtimes of this
machine, so that accuracy and equality are computed alike wherever an output was made.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import onnx

from edgeq.boards.bench import count
from edgeq.boards.board import Board
from edgeq.boards.device import Array, Device, Ran, Settings, build_c, run_c, run_file
from edgeq.boards.local import LocalBoard
from edgeq.boards.simulated import SimulatedBoard
from edgeq.boards.ssh import SshBoard
from edgeq.boards.tensorrt import run_engine
from edgeq.emit.artifact import MANIFEST
from edgeq.emit.trtexec import BUILD_SCRIPT, Precision
from edgeq.errors import UnsupportedError, UsageError
from edgeq.runtimes.folder import code_of, read_folder, value_of

KINDS = {".onnx": "onnxruntime", ".tflite": "litert"}
"""The runtime of a board that runs a file, by its suffix."""
TENSORRT = "tensorrt"


def runtime_for(artifact: Path, asked: str | None) -> str:
    """The runtime that runs a file on boards: the one asked for, else TensorRT for what was exported for it.

    Raises UsageError if the file is not for the runtime that was asked for.
    """
    usual = KINDS.get(artifact.suffix, "")
    allowed = [usual, TENSORRT] if artifact.suffix == ".onnx" else [usual]
    if asked is not None and asked not in allowed:
        raise UsageError("this runtime does not run the file", where=artifact, value=asked, allowed=", ".join(allowed))
    is_for_tensorrt = artifact.suffix == ".onnx" and (artifact.parent / BUILD_SCRIPT).is_file()
    return asked or (TENSORRT if is_for_tensorrt else usual)


def precision_of(artifact: Path) -> Precision:
    """What trtexec must be told of an ONNX file: whether it holds codes."""
    model = onnx.load(str(artifact), load_external_data=False)
    return "int8" if any(node.op_type == "QuantizeLinear" for node in model.graph.node) else "fp16"


class Ports(Protocol):
    """What a file stores for the model's own arrays, and back."""

    @property
    def inputs(self) -> tuple[str, ...]: ...

    @property
    def outputs(self) -> tuple[str, ...]: ...

    def stored(self, name: str, array: Array) -> Array:
        """An input as the file takes it."""
        ...

    def given(self, name: str, array: Array) -> Array:
        """An output as the model has it."""
        ...


def is_c(artifact: Path) -> bool:
    """Whether an artifact is a folder of generated C, or a file in one."""
    return artifact.suffix in (".c", ".h") or (artifact.is_dir() and (artifact / MANIFEST).is_file())


def folder_of(artifact: Path) -> Path:
    """The folder of generated C."""
    return artifact if artifact.is_dir() else artifact.parent


def artifact_in(folder: Path) -> Path:
    """What boards run of an export's folder: the file, or the folder where it holds C. Raises UsageError."""
    files = [path for suffix in KINDS for path in folder.glob(f"*{suffix}")]
    if not files and "c" not in json.loads((folder / MANIFEST).read_text("utf-8")):
        raise UsageError("boards do not run this kind of artifact", where=folder)
    return files[0] if files else folder


def primary_of(artifact: Path) -> Path:
    """The file that a runtime loads: of a folder of generated C, its model."""
    if artifact.is_dir() and is_c(artifact):
        return artifact / f"{read_folder(artifact)['prefix']}_model.c"
    return artifact


def check_boards(artifact: Path, boards: Sequence[Board]) -> None:
    """Raises UsageError if there is no such artifact, UnsupportedError if one of the boards cannot run its kind."""
    if not artifact.exists():
        raise UsageError("no such artifact", where=artifact, next_step="edgeq export prints the path of what it wrote.")
    simulated = [board.name for board in boards if isinstance(board, SimulatedBoard)]
    if is_c(artifact):
        read_folder(folder_of(artifact))
    elif simulated:
        raise UsageError("a simulated board runs generated C alone: this is no folder of generated C", where=artifact,
                         value=simulated[0], next_step="Export for a C target, such as rv32imc-int8.")  # fmt: skip
    elif artifact.suffix not in KINDS:
        raise UnsupportedError("this kind of artifact cannot be run on a board", where=artifact,
                               allowed=", ".join(("a folder of generated C", *KINDS)))  # fmt: skip


def ports_of_file(artifact: Path) -> Ports:
    """The ports of an ONNX or TFLite file."""
    if artifact.suffix == ".onnx":
        from edgeq.runtimes.onnxruntime import OnnxRuntime

        return OnnxRuntime(artifact, threads=1)
    from edgeq.runtimes.litert import LiteRtRuntime

    return LiteRtRuntime(artifact, threads=1)


async def run_on(
    board: Board,
    artifact: Path,
    samples: Sequence[Mapping[str, Array]],
    settings: Settings,
    ports: Ports | None = None,
    runtime: str | None = None,
) -> Ran:
    """Run an artifact on `samples`, inputs by name with channels first; outputs come back likewise. Raises BoardError.

    `ports` spares opening the file again; `runtime` is one of `runtime_for`.
    """
    if is_c(artifact):
        return await _run_c(board, folder_of(artifact), samples, settings)
    ports = ports or ports_of_file(artifact)
    if runtime_for(artifact, runtime) == TENSORRT:
        fed = [{name: ports.stored(name, sample[name]) for name in ports.inputs} for sample in samples]
        return await run_engine(as_device(board), artifact, precision_of(artifact), fed, settings)
    arrays = [[ports.stored(name, sample[name]) for name in ports.inputs] for sample in samples]
    ran = await run_file(as_device(board), KINDS[artifact.suffix], artifact, arrays, ports.outputs, settings)
    outputs = [{name: ports.given(name, array) for name, array in given.items()} for given in ran.outputs]
    return Ran(outputs, ran.document, ran.facts)


async def _run_c(board: Board, folder: Path, samples: Sequence[Mapping[str, Array]], settings: Settings) -> Ran:
    document = read_folder(folder)
    codes = [{port["name"]: code_of(sample[port["name"]], port) for port in document["inputs"]} for sample in samples]
    if isinstance(board, SimulatedBoard):
        counted = await count(board, folder, codes)
        return Ran([_values(found.outputs, document) for found in counted], {})
    device = as_device(board)
    ran = await run_c(device, await build_c(device, folder, document, settings), codes, settings)
    return Ran([_values(given, document) for given in ran.outputs], ran.document, ran.facts)


def _values(codes: Mapping[str, Any], document: Mapping[str, Any]) -> dict[str, Array]:
    return {port["name"]: value_of(codes[port["name"]], port) for port in document["outputs"]}


def as_device(board: Board) -> Device:
    """`board`, which is known to have an operating system."""
    assert isinstance(board, LocalBoard | SshBoard), f"{board.name} has no operating system"
    return board
