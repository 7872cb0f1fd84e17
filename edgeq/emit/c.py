"""Integer-only C for microcontrollers: one folder with the model, its constants, its kernels and a self-test.

The lowered graph is regrouped into kernels (edgeq/passes/kernels.py), its values get places in one arena
(edgeq/passes/schedule.py), and each kernel becomes a descriptor and a call (edgeq/emit/c_layers.py). The kernels are
plain headers in runtimes/c. Inputs and outputs are codes: quantizing an input is the caller's part.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from edgeq.emit import c_files, c_project
from edgeq.emit.artifact import MANIFEST, Artifact, digests, to_json, write_files
from edgeq.emit.c_bank import Bank
from edgeq.emit.c_files import Golden, Levels, Port, Source
from edgeq.emit.c_golden import golden_codes
from edgeq.emit.c_layer import comment, wide_tables
from edgeq.emit.c_layers import print_work
from edgeq.emit.c_layout import to_memory
from edgeq.emit.c_lines import sums_are_lines
from edgeq.emit.c_names import identifier
from edgeq.emit.c_pixels import pixel_tables
from edgeq.emit.c_place import Placed, place
from edgeq.emit.c_plan import plan_picture
from edgeq.emit.c_terms import has_wide_terms
from edgeq.errors import UnsupportedError
from edgeq.formats import Int, level_table, looks_up
from edgeq.ir import ops as o
from edgeq.ir.cost import total_macs
from edgeq.ir.graph import Array, Graph
from edgeq.passes.kernel import Program
from edgeq.passes.kernels import program
from edgeq.reference.interpret import Interpreter
from edgeq.target import Instructions, Target

KERNELS = Path(__file__).parents[1] / "runtimes" / "c"
INCLUDED_FIRST = (
    "edgeq_dot_w4.h", "edgeq_dot_t4.h", "edgeq_dot_w2.h", "edgeq_unpack.h", "edgeq_unpack_t4.h", "edgeq_long.h",
    "edgeq_levels.h",
)  # fmt: skip
"""What kernels look for when they are included, so that a model that has no use for it has no code for it."""

GOLDEN_SEED = 1
FIRST_CODES = 16


def emit(
    graph: Graph,
    target: Target,
    folder: Path,
    stem: str,
    metadata: Mapping[str, object],
    manifest: Mapping[str, object],
    more_files: Mapping[str, bytes] | None = None,
) -> Artifact:
    """Write the folder of C for a lowered `graph`; its primary file is <stem>_model.c.

    Raises UnsupportedError naming everything that integers alone cannot compute, and OutputError if the folder cannot
    be written; nothing is left behind then.
    """
    source, placed, found = sources(graph, target, stem, metadata)
    p = source.prefix
    texts = {
        f"{p}_model.h": c_files.model_header(source),
        f"{p}_model.c": c_files.model_source(source),
        f"{p}_weights.h": c_files.weights_header(source),
        f"{p}_weights.c": c_files.weights_source(source),
        f"{p}_golden.h": c_project.golden_header(source),
        "selftest.c": c_project.self_test(source),
        "Makefile": c_project.makefile(source),
        "CMakeLists.txt": c_project.cmake_lists(source),
        "README.md": c_project.readme(source),
        "plan.svg": plan_picture(source.title, placed, found),
    }
    files = {name: text.encode() for name, text in texts.items()}
    files |= kernel_files(source.headers, target.instructions)
    files["MISRA.md"] = (KERNELS / "MISRA.md").read_bytes()
    files |= more_files or {}
    described = {**manifest, "c": _document(source, placed, found, metadata), "files": digests(files)}
    files[MANIFEST] = to_json(described)
    write_files(folder, files)
    tensors = {kernel.out: kernel.out for _, kernel in placed.kernels}
    processor = target.name.rpartition("-")[0]
    board = f"{processor}-sim" if processor not in ("c", "x86-64") else "rv64gcv-sim"
    commands = [f"make -C {folder} test", f"edgeq bench {folder} --board {board} --layers"]
    primary = folder / f"{p}_model.c"
    return Artifact(target.name, folder, digests(files), primary, tensors, found.bits, commands)


def kernel_files(headers: Sequence[str], instructions: Instructions) -> dict[str, bytes]:
    """`headers` and all that they include: of each the file of that set of kernels, or the portable one."""
    found: dict[str, bytes] = {}
    waiting = list(headers)
    while waiting:
        name = waiting.pop()
        if name not in found:
            special = KERNELS / instructions / name
            found[name] = (special if special.exists() else KERNELS / name).read_bytes()
            waiting += re.findall(r'#include "(edgeq\w*\.h)"', found[name].decode())
    return dict(sorted(found.items()))


def sources(graph: Graph, target: Target, stem: str, metadata: Mapping[str, object]) -> tuple[Source, Placed, Program]:
    """The text's material, the memory plan and the kernels of a lowered graph. Raises UnsupportedError."""
    found = program(graph)
    placed = place(found, target.instructions, None if target.ram_bytes is None else target.ram_bytes * 8 // found.bits)
    prefix = identifier(stem)
    bank = Bank(prefix)
    levels = _levels(graph, bank)
    tables = _wide_levels(graph, bank, target)
    layers = [print_work(found, placed, bank, target.instructions, place) for place in range(len(placed.kernels))]
    wide_records = not bank.pack_channels()
    needed = dict.fromkeys(h for layer in layers for h in layer.headers)
    headers = ("edgeq.h", *sorted(needed, key=lambda header: header not in INCLUDED_FIRST))
    inputs = _ports(found, placed, found.inputs, "input")
    outputs = _ports(found, placed, found.outputs, "output")
    values = [kernel.out for _, kernel in placed.kernels]
    pixels = pixel_tables(metadata, bank, inputs[0].type, inputs[0].ties) if len(inputs) == 1 else []
    width = found.bits // 8
    source = Source(
        prefix, comment(stem), inputs, outputs, layers,
        [(placed.offset(v), found.size(v)) for v in values],
        bank, _golden(graph, found, values), width * placed.memory.arena_bytes,
        width * placed.memory.lower_bound, width * placed.plain_bytes, found.bits, total_macs(graph), target.name, _profile(found), headers, pixels, levels, tables, wide_records,
        _sums(found), target.instructions,
    )  # fmt: skip
    return source, placed, found


def _sums(found: Program) -> str:
    """What the model defines of its sums of two codes (runtimes/c/edgeq_terms.h)."""
    defined = ""
    if has_wide_terms(found):
        defined += (
            "#define EDGEQ_WIDE_TERMS /* some codes are rounded twice before they are summed: see edgeq_terms.h */\n\n"
        )
    if any(kernel.residual for kernel in found.kernels) and sums_are_lines(found):
        defined += "#define EDGEQ_LINES /* residuals need no tables of terms: see edgeq_terms.h */\n\n"
    return defined


def _levels(graph: Graph, bank: Bank) -> str:
    """The name of the table that weights look their levels up in; "" where none do. Raises UnsupportedError for two."""
    weights = [op.weight for op in graph.ops if isinstance(op, o.Conv | o.ConvTranspose | o.Linear)]
    formats = dict.fromkeys(graph.types[weight].format for weight in weights)
    tables = [format_ for format_ in formats if looks_up(format_)]
    if not tables:
        return ""
    if len(tables) > 1 or any(isinstance(f, Int) and f.bits <= 4 for f in formats):
        raise UnsupportedError("weights of few bits in several formats", value=", ".join(map(str, formats)))
    return bank.codes("levels", level_table(tables[0]), "levels of weights by code")


def _wide_levels(graph: Graph, bank: Bank, target: Target) -> Levels | None:
    """The tables of weights whose levels exceed a byte. Raises UnsupportedError where no kernel reads them."""
    tables = wide_tables(graph)
    if not tables:
        return None
    if target.instructions != "portable":
        raise UnsupportedError(
            f"{target.name} has no kernels for weights of such levels", value=", ".join(map(str, tables)),
            next_step="c-int8 has.",
        )  # fmt: skip
    names = [
        bank.words(f"levels_{k}", level_table(format_), f"levels of {format_}"[:60]) for k, format_ in enumerate(tables)
    ]
    largest = max(int(np.abs(level_table(format_)).max()) for format_ in tables)
    return Levels(tuple(names), ((1 << 31) - 1) // (largest << 7))


def _ports(found: Program, placed: Placed, ports: tuple[tuple[str, str], ...], kind: str) -> list[Port]:
    symbols = [kind] if len(ports) == 1 else [f"{kind}_{k}" for k in range(len(ports))]
    return [
        Port(name, symbol, found.type(value), placed.offset(value), found.bits, name != value, _ties(found, value))
        for (name, value), symbol in zip(ports, symbols, strict=True)
    ]


def _ties(found: Program, value: o.Value) -> o.Ties:
    maker = found.graph.producer.get(value)
    return maker.ties if isinstance(maker, o.Quantize) else "even"


def _profile(found: Program) -> str:
    rules = {kernel.settling.rounding for kernel in found.kernels if isinstance(kernel.settling, o.Requantize)}
    return "gemmlowp2" if "gemmlowp2" in rules else "single"


def _golden(graph: Graph, found: Program, values: list[o.Value]) -> Golden:
    codes = golden_codes({name: found.type(value).shape for name, value in found.inputs}, GOLDEN_SEED, found.bits)
    given = {value: torch.from_numpy(np.ascontiguousarray(codes[name])) for name, value in found.inputs}
    seen: dict[o.Value, Array] = {}
    watched = {*values, *(value for _, value in found.outputs)}

    def watch(name: o.Value, tensor: torch.Tensor) -> torch.Tensor | None:
        tensor = given.get(name, tensor)
        if name in watched:
            seen[name] = to_memory(tensor.numpy().astype(f"<i{found.bits_of(name) // 8}"), found.axes(name))
        return given.get(name)

    with torch.no_grad():
        Interpreter(graph)(codes, watch)
    layers = tuple(zlib.crc32(seen[value].tobytes()) for value in values)
    outputs = [seen[value] for _, value in found.outputs]
    crcs = tuple(zlib.crc32(output.tobytes()) for output in outputs)
    return Golden(GOLDEN_SEED, layers, crcs, tuple(outputs[0][:FIRST_CODES].tolist()))


def _document(source: Source, placed: Placed, found: Program, metadata: Mapping[str, object]) -> dict[str, object]:
    """What a runtime or a board must know of the folder."""
    return {
        "prefix": source.prefix,
        "instructions": source.instructions,
        "inputs": [port.document() for port in source.inputs],
        "outputs": [port.document() for port in source.outputs],
        "layers": [
            {
                "value": kernel.out,
                "shape": list(found.type(kernel.out).shape),
                "axes": list(found.axes(kernel.out)),
                "bits": found.bits_of(kernel.out),
                "kind": layer.kind,
                "macs": layer.macs,
                "memory_bytes": found.bits // 8 * need,
                "constant_bytes": source.bank.size_of(number),
            }
            for number, (layer, (_, kernel), need) in enumerate(
                zip(source.layers, placed.kernels, placed.needs, strict=True), start=1
            )
        ],
        "golden": {"seed": source.golden.seed, "outputs": list(source.golden.outputs)},
        "macs": source.macs,
        "code_bits": found.bits,
        "arena_bytes": source.arena_bytes,
        "lower_bound_bytes": source.lower_bound,
        "constant_bytes": source.bank.size,
        "metadata": {key: str(value) for key, value in metadata.items()},
    }
