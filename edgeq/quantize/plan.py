"""The plan: the type of every quantized value and weight, decided before anything is rounded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from edgeq.formats import IntArray
from edgeq.ir.graph import Array, Type
from edgeq.ir.ops import Rounding, Value
from edgeq.quantize.scale import quantize_weight
from edgeq.quantize.structure import Structure
from edgeq.target import Kernels


@dataclass(frozen=True)
class Plan:
    """Types of the quantized activations by value, and of weights by the result of the operator that reads them.

    `output_codes` leaves the graph's outputs as codes. `interpolates`: functions of 16-bit codes are interpolated.
    `biases` holds the integer bias of each weighted operator by its result, in units of s_x s_w. `codes` holds weights
    whose rounding was learned, by the same result; any other weight is rounded to the nearest.
    """

    structure: Structure
    types: Mapping[Value, Type]
    weights: Mapping[Value, Type]
    biases: Mapping[Value, Array]
    rounding: Rounding
    kernels: Kernels = "exact"
    output_codes: bool = False
    interpolates: bool = False
    codes: Mapping[Value, IntArray] = field(default_factory=dict)

    def weight_codes(self, out: Value, weight: Array) -> IntArray:
        """Codes of the real `weight` that the operator with result `out` reads."""
        return self.codes[out] if out in self.codes else quantize_weight(weight, self.weights[out])
