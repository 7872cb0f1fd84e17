"""The time of every weighted operator of an artifact on a board, each measured while the whole network runs.

The layers of generated C are told apart by a hook after each, those of ONNX Runtime and of TensorRT by their profilers.
Runtimes join operators: what is joined shares its time by the operators' multiplications. What has no weights is the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from edgeq.boards.bench import count
from edgeq.boards.board import Board
from edgeq.boards.device import Settings, build_c, run_c
from edgeq.boards.jetson import times_by_operators
from edgeq.boards.simulated import SimulatedBoard
from edgeq.emit.artifact import GRAPH_FILE
from edgeq.emit.c_golden import golden_codes
from edgeq.errors import BoardError
from edgeq.flow.board_report import held_back
from edgeq.flow.device_inputs import trial_of
from edgeq.flow.on_board import TENSORRT, as_device, is_c, run_on, runtime_for
from edgeq.formats import Int
from edgeq.ir import ops as o
from edgeq.ir.cost import macs
from edgeq.ir.file import load
from edgeq.ir.graph import Graph
from edgeq.passes.kernels import program
from edgeq.quantize.costs import layer_key
from edgeq.quantize.operators import is_weighted
from edgeq.recipe import Formats
from edgeq.runtimes.folder import read_folder

ACCUMULATOR = ".acc"
"""What the result of an operator is called before it becomes codes."""
OPTIMIZE = "-O2"
Times = Sequence[tuple[Sequence[o.Op], float]]
"""What ran together, and its milliseconds; without weighted operators it belongs to the rest."""


@dataclass(frozen=True)
class OpTime:
    """One weighted operator: its result in the real graph, what it costs the same for, its formats, milliseconds."""

    result: o.Value
    key: str
    formats: str
    ms: float


@dataclass(frozen=True)
class Profile:
    """A network on a board: its weighted operators, everything else, and the whole, all in milliseconds.

    All are the least of several runs, since what else runs there only adds; of TensorRT, which tells means of layers
    alone, the usual ones.

    The whole was measured with nothing watched, so the parts need not add up to it. `held_back` says what slowed the
    board down meanwhile: such times are not those of the board.
    """

    ops: tuple[OpTime, ...]
    rest_ms: float
    whole_ms: float
    held_back: tuple[str, ...] = ()

    @property
    def sum_ms(self) -> float:
        """What the parts add up to."""
        return sum(op.ms for op in self.ops) + self.rest_ms


def weighted_ops(graph: Graph) -> list[o.Op]:
    """Those of a lowered graph that run on codes."""
    return [op for op in graph.ops if is_weighted(op) and isinstance(_read(op, graph), Int)]


def result_of(op: o.Op) -> o.Value:
    """The name of its result in the real graph."""
    return o.results(op)[0].removesuffix(ACCUMULATOR)


def formats_of(op: o.Op, graph: Graph) -> str:
    """Such as w4a8; a product of activations has the second alone."""
    weight = graph.types[op.weight].format if isinstance(op, o.Conv | o.ConvTranspose | o.Linear) else None
    read = _read(op, graph)
    return str(Formats(weight, read if isinstance(read, Int) else None))


def _read(op: o.Op, graph: Graph) -> object:
    return graph.types[o.operands(op)[0]].format


async def profile_on(board: Board, artifact: Path, settings: Settings, mhz: float) -> Profile:
    """Measure generated C or an ONNX file on a board that was entered; a simulated one has a clock of `mhz`.

    Where it does not know its cycles, it takes one for an instruction.

    Raises BoardError.
    """
    graph = load((artifact if artifact.is_dir() else artifact.parent) / GRAPH_FILE)
    if is_c(artifact):
        layers, whole_ms, held = await _c_layers(board, artifact, settings, mhz)
        inside = {kernel.out: [op for op in kernel.ops if is_weighted(op)] for kernel in program(graph).kernels}
        times: Times = [(inside.get(value, []), ms) for value, ms in layers.items()]
    else:
        times, whole_ms, held = await _nodes(board, artifact, graph, settings)
    return replace(_profile(graph, times, whole_ms), held_back=tuple(held))


def _profile(graph: Graph, times: Times, whole_ms: float) -> Profile:
    found: dict[o.Value, float] = {}
    rest_ms = 0.0
    for ops, ms in times:
        work = sum(macs(op, graph) for op in ops)
        if not work:
            rest_ms += ms
        for op in ops:
            found[result_of(op)] = found.get(result_of(op), 0.0) + ms * macs(op, graph) / work
    ops = weighted_ops(graph)
    if missing := [result_of(op) for op in ops if result_of(op) not in found]:
        raise BoardError("the runtime's profile leaves operators out", value=", ".join(missing[:6]))
    told = [OpTime(result_of(op), layer_key(op, graph), formats_of(op, graph), found.pop(result_of(op))) for op in ops]
    return Profile(tuple(told), rest_ms + sum(found.values()), whole_ms)


async def _c_layers(
    board: Board, folder: Path, settings: Settings, mhz: float
) -> tuple[Mapping[str, float], float, list[str]]:
    """Milliseconds of every layer of generated C by its value, of the whole, and what held the board back."""
    document = read_folder(folder)
    shapes = {port["name"]: tuple(port["shape"]) for port in document["inputs"]}
    codes = golden_codes(shapes, document["golden"]["seed"], document["code_bits"])
    if isinstance(board, SimulatedBoard):
        (counted,) = await count(board, folder, [codes], OPTIMIZE)
        spent = [number / (1000 * mhz) for number in counted.layer_cycles or counted.layers]
        names = [layer["value"] for layer in document["layers"]]
        return dict(zip(names, spent, strict=True)), sum(spent), []
    device, watched = as_device(board), replace(settings, layers=True)
    whole = await run_c(device, await build_c(device, folder, document, settings), [codes], settings)
    parts = await run_c(device, await build_c(device, folder, document, watched), [codes], watched)
    timings = [ran.document["timings"][0] for ran in (parts, whole)]
    return timings[0]["layers_ms"], timings[1]["min_ms"], [*held_back(whole), *held_back(parts)]


async def _nodes(board: Board, artifact: Path, graph: Graph, settings: Settings) -> tuple[Times, float, list[str]]:
    """What the nodes of an ONNX file take, the whole, and what held the board back."""
    runtime = runtime_for(artifact, None)
    trial = trial_of(artifact)
    ran = await run_on(board, artifact, trial.samples[:1], replace(settings, layers=True), trial.ports, runtime)
    timing, owners = ran.document["timings"][0], _owners(artifact, graph)
    by_result = {result_of(op): op for op in weighted_ops(graph)}
    if runtime == TENSORRT:
        times = times_by_operators(ran.document["layers"], {name: owner for name, owner in owners.items() if owner})
        joined = [([by_result[name] for name in sorted(names)], ms) for names, ms in times.items()]
        rest_ms = sum(layer.mean_ms for layer in ran.document["layers"]) - sum(times.values())
        return [*joined, ([], rest_ms)], timing["p50_ms"], held_back(ran)
    spent = [(_owner(name, owners), ms) for name, ms in timing["layers_ms"].items()]
    return [([by_result[owner]] if owner else [], ms) for owner, ms in spent], timing["min_ms"], held_back(ran)


def _owners(artifact: Path, graph: Graph) -> dict[str, o.Value]:
    """Names of nodes and of what they compute -> the weighted operator that they are a part of, or nothing."""
    results = [result_of(op) for op in weighted_ops(graph)]
    owners: dict[str, o.Value] = {}
    for node in onnx.load(str(artifact), load_external_data=False).graph.node:
        value = node.output[0]
        owner = next((r for r in results if value == r or value.startswith(r + ACCUMULATOR)), "")
        owners |= {name: owner for name in (node.name, value) if name}
    return owners


def _owner(told: str, owners: Mapping[str, o.Value]) -> o.Value:
    """Whose node a profile tells of: ONNX Runtime adds to the names of nodes that it changes."""
    inside = [name for name in owners if told == name or told.startswith(name + "_")]
    return owners[max(inside, key=len)] if inside else ""
