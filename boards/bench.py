"""One inference of a generated folder on a simulated board."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edgeq.boards import qemu, sim
from edgeq.boards.board import Board, Codes, Measurement
from edgeq.boards.build import build
from edgeq.emit.c_layout import from_memory, to_memory
from edgeq.errors import BoardError, MissingDependencyError
from edgeq.runtimes.native import code_type, read_folder


def measure(board: Board, folder: Path, codes: Mapping[str, Codes], optimize: str = "-O2") -> Measurement:
    """Run the model of `folder` once on `codes` (by input name, channels first). Raises BoardError."""
    document = read_folder(folder)
    arena = np.zeros(document["arena_bytes"], dtype=np.int8)
    for port in document["inputs"]:
        flat = np.ascontiguousarray(to_memory(codes[port["name"]]))
        arena[port["offset"] : port["offset"] + port["bytes"]] = flat.view(np.int8)
    with tempfile.TemporaryDirectory(prefix="edgeq-board-") as temporary:
        place = Path(temporary)
        built = build(board, folder, document, place, optimize)
        if qemu.is_available(board):
            after, counts, stack = qemu.run(board, built, arena.tobytes(), place)
            how = f"{board.qemu[0]}, instructions counted by a plugin"
        elif sim.is_available(board):
            after, counts, stack = sim.run(board, built, arena.tobytes())
            how = "unicorn, instructions counted by block"
        else:
            raise MissingDependencyError("unicorn", "mcu", needed_for=f"Running {board.name} (or: {board.debian})")
    if len(counts) != len(document["layers"]) + 2:
        raise BoardError("the program did not run every layer", where=board.name, value=len(counts))
    memory, code = np.frombuffer(after, dtype=np.int8), code_type(document["code_bits"] // 8)
    outputs = {
        port["name"]: from_memory(
            memory[port["offset"] : port["offset"] + port["bytes"]].copy().view(code), tuple(port["shape"])
        )
        for port in document["outputs"]
    }
    layers = tuple(int(n) for n in np.diff(counts[:-1]))
    return Measurement(outputs, layers, stack, built.code_bytes, built.constant_bytes, document["arena_bytes"], how)  # type: ignore[arg-type]
