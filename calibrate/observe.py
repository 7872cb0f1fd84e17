"""Calibration: run the real network on images and keep statistics of its values.

One forward pass. Statistics are exact over every element and merge without loss, so the result depends neither on
the order of the images nor on how they were batched. Observe clean and degraded images apart and merge the two maps
where a range must serve both.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

import torch
from torch import Tensor

from edgeq.calibrate.statistics import Rows, Statistics, statistics_of
from edgeq.errors import DataError, UsageError
from edgeq.ir.graph import Array, Graph, observed
from edgeq.ir.ops import Value
from edgeq.passes.together import Together
from edgeq.reference.interpret import Device


def _real_values(graph: Graph) -> frozenset[Value]:
    return frozenset(v for v, type_ in graph.types.items() if type_.is_real and v not in graph.constants)


@torch.no_grad()
def observe(
    graph: Graph,
    batches: Iterable[Mapping[Value, Array | Tensor]],
    values: Collection[Value] | None = None,
    *,
    device: Device = "cpu",
    least: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[Value, Statistics]:
    """Statistics of `values` (default: every computed real value and real input) of the real `graph`.

    `batches` yields the inputs by name, of one image or of several (see with_batch); `progress` is told the number of
    images done. Of large maps at least `least` elements are looked at (see `Rows`), if it is given; ends are of all of
    them. Raises DataError when there is no batch or a value is not finite, UsageError for a value that the graph does
    not compute as a real.
    """
    known = _real_values(graph)
    wanted = known if values is None else frozenset(values)
    if unknown := sorted(wanted - known):
        raise UsageError("the graph computes no such real value", value=", ".join(unknown[:3]))
    found: dict[Value, Statistics] = {}

    together, done, rows = Together(observed(graph, wanted), device), 0, Rows(least)

    def watch(name: Value, tensor: Tensor) -> None:
        if name in wanted:
            fresh = statistics_of(tensor, where=name, rows=rows)
            found[name] = found[name].merged(fresh) if name in found else fresh

    for batch in batches:
        rows = Rows(least, done)
        count = together.count(batch)
        together.of(count)(batch, watch)
        done += count
        if progress:
            progress(done)
    if wanted and not found:
        raise DataError("there is no calibration image", next_step="Name a folder that holds images.")
    return found
