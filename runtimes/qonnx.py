"""QONNX files on this machine: Quant and FloatQuant replaced by their definition, the rest run by ONNX Runtime.

A Quant node becomes the standard nodes that QONNX 1.0 defines it by; a FloatQuant node, which stands on a constant in
files that are read here, is evaluated when the file is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgeq.errors import UnsupportedError, UsageError
from edgeq.runtimes.latency import MEASURED_RUNS, WARM_UP_RUNS, Latency
from edgeq.runtimes.onnxruntime import OnnxRuntime

Array = NDArray[np.generic]
Doubles = NDArray[np.float64]

DOMAIN = "qonnx.custom_op.general"
Grid = tuple[float, float, bool]
"""Scale, zero point and sign of the codes of a tensor."""


class QonnxRuntime:
    """A loaded file, with the surface of OnnxRuntime; it checks numbers, and its time says nothing of any device.

    Raises UsageError for a missing file and UnsupportedError for QONNX operators other than Quant with half-even
    rounding and FloatQuant of a constant.
    """

    name = "QONNX by its definition"
    is_timed = False

    def __init__(self, source: str | Path | bytes, *, threads: int | None = None, watched: Iterable[str] = ()) -> None:
        if not isinstance(source, bytes) and not Path(source).is_file():
            raise UsageError("there is no such ONNX file", value=source)
        self._content = source if isinstance(source, bytes) else Path(source).read_bytes()
        model = ModelProto.FromString(self._content)
        self._grids = _to_standard(model.graph)
        runtime = OnnxRuntime(model.SerializeToString(), threads=threads)
        self.threads, self.inputs, self.outputs = runtime.threads, runtime.inputs, runtime.outputs
        self.input_shapes, self.output_shapes = runtime.input_shapes, runtime.output_shapes
        self.metadata = runtime.metadata
        self._watched = frozenset(watched) - set(self.outputs)
        self._runtime = runtime.watching(self._watched) if self._watched else runtime

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name, and codes of watched tensors that Quant nodes compute. Raises UsageError for wrong inputs."""
        found = self._runtime.run(inputs)
        return {name: self._codes(name, x) if name in self._watched else x for name, x in found.items()}

    def _codes(self, name: str, reals: Array) -> Array:
        if name not in self._grids:
            return reals
        scale, zero, signed = self._grids[name]
        codes: Array = (np.rint(reals.astype(np.float64) / scale) + zero).astype(np.int8 if signed else np.uint8)
        return codes

    def stored(self, name: str, array: Array) -> Array:
        """`array` as the file takes it at an input."""
        return self._runtime.stored(name, array)

    def given(self, name: str, array: Array) -> Array:
        """What the file gave at an output, as the model has it: the same."""
        return array

    def watching(self, tensors: Iterable[str]) -> QonnxRuntime:
        """The same file that also gives `tensors`."""
        return QonnxRuntime(self._content, threads=self.threads, watched=tensors)

    def latency(
        self, inputs: Mapping[str, Array], *, runs: int = MEASURED_RUNS, warm_up: int = WARM_UP_RUNS
    ) -> Latency:
        """Wall-clock latency of this evaluation."""
        return self._runtime.latency(inputs, runs=runs, warm_up=warm_up)

    def call(self, inputs: Mapping[str, Array]) -> Callable[[], object]:
        """One run on `inputs`, checked beforehand, as a function to be timed."""
        return self._runtime.call(inputs)


def is_qonnx(path: Path) -> bool:
    """Whether an ONNX file uses QONNX operators."""
    try:
        return any(entry.domain == DOMAIN for entry in ModelProto.FromString(path.read_bytes()).opset_import)
    except (OSError, ValueError):
        return False
    except Exception as error:  # protobuf's DecodeError: no ONNX file, which the reader that follows says better
        if type(error).__name__ != "DecodeError":
            raise
        return False


def _to_standard(graph: GraphProto) -> dict[str, Grid]:
    """Replace the QONNX nodes of `graph`; the grids of the tensors that Quant nodes of one scale compute."""
    constants = {t.name: t for t in graph.initializer}
    grids: dict[str, Grid] = {}
    nodes: list[NodeProto] = []
    for node in graph.node:
        if node.domain != DOMAIN:
            nodes.append(node)
            continue
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        parameters = [_numbers(name, constants, node) for name in node.input[1:]]
        if attributes.get("rounding_mode", b"ROUND") not in (b"ROUND", b"HALF_EVEN"):
            raise UnsupportedError("only half-even rounding is evaluated here", where=node.output[0])
        if node.op_type == "Quant":
            nodes += _quant(graph, node, parameters, attributes)
            if parameters[0].size == 1:
                scale, zero = float(parameters[0].reshape(())), float(parameters[1].reshape(()))
                grids[node.output[0]] = (scale, zero, bool(attributes["signed"]))
        elif node.op_type == "FloatQuant":
            found = float_quant(_numbers(node.input[0], constants, node), *parameters)
            graph.initializer.append(numpy_helper.from_array(found.astype(np.float32), node.output[0]))
        else:
            raise UnsupportedError("this QONNX operator is not evaluated here", where=node.name, value=node.op_type)
    del graph.node[:]
    graph.node.extend(nodes)
    return grids


def _numbers(name: str, constants: Mapping[str, TensorProto], node: NodeProto) -> Doubles:
    if name not in constants:
        raise UnsupportedError("a QONNX node's parameter is not a constant", where=node.name, value=name)
    return numpy_helper.to_array(constants[name]).astype(np.float64)


def _quant(
    graph: GraphProto, node: NodeProto, parameters: list[Doubles], attributes: Mapping[str, object]
) -> list[NodeProto]:
    """scale (round(clip(x / scale + zero, low, high)) - zero) as standard nodes."""
    bits, signed = int(parameters[2].reshape(())), bool(attributes["signed"])
    high = (1 << (bits - 1)) - 1 if signed else (1 << bits) - 1 - int(bool(attributes["narrow"]))
    low = -high - 1 + int(bool(attributes["narrow"])) if signed else 0
    out = node.output[0]
    for end, number in (("low", low), ("high", high)):
        graph.initializer.append(numpy_helper.from_array(np.array(number, np.float32), f"{out}/{end}"))
    steps = [
        ("Div", [node.input[0], node.input[1]]), ("Add", [f"{out}/0", node.input[2]]),
        ("Clip", [f"{out}/1", f"{out}/low", f"{out}/high"]), ("Round", [f"{out}/2"]),
        ("Sub", [f"{out}/3", node.input[2]]), ("Mul", [f"{out}/4", node.input[1]]),
    ]  # fmt: skip
    return [
        helper.make_node(kind, inputs, [out if k == len(steps) - 1 else f"{out}/{k}"])
        for k, (kind, inputs) in enumerate(steps)
    ]


def float_quant(
    x: Doubles, scale: Doubles, exponent: Doubles, mantissa: Doubles, bias: Doubles, largest: Doubles
) -> Doubles:
    """The nearest number of the minifloat to x / scale (ties to even, saturating at `largest`), times scale.

    Numbers lie 2^(max(floor(log2 |x|), 1 - bias) - mantissa) apart; `exponent` bits limit them to
    2^(2^exponent - 1 - bias) (2 - 2^-mantissa).
    """
    real = x / scale
    binade = np.maximum(np.frexp(real)[1] - 1, 1 - bias) - mantissa
    step = np.exp2(binade.astype(np.float64))
    top = min(float(np.exp2(np.exp2(exponent) - 1 - bias) * (2 - np.exp2(-mantissa))), float(largest))
    found: Doubles = np.clip(np.rint(real / step) * step, -top, top) * scale
    return found
