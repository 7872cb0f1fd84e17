"""What a file is tried with on a board, and what it should give: by its graph where that lies beside it, else by itself."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from edgeq.emit.artifact import GRAPH_FILE, MANIFEST
from edgeq.flow.artifacts import open_runtime
from edgeq.flow.on_board import Ports, ports_of_file
from edgeq.flow.subject import noise
from edgeq.ir.file import load
from edgeq.ir.graph import Array, Graph, Type
from edgeq.reference.interpret import Interpreter
from edgeq.runtimes.runtime import Runtime
from edgeq.target import Target
from edgeq.targets import find_target

SAMPLES = 4
"""Noise, the least and the largest values, and noise again."""


@dataclass(frozen=True)
class Trial:
    """Inputs by name, what the reference (or without a graph this machine's own runtime) makes of them, and its name.

    `host` are the outputs of this machine's runtime; `target` is the one that the file was exported for, if that is known.
    """

    ports: Ports | None
    samples: Sequence[Mapping[str, Array]]
    types: Mapping[str, Type]
    wanted: Sequence[Mapping[str, Array]]
    judge: str
    host: Sequence[Mapping[str, Array]]
    target: Target | None


def trial_of(artifact: Path, runtime: Runtime | None = None, given: Sequence[Mapping[str, Array]] = ()) -> Trial:
    """What to try an artifact with: the inputs `given`, or noise and the extremes. `runtime` spares opening it again.

    Generated C, whose ports are codes, was proved equal to the reference when it was written: here it stands for it.
    """
    runtime = runtime or open_runtime(artifact)
    graph = _graph(artifact, runtime)
    samples = given or list(islice(noise(graph or _bare(artifact, runtime), 0), SAMPLES))
    host = [runtime.run(sample) for sample in samples]
    ports = None if artifact.suffix == ".c" else ports_of_file(artifact)
    if graph is None:
        types = {name: Type(shape) for name, shape in runtime.output_shapes.items()}
        return Trial(ports, samples, types, host, f"{runtime.name} on this machine", host, None)
    interpreter = Interpreter(graph)
    with torch.no_grad():
        wanted = [{name: tensor.numpy() for name, tensor in interpreter(sample).items()} for sample in samples]
    return Trial(ports, samples, graph.types, wanted, "the reference", host, _target(artifact.parent))


def _graph(artifact: Path, runtime: Runtime) -> Graph | None:
    """The graph beside a file, if it has the file's ports."""
    path = artifact.parent / GRAPH_FILE
    if artifact.suffix == ".c" or not path.is_file():
        return None
    graph = load(path)
    return graph if (graph.inputs, graph.outputs) == (runtime.inputs, runtime.outputs) else None


def _bare(artifact: Path, runtime: Runtime) -> Graph:
    types = {name: Type(shape) for name, shape in {**runtime.input_shapes, **runtime.output_shapes}.items()}
    return Graph(artifact.stem, runtime.inputs, runtime.outputs, (), types)


def _target(run: Path) -> Target | None:
    try:
        return find_target(json.loads((run / MANIFEST).read_text("utf-8"))["target"]["name"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def equal_share(wanted: Sequence[Mapping[str, Array]], found: Sequence[Mapping[str, Array]]) -> float:
    """The share of numbers that are the same, bit for bit."""
    pairs = [(a[name], b[name]) for a, b in zip(wanted, found, strict=True) for name in a]
    equal = sum(int(np.sum(np.asarray(a) == np.asarray(b))) for a, b in pairs)
    return equal / max(sum(np.asarray(a).size for a, _ in pairs), 1)
