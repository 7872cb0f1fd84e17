"""TFLite files, written directly: the float graph for baselines, the lowered graph as integer kernels.

An accumulating operator and what settles it become one kernel (edgeq/emit/tflite_kernels.py), reals are dequantized
only where something reads them, and every tensor lies in NHWC or in whatever order needs no movement
(edgeq/emit/tflite_values.py). Inputs and outputs of four axes are NHWC; all have the model's own names. The same graph
gives the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path

from edgeq import __version__
from edgeq.emit.artifact import MANIFEST, Artifact, digests, to_json, write_files
from edgeq.emit.tflite_boxes import box_scales, divided
from edgeq.emit.tflite_kernels import (
    write_dequantize,
    write_kernel,
    write_lookup,
    write_quantize,
    write_recode,
)
from edgeq.emit.tflite_layout import port_layout, stored_shape
from edgeq.emit.tflite_metadata import METADATA_BUFFER, RECORD_BUFFER, Port, archive, task_library_metadata
from edgeq.emit.tflite_movement import write_movement
from edgeq.emit.tflite_reals import write_real
from edgeq.emit.tflite_values import Values, element_of, quantization_of
from edgeq.emit.tflite_writer import Index
from edgeq.errors import UnsupportedError
from edgeq.formats import bits_of
from edgeq.frontend.tflite_boxes import Scaled
from edgeq.ir import ops as o
from edgeq.ir.bounds import accumulates, is_codes
from edgeq.ir.file import digest
from edgeq.ir.graph import Graph
from edgeq.reference.tflite import Accumulating
from edgeq.target import Ports, Target


def emit(
    graph: Graph,
    target: Target,
    folder: Path,
    stem: str,
    metadata: Mapping[str, object],
    manifest: Mapping[str, object],
    more_files: Mapping[str, bytes] | None = None,
) -> Artifact:
    """Write `<stem>_<format>.tflite` (the float baseline: `<stem>.tflite`) and manifest.json.

    `metadata` follows the flatbuffer as JSON, and describes ports and labels for the Task library. Raises
    UnsupportedError for what TFLite cannot hold, naming the value, and OutputError if the folder cannot be written;
    nothing is left behind then.
    """
    name = f"{stem}_{target.name.rpartition('-')[2]}.tflite" if target.is_integer else f"{stem}.tflite"
    scales = box_scales(graph, metadata)
    values = write_graph(divided(graph, scales), target.ports, target.tabulated)
    described = {**metadata, **_own_properties(graph, target)}
    content = finish(values, described, scales) + archive(described)
    files = {name: content, **(more_files or {})}
    files[MANIFEST] = to_json({**manifest, "files": digests(files)})
    write_files(folder, files)
    return Artifact(target.name, folder, digests(files), folder / name, tensors_of(values), code_bits=16)


def _own_properties(graph: Graph, target: Target) -> dict[str, str]:
    return {"edgeq.version": __version__, "edgeq.target": target.name, "edgeq.graph_sha256": digest(graph)}


def build_model(
    graph: Graph, ports: Ports = "real", tabulated: Collection[o.FunctionName] = ()
) -> tuple[bytes, dict[o.Value, str]]:
    """The flatbuffer of a real or lowered graph without metadata, and the tensor that holds each of its values."""
    values = write_graph(graph, ports, tabulated)
    return finish(values, {}), tensors_of(values)


def tensors_of(values: Values) -> dict[o.Value, str]:
    """Name of the tensor that holds each value; values that kernels keep to themselves are absent."""
    return {value: values.file.tensor_name(tensor) for value, tensor in values.stored.items()}


def finish(values: Values, metadata: Mapping[str, object], scales: Mapping[o.Value, Scaled] | None = None) -> bytes:
    """The flatbuffer, with the record of its tensors, of divided outputs and, if there is `metadata`, that."""
    graph, file = values.graph, values.file
    inputs = {name: values.ports[name] for name in graph.inputs}
    outputs = {name: values.ports[name] for name in graph.outputs}
    reals = [name for name in (*graph.inputs, *graph.outputs) if graph.types[name].is_real and values.holds_codes(name)]
    divisors = {name: scaled.document() for name, scaled in (scales or {}).items()}
    record = {"layouts": values.layouts(), "reals": reals, "divided": divisors}
    file.metadata(RECORD_BUFFER, json.dumps(record, sort_keys=True).encode())
    if metadata:
        fed, given = (
            [Port(name, image=len(values.shape(name)) == 4) for name in names]
            for names in (graph.inputs, graph.outputs)
        )
        file.metadata(METADATA_BUFFER, task_library_metadata(graph.name, fed, given, metadata))
    return file.to_bytes(inputs, outputs, f"edgeq {__version__}")


# --- the graph ----------------------------------------------------------------------------------------------------


def write_graph(graph: Graph, ports: Ports, tabulated: Collection[o.FunctionName] = ()) -> Values:
    """Every operator of `graph` in a file. Raises UnsupportedError for what TFLite cannot hold."""
    v = Values(graph, tabulated)
    for name in graph.inputs:
        _input(name, ports, v)
    for op in graph.ops:
        if o.results(op)[0] not in v.home:
            _write(op, v)
    for name in graph.outputs:
        v.ports[name] = _output(name, ports, v)
    return v


def _input(name: o.Value, ports: Ports, v: Values) -> None:
    """A port of the file: reals, or the codes that everything reads."""
    value = name
    reader = v.graph.sole_consumer(name)
    if ports == "codes" and isinstance(reader, o.Quantize):
        value = reader.out
    type_, layout = v.type(value), port_layout(len(v.shape(name)))
    shape = stored_shape(type_.shape, layout)
    tensor = v.file.tensor(name, shape, element_of(type_, name), quantization_of(type_, layout))
    v.place(value, tensor, layout)
    v.ports[name] = tensor


def _output(name: o.Value, ports: Ports, v: Values) -> Index:
    value = name
    producer = v.graph.producer.get(name)
    if ports == "codes" and isinstance(producer, o.Dequantize):
        value = producer.x
    layout = port_layout(len(v.shape(value)))
    tensor = v.read(value, layout)
    taken = {v.ports[other] for other in v.ports}
    if tensor in taken or v.is_constant(value):
        own = v.temporary(value, f"{name}.copy", stored_shape(v.shape(value), layout))
        v.reshape(tensor, own)
        return own
    return tensor


def _write(op: o.Op, v: Values) -> None:
    out = o.results(op)[0]
    match op:
        case o.Quantize():
            write_quantize(op, v)
        case o.Dequantize():
            v.later(out, lambda: write_dequantize(op, v))
        case o.Requantize() | o.DivideCodes():
            _settle(op, v)
        case o.Lookup():
            write_lookup(op, v)
        case _ if is_codes(v.type(out)):
            _write_on_codes(op, v)
        case _:
            write_real(op, v)


def _settle(op: o.Requantize | o.DivideCodes, v: Values) -> None:
    producer = v.graph.producer.get(op.x)
    if isinstance(producer, Accumulating) and accumulates(producer):
        write_kernel(producer, op, v)
    elif isinstance(op, o.Requantize) and not _is_addend(op, v):
        write_recode(op, v)


def _is_addend(op: o.Requantize, v: Values) -> bool:
    """Whether `op` makes no codes of its own but an operand of a sum, which its kernel does inside."""
    return bits_of(v.type(op.out).format) >= 32


def _write_on_codes(op: o.Op, v: Values) -> None:
    match op:
        case _ if accumulates(op):
            _check_settled(op, v)
        case (
            o.MaxPool() | o.Concat() | o.Slice() | o.Pad() | o.Reshape() | o.Transpose() | o.Expand() | o.Resize()
            | o.Gather() | o.GatherElements()
        ):  # fmt: skip
            write_movement(op, v)
        case _:
            raise UnsupportedError(
                "TFLite has no such operator on codes", where=o.results(op)[0], value=type(op).__name__
            )


def _check_settled(op: o.Op, v: Values) -> None:
    """Nothing but requantizations may read an accumulator, which no file holds."""
    out = o.results(op)[0]
    readers = v.graph.consumers.get(out, ())
    if out in v.graph.outputs or not all(isinstance(reader, o.Requantize | o.DivideCodes) for reader in readers):
        raise UnsupportedError("TFLite has no tensors of accumulators", where=out, next_step="Requantize it first.")
