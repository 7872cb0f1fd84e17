"""A small CNN as a design of edgeq and of hls4ml under the same fixed-point types: codes, and what each says of its size.

Needs hls4ml beside edgeq (its requirements clash with nothing if it is installed apart and without them):
    pip install --no-deps --target H hls4ml h5py quantizers pydigitalwavetools
    PYTHONPATH=$PWD:H python scripts/bench_hls4ml.py FOLDER
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hls4ml_sizes import multipliers, peer_costs

from edgeq.emit.hls import emit
from edgeq.emit.hls_boards import DEFAULT_BOARD
from edgeq.emit.hls_build import build
from edgeq.emit.hls_cost import Cost, design_cost, total
from edgeq.emit.hls_fold import choose_folds
from edgeq.emit.hls_stage import Design, Fold
from edgeq.formats import Int, code_range, decode
from edgeq.ir import ops as o
from edgeq.ir.graph import Editor, Graph, Type
from edgeq.passes.lower import lower
from edgeq.quantize.assign import assign
from edgeq.quantize.structure import analyse
from edgeq.recipe import Recipe
from edgeq.reference.interpret import run
from edgeq.runtimes.csim import HlsRuntime
from edgeq.targets import find_target

SHAPE = (1, 3, 10, 10)
LAYERS = ("first", "second", "scores")
EXACT = "ap_fixed<40,20>"
"""Holds every sum of this network."""


class Small(torch.nn.Module):
    """Convolution, pool, convolution, pool, dense; every convolution with a relu."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.relu1 = torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU()
        self.pool = torch.nn.MaxPool2d(2)
        self.second, self.relu2 = torch.nn.Conv2d(8, 12, 4), torch.nn.ReLU()
        self.flat = torch.nn.Flatten()
        self.scores = torch.nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.relu1(self.first(x)))
        return self.scores(self.flat(self.relu2(self.second(x))))


def graph_of(model: Small) -> Graph:
    """The network as edgeq has it."""
    editor = Editor("small", ["x"], {"x": Type(SHAPE)})

    def weights(name: str) -> tuple[str, str]:
        layer = getattr(model, name)
        arrays = (layer.weight.detach().numpy(), layer.bias.detach().numpy())
        return tuple(editor.constant(f"{name}.{k}", array) for k, array in zip(("w", "b"), arrays, strict=True))  # type: ignore[return-value]

    relu = o.Function("relu")
    x = editor.append(o.Apply(editor.append(o.Conv("x", *weights("first"), "first")), "relu1", relu))
    x = editor.append(o.MaxPool(x, "pool", (2, 2), (2, 2)))
    x = editor.append(o.Apply(editor.append(o.Conv(x, *weights("second"), "second")), "relu2", relu))
    x = editor.append(o.Reshape(x, "flat", (1, 12)))
    return editor.graph([editor.append(o.Linear(x, *weights("scores"), "scores"))])


def lowered(graph: Graph, images: list[np.ndarray[Any, Any]]) -> Graph:
    """`graph` under fpga-fx8 with the ranges of the images."""
    target = find_target("fpga-fx8")
    structure = analyse(graph, target, Recipe())
    largest: dict[str, float] = {}
    for image in images:
        seen: dict[str, torch.Tensor] = {}
        run(graph, {"x": image}, seen.__setitem__)
        for key in structure.members:
            for value in structure.sources(key):
                largest[key] = max(largest.get(key, 0.0), float(seen[value].abs().max()))
    ranges = {key: (most / code_range(structure.formats[key])[1], 0) for key, most in largest.items()}
    return lower(graph, assign(structure, ranges, target))


def fixed(type_: Type) -> str:
    """The published name of codes of 8 bits with this scale."""
    assert isinstance(type_.format, Int) and type_.format.bits == 8, type_
    fraction, kind = -int(np.log2(type_.scale[0])), "ap_fixed" if type_.format.signed else "ap_ufixed"
    return f"{kind}<8,{8 - fraction},AP_RND,AP_SAT>"


def with_codes(model: Small, graph: Graph) -> Small:
    """`model` with the reals that the codes stand for."""
    for name in LAYERS:
        op = graph.producer[f"{name}.acc"]
        assert isinstance(op, o.Conv | o.Linear) and op.bias is not None
        for part, value in (("weight", op.weight), ("bias", op.bias)):
            type_ = graph.types[value]
            real = decode(type_.format, graph.constants[value]) * type_.scales
            getattr(getattr(model, name), part).data = torch.from_numpy(real.astype(np.float32))
    return model


REUSE: tuple[Mapping[str, int], ...] = (
    {}, {"first": 9, "second": 64, "scores": 60}, {"first": 27, "second": 128, "scores": 60}, {"first": 216, "second": 1536, "scores": 60},
)  # fmt: skip
"""Cycles that a multiplier of hls4ml is shared for, by layer: its own choice of 1, and up to one multiplier a layer."""

CYCLES = (6_000, 12_000)
"""Cycles a frame that designs of edgeq may take besides."""


def peer(model: Small, graph: Graph, folder: Path, reuse: Mapping[str, int]) -> Any:
    """The design of hls4ml under the types of `graph`, written."""
    import hls4ml

    config = hls4ml.utils.config_from_pytorch_model(
        model, SHAPE[1:], granularity="name", backend="Vitis", default_precision=EXACT
    )
    codes = {"x": "x.q", "relu1": "relu1", "pool": "pool", "relu2": "relu2", "scores": graph.producer["scores"].x}  # type: ignore[union-attr]
    for name, layer in config["LayerName"].items():
        precision = dict.fromkeys(("weight", "bias", "accum", "result"), EXACT)
        known = next((v for k, v in codes.items() if name == k or (k == "x" and "input" in name)), None)
        if known is not None:
            precision["result"] = fixed(graph.types[known])
        layer["Precision"] = precision
        if name in reuse:
            layer |= {"ReuseFactor": reuse[name], "Strategy": "Resource"}
    made = hls4ml.converters.convert_from_pytorch_model(
        model, hls_config=config, output_dir=str(folder), backend="Vitis", io_type="io_stream"
    )
    made.write()
    return made


def row(name: str, at_once: int, costs: list[Cost]) -> str:
    """One line of the table."""
    cost = total(costs)
    figures = (at_once, cost.cycles, cost.dsp, cost.lut, cost.ff, cost.bram18)
    return f"| {name} | {' | '.join(f'{figure:,}' for figure in figures)} |"


def own_rows(graph: Graph) -> list[str]:
    """edgeq's designs, from the fastest that the default board holds to one product at a time."""
    plain = build(graph, {}, "design", "small")
    values = [stage.value for stage in plain.stages if stage.work.macs]
    chosen = {"as fast as the board holds": choose_folds(graph, DEFAULT_BOARD)}
    chosen |= {f"at most {most:,} cycles": choose_folds(graph, DEFAULT_BOARD, most) for most in CYCLES}
    chosen["one product at a time"] = dict.fromkeys(values, Fold())
    rows = []
    for name, folds in chosen.items():
        at_once = sum(fold.pe * fold.simd for fold in folds.values())
        rows.append(row(f"edgeq, {name}", at_once, design_cost(build(graph, folds, "design", "small"), {})))
    return rows


def peer_rows(model: Small, graph: Graph, folder: Path, design: Design) -> list[str]:
    """Designs of hls4ml by how long a multiplier is shared."""
    rows = []
    for k, reuse in enumerate(REUSE):
        made = peer(model, graph, folder / f"hls4ml_{k}", reuse)
        layers = {layer.name: layer for layer in made.get_layers() if layer.name in LAYERS}
        told = ", ".join(str(layers[name].get_attr("reuse_factor")) for name in LAYERS)
        at_once = sum(map(multipliers, layers.values()))
        rows.append(row(f"hls4ml, reuse factors {told}", at_once, list(peer_costs(made, design))))
    return rows


def main() -> None:
    """Print the share of equal outputs, and both designs by the same count."""
    folder = Path(sys.argv[1])
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    images = [rng.normal(0, 1, SHAPE).astype(np.float32) for _ in range(64)]
    images += [np.full(SHAPE, 100.0, np.float32), np.full(SHAPE, -100.0, np.float32)]
    model = Small().eval()
    graph = lowered(graph_of(model), images[:64])
    artifact = emit(graph, find_target("fpga-fx8"), folder / "edgeq", "small", {}, {})
    runtime, theirs = HlsRuntime(artifact.primary), peer(with_codes(model, graph), graph, folder / "hls4ml", {})
    theirs.compile()
    equal, count, seen = 0, 0, set[float]()
    for image in images:
        own = runtime.run({"x": image})["scores"].reshape(-1)
        found = theirs.predict(image).reshape(-1)
        equal, count = equal + int(np.sum(own == found)), count + own.size
        seen.update(own.tolist())
    print(f"{equal} of {count} outputs are equal; {len(seen)} distinct ones")
    print("| design | products at once | cycles a frame | DSP | LUT | FF | BRAM |\n|---|---|---|---|---|---|---|")
    design = build(graph, {}, "design", "small")
    print("\n".join((*own_rows(graph), *peer_rows(model, graph, folder, design))))


if __name__ == "__main__":
    main()
