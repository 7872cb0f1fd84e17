"""Statistics of values over the calibration images, and for some of the images how much errors matter.

Every image is run once: those whose gradients are wanted are run forwards and backwards, the others forwards.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import reduce

import numpy as np
import torch
from torch import Tensor

from edgeq.calibrate import cache
from edgeq.calibrate.importance import DetectionWeights
from edgeq.calibrate.mixture import group_of
from edgeq.calibrate.observe import observe
from edgeq.calibrate.output_noise import Site, Weighed, weighed_passes
from edgeq.calibrate.robust import MEAN, Risk
from edgeq.calibrate.statistics import Rows, Statistics, merge_all, merge_maps, statistics_of
from edgeq.errors import OutputError
from edgeq.flow.inputs import CalibrationSet
from edgeq.ir.graph import Array, Graph
from edgeq.ir.ops import Value
from edgeq.passes.together import images_at_once, joined
from edgeq.progress import Progress
from edgeq.quantize.bias import Excerpts
from edgeq.quantize.sensitivity import Objective, Weigh, integer_outputs, relative_power
from edgeq.quantize.structure import Structure

Inputs = Mapping[Value, Array]


def inputs_of(graph: Graph, calibration: CalibrationSet, together: int = 1) -> Iterator[Inputs]:
    """What enters `graph`, image by image or of so many images `together`."""
    (name,) = graph.inputs
    yield from joined(({name: tensor} for tensor in calibration.tensors()), together)


def watched_values(structure: Structure) -> frozenset[Value]:
    """Values whose statistics decide ranges: computed members of every class."""
    constants = structure.graph.constants
    chosen = structure.members.keys() - structure.fixed.keys()
    return frozenset(v for key in chosen for v in structure.sources(key) if v not in constants)


def objective_of(structure: Structure, weigh: Weigh | None) -> Objective:
    """Noise at the network's outputs, weighed for the task where `weigh` knows it, and where the integer part ends.

    What matters for the task is sparse (a few boxes in an image), so it alone would be learned by heart; the noise of
    the whole integer part keeps it general.
    """
    outputs = structure.graph.outputs
    inner = tuple(value for value in integer_outputs(structure) if value not in outputs)

    def both(found: Sequence[Tensor]) -> list[Tensor]:
        last, before = found[: len(outputs)], found[len(outputs) :]
        return [*(weigh or relative_power)(last), *relative_power(before)]

    return Objective((*outputs, *inner), both)


def _recording(objective: Objective, signals: list[float], weigh: Weigh | None) -> Objective:
    """`objective`, which also notes how much the network says about each image."""

    def noted(found: Sequence[Tensor]) -> Sequence[Tensor]:
        if isinstance(weigh, DetectionWeights):
            signals.append(weigh.signal(found))
        else:
            signals.append(sum(float(y.square().sum()) for y in found))
        return objective.weigh(found)

    return Objective(objective.outputs, noted)


@dataclass
class Weighing:
    """Some calibration images of which it is asked how much errors of the values of `sites` matter.

    They fill `weighed` on their way, and `excerpts` note them. Where hard images are guarded each is weighed by itself,
    and `risk` takes note of their kinds and signals.
    """

    structure: Structure
    sites: Mapping[Value, Site]
    sample: CalibrationSet
    excerpts: Excerpts | None = None
    risk: Risk = MEAN
    weighed: Weighed = field(init=False)

    def __post_init__(self) -> None:
        self.weighed = Weighed(apart=self.sample.guarded)
        if self.sample.guarded:
            images = (image for part in self.sample.parts.values() for image in part.images)
            self.risk = Risk(self.sample.risk, tuple(map(group_of, images)))

    def statistics(
        self, part: CalibrationSet, values: Collection[Value], progress: Callable[[int], None] | None = None
    ) -> dict[Value, Statistics]:
        """Statistics of `values` over the images of the sample that are in `part`, which are weighed on the way."""
        if not (values or self.sites):
            return {}
        objective = objective_of(self.structure, self.sample.weigh)
        if self.sample.guarded:
            objective = _recording(objective, self.risk.signals, self.sample.weigh)
        images = replace(self.sample, images=tuple(image for image in self.sample.images if image in part.images))
        noted = {*values, *(self.excerpts.values if self.excerpts else ())}
        graph, found = self.structure.graph, dict[Value, Statistics]()
        together = 1 if self.sample.guarded else images_at_once(graph, self.sample.device)
        samples, turns = inputs_of(graph, images, together), range(0, len(images.images), together)
        passes = weighed_passes(
            self.structure, objective, self.sites, samples, noted, device=self.sample.device, least=part.least
        )
        for start, (seen, weights) in zip(turns, passes, strict=True):
            count = min(together, len(images.images) - start)
            if progress:
                progress(start + count)
            self.weighed.add(weights, count)
            if self.excerpts:
                self.excerpts.note(seen, count)
            rows = Rows(part.least, start)
            with torch.no_grad():
                found = merge_maps(found, {name: statistics_of(seen[name], name, rows) for name in values})
        return found


Observed = dict[str, dict[Value, Statistics]]
"""Statistics by value, of the clean and of the degraded images apart."""


def collect_statistics(
    graph: Graph,
    values: frozenset[Value],
    calibration: CalibrationSet,
    model_digest: str,
    progress: Progress,
    *,
    use_cache: bool,
    weighing: Weighing | None = None,
) -> Observed:
    """Statistics of `values`, from the cache if these images were seen before; `weighing` weighs its images."""
    return {
        name: _observed(graph, values, part, model_digest, progress, use_cache, weighing)
        for name, part in calibration.parts.items()
    }


def _observed(
    graph: Graph,
    values: frozenset[Value],
    part: CalibrationSet,
    model_digest: str,
    progress: Progress,
    use_cache: bool,
    weighing: Weighing | None,
) -> dict[Value, Statistics]:
    key = cache.key(
        model=model_digest,
        preprocess=part.preprocess.to_dict(),
        images=[image.sha256 for image in part.images],
        settings={"values": sorted(values)} | ({"least": part.least} if part.least else {}),
        degradation=None if part.mixture is None else part.mixture.document(),
    )
    known = cache.load(key) if use_cache and values else None
    missing = values if known is None else frozenset[Value]()
    seen = weighing.sample.images if weighing else ()
    others = replace(part, images=tuple(image for image in part.images if image not in seen))
    total, found = len(part.images), dict[Value, Statistics]()
    if missing and (others.images or not weighing):
        found = observe(
            graph, inputs_of(graph, others, images_at_once(graph, part.device)), missing,
            device=part.device, least=part.least,
            progress=lambda done: progress("calibrating", done, total),
        )  # fmt: skip
    if weighing:
        before = len(others.images)
        found = merge_maps(
            found, weighing.statistics(part, missing, lambda done: progress("calibrating", before + done, total))
        )
    if use_cache and missing:
        with suppress(OutputError):  # a cache that cannot be written costs time, not results
            cache.store(key, found)
    return found if known is None else known


def pooled(observed: Observed) -> dict[Value, Statistics]:
    """Statistics over all images."""
    return reduce(merge_maps, observed.values())


def class_statistics(structure: Structure, statistics: Mapping[Value, Statistics]) -> dict[Value, Statistics]:
    """One entry per class that has a computed member; constants among the sources count as well."""
    merged: dict[Value, Statistics] = {}
    for key in structure.members:
        sources = structure.sources(key)
        if any(v in statistics for v in sources):
            constants = structure.graph.constants
            merged[key] = merge_all(
                statistics[v] if v in statistics else statistics_of(torch.from_numpy(constants[v].astype(np.float32)))
                for v in sources
            )
    return merged
