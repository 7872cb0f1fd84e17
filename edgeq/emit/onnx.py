"""ONNX files: the float graph for baselines, the lowered graph as Q/DQ for TensorRT and for ONNX Runtime.

Both runtimes read the same language, with different tastes (edgeq/emit/onnx_codes.py). The file has float inputs and
outputs with the model's own names, the oldest operator set that holds its operators, no external data, metadata that
Ultralytics' loader understands, and the same bytes for the same graph.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto, ValueInfoProto, checker, helper
from onnx.onnx_cpp2py_export.checker import ValidationError
from onnx.onnx_cpp2py_export.shape_inference import InferenceError
from onnx.shape_inference import infer_shapes

from edgeq import __version__
from edgeq.emit.artifact import MANIFEST, Artifact, digests, to_json, write_files
from edgeq.emit.onnx_codes import write_op
from edgeq.emit.onnx_writer import Runtime, Tensor, Writer, is_narrow, storage
from edgeq.emit.trtexec import BUILD_SCRIPT, build_script
from edgeq.errors import EdgeqError, UnsupportedError
from edgeq.formats import BOOL, Format, Real
from edgeq.ir import ops as o
from edgeq.ir.file import digest
from edgeq.ir.graph import Graph
from edgeq.target import Target

IR_VERSIONS = {13: 7, 14: 7, 15: 8, 16: 8, 17: 8, 21: 10}
LARGEST_FILE_BYTES = (1 << 31) - 1


def emit(
    graph: Graph,
    target: Target,
    folder: Path,
    stem: str,
    metadata: Mapping[str, object],
    manifest: Mapping[str, object],
    more_files: Mapping[str, bytes] | None = None,
) -> Artifact:
    """Write `<stem>_int8.onnx` (QONNX: `<stem>_qonnx.onnx`, float baselines: `<stem>.onnx`), manifest.json and, for a Jetson, build_engine.sh.

    `metadata` becomes the file's properties, each value as str() of it; `more_files` go into the folder. Raises
    UnsupportedError for what ONNX cannot hold, naming the value, and OutputError if the folder cannot be written;
    nothing is left behind then.
    """
    runtime: Runtime = target.runtime if target.runtime in ("tensorrt", "qonnx") else "onnxruntime"
    name = f"{stem}_{'qonnx' if runtime == 'qonnx' else 'int8'}.onnx" if target.is_integer else f"{stem}.onnx"
    model, tensors = build_model(graph, runtime)
    set_properties(model, {**metadata, **_own_properties(graph, target, manifest)})
    files = {name: to_bytes(model), **(more_files or {})}
    if runtime == "tensorrt":
        files[BUILD_SCRIPT] = build_script(name, stem, target.precision).encode()
    files[MANIFEST] = to_json({**manifest, "files": digests(files)})
    write_files(folder, files, executable=frozenset({BUILD_SCRIPT}))
    commands = [f"sh {folder / BUILD_SCRIPT}   # on the Jetson"] if BUILD_SCRIPT in files else []
    return Artifact(target.name, folder, digests(files), folder / name, tensors, next_commands=commands)


def build_model(graph: Graph, runtime: Runtime) -> tuple[ModelProto, dict[o.Value, Tensor]]:
    """The checked ONNX model of a real or lowered graph, and the tensor that holds each of its values.

    Values that the file folds into their neighbours have no tensor. Raises UnsupportedError.
    """
    w = Writer(graph, runtime)
    for op in graph.ops:
        write_op(op, w)
    _name_outputs(w)
    model = helper.make_model(
        helper.make_graph(
            w.nodes,
            graph.name or "graph",
            [_port(name, graph) for name in graph.inputs],
            [_port(name, graph) for name in graph.outputs],
            list(w.initializers.values()),
            value_info=[_shaped(value, graph) for value in w.tensors if w.domains and _is_inside(value, graph)],
        ),
        opset_imports=[helper.make_opsetid(domain, version) for domain, version in {"": w.opset, **w.domains}.items()],
        ir_version=IR_VERSIONS[w.opset],
        producer_name="edgeq",
        producer_version=__version__,
    )
    _check(model)
    return model, w.tensors


def _element(format: Format) -> int:
    if isinstance(format, Real):
        return TensorProto.FLOAT
    return TensorProto.BOOL if format == BOOL else TensorProto.INT64


def _port(name: o.Value, graph: Graph) -> ValueInfoProto:
    type_ = graph.types[name]
    if is_narrow(type_):
        element = TensorProto.INT8 if storage(type_) is np.int8 else TensorProto.UINT8
        return helper.make_tensor_value_info(name, element, type_.shape)
    if type_.scale:
        raise UnsupportedError("inputs and outputs are real or 8-bit codes", where=name, value=type_.format)
    return helper.make_tensor_value_info(name, _element(type_.format), type_.shape)


def _is_inside(value: o.Value, graph: Graph) -> bool:
    return value in graph.producer and value not in graph.outputs


def _shaped(name: o.Value, graph: Graph) -> ValueInfoProto:
    """The shape of a value, which nothing infers behind operators of other domains."""
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, graph.types[name].shape)


def _name_outputs(w: Writer) -> None:
    """Give each output of the graph its own name, where its tensor is that of another value."""
    for output in w.graph.outputs:
        tensor = w.codes(output) if is_narrow(w.type(output)) else w.real(output)
        if tensor == output:
            continue
        fixed = tensor in w.graph.inputs or tensor in w.initializers or tensor in w.graph.outputs
        if fixed:
            w.node("Identity", [tensor], output)
        else:
            w.rename(tensor, output)


def _check(model: ModelProto) -> None:
    try:
        checker.check_model(model)
        infer_shapes(model, check_type=True, strict_mode=True)
    except (ValidationError, InferenceError) as error:
        raise EdgeqError("the emitted ONNX file is not valid", value=error) from error


def set_properties(model: ModelProto, properties: Mapping[str, object]) -> None:
    """Replace the metadata of a model; values are written as str() of them, text as it is."""
    del model.metadata_props[:]
    helper.set_model_props(model, {key: str(value) for key, value in properties.items()})


def _own_properties(graph: Graph, target: Target, manifest: Mapping[str, object]) -> dict[str, str]:
    return {
        "edgeq.version": __version__,
        "edgeq.target": target.name,
        "edgeq.graph_sha256": digest(graph),
        "edgeq.manifest": json.dumps(manifest, sort_keys=True, ensure_ascii=False, default=str),
    }


def to_bytes(model: ModelProto) -> bytes:
    """The file, byte for byte the same for the same model. Raises UnsupportedError from 2 GiB on."""
    if model.ByteSize() > LARGEST_FILE_BYTES:
        raise UnsupportedError("the ONNX file would exceed 2 GiB", value=model.ByteSize())
    content: bytes = model.SerializeToString(deterministic=True)
    return content
