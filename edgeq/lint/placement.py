"""Checks of where quantizers stand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from onnx import NodeProto

from edgeq.lint.finding import Place
from edgeq.lint.net import DEQUANTIZE, MOVING, QUANTIZE, WEIGHTED, Net, integer, title

ACTIVATIONS = (
    "Relu", "Clip", "LeakyRelu", "Elu", "HardSwish", "HardSigmoid", "Sigmoid", "Tanh", "Gelu", "Mish", "Selu",
)  # fmt: skip
BOUNDED = ("Sigmoid", "Softmax", "HardSigmoid")
_TRANSPARENT = (*MOVING, QUANTIZE, DEQUANTIZE)
Ends = tuple[Iterable[str], Iterable[str]]
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
    origins = _eight_bit_origins(net)
    for node in net.weighted():
        if node.input[1] in origins:
            yield title(node), f"its weight comes from the 8-bit {origins[node.input[1]]} without DequantizeLinear"


def _eight_bit_origins(net: Net) -> dict[str, str]:
    """Tensors that operators other than quantizers make from an 8-bit constant, with that constant."""
    origins: dict[str, str] = {}
    for node in net.nodes:
        for name in node.input:
            array = net.constant(name) if name not in origins else None
            if array is not None and array.dtype in (np.int8, np.uint8):
                origins[name] = name
        found = next((origins[name] for name in node.input if name in origins), None)
        if found is not None and not _is_quantizer(node):
            origins.update(dict.fromkeys(node.output, found))
    return origins


def per_tensor_weights(net: Net) -> Iterator[Place]:
    for node in net.weighted():
        weight = net.quantizer(node.input[1], DEQUANTIZE)
        shape = net.shapes.get(node.input[1], ())
        if weight is not None and weight.scale is not None and weight.scale.size == 1 and max(shape, default=1) > 1:
            yield title(node), f"one scale for a weight of shape {shape}"


def dynamic_weights(net: Net) -> Iterator[Place]:
    for node in net.of_type("Conv", "ConvTranspose"):
        if not net.is_constant(node.input[1]):
            yield title(node), f"its weight {node.input[1]} is computed at run time"


def bias_qdq(net: Net) -> Iterator[Place]:
    for node in net.of_type("Conv", "ConvTranspose", "Gemm"):
        if len(node.input) > 2 and net.quantizer(node.input[2], DEQUANTIZE) is not None:
            yield title(node), f"its bias {node.input[2]} comes from DequantizeLinear"


def boxes_and_scores(net: Net) -> Iterator[Place]:
    bounded, steps = _bounded(net), _steps(net)
    for node in net.of_type("Concat"):
        found = [name in bounded for name in node.input]
        step = steps.get(node.output[0], 0.0)
        if any(found) and not all(found) and step > COARSE_SCORE_STEP:
            yield title(node), f"joins scores in 0 … 1 with other numbers; both get steps of {step:.3g}"


def _bounded(net: Net) -> set[str]:
    """Tensors that hold results of a sigmoid or softmax which were only moved since."""
    found: set[str] = set()
    for node in net.nodes:
        moved = [name for name in node.input if not net.is_constant(name)]
        if node.op_type in BOUNDED or (node.op_type in _TRANSPARENT and moved and found.issuperset(moved)):
            found.update(node.output)
    return found


def _steps(net: Net) -> dict[str, float]:
    """Scale of the quantizer behind each tensor, seen through operators that only move elements."""
    found: dict[str, float] = {}
    for node in reversed(net.nodes):
        step = next((found[name] for name in node.output if name in found), None) if node.op_type in MOVING else None
        if node.op_type == QUANTIZE:
            scale = net.quantizers[node.output[0]].scale
            step = float(scale.reshape(-1)[0]) if scale is not None and scale.size == 1 else None
        if step is not None and node.input:
            found.update(dict.fromkeys(node.input[:1] if node.op_type != "Concat" else node.input, step))
    return found


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
        inputs, outputs = shape[1] * (integer(node, "group") or 1), shape[0]
        if min(inputs, outputs) < FEW_CHANNELS:
            yield title(node), f"{inputs} input and {outputs} output channels on integers"


def float_islands(net: Net) -> Iterator[Place]:
    before = _neighbours(net, net.nodes, lambda node: (node.input, node.output))
    after = _neighbours(net, net.nodes[::-1], lambda node: (node.output, node.input))
    for node in net.weighted():
        if any(net.quantizer(name, DEQUANTIZE) is not None for name in node.input[:2]):
            continue
        first, second = before.get(node.input[0]), after.get(node.output[0])
        if first and second:
            yield title(node), f"float between {first} and {second} on integers"


def _neighbours(net: Net, nodes: Sequence[NodeProto], ends: Callable[[NodeProto], Ends]) -> dict[str, str]:
    """For each tensor the weighted operator nearest to it along `nodes`; "" where one of several is float."""
    found: dict[str, str] = {}
    for node in nodes:
        near, far = ends(node)
        if node.op_type in WEIGHTED:
            names = [title(node) if _runs_on_codes(net, node) else ""]
        else:
            names = [found[name] for name in near if name in found]
        for name in far if names else ():
            found[name] = "" if "" in (*names, found.get(name)) else names[0]
    return found


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
