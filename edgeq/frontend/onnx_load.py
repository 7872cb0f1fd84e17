"""Reading an ONNX file that nobody vouches for.

The invariant: whatever the bytes are, the result is a model that the ONNX checker accepts, with all its data
in memory, or one typed error. Nothing outside the model's folder is ever opened.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, EncodeError  # type: ignore[import-untyped]
from onnx.inliner import inline_local_functions, inline_selected_functions

from edgeq.errors import UnsupportedError, UsageError

OPSETS = range(11, 28)  # opset 28 gave Mod and SpaceToDepth another meaning
MAX_MODEL_BYTES = (1 << 31) - 1
MAX_NODES = 200_000
MAX_FUNCTION_DEPTH = 64
_EXPORT_AGAIN = "Export the model again with torch.onnx.export."


def load_model(source: str | Path | bytes | onnx.ModelProto) -> onnx.ModelProto:
    """The checked model of a file, of its bytes or of a ModelProto, with external data read into it.

    Raises UsageError if the file cannot be read, UnsupportedError if it is no valid ONNX model.
    """
    if isinstance(source, onnx.ModelProto):
        content, folder, where = _serialized(source), None, "ModelProto"
    elif isinstance(source, bytes):
        content, folder, where = source, None, "bytes"
    else:
        content, folder, where = _read(Path(source)), Path(source).parent, str(source)
    model = _parse(content, where)
    if _read_external_data(model, folder):
        content = _serialized(model)
    _check(model, content)
    return model


def _serialized(model: onnx.ModelProto) -> bytes:
    try:
        content: bytes = model.SerializeToString()
    except (EncodeError, ValueError) as error:
        raise UnsupportedError("the model is too large", value=error, allowed="2 GiB") from error
    return content


def _read(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise UsageError("no such model file", where=path)
        if path.stat().st_size > MAX_MODEL_BYTES:
            raise UnsupportedError("the model file is too large", where=path, allowed="2 GiB")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise UsageError("the model file cannot be read", where=path, value=error) from error


def _parse(content: bytes, where: object) -> onnx.ModelProto:
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except (DecodeError, RuntimeError) as error:
        raise UnsupportedError("not an ONNX model", where=where, next_step=_EXPORT_AGAIN) from error
    if not model.HasField("graph") or not model.graph.output:
        raise UnsupportedError("not an ONNX model", where=where, value="no graph", next_step=_EXPORT_AGAIN)
    return model


def _check(model: onnx.ModelProto, content: bytes) -> None:
    if len(model.graph.node) > MAX_NODES:
        raise UnsupportedError("too many nodes", value=len(model.graph.node), allowed=MAX_NODES)
    try:
        onnx.checker.check_model(content)
    # The checker reports some broken models with plain ValueError or RuntimeError.
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        reason = first_line(error)
        raise UnsupportedError("not a valid ONNX model", value=reason, next_step=_EXPORT_AGAIN) from error


def _read_external_data(model: onnx.ModelProto, folder: Path | None) -> bool:
    """Moves external data into `model`; whether there was any."""
    total = 0
    for tensor, is_initializer in _tensors(model):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        if folder is None or not is_initializer:
            raise UnsupportedError(
                "external data here cannot be read",
                where=tensor.name,
                next_step="Give the path of the model file.",
            )
        content = _external_bytes(tensor, folder)
        total += len(content)
        if total > MAX_MODEL_BYTES:
            raise UnsupportedError("the external data is too large", where=tensor.name, allowed="2 GiB")
        tensor.raw_data = content
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]
    return total > 0


def nested_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """`nodes` and all nodes of the graphs in their attributes."""
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        yield node
        for graph in subgraphs(node):
            waiting.extend(graph.node)


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs in the attributes of `node`."""
    for attribute in node.attribute:
        yield from (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs


def _tensors(model: onnx.ModelProto) -> Iterator[tuple[onnx.TensorProto, bool]]:
    """Every tensor of the model and whether it is an initializer of the main graph."""
    yield from ((tensor, True) for tensor in model.graph.initializer)
    for node in nested_nodes([*model.graph.node, *(n for f in model.functions for n in f.node)]):
        for graph in subgraphs(node):
            yield from ((tensor, False) for tensor in graph.initializer)
        for attribute in node.attribute:
            yield from ((tensor, False) for tensor in (attribute.t, *attribute.tensors))


def _external_bytes(tensor: onnx.TensorProto, folder: Path) -> bytes:
    entry = {item.key: item.value for item in tensor.external_data}
    try:
        offset, length = int(entry.get("offset", 0)), int(entry.get("length", -1))
        path = _confined(entry.get("location", ""), folder)
        # O_NOFOLLOW closes the gap between the check of the path and its use.
        with os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0)), "rb") as file:
            status = os.fstat(file.fileno())
            available = status.st_size - offset
            if not stat.S_ISREG(status.st_mode) or offset < 0 or length > available or available > MAX_MODEL_BYTES:
                raise ValueError(f"bytes {offset}…{offset + length} of {status.st_size}")
            file.seek(offset)
            return file.read(length if length >= 0 else available)
    except (OSError, ValueError) as error:
        raise UnsupportedError("the external data cannot be read", where=tensor.name, value=error) from error


def _confined(location: str, folder: Path) -> Path:
    """`folder`/`location`, which must be a plain file below `folder` reached without `..` or links."""
    relative, root = Path(location), Path(os.path.realpath(folder))
    path = root / relative
    if not location or relative.is_absolute() or ".." in relative.parts or os.path.realpath(path) != str(path):
        raise ValueError(f"{location!r} is outside the model's folder or a link")
    return path


def opset_of(model: onnx.ModelProto) -> int:
    """Version of the standard operator set; raises UnsupportedError outside OPSETS."""
    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if not versions or versions[0] not in OPSETS:
        raise UnsupportedError(
            "unsupported opset",
            value=versions[0] if versions else None,
            allowed=f"{OPSETS.start}…{OPSETS.stop - 1}",
            next_step="Export again with opset_version=18, or use onnx.version_converter.",
        )
    return int(versions[0])


def inline_functions(model: onnx.ModelProto, known: Collection[str]) -> onnx.ModelProto:
    """`model` without calls of its functions, and with operators not in `known` spelled out in others."""
    try:
        if model.functions:
            _check_function_growth(model)
            model = inline_local_functions(model)
        foreign = {node.op_type for node in model.graph.node if node.domain in ("", "ai.onnx")} - set(known)
        defined = [("", name) for name in sorted(foreign) if _is_defined_by_others(name, opset_of(model))]
        return inline_selected_functions(model, defined, inline_schema_functions=True) if defined else model
    except RuntimeError as error:  # a call that does not fit its function
        raise UnsupportedError("the model's functions cannot be expanded", value=first_line(error)) from error


def first_line(error: Exception) -> str:
    """What an exception says, or its kind: a message that quotes bytes which are no text can be lost altogether."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


def _is_defined_by_others(op_type: str, opset: int) -> bool:
    try:
        schema = onnx.defs.get_schema(op_type, opset)
    except onnx.defs.SchemaError:
        return False
    # Both are missing from the package's type stubs.
    return bool(getattr(schema, "has_function") or getattr(schema, "has_context_dependent_function"))  # noqa: B009


def _check_function_growth(model: onnx.ModelProto) -> None:
    """Functions that call functions can grow exponentially, or for ever: count before expanding."""
    functions = {(f.domain, f.name): f for f in model.functions}
    sizes: dict[tuple[str, str], int] = {}

    def size(nodes: Iterable[onnx.NodeProto], depth: int) -> int:
        if depth > MAX_FUNCTION_DEPTH:
            raise UnsupportedError("the model's functions are nested too deep", allowed=MAX_FUNCTION_DEPTH)
        return sum(called(node, depth) for node in nested_nodes(nodes))

    def called(node: onnx.NodeProto, depth: int) -> int:
        key = (node.domain, node.op_type)
        if key in functions and key not in sizes:
            sizes[key] = size(functions[key].node, depth + 1)
        return sizes.get(key, 1)

    total = size(model.graph.node, 0)
    if total > MAX_NODES:
        raise UnsupportedError("the model's functions expand to too many nodes", value=total, allowed=MAX_NODES)
