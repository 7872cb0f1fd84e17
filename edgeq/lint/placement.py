"""Checks of where quantizers stand."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnx import NodeProto

from edgeq.lint.finding import Place
from edgeq.lint.net import DEQUANTIZE, MOVING, QUANTIZE, WEIGHTED, Net, attribute, title

ACTIVATIONS = (
    "Relu", "Clip", "LeakyRelu", "Elu", "HardSwish", "HardSigmoid", "Sigmoid", "Tanh", "Gelu", "Mish", "Selu",
)  # fmt: skip
BOUNDED = ("Sigmoid", "Softmax", "HardSigmoid")
_TRANSPARENT = (*MOVING, QUANTIZE, DEQUANTIZE)
COARSE_SCORE_STEP = 1 / 64
FEW_CHANNELS = 16


def _is_quantizer(node: NodeProto) -> bool:
    return node.op_type in (QUANTIZE, DEQUANTIZE)


def _runs_on_codes(net: Net, node: NodeProto) -> bool:
    return all(net.quantizer(name, DEQUANTIZE) is not None for name in node.input[:2])


def unquantized_weight(net: Net) -> Iterator[Place]:
    for node in net.weighted():
        x, weight = (net.quantizer(name, DEQUANTIZE) for name in node.input[:2])
        if x is not None and weight is None and net.constant(node.input[1]) is not None:
            yield title(node), f"its input is quantized, its weight {node.input[1]} is float"


def weight_dq_missing(net: Net) -> Iterator[Place]:
    for node in net.weighted():
        if net.quantizer(node.input[1], DEQUANTIZE) is None and (codes := _eight_bit_origin(net, node.input[1])):
            yield title(node), f"its weight comes from the 8-bit {codes} without DequantizeLinear"


def _eight_bit_origin(net: Net, tensor: str) -> str | None:
    """An 8-bit constant that reaches `tensor` through operators other than quantizers."""
    passed: list[str] = [tensor]

    def passes(node: NodeProto) -> bool:
        if node.op_type in (QUANTIZE, DEQUANTIZE):
            return False
        passed.extend(node.input)
        return True

    net.before(tensor, passes)
    arrays = ((name, net.constant(name)) for name in passed)
    return next((name for name, array in arrays if array is not None and array.dtype in (np.int8, np.uint8)), None)


def per_tensor_weights(net: Net) -> Iterator[Place]:
    for node in net.weighted():
        weight = net.quantizer(node.input[1], DEQUANTIZE)
        shape = net.shapes.get(node.input[1], ())
        if weight is not None and weight.scale is not None and weight.scale.size == 1 and max(shape, default=1) > 1:
            yield title(node), f"one scale for a weight of shape {shape}"


def dynamic_weights(net: Net) -> Iterator[Place]:
    for node in net.of_type("Conv", "ConvTranspose"):
        if len(node.input) > 1 and not net.is_constant(node.input[1]):
            yield title(node), f"its weight {node.input[1]} is computed at run time"


def bias_qdq(net: Net) -> Iterator[Place]:
    for node in net.of_type("Conv", "ConvTranspose", "Gemm"):
        if len(node.input) > 2 and net.quantizer(node.input[2], DEQUANTIZE) is not None:
            yield title(node), f"its bias {node.input[2]} comes from DequantizeLinear"


def boxes_and_scores(net: Net) -> Iterator[Place]:
    for node in net.of_type("Concat"):
        bounded = [_is_bounded(net, name) for name in node.input]
        step = _step_after(net, node.output[0])
        if any(bounded) and not all(bounded) and step is not None and step > COARSE_SCORE_STEP:
            yield title(node), f"joins scores in 0 … 1 with other numbers; both get steps of {step:.3g}"


def _is_bounded(net: Net, tensor: str) -> bool:
    """Whether a tensor holds results of a sigmoid or softmax that were only moved since."""
    constants = net.constants
    nodes = net.before(tensor, lambda node: node.op_type in _TRANSPARENT and not constants.issuperset(node.input))
    sources = [node for node in nodes if not constants.issuperset(node.input)]
    return bool(sources) and all(node.op_type in BOUNDED for node in sources)


def _step_after(net: Net, tensor: str) -> float | None:
    """Scale of a quantizer behind `tensor`, seen through operators that only move elements."""
    for node in net.after(tensor, lambda node: node.op_type in MOVING):
        scale = net.quantizers[node.output[0]].scale if node.op_type == QUANTIZE else None
        if scale is not None and scale.size == 1:
            return float(scale.reshape(-1)[0])
    return None


def concat_scales_differ(net: Net) -> Iterator[Place]:
    for node in net.of_type("Concat"):
        dequantizers = [net.quantizer(name, DEQUANTIZE) for name in node.input]
        scales = {float(d.scale.reshape(-1)[0]) for d in dequantizers if d is not None and d.scale is not None}
        if len(scales) > 1:
            yield title(node), f"{len(scales)} scales among {len(node.input)} operands"


def qdq_before_activation(net: Net) -> Iterator[Place]:
    for quantizer in net.quantizers.values():
        producer = net.producer.get(quantizer.node.input[0])
        if quantizer.node.op_type != QUANTIZE or producer is None or producer.op_type not in WEIGHTED:
            continue
        readers = net.after(quantizer.node.output[0], lambda node: node.op_type == DEQUANTIZE)
        kinds = [reader.op_type for reader in readers if reader.op_type in ACTIVATIONS]
        if kinds:
            yield quantizer.name, f"stands between {title(producer)} and its {kinds[0]}"


def residual_placement(net: Net) -> Iterator[Place]:
    for node in net.of_type("Add"):
        if any(net.is_constant(name) for name in node.input):
            continue
        dequantizers = [net.quantizer(name, DEQUANTIZE) for name in node.input]
        sources = [node for name in node.input for node in net.before(name, _is_quantizer)]
        direct = [source for source in sources if source.op_type == "Conv"]
        if direct and all(dequantizers):
            yield title(node), f"the result of {title(direct[0])} is quantized before the addition"


def few_channels(net: Net) -> Iterator[Place]:
    for node in net.of_type("Conv"):
        shape = net.shapes.get(node.input[1])
        if shape is None or len(shape) != 4 or not _runs_on_codes(net, node):
            continue
        inputs, outputs = shape[1] * (attribute(node, "group") or 1), shape[0]
        if min(inputs, outputs) < FEW_CHANNELS:
            yield title(node), f"{inputs} input and {outputs} output channels on integers"


def float_islands(net: Net) -> Iterator[Place]:
    for node in net.weighted():
        if net.quantizer(node.input[0], DEQUANTIZE) is not None or net.quantizer(node.input[1], DEQUANTIZE) is not None:
            continue
        before = net.before(node.input[0], _is_unweighted)
        after = net.after(node.output[0], _is_unweighted)
        if before and after and all(_runs_on_codes(net, other) for other in (*before, *after)):
            yield title(node), f"float between {title(before[0])} and {title(after[0])} on integers"


def _is_unweighted(node: NodeProto) -> bool:
    return node.op_type not in WEIGHTED


def unfused_convolution(net: Net) -> Iterator[Place]:
    for node in net.of_type("Conv"):
        readers = net.readers.get(node.output[0], ())
        if _runs_on_codes(net, node) and any(reader.op_type != QUANTIZE for reader in readers):
            kinds = ", ".join(sorted({reader.op_type for reader in readers}))
            yield title(node), f"its result goes to {kinds} instead of QuantizeLinear"


def unfused_gate(net: Net) -> Iterator[Place]:
    for node in net.of_type("Mul"):
        gates = [net.producer.get(name) for name in node.input]
        for gate, other in zip(gates, reversed(node.input), strict=True):
            dequantized = net.quantizer(other, DEQUANTIZE) is not None
            if gate is not None and gate.op_type == "Sigmoid" and dequantized:
                yield title(node), f"the result of {title(gate)} is multiplied in float"
