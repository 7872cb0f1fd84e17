"""One inference of a generated folder on a simulated board."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeq.boards.board import Codes, Measurement, Simulated
from edgeq.boards.build import Built, build
from edgeq.boards.simulated import ARENA, COUNTS, RESULT, SimulatedBoard, result_of
from edgeq.emit.c_layout import from_memory, to_memory
from edgeq.errors import BoardError
from edgeq.runtimes.folder import code_type, read_folder


def measure(row: Simulated, folder: Path, codes: Mapping[str, Codes], optimize: str = "-O2") -> Measurement:
    """One run, for callers without an event loop; see `count`."""

    async def once() -> Measurement:
        async with SimulatedBoard(row) as board:
            return (await count(board, folder, [codes], optimize))[0]

    return asyncio.run(once())


async def count(
    board: SimulatedBoard, folder: Path, samples: Sequence[Mapping[str, Codes]], optimize: str = "-O2"
) -> list[Measurement]:
    """Run the model of `folder` once on each of `samples` (codes by input name, channels first). Raises BoardError.

    `board` is one that was entered.
    """
    document = read_folder(folder)
    with tempfile.TemporaryDirectory(prefix="edgeq-build-") as temporary:
        built = await asyncio.to_thread(build, board.row, folder, document, Path(temporary), optimize)
        await board.put({"bench.elf": built.program})
        return [await _run(board, built, document, codes) for codes in samples]


async def _run(
    board: SimulatedBoard, built: Built, document: Mapping[str, Any], codes: Mapping[str, Codes]
) -> Measurement:
    arena = np.zeros(document["arena_bytes"], dtype=np.int8)
    for port in document["inputs"]:
        flat = np.ascontiguousarray(to_memory(codes[port["name"]]))
        arena[port["offset"] : port["offset"] + port["bytes"]] = flat.view(np.int8)
    await board.put({ARENA: arena.tobytes()})
    await board.run(["bench.elf"])
    after, counts, stack = result_of(await board.get(RESULT), await board.get(COUNTS))
    if len(counts) != len(document["layers"]) + 2:
        raise BoardError("the program did not run every layer", where=board.name, value=len(counts))
    memory, code = np.frombuffer(after, dtype=np.int8), code_type(document["code_bits"] // 8)
    outputs = {
        port["name"]: from_memory(
            memory[port["offset"] : port["offset"] + port["bytes"]].copy().view(code), tuple(port["shape"])
        )
        for port in document["outputs"]
    }
    layers, *cycles = np.diff(counts[:-1], axis=0).T.tolist()
    return Measurement(
        outputs,  # type: ignore[arg-type]
        tuple(layers), stack, built.code_bytes, built.constant_bytes, document["arena_bytes"], board.how,
        *map(tuple, cycles),
    )  # fmt: skip
