"""Box coordinates as fractions of the image, as Ultralytics' loader of TFLite files expects them.

It multiplies the coordinates of every detection, boxes and key points alike, by the image's width and height. So the
file divides by them, and says so, that others can undo it too.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgeq.frontend.tflite_boxes import Scaled, box_factors
from edgeq.ir import ops as o
from edgeq.ir.graph import Graph
from edgeq.passes.factors import multiplied


def box_scales(graph: Graph, metadata: Mapping[str, object]) -> dict[o.Value, Scaled]:
    """The detections among the outputs of an Ultralytics model, with what their loader multiplies by; often none."""
    (image, *others), detections = graph.inputs, graph.outputs[0]
    type_, shape = graph.types[detections], graph.types[image].shape
    if others or len(shape) != 4 or not type_.is_real:
        return {}
    found = box_factors(type_.shape, (shape[2], shape[3]), metadata)
    return {} if found is None else {detections: found}


def divided(graph: Graph, scales: Mapping[o.Value, Scaled]) -> Graph:
    """`graph` whose outputs in `scales` are divided as these say."""
    fractions = {
        value: (scaled.axis, (1 / np.array(scaled.factors)).astype(np.float32)) for value, scaled in scales.items()
    }
    return multiplied(graph, fractions, "pixels")
