"""The rules for CoreML packages, over the numbers that were read back from them."""

from __future__ import annotations

import math
from collections.abc import Iterator

from edgeq.lint.finding import Place, Rule, Runtime
from edgeq.readback.stored import Stored, StoredOperator

LARGE_WEIGHT = 2048
"""Elements from which converters compress a weight."""

_COREML: tuple[Runtime, ...] = ("coreml",)


def _is_compressed(op: StoredOperator) -> bool:
    return bool(op.weight.scale) or "-bit" in op.weight.element


def _size(op: StoredOperator) -> int:
    return 0 if op.weight.array is None else op.weight.array.size


def scale_not_positive(stored: Stored) -> Iterator[Place]:
    for tensor in stored.tensors:
        bad = [scale for scale in tensor.scale if not (math.isfinite(scale) and scale > 0)]
        if bad:
            yield tensor.name, f"{len(bad)} of {len(tensor.scale)} scales such as {bad[0]:g}"


def left_uncompressed(stored: Stored) -> Iterator[Place]:
    if any(map(_is_compressed, stored.weighted)):
        for op in stored.weighted:
            if not _is_compressed(op) and _size(op) >= LARGE_WEIGHT:
                yield op.name, f"its weight of {_size(op)} elements is {op.weight.element}"


def per_tensor_weights(stored: Stored) -> Iterator[Place]:
    for op in stored.weighted:
        shape = op.weight.shape or ()
        if len(op.weight.scale) == 1 and max(shape[:2], default=1) > 1:
            yield op.name, f"one scale for a weight of shape {shape}"


def float_activations(stored: Stored) -> Iterator[Place]:
    """Weights on codes whose input is not, in a package where other activations are."""
    if stored.activations and stored.operators.get("quantize", 0):
        fed = {tensor.name for tensor in stored.activations}
        if len(fed) < sum(map(_is_compressed, stored.weighted)) // 2:
            yield "model", f"{len(fed)} quantized activations for {len(stored.weighted)} operators with weights"


def zero_points(stored: Stored) -> Iterator[Place]:
    for tensor in stored.activations:
        if any(tensor.zero_point):
            yield tensor.name, f"zero point {tensor.zero_point[0]}"


COREML_RULES: tuple[Rule[Stored], ...] = (
    Rule(
        "cml-scale-not-positive", "error", _COREML, "Scales are finite and positive.",
        "Anything else turns every value into zero, infinity or NaN without a message.",
        "Calibrate this tensor again.", scale_not_positive,
    ),
    Rule(
        "cml-weight-uncompressed", "warning", _COREML, "Where weights are compressed, all large ones are.",
        "Converters leave weights in half precision without a message (coremltools#2248).",
        "Compress this weight too, or keep it in float on purpose.", left_uncompressed,
    ),
    Rule(
        "cml-per-tensor-weights", "warning", _COREML, "Weights have one scale per output channel.",
        "It costs nothing and saves points of accuracy, most in depthwise networks.",
        "Quantize weights per channel.", per_tensor_weights,
    ),
    Rule(
        "cml-activation-zero-point", "note", _COREML, "Activations are symmetric.",
        "The Neural Engine's int8 path of A17 Pro and M4 is symmetric; a zero point costs it a correction.",
        "Calibrate symmetrically.", zero_points,
    ),
    Rule(
        "cml-mixed-activations", "warning", _COREML, "Where activations are quantized, most operators take codes.",
        "Each change between codes and half precision costs a pass over the tensor.",
        "Quantize the other activations too, or none.", float_activations,
    ),
)  # fmt: skip
