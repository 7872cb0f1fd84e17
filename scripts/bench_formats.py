"""What scripts/bench-formats measures besides edgeq, what a format costs on an FPGA, and its tables.

Cost is LUTs of one multiply-accumulate of a weight with an 8-bit level, without DSP slices, whose sum holds 256 products
(edgeq/emit/hls_units.py, checked against Yosys in edgeq/runtimes/hls/UNITS.md). Formats fitted to each weight have none.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import bench_accuracy as ba
from bench_tools import Conversion, peer

from edgeq.catalogue import Choice, bits_per_weight, find_choice
from edgeq.emit.hls_numbers import product_bits
from edgeq.emit.hls_units import mac_luts
from edgeq.formats import Codebook, Fixed, Float, Int, Real

BREVITAS = "brevitas gptq"
LEVELS, MORE_BITS = (-128, 127), 8

# Weights in a format and activations in integers: what quantize_model of Brevitas' own examples does, which takes one
# kind for both, with its maps of quantizers. First and last layers keep eight bits, as edgeq's do.
BREVITAS_PROGRAM = """
import re, sys
from pathlib import Path
import numpy as np, onnx, torch
from edgeq.frontend.torchvision_shim import install
install()
from brevitas.graph.quantize import layerwise_quantize
from brevitas_examples.imagenet_classification.ptq import ptq_common as ptq
from dependencies import value
from onnx2torch import convert
source, calibration, evaluation, name, activation, out = sys.argv[1:]
images = lambda path: (torch.from_numpy(np.ascontiguousarray(image)[None]) for image in np.load(path, mmap_mode="r"))
model = convert(source).eval()
for _, parameter in model.named_parameters():
    parameter.requires_grad_(False)
weighted = [m for m in model.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))]
shapes = {tuple(m.weight.shape) for m in (weighted[0], weighted[-1])}
def is_end(module):
    weight = getattr(module, "weight", None)
    return weight is not None and tuple(weight.shape) in shapes
def spared(inner, end):
    return value(lambda module: end if is_end(module) else inner)
minifloat = re.fullmatch(r"e(\\d)m(\\d)", name)
formats = {"weight_quant_format": "int", "weight_bit_width": spared(int(re.sub(r"\\D", "", name)), 8)}
if minifloat:
    e, m = map(int, minifloat.groups())
    formats = {
        "weight_quant_format": "float", "weight_bit_width": spared(1 + e + m, 8),
        "weight_exponent_bit_width": spared(e, 3), "weight_mantissa_bit_width": spared(m, 4),
    }
bits = int(re.sub(r"\\D", "", activation))
maps = ptq.create_quant_maps(
    dtype=torch.float32, bias_bit_width=None, weight_param_method="mse", weight_scale_type="float_scale",
    weight_quant_type="sym", weight_quant_granularity="per_channel", weight_narrow_range=True, act_quant_format="int",
    act_bit_width=bits, act_scale_type="float_scale", act_scale_computation_type="static", act_param_method="stats",
    act_quant_type="asym", act_quant_granularity="per_tensor", act_quant_percentile=99.99, **formats,
)
model = layerwise_quantize(model, compute_layer_map=maps[1])
loader = [(image, torch.zeros(1)) for image in images(calibration)]
ptq.calibrate(loader, model)
with torch.no_grad():
    model(loader[0][0])  # GPTQ wants the scales of weights, which the first run outside calibration sets
ptq.apply_gptq(loader, model)
ptq.apply_bias_correction(loader, model)
rows = []
with torch.no_grad():
    for image in images(evaluation):
        found = model(image)
        rows.append([t.numpy()[0:1] for t in (found if isinstance(found, (list, tuple)) else [found])])
Path(out).mkdir()
for place in range(len(rows[0])):
    np.save(f"{out}/{place}.npy", np.stack([row[place] for row in rows]))
"""


def brevitas_row(bench: ba.Bench, name: str, activations: str, python: str) -> ba.Row:
    """Brevitas' weights of the format `name`, rounded by GPTQ; integers and minifloats without infinities are what it has."""
    cell, format_ = f"{name}/{activations}", find_choice(name)
    if not isinstance(format_, Int | Float) or (isinstance(format_, Float) and format_.specials):
        problem = Conversion(BREVITAS, problem="NotImplementedError: no such format")
        return bench.measured(cell, BREVITAS, "", problem, list)
    out = bench.folder / f"brevitas-{name}-{activations}"
    arguments = [*map(str, bench.files()), name, activations]
    found = Conversion(BREVITAS) if out.exists() else peer(BREVITAS, BREVITAS_PROGRAM, python, arguments, out)
    return bench.measured(cell, BREVITAS, "", found, lambda: ba.stored_run(out))


def mac_cost(choice: Choice) -> int | None:
    """LUTs of a multiply-accumulate; None for families, whose levels are not known before there is a weight."""
    if not isinstance(choice, Int | Float | Codebook) or isinstance(choice, Real | Fixed):
        return None
    return mac_luts(choice, 8, product_bits(choice, LEVELS) + MORE_BITS)


@dataclass(frozen=True)
class Line:
    """One format (and effort, if it is not `balanced`) of one model: bits of a weight, LUTs (None where the model knows none), and who measured it."""

    name: str
    bits: float
    luts: int | None
    row: ba.Row
    peer: ba.Row | None

    @property
    def noise(self) -> float:
        """Decibels of noise over signal at the outputs: less is better."""
        return -self.row.metrics.get("sqnr", 0.0)


def lines(rows: list[ba.Row], metric: str) -> list[Line]:
    """edgeq's rows with Brevitas' of the same cell, by bits, then from the best on; those of other activations last."""
    peers = {row.cell: row for row in rows if row.tool == BREVITAS and metric in row.metrics}
    found = []
    for row in (row for row in rows if row.tool == ba.EDGEQ and metric in row.metrics):
        name, activations = row.cell.split("/")
        usual, choice = activations == "int8", find_choice(name)
        luts = mac_cost(choice) if usual else None
        effort = "" if row.effort == "balanced" else f" ({row.effort})"
        shown = (name if usual else row.cell) + effort
        found.append(Line(shown, bits_per_weight(choice), luts, row, peers.get(row.cell)))
    return sorted(found, key=lambda line: ("/" in line.name, line.bits, line.noise))


def front(points: list[tuple[float, float]]) -> list[bool]:
    """Of each (cost, loss) whether no other is at most as large in both and less in one.

    >>> front([(1, 5), (2, 3), (2, 4), (3, 3)])
    [True, True, False, False]
    """
    return [not any(c <= cost and v <= loss and (c, v) != (cost, loss) for c, v in points) for cost, loss in points]


def hull(points: list[tuple[float, float]]) -> list[bool]:
    """Of each (cost, loss) whether no mixture of two others, some layers in one and some in the other, beats it.

    >>> hull([(1, 5), (2, 4.5), (3, 1), (4, 2)])
    [True, False, True, False]
    """

    def beaten(cost: float, loss: float) -> bool:
        pairs = ((a, b) for a in points for b in points if a[0] < cost < b[0])
        return any(a[1] + (b[1] - a[1]) * (cost - a[0]) / (b[0] - a[0]) < loss for a, b in pairs)

    return [known and not beaten(*point) for known, point in zip(front(points), points, strict=True)]


def marks(found: list[Line]) -> dict[str, str]:
    """By name: `b` where nothing of as few bits has as high an SQNR, `L` of as few LUTs, `H` nor any mixture."""
    usual = [line for line in found if "/" not in line.name]
    costed = [(line, (float(line.luts), line.noise)) for line in usual if line.luts is not None]
    points = [point for _, point in costed]
    by_bits = front([(line.bits, line.noise) for line in usual])
    text = {line.name: "b" if best else "" for line, best in zip(usual, by_bits, strict=True)}
    for (line, _), best, mixed in zip(costed, front(points), hull(points), strict=True):
        text[line.name] += ("L" if best else "") + ("H" if mixed else "")
    return text


def markdown(path: Path, model: str) -> str:
    """The rows of one model, with their `marks`."""
    metric = next(subject.metric for subject in ba.SUBJECTS if subject.name == model)
    rows = [row for row in ba.read_rows(path) if row.model == model and row.problem is None]
    found = lines(rows, metric)
    if not found:
        return f"{model}: nothing measured"
    first, marked = found[0].row, marks(found)
    text = [f"### {model}: {metric}, float {first.fp32[metric]:.4f}, {first.images} images", ""]
    text += [f"| bits | LUTs | weights | {metric} | SQNR dB | front | Brevitas {metric} | SQNR dB |"]
    text += ["|---:|---:|---|---:|---:|---|---:|---:|"]
    for line in found:
        luts = "" if line.luts is None else line.luts
        start = f"| {line.bits:g} | {luts} | {line.name} | {_figures(line.row, metric)} |"
        other = _figures(line.peer, metric) if line.peer else " | "
        text.append(f"{start} {marked.get(line.name, '')} | {other} |")
    return "\n".join(text)


def _figures(row: ba.Row, metric: str) -> str:
    return f"{row.metrics[metric]:.4f} | {row.metrics.get('sqnr', float('nan')):.1f}"
