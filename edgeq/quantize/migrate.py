"""Which channels to move, and how far: strategies for the shift b and scale r of edgeq/passes/transform.py.

Every strategy proposes a Move per seam from the channel ranges of the value and of the weights that read it; the
proposal whose quantized readers come closest to their real output on sample images is taken, or none.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from edgeq.formats import FloatArray, Format, Int, bits_of
from edgeq.ir import ops as o
from edgeq.ir.graph import Array, Graph
from edgeq.passes.together import Together
from edgeq.passes.transform import Move, Reader, Seam, seams, transform
from edgeq.quantize.assign import constant_range, weight_axis
from edgeq.quantize.scale import ClipSearch, dequantize_weight, quantize_weight, weight_type
from edgeq.quantize.weights import FEW_BITS
from edgeq.reference.interpret import Device
from edgeq.reference.meaning import evaluate

LEAST_GAIN = 1.05
"""A move must lower the error by this factor: smaller gains may be chance."""

HEADROOM = 1.1
"""How much further than on samples a channel may reach below the bound of a clip."""

LEAST_SCALE = 1 / 16
"""Of a channel below a clip: one that hardly shows on samples keeps some room, and its noise is nothing any more."""

CLIPS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
FLOOR = 1e-8
_ROWS = 4096


@dataclass(frozen=True)
class Channels:
    """What strategies know of a seam, float64 [channels] each.

    `low` and `high` are the ends of the value (`clipped_low`, `clipped_high`: less one element in a thousand at each
    end), `readers` the largest weight magnitude that reads a channel, `maker` the largest that computes it. Scales lie
    between `least` and 1 where a clip follows (see Seam); `least` is None elsewhere.
    """

    low: FloatArray
    high: FloatArray
    clipped_low: FloatArray
    clipped_high: FloatArray
    readers: FloatArray
    maker: FloatArray
    shifts: bool
    least: FloatArray | None = None

    @property
    def middle(self) -> FloatArray:
        """The shift that centres every channel; zeros where no shift is legal."""
        return (self.low + self.high) / 2 if self.shifts else np.zeros_like(self.low)

    def reach(self, shift: FloatArray) -> FloatArray:
        """Largest magnitude per channel after `shift`."""
        return np.maximum(np.maximum(self.high - shift, shift - self.low), FLOOR)


def _normal(scale: FloatArray) -> FloatArray:
    """Scales within 1/1024 … 1024 of their geometric mean, which becomes 1: a common factor changes nothing."""
    logs = np.log2(np.maximum(scale, FLOOR))
    found: FloatArray = np.exp2(np.clip(logs - logs.mean(), -10, 10))
    return found


def equalize(c: Channels) -> Move:
    """Cross-layer equalization: r = sqrt(range of the maker's weights / range of the readers') (Nagel et al., 2019)."""
    return Move(np.zeros_like(c.low), _normal(np.sqrt(np.maximum(c.maker, FLOOR) / np.maximum(c.readers, FLOOR))))


def smooth(c: Channels, alpha: float, *, shift: bool = False) -> Move:
    """SmoothQuant: r = max|x|^alpha / max|w|^(1 - alpha) (Xiao et al., 2023); with `shift`, SQ-b (Tai et al., 2024)."""
    b = c.middle if shift else np.zeros_like(c.low)
    return Move(b, _normal(c.reach(b) ** alpha / np.maximum(c.readers, FLOOR) ** (1 - alpha)))


def suppress(c: Channels, share: float) -> Move:
    """Outlier Suppression+: centred, and r = max(1, max|x - b| / t), t a share of the largest (Wei et al., 2023)."""
    reach = c.reach(c.middle)
    return Move(c.middle, np.maximum(1.0, reach / max(share * float(reach.max()), FLOOR)))


def reparameterize(c: Channels, *, clipped: bool) -> Move:
    """RepQ: every channel meets the mean scale and zero point (Li et al., 2023); clipped first as in LRP-QViT."""
    low, high = (c.clipped_low, c.clipped_high) if clipped else (c.low, c.high)
    if not c.shifts:
        return Move(np.zeros_like(low), _normal(np.maximum(np.maximum(high, -low), FLOOR)))
    width = np.maximum(high - low, FLOOR)
    scale = np.clip(width / width.mean(), 1 / 1024, 1024)
    return Move(low - scale * float((low / scale).mean()), scale)


def proposals(c: Channels) -> dict[str, Move]:
    """The moves worth trying at a seam, by the name of their strategy."""
    found = {f"smooth:{alpha:g}": smooth(c, alpha) for alpha in (0.3, 0.5, 0.7, 1.0)}
    found |= {"equalize": equalize(c), "repq": reparameterize(c, clipped=False)}
    found |= {"repq:clipped": reparameterize(c, clipped=True)}
    found |= {f"suppress:{share:g}": suppress(c, share) for share in (0.7, 0.5, 0.35, 0.25, 0.15)}
    if c.shifts:
        found |= {f"smooth+shift:{alpha:g}": smooth(c, alpha, shift=True) for alpha in (0.5, 1.0)}
    return found if c.least is None else {name: _below_clip(move, c.least) for name, move in found.items()}


def _below_clip(move: Move, least: FloatArray) -> Move:
    """The legal move nearest to `move` where a clip follows: a common factor brings the largest scale to one."""
    return Move(move.shift, np.clip(move.scale / move.scale.max(), least, 1.0))


def _channel_reach(weight: FloatArray, axis: int) -> FloatArray:
    found: FloatArray = np.abs(weight).max(axis=tuple(k for k in range(weight.ndim) if k != axis))
    return found


def _input_reach(graph: Graph, op: Reader) -> FloatArray:
    """Largest weight magnitude per input channel of `op`."""
    weight = graph.constants[op.weight].astype(np.float64)
    if isinstance(op, o.Conv) and op.groups > 1:
        grouped = weight.reshape(op.groups, -1, *weight.shape[1:])
        found: FloatArray = np.abs(grouped).max(axis=(1, 3, 4)).reshape(-1)
        return found
    return _channel_reach(weight, 0 if isinstance(op, o.ConvTranspose) else 1)


def channels_of(
    graph: Graph, seam: Seam, samples: Sequence[Mapping[o.Value, Tensor]], furthest: Tensor | None = None
) -> Channels:
    """What `samples` (values by name) and the weights tell about `seam`; `furthest` is how far its channels ever reach."""
    rows = torch.cat([s[name].movedim(seam.axis, -1).flatten(0, -2) for s in samples for name in seam.reads])
    few = rows[torch.linspace(0, len(rows) - 1, min(_ROWS, len(rows))).long().to(rows.device)]
    low, high = (end.double().cpu().numpy() for end in (rows.amin(0), rows.amax(0)))
    shares = torch.tensor([1e-3, 1 - 1e-3]).to(few.device)
    clipped_low, clipped_high = torch.quantile(few, shares, dim=0).double().cpu().numpy()
    maker = np.ones_like(low)
    if isinstance(seam.maker, Reader):
        axis = 1 if isinstance(seam.maker, o.ConvTranspose) else 0
        maker = _channel_reach(graph.constants[seam.maker.weight].astype(np.float64), axis)
    readers = np.max([_input_reach(graph, op) for op in seam.readers], axis=0)
    if not math.isfinite(seam.ceiling):
        return Channels(low, high, clipped_low, clipped_high, readers, maker, seam.shifts)
    ever = high if furthest is None else np.maximum(high, furthest.double().cpu().numpy())
    least = np.clip(HEADROOM * ever / seam.ceiling, LEAST_SCALE, 1.0)
    return Channels(low, high, clipped_low, clipped_high, readers, maker, seam.shifts, least)


@dataclass(frozen=True)
class Grids:
    """How activations and weights will be quantized."""

    activation: Int
    weight: Format
    symmetric: bool


def _best_rounded(x: Tensor, images: int, grids: Grids) -> Tensor:
    """Each of the `images` that x holds, one after the other along its first axis, rounded with the clip of least error."""
    format, flat = grids.activation, x.reshape(images, -1)
    symmetric = grids.symmetric and format.signed
    ends = np.array(torch.stack([torch.stack(image.aminmax()) for image in flat]).tolist())
    found = [[constant_range(pair * clip, format, symmetric=symmetric) for pair in ends] for clip in CLIPS]
    steps, zeros = torch.tensor(found, dtype=x.dtype).to(x.device).unbind(2)  # float32 holds them
    tried = []
    for scale, zero in zip(steps[:, :, None], zeros[:, :, None], strict=True):
        levels = (flat / scale).round_().add_(zero).clamp_(format.low, format.high)
        tried.append(levels.sub_(zero).mul_(scale))
    errors = torch.stack([(rounded - flat).square_().sum(1) for rounded in tried])
    best = [tried[clip][image] for image, clip in enumerate(errors.argmin(0).tolist())]
    return (best[0] if images == 1 else torch.cat(best)).reshape(x.shape)


def _local(graph: Graph, seam: Seam) -> Graph:
    """The operators around `seam` as a graph of their own."""
    names = {o.results(op)[0] for op in (seam.maker, *seam.between, *seam.readers)}
    ops = tuple(op for op in graph.ops if o.results(op)[0] in names)
    constants = {value: graph.constants[value] for op in ops for value in o.operands(op) if value in graph.constants}
    outputs = tuple(op.out for op in seam.readers)
    return Graph(graph.name, (seam.maker.x,), outputs, ops, graph.types, constants)


def _operands(graph: Graph, seam: Seam, grids: Grids | None, device: Device) -> dict[o.Value, Tensor]:
    """Weights, quantized if `grids`, and biases of the readers of `seam` in the local `graph`."""
    found: dict[o.Value, Tensor] = {}
    for name in (op.out for op in seam.readers):
        op = graph.producer[name]
        assert isinstance(op, Reader)
        weight = graph.constants[op.weight].astype(np.float32)
        if grids is not None:
            clip: ClipSearch = "squared_error" if bits_of(grids.weight) <= FEW_BITS else "largest"
            type_ = weight_type(weight, grids.weight, weight_axis(op), clip=clip, where=op.weight)
            weight = dequantize_weight(quantize_weight(weight, type_), type_)
        found[op.weight] = torch.from_numpy(weight).to(device)
        if op.bias is not None:
            found[op.bias] = torch.from_numpy(graph.constants[op.bias].astype(np.float32)).to(device)
    return found


def _outputs(graph: Graph, seam: Seam, reads: Mapping[o.Value, Tensor], operands: Mapping[o.Value, Tensor]) -> Tensor:
    """What the readers of `seam` in the local `graph` compute from `reads`; flat."""
    known = {**reads, **operands}
    return torch.cat([evaluate(graph.producer[op.out], known.__getitem__)[0].flatten() for op in seam.readers])


def _error(
    local: Graph,
    seam: Seam,
    samples: Sequence[Mapping[o.Value, Tensor]],
    exact: Sequence[Tensor],
    grids: Grids,
    move: Move,
) -> float:
    """Squared error of the quantized readers' outputs over `samples`, of which `exact` are the real ones."""
    moved = transform(local, {seam.value: move})
    like = samples[0][seam.reads[0]]
    along = [-1 if k == seam.axis else 1 for k in range(like.dim())]
    shift, scale = (
        torch.from_numpy(part.astype(np.float32)).reshape(along).to(like.device) for part in (move.shift, move.scale)
    )
    operands, errors = _operands(moved, seam, grids, like.device), list[Tensor]()
    for sample, wanted in zip(samples, exact, strict=True):
        images = len(sample[seam.reads[0]]) // local.types[seam.reads[0]].shape[0]
        rounded = {name: _best_rounded((sample[name] - shift) / scale, images, grids) for name in seam.reads}
        errors.append((_outputs(moved, seam, rounded, operands) - wanted).square_().sum())
    return float(sum(torch.stack(errors).tolist()))


@dataclass(frozen=True)
class Migration:
    """A move that was worth it: its strategy, and the squared error of the readers' outputs before over after."""

    move: Move
    strategy: str
    gain: float


@torch.no_grad()
def choose_moves(
    graph: Graph,
    samples: Sequence[Mapping[o.Value, Array]],
    grids: Grids,
    device: Device = "cpu",
    *,
    more: Iterable[Mapping[o.Value, Array]] = (),
) -> dict[o.Value, Migration]:
    """The best move of every seam that one helps, judged on `samples` (a few calibration inputs, also several in one).

    How far channels ever reach, which a clip must leave to them, is seen on `more` inputs as well.
    """
    known = seams(graph)
    seen = list(_watched(graph, {name for seam in known.values() for name in seam.reads}, samples, device))
    furthest: dict[o.Value, Tensor] = {}
    clipped = [seam for seam in known.values() if math.isfinite(seam.ceiling)]
    for values in _watched(graph, {name for seam in clipped for name in seam.reads}, more if clipped else (), device):
        for seam in clipped:
            reach = torch.stack([values[name].movedim(seam.axis, -1).flatten(0, -2).amax(0) for name in seam.reads])
            furthest[seam.value] = torch.maximum(reach.amax(0), furthest.get(seam.value, reach[0]))
    found = {value: _best(graph, seam, seen, grids, furthest.get(value)) for value, seam in known.items()}
    return {value: migration for value, migration in found.items() if migration is not None}


def _watched(
    graph: Graph, wanted: Collection[o.Value], samples: Iterable[Mapping[o.Value, Array]], device: Device
) -> Iterator[dict[o.Value, Tensor]]:
    """The `wanted` values in every sample."""
    together = Together(graph, device)
    for sample in samples:
        values: dict[o.Value, Tensor] = {}

        def watch(name: o.Value, tensor: Tensor, values: dict[o.Value, Tensor] = values) -> None:
            if name in wanted:
                values[name] = tensor

        together(sample, watch)
        yield values


def _best(
    graph: Graph, seam: Seam, samples: Sequence[Mapping[o.Value, Tensor]], grids: Grids, furthest: Tensor | None
) -> Migration | None:
    local, channels = _local(graph, seam), channels_of(graph, seam, samples, furthest)
    still = Move(np.zeros_like(channels.low), np.ones_like(channels.low))
    operands = _operands(local, seam, None, samples[0][seam.reads[0]].device)
    exact = [_outputs(local, seam, sample, operands) for sample in samples]
    base = _error(local, seam, samples, exact, grids, still)
    tried = {
        name: (move, _error(local, seam, samples, exact, grids, move)) for name, move in proposals(channels).items()
    }
    name, (move, error) = min(tried.items(), key=lambda item: item[1][1])
    return Migration(move, name, base / max(error, 1e-300)) if base > LEAST_GAIN * error else None
