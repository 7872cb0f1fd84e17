"""The work of scripts/prove-c: random networks, and inputs under sanitizers."""

from __future__ import annotations

import subprocess
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as random_seed

from edgeq.boards.bench import measure
from edgeq.boards.board import Simulated, find_board
from edgeq.emit.artifact import Artifact
from edgeq.emit.c import emit
from edgeq.emit.c_golden import golden_codes
from edgeq.emit.c_layout import to_memory
from edgeq.emit.host_compiler import host_compiler
from edgeq.ir import ops as o
from edgeq.ir.graph import Graph
from edgeq.ir.verify import verify
from edgeq.passes.idle_channels import without_idle_channels
from edgeq.runtimes.folder import read_folder
from edgeq.runtimes.native import NativeRuntime
from tests.c_nets import C_TARGETS, PACKED_TARGETS, WIDE_TARGET, every_value, extreme_inputs, pruned, target
from tests.code_nets import code_nets
from tests.lowering import lowered
from tests.quantized import inputs_of

HOST_TARGETS = (*C_TARGETS, *PACKED_TARGETS, WIDE_TARGET)
_RV32IMC = ("rv32imc-int8", "rv32imc-w4a8", "c-w8a16")
BOARD_TARGETS = dict.fromkeys(("rv32imc-sim", "ibex-cycles", "cv32e40p-cycles"), _RV32IMC)
QUICK = ("-std=c99", "-O1", "-fPIC", "-shared")
EVERY = 50

DRIVER = """#include "{prefix}_model.h"
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static uint32_t x = 7;

/* Random bytes; all the lowest, all the highest; runs of both ends; few distinct values. */
static int8_t byte_of(int kind, int i)
{{
    x = x * 1664525u + 1013904223u;
    const int random = (int)(x >> 24) - 128;
    const int ends = random < 0 ? -128 : 127;
    switch (kind % 5) {{
    case 0: return (int8_t)random;
    case 1: return (int8_t)(kind / 5 % 2 ? 127 : -128);
    case 2: return (int8_t)ends;
    case 3: return (int8_t)((i / (1 + kind / 5 % 64)) % 2 ? 127 : -128);
    default: return (int8_t)(random / 64 * 64);
    }}
}}

int main(void)
{{
    for (int round = 0; round < {count}; round++) {{
        {prefix}_arena *arena = malloc(sizeof *arena); /* of exactly its size, so that one byte too far is seen */
        if (arena == NULL) {{
            return 2;
        }}
{fills}        {prefix}_run(arena);
        free(arena);
    }}
    return 0;
}}
"""


def prove_networks(count: int, board: str | None, seed: int | None, note: Callable[[str], None]) -> str:
    """Compare `count` random networks; what was compared. Raises AssertionError at the first difference."""
    started, seen, distinct = time.monotonic(), Counter[str](), set[int]()
    place = find_board(board) if board else None
    names = HOST_TARGETS if board is None else BOARD_TARGETS.get(board, (board.replace("-sim", "-int8"),))

    @settings(
        max_examples=count, deadline=None, database=None, derandomize=seed is None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(code_nets(8, transformers=True))
    def check(graph: Graph) -> None:
        name = names[seen.total() % len(names)]
        if name == WIDE_TARGET and any(isinstance(op, o.Softmax | o.LayerNorm) for op in graph.ops):
            name = names[0]  # transformers on 16-bit codes alone stay real
        number = seen.total() if seed is None else seed + seen.total()
        distinct.update(_on_host(graph, name, number) if place is None else _on_board(graph, name, number, place))
        seen[name] += 1
        if seen.total() % EVERY == 0:
            note(f"{seen.total()} networks, {time.monotonic() - started:.0f} s")

    (check if seed is None else random_seed(seed)(check))()
    assert len(distinct) > 200, "the networks hardly differed"
    return f"{seen.total()} networks equal on {board or 'this machine'}: {dict(seen)}; {len(distinct)} distinct codes"


def _folder_of(graph: Graph, name: str, number: int, folder: Path) -> tuple[Graph, Graph, Artifact]:
    """The lowered graph, every other time with zeros among its weights; what is left of it; its folder of C."""
    whole = lowered(graph, target(name), inputs_of(graph))
    whole = pruned(whole, number) if number % 2 else whole
    left = without_idle_channels(whole).graph
    verify(left)
    return whole, left, emit(left, target(name), folder, "net", {}, {})


def _on_host(graph: Graph, name: str, number: int) -> set[int]:
    distinct = set[int]()
    with tempfile.TemporaryDirectory() as temporary:
        whole, integer, artifact = _folder_of(graph, name, number, Path(temporary) / "out")
        runtime = NativeRuntime(artifact.primary, artifact.tensors.values(), QUICK)
        for inputs in extreme_inputs(graph, 3):
            wanted, found = every_value(integer, inputs), runtime.run(inputs)
            wanted |= {value: codes for value, codes in every_value(whole, inputs).items() if value in whole.outputs}
            for value, codes in found.items():
                np.testing.assert_array_equal(codes, wanted[value], err_msg=f"{name}: {value}")
                if codes.dtype.kind == "i":
                    distinct.update(np.unique(codes).tolist())
    return distinct


def _on_board(graph: Graph, name: str, number: int, board: Simulated) -> set[int]:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "out"
        _folder_of(graph, name, number, folder)
        document = read_folder(folder)
        shapes = {port["name"]: tuple(port["shape"]) for port in document["inputs"]}
        codes = golden_codes(shapes, document["golden"]["seed"], document["code_bits"])
        found = measure(board, folder, codes).outputs
    for port, crc in zip(document["outputs"], document["golden"]["outputs"], strict=True):
        assert zlib.crc32(to_memory(found[port["name"]]).tobytes()) == crc, f"{name}: {port['name']}"
    return set(np.concatenate([array.reshape(-1) for array in found.values()]).tolist())


def prove_inputs(folder: Path, count: int) -> str:
    """Run `count` inputs under sanitizers. Raises CalledProcessError with what they print."""
    document = read_folder(folder)
    prefix = document["prefix"]
    fills = "".join(
        f"        for (int i = 0; i < {port['bytes']}; i++) {{\n"
        f"            ((int8_t *){prefix}_{port['symbol']}(arena))[i] = byte_of(round, i);\n        }}\n"
        for port in document["inputs"]
    )
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        main, program = Path(temporary) / "main.c", Path(temporary) / "program"
        main.write_text(DRIVER.format(prefix=prefix, count=count, fills=fills))
        sources = [main, folder / f"{prefix}_model.c", folder / f"{prefix}_weights.c"]
        flags = ["-std=c99", "-O2", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", f"-I{folder}"]
        subprocess.run([host_compiler("C"), *flags, "-o", program, *sources], check=True)
        subprocess.run([program], check=True)
    return f"{count} inputs of {folder}: the sanitizers found nothing ({time.monotonic() - started:.0f} s)"
