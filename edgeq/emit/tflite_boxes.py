"""Box coordinates as fractions of the image, as Ultralytics' loader of TFLite files expects them.

It multiplies the coordinates of every detection, boxes and key points alike, by the image's width and height. So the
file divides by them, and says so, that others can undo it too.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgeq.formats import FloatArray
from edgeq.ir import ops as o
from edgeq.ir.graph import Graph
from edgeq.passes.factors import multiplied

_TASKS = ("detect", "segment", "pose", "obb")


@dataclass(frozen=True)
class Scaled:
    """An output that the file divides by `factors` along `axis`."""

    axis: int
    factors: tuple[float, ...]

    def document(self) -> dict[str, object]:
        """As plain JSON values."""
        return {"axis": self.axis, "factors": list(self.factors)}


def _literal(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value


def box_scales(graph: Graph, metadata: Mapping[str, object]) -> dict[o.Value, Scaled]:
    """The detections among the outputs of an Ultralytics model, with what their loader multiplies by; often none."""
    (image, *others), detections = graph.inputs, graph.outputs[0]
    type_, shape = graph.types[detections], graph.types[image].shape
    declared = metadata.get("task") in _TASKS and {"names", "stride"} <= metadata.keys()
    if not declared or others or len(shape) != 4 or len(type_.shape) != 3 or not type_.is_real:
        return {}
    ended = bool(_literal(metadata.get("end2end", False)))
    axis = 2 if ended else 1
    classes = _literal(metadata["names"])
    first_point = 6 if ended else 4 + (len(classes) if isinstance(classes, Mapping | list) else 0)
    factors = _factors(type_.shape[axis], shape[2:], first_point, _step(metadata))
    return {detections: Scaled(axis, tuple(factors.tolist()))}


def _step(metadata: Mapping[str, object]) -> int | None:
    """Numbers per key point, for models that find them."""
    points = _literal(metadata.get("kpt_shape"))
    return int(points[1]) if metadata.get("task") == "pose" and isinstance(points, tuple | list) else None


def _factors(channels: int, size: tuple[int, ...], first_point: int, step: int | None) -> FloatArray:
    factors = np.ones(channels, dtype=np.float64)
    height, width = size
    factors[0:4] = [width, height, width, height][: min(channels, 4)]
    if step is not None:
        factors[first_point::step] = width
        factors[first_point + 1 :: step] = height
    return factors


def divided(graph: Graph, scales: Mapping[o.Value, Scaled]) -> Graph:
    """`graph` whose outputs in `scales` are divided as these say."""
    fractions = {
        value: (scaled.axis, (1 / np.array(scaled.factors)).astype(np.float32)) for value, scaled in scales.items()
    }
    return multiplied(graph, fractions, "pixels")
