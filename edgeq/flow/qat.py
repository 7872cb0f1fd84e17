"""Training under rounding in one's own loop: a model becomes a module, and the trained module an integer graph.

module = edgeq.prepare_qat(model, samples, formats="w4a4")   # an ordinary torch.nn.Module
...train it...
graph = edgeq.convert(module)                                # exact integers, for every emitter
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from torch import Tensor, nn

from edgeq.calibrate.observe import observe
from edgeq.errors import UsageError
from edgeq.flow.ranges import ranges_by_estimator, site_of
from edgeq.flow.statistics import class_statistics, watched_values
from edgeq.frontend.model import open_model
from edgeq.ir import ops as o
from edgeq.ir.graph import Graph
from edgeq.ir.verify import verify
from edgeq.passes.copies import with_narrow_copies
from edgeq.passes.decompose import decompose
from edgeq.passes.simplify import simplify
from edgeq.quantize.asked import Asked, with_formats
from edgeq.quantize.assign import Range, assign
from edgeq.quantize.grids import Strategy
from edgeq.quantize.qat import QatModule
from edgeq.quantize.structure import Structure, analyse
from edgeq.recipe import Recipe
from edgeq.target import Target
from edgeq.targets import find_target


def prepare_qat(
    model: str | Path | nn.Module | Graph,
    samples: Iterable[Tensor],
    *,
    formats: str = "w8a8",
    target: str = "reference",
    estimator: str = "mse",
    strategy: Strategy | None = None,
) -> QatModule:
    """`model` as a module that rounds while it trains and is the exact integer graph in evaluation mode.

    model: a file, `zoo:NAME`, a torch module or a real graph. samples: a few inputs [N, C, H, W] to start ranges from;
    a torch module is exported for the shape of the first. formats: as of --format, such as w4a4 or post4/int8; first
    and last layers keep 8 bits. strategy: what is learned besides, such as Strategy(nested=(6, 4, 2)), after which
    `module.use_width(4)` makes `convert` give the four-bit graph of the same eight-bit weights. Raises UsageError and UnsupportedError as `edgeq export` does.
    """
    inputs = [sample[k : k + 1] for sample in samples for k in range(len(sample))]
    if not inputs:
        raise UsageError("prepare_qat needs samples to start ranges from")
    row = find_target(target)
    if not row.is_integer:
        raise UsageError("there is nothing to train for a float target", value=row.name)
    graph = decompose(simplify(_real_graph(model, inputs[0])), row.decomposed)
    weights, _, activations = formats.partition("/")
    asked = Asked(weights, activations) if activations else Asked(*_short(formats))
    recipe, _ = with_formats(Recipe(estimator), asked, graph, row)
    graph = with_narrow_copies(graph, recipe)
    structure = analyse(graph, row, recipe)
    (name,) = graph.inputs
    ranges = _ranges(structure, [{name: sample} for sample in inputs], row, estimator)
    if strategy is not None and strategy.offsets and row.symmetric:
        raise UsageError("this target has no zero points to learn", where=row.name, value="offsets")
    return QatModule(graph, assign(structure, ranges, row), strategy, half_scales=row.half_scales)


def convert(module: nn.Module) -> Graph:
    """The verified integer graph of a module that `prepare_qat` made (also one inside DDP or torch.compile)."""
    inner = getattr(module, "module", module)
    inner = getattr(inner, "_orig_mod", inner)
    if not isinstance(inner, QatModule):
        raise UsageError("only a module that prepare_qat made can be converted", value=type(module).__name__)
    graph = inner.convert()
    verify(graph)
    return graph


def _short(formats: str) -> tuple[str, str]:
    weight, separator, activation = formats.removeprefix("w").partition("a")
    if not (separator and weight.isdigit() and activation.isdigit()):
        raise UsageError("unknown formats", value=formats, allowed="w4a8, int4/int8, post4/int8")
    return f"int{weight}", f"int{activation}"


def _real_graph(model: str | Path | nn.Module | Graph, sample: Tensor) -> Graph:
    if isinstance(model, Graph):
        return model
    if not isinstance(model, nn.Module):
        return open_model(str(model)).graph
    from edgeq.frontend.onnx import import_onnx
    from edgeq.frontend.torch_export import to_onnx

    return import_onnx(to_onnx(model, (sample,)).proto)


def _ranges(
    structure: Structure, samples: list[dict[o.Value, Tensor]], target: Target, estimator: str
) -> dict[o.Value, Range]:
    statistics = class_statistics(structure, observe(structure.graph, samples, watched_values(structure)))
    sites = {key: site_of(structure, key, target) for key in statistics}
    chosen = ranges_by_estimator(sites, statistics, target, estimator)
    return {item.key: (item.scale, item.zero_point) for item in chosen}
