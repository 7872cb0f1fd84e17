"""Dataflow designs in C++ for Vitis HLS: one folder with the design, its constants, its functions and a test bench.

The lowered graph becomes stages joined by streams (edgeq/emit/hls_build.py) with as many parallel units as the board
holds (edgeq/emit/hls_fold.py). Streams are as deep as a bounded run of the design itself asks for: the first text, with
streams of two tokens, is compiled here and run with streams that grow when all wait for one another.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edgeq.emit import hls_files, hls_project
from edgeq.emit.artifact import MANIFEST, Artifact, digests, to_json, write_files
from edgeq.emit.c_layer import comment
from edgeq.emit.c_names import identifier
from edgeq.emit.hls_boards import FpgaBoard, find_board
from edgeq.emit.hls_build import build
from edgeq.emit.hls_cost import Cost, design_cost, total
from edgeq.emit.hls_fold import choose_folds
from edgeq.emit.hls_golden import golden
from edgeq.emit.hls_host import GROWING, HostDesign
from edgeq.emit.hls_stage import Design
from edgeq.errors import UnsupportedError
from edgeq.ir.graph import Graph
from edgeq.target import Target

HEADERS = Path(__file__).parents[1] / "runtimes" / "hls"
TOKEN_BITS = 64
"""Every value is compared as codes, accumulators too."""


def emit(
    graph: Graph,
    target: Target,
    folder: Path,
    stem: str,
    metadata: Mapping[str, object],
    manifest: Mapping[str, object],
    more_files: Mapping[str, bytes] | None = None,
) -> Artifact:
    """Write the folder of the design for a lowered `graph`; its primary file is <stem>.cpp.

    Raises UnsupportedError naming an operator that no stage computes, BudgetError if the target's board cannot hold the
    design however slow, or not as fast as asked, UsageError without a C++ compiler, and OutputError; nothing is left behind then.
    """
    prefix, board = identifier(stem), find_board(target.fpga)
    most_cycles = int(board.clock_mhz * 1e6 / target.fps) if target.fps else 0
    depths = depths_of(build(graph, {}, prefix, comment(stem)))
    design = build(graph, choose_folds(graph, board, most_cycles, depths), prefix, comment(stem))
    costs = design_cost(design, depths)
    files = {name: text.encode() for name, text in texts(design, depths, graph, board, costs).items()}
    files |= header_files(design) | dict(more_files or {})
    described = {**manifest, "hls": _document(design, depths, costs, board, metadata), "files": digests(files)}
    files[MANIFEST] = to_json(described)
    write_files(folder, files)
    tensors = {value: value for value in design.made}
    commands = [
        f"make -C {folder} test",
        f"vitis-run --mode hls --tcl {folder}/build.tcl",
    ]
    primary = folder / f"{prefix}.cpp"
    return Artifact(target.name, folder, digests(files), primary, tensors, TOKEN_BITS, commands)


def texts(
    design: Design, depths: Mapping[str, int], graph: Graph, board: FpgaBoard, costs: list[Cost]
) -> dict[str, str]:
    """All that is generated: the design, its test bench, build files and the README."""
    p = design.prefix
    return {
        **sources(design, depths),
        f"{p}_golden.h": hls_project.golden_header(design, golden(graph, design)),
        f"{p}_tb.cpp": hls_project.test_bench(design),
        "build.tcl": hls_project.script(design, board),
        "Makefile": hls_project.makefile(design),
        "README.md": hls_project.readme(design, depths, board, costs),
    }


def sources(design: Design, depths: Mapping[str, int]) -> dict[str, str]:
    """The design alone, with streams of `depths` (two where it says nothing), and its form for this machine."""
    p = design.prefix
    return {
        f"{p}.h": hls_files.header(design),
        f"{p}.cpp": hls_files.source(design, depths),
        f"{p}_tables.h": hls_files.tables(design),
        f"host/{p}_host.cpp": hls_files.host(design),
    }


def header_files(design: Design) -> dict[str, bytes]:
    """The functions that stages call, and what stands in for the vendor's headers on the host."""
    needed = {
        "edgeq_bench.h",
        "edgeq_stage.h",
        "edgeq_port.h",
        "edgeq_products.h",
        "edgeq_window.h",
        *(s.header for s in design.stages),
    }
    own = {name: (HEADERS / name).read_bytes() for name in sorted(needed)}
    return own | {f"host/{path.name}": path.read_bytes() for path in sorted((HEADERS / "host").glob("*.h"))}


def depths_of(design: Design) -> dict[str, int]:
    """The least depths, at least two, at which the design does not get stuck, by running it with streams that grow."""
    with tempfile.TemporaryDirectory(prefix="edgeq-hls-") as temporary:
        folder = Path(temporary) / "design"
        sketch = sources(design, {}) | {f"{design.prefix}_tables.h": hls_files.tables(design, is_sketch=True)}
        write_files(folder, {name: text.encode() for name, text in sketch.items()} | header_files(design))
        zeros = [np.zeros(design.entering[port.value].count, np.int16) for port in design.inputs]
        frame = HostDesign(folder, design.prefix).run(zeros, _sizes(design), GROWING)
    left = [name for name, filling in frame.streams.items() if filling.left]
    if frame.stuck or left:
        raise UnsupportedError("streams that no depth suffices for", where=", ".join(left), value=frame.stuck or None)
    return {name: max(hls_files.LEAST_DEPTH, filling.depth) for name, filling in frame.streams.items()}


def _sizes(design: Design) -> list[int]:
    return [design.leaving[port.value].count for port in design.outputs]


def _document(
    design: Design, depths: Mapping[str, int], costs: list[Cost], board: FpgaBoard, metadata: Mapping[str, object]
) -> dict[str, object]:
    """What a runtime must know of the folder, and what the design is estimated to cost."""
    return {
        "prefix": design.prefix,
        "board": board.name,
        "inputs": [_port(port.__dict__) for port in design.inputs],
        "outputs": [_port(port.__dict__) for port in design.outputs],
        "layers": [_layer(design, value, number) for number, value in enumerate(design.made, start=1)],
        "stages": [cost.document() for cost in costs],
        "estimate": total(costs).document(),
        "depths": dict(depths),
        "metadata": {key: str(value) for key, value in metadata.items()},
    }


def _port(fields: Mapping[str, object]) -> dict[str, object]:
    return {**fields, "zero_point": 0}


def _layer(design: Design, value: str, number: int) -> dict[str, object]:
    after, stream = design.made[value]
    return {
        "number": number, "value": value, "kind": design.stages[after - 1].kind, "stage": design.stages[after - 1].name,
        "bits": stream.bits, "shape": list(design.shapes[value]), "axes": list(design.axes[value]),
    }  # fmt: skip
