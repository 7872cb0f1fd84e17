"""CoreML packages: the float graph, the graph with stored weights, or the lowered graph, as an ML program.

The program is written message by message, with our own integers, scales and tables, and read back before anything
reaches the folder: every constant must have become what was meant (edgeq/emit/coreml_proof.py). The same graph gives
the same bytes. No Apple package is needed.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from pathlib import Path

from edgeq import __version__
from edgeq.emit.artifact import MANIFEST, Artifact, digests, to_json, write_files
from edgeq.emit.coreml_ops import write_op
from edgeq.emit.coreml_ports import PORTS_KEY, Port, ports_text, write_inputs, write_outputs
from edgeq.emit.coreml_program import value_type
from edgeq.emit.coreml_proof import prove
from edgeq.emit.coreml_schema import Model
from edgeq.emit.coreml_writer import Writer
from edgeq.ir.file import digest
from edgeq.ir.graph import Graph
from edgeq.target import Target

SUFFIX = ".mlpackage"
MODEL_FILE, WEIGHTS_FILE = "Data/com.apple.CoreML/model.mlmodel", "Data/com.apple.CoreML/weights/weight.bin"
FIRST_SPECIFICATION, FIRST_OPSET, FIRST_IOS = 6, 5, 15
"""Version of the file and of its operators that iOS 15 introduced; each later system adds one to both."""

_AUTHOR = "com.apple.CoreML"
_METADATA_OF = {"shortDescription": "description", "versionString": "version", "author": "author", "license": "license"}


def emit(
    graph: Graph,
    target: Target,
    folder: Path,
    stem: str,
    metadata: Mapping[str, object],
    manifest: Mapping[str, object],
    more_files: Mapping[str, bytes] | None = None,
) -> Artifact:
    """Write `<stem>_<weights>.mlpackage` (float baselines: `<stem>.mlpackage`) and manifest.json.

    `metadata` becomes the file's user-defined metadata, each value as str() of it; `more_files` go into the folder.
    Raises UnsupportedError for what CoreML cannot hold, naming the value, AgreementError if the file does not hold
    what was meant, and OutputError if the folder cannot be written; nothing is left behind then.
    """
    name = f"{stem}{_kind(target)}{SUFFIX}"
    model, weights, w = build_model(graph, target, metadata, manifest)
    prove(model, weights, w)
    package = {MODEL_FILE: model, WEIGHTS_FILE: weights}
    package["Manifest.json"] = _package_manifest(package)
    files = {f"{name}/{path}": content for path, content in package.items()} | dict(more_files or {})
    files[MANIFEST] = to_json({**manifest, "files": digests(files)})
    write_files(folder, files)
    tensors = {value: tensor.name for value, tensor in w.tensors.items()}
    return Artifact(target.name, folder, digests(files), folder / name, tensors)


def _kind(target: Target) -> str:
    quantized = target.is_integer or target.stored_weights is not None
    return f"_{target.name.removeprefix('coreml-')}" if quantized else ""


def build_model(
    graph: Graph, target: Target, metadata: Mapping[str, object], manifest: Mapping[str, object]
) -> tuple[bytes, bytes, Writer]:
    """The model file, the weight file, and the writer that knows the tensor of each value. Raises UnsupportedError."""
    w = Writer(graph, target)
    inputs = write_inputs(w, metadata)
    for op in graph.ops:
        write_op(op, w)
    outputs = write_outputs(w)
    own = {
        "edgeq.version": __version__,
        "edgeq.target": target.name,
        "edgeq.graph_sha256": digest(graph),
        "edgeq.manifest": json.dumps(manifest, sort_keys=True, ensure_ascii=False, default=str),
        PORTS_KEY: ports_text(inputs, outputs),
    }
    model = Model(specificationVersion=FIRST_SPECIFICATION + target.ios - FIRST_IOS)
    _describe(model, inputs, outputs, {**metadata, **own})
    _add_program(model, inputs, outputs, w)
    return model.SerializeToString(deterministic=True), w.weights.content(), w


def _describe(model: Model, inputs: list[Port], outputs: list[Port], properties: Mapping[str, object]) -> None:
    description = model.description
    description.input.extend(port.description() for port in inputs)
    description.output.extend(port.description() for port in outputs)
    for field, key in _METADATA_OF.items():
        if key in properties:
            setattr(description.metadata, field, str(properties[key]))
    for key, content in properties.items():
        description.metadata.userDefined[key] = str(content)


def _add_program(model: Model, inputs: list[Port], outputs: list[Port], w: Writer) -> None:
    model.mlProgram.version = 1
    function = model.mlProgram.functions["main"]
    function.opset = f"CoreML{FIRST_OPSET + w.ios - FIRST_IOS}"
    for port in inputs:
        function.inputs.add(name=port.feature, type=value_type(port.shape, port.dtype))
    block = function.block_specializations[function.opset]
    block.outputs.extend(port.feature for port in outputs)
    block.operations.extend(w.operations)


def _package_manifest(files: Mapping[str, bytes]) -> bytes:
    """The list of the package's items; the identifiers follow from the contents, so that the same files are the same."""
    entries = {}
    items = (
        (MODEL_FILE, "model.mlmodel", "CoreML Model Specification"),
        (WEIGHTS_FILE, "weights", "CoreML Model Weights"),
    )
    for path, item, description in items:
        identifier = str(uuid.uuid5(uuid.NAMESPACE_URL, digests({path: files[path]})[path] + item)).upper()
        place = path.removeprefix("Data/").removesuffix("/weight.bin")
        entries[identifier] = {"author": _AUTHOR, "description": description, "name": item, "path": place}
    root = next(iter(entries))
    return to_json({"fileFormatVersion": "1.0.0", "itemInfoEntries": entries, "rootModelIdentifier": root})
