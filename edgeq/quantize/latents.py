"""A real graph that rounds to what was learned for a plan, so that training under rounding goes on from there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from edgeq.formats import decode
from edgeq.ir import ops as o
from edgeq.ir.graph import Array, Graph, with_constants
from edgeq.quantize.operators import weight_of
from edgeq.quantize.plan import Plan
from edgeq.quantize.rounding import latent
from edgeq.quantize.simulate import planned_bias


def with_latents(graph: Graph, plan: Plan) -> tuple[Graph, Plan]:
    """`graph` with weights that the types of `plan` round to its codes, and with its biases; and the plan without codes.

    Weights lie a quarter of a level towards the real ones, as in edgeq/quantize/rounding.py. Of operators that share a
    weight or a bias the first decides.
    """
    found: dict[o.Value, Array] = {}
    for op in graph.ops:
        weight, out = weight_of(op), o.results(op)[0]
        if weight is None or out not in plan.weights or weight not in graph.constants:
            continue
        if weight not in found:
            found[weight] = _latent(graph.constants[weight], plan, out)
        bias = getattr(op, "bias", None)
        if bias is not None and out in plan.biases and bias not in found:
            found[bias] = planned_bias(plan, op)
    return with_constants(graph, found), replace(plan, codes={})


def _latent(weight: Array, plan: Plan, out: o.Value) -> Array:
    type_ = plan.weights[out]
    levels = decode(type_.format, plan.weight_codes(out, weight), type_.zero_point)
    wanted = np.asarray(weight, dtype=np.float64) / type_.scales
    near = latent(torch.from_numpy(levels.astype(np.float64)), torch.from_numpy(wanted), type_.format)
    real: Array = (near.numpy() * type_.scales).astype(np.float32)
    return real
