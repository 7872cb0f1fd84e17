"""The work of scripts/bench-mcu: export, simulate, compare; tables of the figures and of what flash cannot go below."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from edgeq.errors import EdgeqError
from edgeq.flow import ExportRequest, export_model
from edgeq.flow.bench import BenchRequest, bench_artifact
from edgeq.frontend.tflite import import_tflite
from edgeq.ir import ops as o

MODELS = {
    "ic": "ic/pretrainedResnet_quant.tflite",
    "vww": "vww/vww_96_int8.tflite",
    "kws": "kws/kws_ref_model.tflite",
    "ad": "ad/ad01_int8.tflite",
}
CORES = (
    ("rv32imc-int8", "rv32imc-sim"),
    ("rv32imcb-int8", "rv32imcb-sim"),
    ("cortex-m4-int8", "cortex-m4-sim"),
    ("cortex-m7-int8", "cortex-m7-sim"),
    ("cortex-m55-int8", "cortex-m55-sim"),
    ("rv64gcv-int8", "rv64gcv-sim"),
    ("c-int8", "rv64gcv-sim"),
    ("aarch64-int8", "aarch64-sim"),
    ("c-int8", "aarch64-sim"),
)

CYCLES = {"ibex-cycles": (4, "mul in three, add"), "cv32e40p-cycles": (2, "mul and add")}
"""Cores whose RTL counts cycles, and the cycles of a multiplication if nothing but that and an addition were needed."""

MACS = {"ic": 12_501_632, "vww": 7_489_664, "kws": 2_656_768, "ad": 264_192}
"""Multiplications of the models as they stand; generated C leaves out those of idle channels."""

LIMITS = {
    "rv32imc-sim": (2.0, "mul and add"),
    "rv32imcb-sim": (2.0, "mul and add"),
    "cortex-m4-sim": (1 / 2, "SMLAD: two products"),
    "cortex-m7-sim": (1 / 2, "SMLAD: two products"),
    "cortex-m55-sim": (1 / 16, "VMLADAVA: sixteen products"),
    "rv64gcv-sim": (1 / 32, "VWMACC of two registers: 32 products"),
    "aarch64-sim": (1 / 16, "SDOT: sixteen products"),
}
"""Instructions per multiplication if nothing but the widest multiplication of the instruction set were needed."""


@dataclass(frozen=True)
class Peer:
    """Instructions per inference, bytes of code (for ic) and of the arena of another runtime: GCC 12 -O2, same simulators.

    Its constants are the .tflite file, which it keeps in flash whole.
    """

    name: str
    code: int
    instructions: dict[str, float]
    arena: dict[str, int]


PEERS = {
    "rv32imc-sim": [
        Peer(
            "TFLM reference",
            58544,
            {"ic": 126.97e6, "vww": 114.00e6, "kws": 45.59e6, "ad": 2.510e6},
            {"ic": 54364, "vww": 100668, "kws": 22780, "ad": 2380},
        ),
        Peer(
            "TFLM + muRISCV-NN",
            74064,
            {"ic": 54.73e6, "vww": 45.28e6, "kws": 15.13e6, "ad": 1.341e6},
            {"ic": 55020, "vww": 100716, "kws": 22828, "ad": 2684},
        ),
    ],
    "rv64gcv-sim": [
        Peer(
            "muRISCV-NN on RV32 with Zve32x", 82224, {"ic": 15.28e6, "vww": 13.72e6, "kws": 4.25e6, "ad": 0.691e6}, {}
        ),
    ],
    "cortex-m4-sim": [
        Peer(
            "TFLM + CMSIS-NN",
            80248,
            {"ic": 29.86e6, "vww": 24.10e6, "kws": 7.70e6, "ad": 0.583e6},
            {"ic": 54996, "vww": 100708, "kws": 22820, "ad": 2580},
        ),
    ],
    "cortex-m7-sim": [
        Peer("TFLM + CMSIS-NN", 78424, {"ic": 30.02e6, "vww": 24.03e6, "kws": 7.64e6, "ad": 0.583e6}, {}),
    ],
    "cortex-m55-sim": [
        Peer(
            "TFLM + CMSIS-NN",
            67624,
            {"ic": 4.914e6, "vww": 6.559e6, "kws": 1.815e6, "ad": 0.286e6},
            {"ic": 54996, "vww": 100756, "kws": 27300, "ad": 5172},
        ),
    ],
}


def measured(model: Path, target: str, board: str) -> tuple[dict[str, float], list[dict[str, Any]], int]:
    """Figures of one model on one core, those of its layers, and the exit code."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "out"
        exported = export_model(ExportRequest(str(model), target, out=folder))
        report = bench_artifact(BenchRequest(folder, (board,)))
    return {row.metric: row.value for row in report.rows}, report.layers, max(exported.exit, report.exit)


def by_kind(layers: list[dict[str, Any]], target: str, board: str) -> list[list[str]]:
    """Rows: what each kind of layer that multiplies needs per multiplication, and how far that is from the limit."""
    limit, why = LIMITS[board]
    rows = []
    for kind in dict.fromkeys(layer["kind"] for layer in layers if layer["macs"]):
        same = [layer for layer in layers if layer["kind"] == kind]
        each = sum(layer["instructions"] for layer in same) / sum(layer["macs"] for layer in same)
        rows.append([target, kind, f"{each:.3f}", f"{limit:.4g} ({why})", f"{each / limit:.1f}"])
    return rows


def cycle_table(root: Path) -> tuple[Table, int]:
    """Cycles of every model on the cores that are simulated as RTL, and the exit code."""
    table = Table(
        "core", "model", "instructions", "cycles", "per MAC", "per instruction", "multiply limit", "times the limit"
    )
    code = 0
    for (board, (limit, why)), (name, file) in product(CYCLES.items(), MODELS.items()):
        found, _, exit_code = measured(root / file, "rv32imc-int8", board)
        code = max(code, exit_code)
        cycles, each = found["cycles"], found["cycles"] / MACS[name]
        table.add_row(
            board, name, f"{found['instructions']:,.0f}", f"{cycles:,.0f}", f"{each:.3f}", f"{cycles / found['instructions']:.3f}",
            f"{limit} ({why})", f"{each / limit:.2f}",
        )  # fmt: skip
    return table, code


def entropy(codes: NDArray[np.integer[Any]]) -> float:
    """Bits of one code if each is coded by itself, by how often it comes: no such code takes less on average."""
    _, counts = np.unique(codes, return_counts=True)
    shares = counts / counts.sum()
    return float(-(shares * np.log2(shares)).sum())


def least_bytes(model: Path) -> tuple[int, float, int]:
    """Weights of a model, the bits of one if every layer had an ideal code of its own, and the bytes of all biases."""
    graph = import_tflite(str(model))
    layers = [op for op in graph.ops if isinstance(op, o.Conv | o.Linear)]
    weights = [np.asarray(graph.constants[op.weight]) for op in layers]
    count = sum(w.size for w in weights)
    biases = sum(4 * np.asarray(graph.constants[op.bias]).size for op in layers if op.bias is not None)
    return count, sum(w.size * entropy(w) for w in weights) / count, biases


def flash_table(root: Path) -> Table:
    """Half of each peer's flash beside what the weights and biases take, as they are and coded ideally, without any code."""
    table = Table(
        "core", "model", "half of", "bytes", "weights and biases", "of it", "bits of a weight, coded ideally",
        "and biases", "of it",
    )  # fmt: skip
    for board, peers in PEERS.items():
        for peer, (name, file) in product(peers, MODELS.items()):
            count, bits, biases = least_bytes(root / file)
            half, ideal = (peer.code + (root / file).stat().st_size) / 2, count * bits / 8 + biases
            table.add_row(
                board, name, peer.name, f"{half:,.0f}", f"{count + biases:,}", f"{(count + biases) / half:.3f}",
                f"{bits:.3f}", f"{ideal:,.0f}", f"{ideal / half:.3f}",
            )  # fmt: skip
    return table


def main(arguments: list[str]) -> int:
    """Print the tables; the exit code is 5 if a result differed."""
    default = os.environ.get("EDGEQ_REAL")
    if not arguments and not default:
        print("bench-mcu: give the folder of the models, or set EDGEQ_REAL", file=sys.stderr)
        return 2
    root = Path(arguments[0]) if arguments else Path(str(default)) / "mlperf_tiny"
    table = Table(
        "core", "model", "runtime", "instructions", "per MAC", "MACs", "of peer", "code B", "constants B", "of peer", "arena B",
        "of peer", "stack B",
    )  # fmt: skip
    kinds = Table("kernels", "kind of layer, all models", "instructions per MAC", "multiply limit", "times the limit")
    code = 0
    for target, board in CORES:
        every: list[dict[str, Any]] = []
        for name, file in MODELS.items():
            found, layers, exit_code = measured(root / file, target, board)
            code = max(code, exit_code)
            every += layers
            table.add_row(
                board, name, f"edgeq, {target}", f"{found['instructions']:,.0f}", f"{found['instructions'] / MACS[name]:.3f}",
                f"{found['macs']:,.0f}", "",
                f"{found['code_bytes']:,.0f}", f"{found['constant_bytes']:,.0f}", "", f"{found['arena_bytes']:,.0f}", "",
                f"{found['stack_bytes']:,.0f}",
            )  # fmt: skip
            for peer in PEERS.get(board, []):
                count, arena, constants = peer.instructions[name], peer.arena.get(name), (root / file).stat().st_size
                table.add_row(
                    "", "", peer.name, f"{count:,.0f}", f"{count / MACS[name]:.3f}", f"{MACS[name]:,}",
                    f"{found['instructions'] / count:.3f}", f"{peer.code:,}", f"{constants:,}",
                    f"{found['flash_bytes'] / (peer.code + constants):.3f}", f"{arena:,}" if arena else "",
                    f"{found['arena_bytes'] / arena:.3f}" if arena else "", "",
                )  # fmt: skip
            print(json.dumps({"core": board, "target": target, "model": name, **found}), file=sys.stderr)
        for row in by_kind(every, target, board):
            kinds.add_row(*row)
    Console(width=170).print(table)
    Console(width=150).print(kinds)
    Console(width=150).print(flash_table(root))
    cycles, exit_code = cycle_table(root)
    Console(width=150).print(cycles)
    return max(code, exit_code)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except EdgeqError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
