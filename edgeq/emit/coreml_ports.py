"""Inputs and outputs of a CoreML file: an image where the preprocessing can be part of the program, arrays otherwise.

The program starts from what an app hands over, pixels 0 … 255, and computes (pixel scale - mean) / std itself, in
float32. Resizing stays with the app. Every port says in the file's metadata which value of the model it is, and how a
value that the model expects becomes what the port takes: port = value * scale + shift, per channel.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeq.emit.coreml_program import Tensor
from edgeq.emit.coreml_schema import ARRAY_TYPES, COLOR_SPACES, FeatureDescription
from edgeq.emit.coreml_writer import Writer, is_narrow
from edgeq.errors import UnsupportedError
from edgeq.ir import ops as o

PREPROCESS_KEY = "edgeq.preprocess"
PORTS_KEY = "edgeq.ports"
IMAGE = "image"


@dataclass(frozen=True)
class Port:
    """An input or output `feature` of the file that stands for `value` of the model."""

    value: o.Value
    feature: str
    shape: tuple[int, ...]
    dtype: str
    color: str | None = None
    scale: tuple[float, ...] = (1.0,)
    shift: tuple[float, ...] = (0.0,)

    def description(self) -> FeatureDescription:
        """As the file describes its ports."""
        found = FeatureDescription(name=self.feature)
        if self.color:
            image = found.type.imageType
            image.height, image.width, image.colorSpace = *self.shape[2:], COLOR_SPACES[self.color]
        else:
            array = found.type.multiArrayType
            array.shape.extend(self.shape)
            array.dataType = ARRAY_TYPES[self.dtype]
        return found

    def document(self) -> dict[str, object]:
        """As plain JSON values."""
        return {
            "value": self.value, "feature": self.feature, "scale": list(self.scale), "shift": list(self.shift),
        }  # fmt: skip


def ports_text(inputs: list[Port], outputs: list[Port]) -> str:
    """What the metadata says of the ports."""
    return json.dumps(
        {"inputs": [port.document() for port in inputs], "outputs": [port.document() for port in outputs]}
    )


def write_inputs(w: Writer, metadata: Mapping[str, object]) -> list[Port]:
    """Declare the inputs of the graph and compute their values."""
    preprocess = _preprocess(w, metadata)
    if preprocess is not None:
        (value,) = w.graph.inputs
        port = _image(value, preprocess, w)
        return [port]
    ports = []
    for value in w.graph.inputs:
        dtype = w.dtype(value)
        if dtype == "bool" or is_narrow(w.type(value)):
            raise UnsupportedError("a CoreML input is real or an index", where=value, value=w.type(value).format)
        port = Port(value, w.input_ports[value], w.shape(value), "int32" if dtype == "int32" else "fp32")
        w.tensors[value] = _to_real(Tensor(port.feature, port.shape, port.dtype), value, w)
        ports.append(port)
    return ports


def _to_real(tensor: Tensor, value: o.Value, w: Writer) -> Tensor:
    dtype = w.dtype(value)
    if tensor.dtype == dtype:
        return tensor
    return w.op("cast", f"{value}_half", tensor.shape, dtype, x=tensor, dtype=dtype)


def _preprocess(w: Writer, metadata: Mapping[str, object]) -> dict[str, Any] | None:
    """The declared preprocessing, if the one input is an image that it applies to as it is."""
    text = metadata.get(PREPROCESS_KEY)
    if not isinstance(text, str) or len(w.graph.inputs) != 1:
        return None
    declared: dict[str, Any] = json.loads(text)
    shape = w.shape(w.graph.inputs[0])
    channels = 1 if declared.get("color") == "GRAY" else 3
    fits = (
        w.type(w.graph.inputs[0]).is_real
        and declared.get("layout", "NCHW") == "NCHW"
        and declared.get("color", "RGB") in COLOR_SPACES
        and shape == (1, channels, *declared["size"])
    )
    return declared if fits else None


def _image(value: o.Value, declared: dict[str, Any], w: Writer) -> Port:
    scale = float(declared.get("scale", 1 / 255))
    mean, std = (np.array(declared.get(key, [default]), np.float64) for key, default in (("mean", 0), ("std", 1)))
    factor, shift = scale / std, -mean / std
    feature = w.fresh(IMAGE)
    shape = w.shape(value)
    tensor = Tensor(feature, shape, "fp32")
    for kind, numbers, neutral in (("mul", factor, 1.0), ("add", shift, 0.0)):
        if (numbers != neutral).any():
            channels = numbers.reshape(1, -1, 1, 1) if len(set(numbers.tolist())) > 1 else numbers[0]
            operand = w.constant(channels, f"{feature}_{kind}", "fp32")
            tensor = w.op(kind, f"{value}_{kind}", shape, "fp32", x=tensor, y=operand)
    w.tensors[value] = _to_real(tensor, value, w)
    back = np.broadcast_arrays(1 / factor, -shift / factor)
    color = declared.get("color", "RGB")
    return Port(value, feature, shape, "fp32", color, tuple(back[0].tolist()), tuple(back[1].tolist()))


def write_outputs(w: Writer) -> list[Port]:
    """Bring every output of the graph to a port of its own name: float32 for reals, int32 for everything else."""
    ports = []
    for value in dict.fromkeys(w.graph.outputs):
        tensor = w.tensors[value] if is_narrow(w.type(value)) else w.real(value)
        dtype = "fp32" if tensor.dtype in ("fp16", "fp32") else "int32"
        feature = w.output_ports[value]
        if tensor.dtype == dtype:
            w.op("identity", feature, tensor.shape, dtype, feature, x=tensor)
        else:
            w.op("cast", feature, tensor.shape, dtype, feature, x=tensor, dtype=dtype)
        ports.append(Port(value, feature, tensor.shape, dtype))
    return ports
