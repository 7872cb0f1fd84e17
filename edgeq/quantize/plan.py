"""The plan: the type of every quantized value and weight, decided before anything is rounded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgeq.ir.graph import Array, Type
from edgeq.ir.ops import Rounding, Value
from edgeq.quantize.structure import Structure
from edgeq.target import Kernels


@dataclass(frozen=True)
class Plan:
    """Types of the quantized activations by value, and of weights by the result of the operator that reads them.

    `output_codes` leaves the graph's outputs as codes. `interpolates`: functions of 16-bit codes are interpolated. `biases` holds the integer bias of each weighted operator by its result, in units of s_x s_w.
    """

    structure: Structure
    types: Mapping[Value, Type]
    weights: Mapping[Value, Type]
    biases: Mapping[Value, Array]
    rounding: Rounding
    kernels: Kernels = "exact"
    output_codes: bool = False
    interpolates: bool = False
