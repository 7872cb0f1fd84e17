"""A target: what a board's runtime can hold. The table of all of them is edgeq/targets.py.

It says which formats values take, which operators run on integer codes (the others stay real islands), the
rounding rule of its runtime, and how closely the artifact must agree with the reference.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Literal

from edgeq.catalogue import Choice
from edgeq.formats import INT8, INT8_NARROW, INT16, Format, Int
from edgeq.ir import ops as o

Emitter = Literal["onnx", "tflite", "coreml", "c", "hls", "graph"]
Runtime = Literal["tensorrt", "onnxruntime", "litert", "coreml", "native", "hls", "reference", "qonnx"]
Precision = Literal["fp32", "fp16", "int8"]
Kernels = Literal["exact", "tflite"]
Ports = Literal["real", "codes"]
Instructions = Literal["portable", "dsp", "mve", "rvv", "neon", "avx2"]


@dataclass(frozen=True)
class Agreement:
    """What the target promises of artifact against reference.

    Every layer, given the artifact's own operands, has at least `equal_share` of its codes equal and none further off
    than `code_difference`. A float baseline has no codes: its outputs keep `signal_to_noise_db` instead. Where half
    precision computes, every layer of reals, given the artifact's own operands, keeps `real_layer_db`: how far that
    carries to the outputs depends on the network.
    """

    equal_share: float = 0.99
    code_difference: int = 1
    signal_to_noise_db: float | None = None
    real_layer_db: float | None = None


@dataclass(frozen=True)
class StoredWeights:
    """Weights of operators on reals, stored as codes and made real again when the file is loaded.

    `block` input channels share a scale (0: all of an output channel's); without `per_channel` the whole weight does.
    Weights of fewer than `smallest` elements stay real. Rows of fewer than `shortest_row` elements cost little and lose
    most, so they keep eight bits.
    """

    format: Choice
    block: int = 0
    per_channel: bool = True
    smallest: int = 512
    shortest_row: int = 32


@dataclass(frozen=True)
class Target:
    """One row of the table of targets.

    `narrow` is the format of values that weighted operators read, `wide` that of the others (the same where the
    runtime keeps everything narrow). `more_weights` are the formats that weights may take instead of `weight`, where a
    recipe asks for them. `same_scale_concat` gives the operands of a concatenation one scale.
    Weighted operators with fewer than `least_channels` input channels stay real, where integers would be slower.
    Functions in `decomposed` are split into a table of a bounded factor and a product. `separate_layers` splits the
    joint layer of queries, keys and values, so that each has its own scale. `float_share` is the share of
    the work that may stay in float where rounding would hurt most, if that removes `least_gain` of noise (as a share of
    the signal's power) for all of the work, a hundredth of it for a hundredth. Without `real_results` an integer kernel gives
    reals only if it is a matrix product, so any other operator whose result nobody rounds runs in float as well.
    `conversion_macs` is what turning one element from codes into reals or back costs, in multiply-accumulates in float.
    `estimator` is the rule for ranges. `kernels` says whose arithmetic the integer graph spells: one rounding per
    operator (`rounding`), or that of TFLite's kernels (edgeq/reference/tflite.py). `wide_functions` are computed on
    codes of more than 8 bits, whose tables would be large; the others stay real. With `interpolates` those of 16 bits
    are interpolated between samples (edgeq/reference/samples.py). Functions in `tabulated` are stored as
    tables, for want of a kernel in the runtime. `ports` are what the file takes and gives: reals, or codes where its
    inputs and outputs have them. `stored_weights` says how the weights of operators that stay real are stored.
    With `unsigned`, values that are never negative have codes without a sign, twice as fine.
    `half_scales` are scales that half precision holds, those of `power_of_two` are such powers. `ios` is the oldest
    system that a CoreML file loads in. `instructions` are those that generated C may use; it runs layers in bands of
    rows where its arena would exceed `ram_bytes`. With `looks_up`, weights of one minifloat or codebook of up to four
    bits stay codes, which generated C looks up in a table. A design fills the board `fpga` (edgeq/emit/hls_boards.py),
    or as much of it as `fps` frames a second take.
    """

    name: str
    summary: str
    emitter: Emitter
    runtime: Runtime
    precision: Precision
    agreement: Agreement
    weight: Format = INT8_NARROW
    narrow: Int = INT8
    wide: Int = INT16
    more_weights: tuple[Format, ...] = ()
    symmetric: bool = True
    unsigned: bool = False
    same_scale_concat: bool = False
    least_channels: int = 1
    decomposed: tuple[o.FunctionName, ...] = ()
    separate_layers: bool = False
    float_share: float = 0.0
    least_gain: float = 0.0
    real_results: bool = True
    conversion_macs: int = 0
    estimator: str = "auto"
    rounding: o.Rounding = "fp32rne"
    kernels: Kernels = "exact"
    ports: Ports = "real"
    wide_functions: tuple[o.FunctionName, ...] = ()
    interpolates: bool = False
    tabulated: tuple[o.FunctionName, ...] = ()
    instructions: Instructions = "portable"
    ram_bytes: int | None = None
    integer_ops: frozenset[type[o.Op]] = frozenset()
    stored_weights: StoredWeights | None = None
    half_scales: bool = False
    looks_up: bool = False
    power_of_two: bool = False
    ios: int = 16
    fpga: str = "pynq-z2"
    fps: float = 0.0
    aliases: tuple[str, ...] = ()

    @property
    def is_integer(self) -> bool:
        """Whether this target computes on integers, which takes images to calibrate on."""
        return self.precision == "int8"

    @property
    def real_bits(self) -> int:
        """Width of the reals in a file: CoreML computes in half precision unless it is the float baseline."""
        return 16 if self.emitter == "coreml" and self.precision != "fp32" else 32

    @property
    def runs_here(self) -> bool:
        """Whether the runtime that runs the artifact on this machine is the target's own, so that latency counts."""
        if self.runtime == "native":
            return self.instructions == "portable"  # elsewhere the host runs a plain substitute
        return self.runtime not in ("tensorrt", "reference", "qonnx", "hls") and (
            self.runtime != "coreml" or sys.platform == "darwin"
        )

    @property
    def keeps_wide_values(self) -> bool:
        """Whether values between weighted operators have more bits than their inputs."""
        return self.wide.bits > self.narrow.bits
