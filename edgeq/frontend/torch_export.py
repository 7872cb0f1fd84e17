"""torch modules and `torch.export` programs become one ONNX model in memory: the language of the graph importer.

Every shape is static (batch as in the example input), weights are inside the model, and nothing is written to disk.
The tracing exporter goes first: it is several times quicker than the `torch.export` one. What it refuses goes through
`torch.export`.
"""

from __future__ import annotations

import io
import logging
import types
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from edgeq.errors import UnsupportedError, UsageError

TRACED_OPSET = 17
PROGRAM_OPSET = 18  # the lowest that the torch.export exporter writes without converting versions
IR_VERSION = 10


@dataclass(frozen=True)
class ExportedModel:
    """An ONNX model with static shapes and its weights inside, and what the source said about itself.

    `metadata` holds plain Python values; `proto.metadata_props` holds the same as text.
    """

    proto: onnx.ModelProto
    metadata: Mapping[str, Any] = field(default_factory=dict)


def to_onnx(
    model: nn.Module | ExportedProgram,
    example_inputs: Sequence[Tensor] = (),
    *,
    input_names: Sequence[str] = ("images",),
    metadata: Mapping[str, object] | None = None,
) -> ExportedModel:
    """Exports `model` for the shapes of `example_inputs`; an exported program usually brings its own.

    A module is exported in eval mode and left in the mode it was in. Inputs are called `input_names`, outputs `output0`,
    `output1` and so on. Raises UsageError without an example input, UnsupportedError when no exporter can express it.
    """
    inputs = tuple(example_inputs) or _own_inputs(model)
    if not inputs:
        raise UsageError("exporting a torch model needs an example input", where=type(model).__name__)
    with _quiet(), torch.no_grad():
        module = model if isinstance(model, nn.Module) else _module_of(model)
        proto = _export(module, inputs, list(input_names))
    return ExportedModel(with_metadata(proto, metadata or {}), dict(metadata or {}))


def with_metadata(proto: onnx.ModelProto, metadata: Mapping[str, object]) -> onnx.ModelProto:
    """Writes `metadata` as text into `proto`, in place, and lowers its IR version to what deployed runtimes read."""
    onnx.helper.set_model_props(proto, {key: str(value) for key, value in metadata.items()})
    proto.ir_version = min(proto.ir_version, IR_VERSION)
    return proto


def _own_inputs(model: nn.Module | ExportedProgram) -> tuple[Tensor, ...]:
    if isinstance(model, nn.Module) or model.example_inputs is None:
        return ()
    positional, keyword = model.example_inputs
    return (*positional, *keyword.values())


def _module_of(program: ExportedProgram) -> nn.Module:
    """A program as a module that lets the exporters ask for eval mode; its graph has only that mode."""
    module = program.module(check_guards=False)
    module.train = types.MethodType(nn.Module.train, module)  # type: ignore[method-assign]
    module.eval = types.MethodType(nn.Module.eval, module)  # type: ignore[method-assign]
    return module


def _export(module: nn.Module, inputs: tuple[Tensor, ...], names: list[str]) -> onnx.ModelProto:
    with _evaluating(module), _plain_attention():
        try:
            proto, shapes = _trace(module, inputs, names)
        except Exception as refusal:  # of many unrelated types; the second exporter decides
            shapes = _output_shapes(module, inputs)
            proto = _export_program(module, inputs, names, _output_names(len(shapes)), refusal)
    for output, shape in zip(proto.graph.output, shapes, strict=True):  # the exporters lose some static sizes
        element = output.type.tensor_type.elem_type
        output.CopyFrom(onnx.helper.make_tensor_value_info(output.name, element, shape))
    return proto


def _output_names(count: int) -> list[str]:
    return [f"output{i}" for i in range(count)]


def _output_shapes(module: nn.Module, inputs: tuple[Tensor, ...]) -> list[tuple[int, ...]]:
    try:
        return [tuple(tensor.shape) for tensor in _tensors(module(*inputs))]
    except Exception as failure:  # the network's own code
        raise UnsupportedError(
            f"the network fails on its example input ({_first_line(failure)})",
            where=type(module).__name__,
            value=", ".join(str(list(tensor.shape)) for tensor in inputs),
        ) from failure


def _trace(
    module: nn.Module, inputs: tuple[Tensor, ...], names: list[str]
) -> tuple[onnx.ModelProto, list[tuple[int, ...]]]:
    """The traced model, and the shapes of its outputs, from the one run that tracing takes."""
    buffer, outputs = io.BytesIO(), list[Tensor]()

    def note(_: nn.Module, __: object, found: object) -> None:
        outputs[:] = _tensors(found)  # whose shapes would be traced, too, if they were asked for here

    noted = module.register_forward_hook(note)
    try:
        torch.onnx.export(
            module,
            inputs,
            buffer,  # type: ignore[arg-type]
            input_names=names,
            opset_version=TRACED_OPSET,
            dynamo=False,
        )
    finally:
        noted.remove()
    proto = _with_outputs(onnx.load_from_string(buffer.getvalue()), _output_names(len(outputs)))
    return proto, [tuple(tensor.shape) for tensor in outputs]


def _with_outputs(proto: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """`proto` with its outputs called `names`, in place; what comes out twice is copied."""
    graph, new, copies = proto.graph, dict[str, str](), list[onnx.NodeProto]()
    for output, name in zip(graph.output, names, strict=True):
        if output.name in new:
            copies.append(onnx.helper.make_node("Identity", [new[output.name]], [name]))
        new.setdefault(output.name, name)
        output.name = name
    _rename(graph.node, new)
    graph.node.extend(copies)
    return proto


def _rename(nodes: Iterable[onnx.NodeProto], new: Mapping[str, str]) -> None:
    """Call values by their `new` names, also in the branches of nodes, which see them."""
    for node in nodes:
        for values in (node.input, node.output):
            values[:] = [new.get(value, value) for value in values]
        for attribute in node.attribute:
            _rename(attribute.g.node, new)


def _export_program(
    module: nn.Module, inputs: tuple[Tensor, ...], names: list[str], outputs: list[str], refusal: Exception
) -> onnx.ModelProto:
    try:
        program = torch.export.export(module, inputs)  # given a module, torch.onnx would try several ways, slowly
        exported = torch.onnx.export(
            program,
            (),
            input_names=names,
            output_names=outputs,
            opset_version=PROGRAM_OPSET,
            dynamo=True,
            verbose=False,
        )
        assert exported is not None
        return exported.model_proto
    except Exception as second:
        raise UnsupportedError(
            f"torch cannot express this model in ONNX ({_first_line(refusal)}; then {_first_line(second)})",
            where=type(module).__name__,
            next_step="Export it to ONNX with the project that made it and pass the .onnx file",
        ) from second


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"[:200]


def _tensors(value: object) -> list[Tensor]:
    """The tensors in a network's output, in order, through any nesting of tuples, lists and mappings."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    return [t for item in value for t in _tensors(item)] if isinstance(value, list | tuple) else []


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode inside, the former mode of each part after."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Keeps `nn.MultiheadAttention` from its fused kernel, which has no ONNX form."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the exporters, which print warnings, progress and whole graphs."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
