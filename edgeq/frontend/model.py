"""Opening a model, whatever it is: one graph of reals, and what its file says about it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edgeq import zoo
from edgeq.errors import UnsupportedError, UsageError
from edgeq.frontend.onnx import import_onnx
from edgeq.frontend.onnx_load import load_model
from edgeq.frontend.tflite import import_tflite
from edgeq.frontend.tflite_file import TfliteFile, read_tflite
from edgeq.frontend.tflite_record import read_record
from edgeq.ir.graph import Graph, Type
from edgeq.passes.factors import multiplied

ZOO = "zoo:"
PREPROCESS_KEY = "edgeq.preprocess"
_TORCH_SUFFIXES = (".pt", ".pth", ".th", ".safetensors", ".pt2")


@dataclass(frozen=True)
class Model:
    """`graph` is real and not yet simplified; `metadata` is the file's, as text; `preprocess` what it declares."""

    name: str
    graph: Graph
    digest: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    preprocess: Mapping[str, Any] | None = None


def parse_size(text: str | None) -> tuple[int, int] | None:
    """(height, width) of `640` or `384x640`; raises UsageError.

    >>> parse_size("640"), parse_size("384x640")
    ((640, 640), (384, 640))
    """
    if text is None:
        return None
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(_is_side(side) for side in sides):
        raise UsageError("cannot read the input size", value=text, allowed="640 or 384x640 (height x width)")
    return int(sides[0]), int(sides[-1])


def _is_side(text: str) -> bool:
    return text.isascii() and text.isdigit() and 0 < int(text) <= 1 << 15


def open_model(source: str, *, imgsz: str | None = None, arch: str | None = None, trust_pickle: bool = False) -> Model:
    """The model at a path (ONNX, TFLite, or what torch and Ultralytics write) or `zoo:NAME`.

    Raises UsageError for what is not there, UnsupportedError for what cannot be read, UntrustedInputError for a file
    that could run code.
    """
    size = parse_size(imgsz)
    if source.startswith(ZOO):
        path = zoo.path(source.removeprefix(ZOO))
    else:
        path = Path(source)
        if not path.is_file():
            raise UsageError("no such model", where=source, next_step="Give a file, or zoo:" + "|".join(zoo.names()))
    if path.suffix == ".edgeq":
        raise UnsupportedError(
            "a graph that edgeq wrote is an artifact, not a model to start from", where=source,
            next_step="Give the model that it was made from.",
        )  # fmt: skip
    if path.suffix == ".tflite":
        return _tflite(path, size)
    if path.suffix in _TORCH_SUFFIXES:
        return _torch(path, size, arch, trust_pickle)
    return _onnx(path.stem, path, path.read_bytes(), size)


def ports_of(
    name: str,
    inputs: Mapping[str, tuple[int, ...]],
    outputs: Mapping[str, tuple[int, ...]],
    metadata: Mapping[str, str],
) -> Model:
    """A written artifact as a model without operators: its ports and its metadata, as its runtime tells them."""
    types = {port: Type(shape) for port, shape in {**inputs, **outputs}.items()}
    ports = Graph(name, tuple(inputs), tuple(outputs), (), types)
    return Model(name, ports, "", metadata, _declared_preprocess(metadata))


def _tflite(path: Path, size: tuple[int, int] | None) -> Model:
    content = path.read_bytes()
    file = read_tflite(content)
    graph = import_tflite(file, name=path.stem)
    if not any(tensor.is_quantized for tensor in file.tensors):
        graph = in_pixels(graph, file)
    shapes = [graph.types[name].shape for name in graph.inputs]
    if size is not None and any(len(shape) == 4 and shape[2:] != size for shape in shapes):
        raise UsageError("the input of a .tflite file has a fixed size", where=path, value=size, allowed=shapes)
    return Model(path.stem, graph, _sha256(content), file.metadata, _declared_preprocess(file.metadata))


def in_pixels(graph: Graph, file: TfliteFile) -> Graph:
    """`graph` of `file` with what the file divides, a detector's boxes, as the model has it: where outputs are reals."""
    divided = read_record(file).divided
    factors = {name: (item["axis"], np.array(item["factors"], np.float32)) for name, item in divided.items()}
    return multiplied(
        graph, {x: by for x, by in factors.items() if x in graph.outputs and graph.types[x].is_real}, "fractions"
    )


def _torch(path: Path, size: tuple[int, int] | None, arch: str | None, trust_pickle: bool) -> Model:
    from edgeq.frontend import torch_file  # torch's exporters take seconds to import

    exported = torch_file.load(path, arch=arch, imgsz=size, trust_pickle=trust_pickle)
    return _model(path.stem, import_onnx(exported.proto), exported.proto, _sha256(path.read_bytes()))


def _onnx(name: str, path: Path, content: bytes, size: tuple[int, int] | None) -> Model:
    proto = load_model(path)
    graph = import_onnx(proto, input_shapes=_image_shapes(proto, size) if size else None)
    return _model(name, graph, proto, _sha256(content))


def _image_shapes(proto: onnx.ModelProto, size: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    """Shapes [1, C, H, W] of the inputs that look like images, with the side lengths asked for."""
    weights = {tensor.name for tensor in proto.graph.initializer}
    shapes: dict[str, tuple[int, ...]] = {}
    for port in proto.graph.input:
        sizes = port.type.tensor_type.shape.dim
        if port.name not in weights and len(sizes) == 4:
            shapes[port.name] = (1, sizes[1].dim_value or 3, *size)
    return shapes


def _model(name: str, graph: Graph, proto: onnx.ModelProto, digest: str) -> Model:
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    return Model(name, graph, digest, metadata, _declared_preprocess(metadata))


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _declared_preprocess(metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """What the file says of its input: edgeq's own key, or Ultralytics' fixed conventions by task."""
    if PREPROCESS_KEY in metadata:
        try:
            declared = json.loads(metadata[PREPROCESS_KEY])
        except ValueError:
            return None
        return declared if isinstance(declared, dict) else None
    if "stride" not in metadata or "names" not in metadata:
        return None
    if metadata.get("task") == "classify":
        return {"size": [224, 224], "resize": "crop", "interpolation": "bilinear-antialias"}
    return {"size": [640, 640]}
