"""Small .tflite files for tests, written with the schema's own Python classes, which the reader does not use."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import numpy.typing as npt
import pytest

schema: Any = pytest.importorskip("ai_edge_litert.schema_py_generated")
Numbers = npt.NDArray[Any]
CODES = {"int8": schema.TensorType.INT8, "uint8": schema.TensorType.UINT8, "int16": schema.TensorType.INT16}
_ELEMENTS = {
    "float32": schema.TensorType.FLOAT32, "float16": schema.TensorType.FLOAT16, "int32": schema.TensorType.INT32,
    "int64": schema.TensorType.INT64, "bool": schema.TensorType.BOOL, "int4": schema.TensorType.INT4, **CODES,
}  # fmt: skip


class File:
    """A file under construction; tensors are numbered in the order in which they are added."""

    def __init__(self) -> None:
        self.tensors: list[Any] = []
        self.operators: list[Any] = []
        self.buffers = [schema.BufferT()]
        self.codes: dict[tuple[int, int, str], int] = {}

    def tensor(
        self,
        shape: Sequence[int],
        element: str = "float32",
        scale: float | Sequence[float] | None = None,
        zero_point: int | Sequence[int] = 0,
        *,
        axis: int = 0,
        name: str | None = None,
    ) -> int:
        """A tensor that the network computes."""
        tensor = schema.TensorT()
        tensor.shape, tensor.type = list(shape), _ELEMENTS[element]
        tensor.name = name if name is not None else f"t{len(self.tensors)}"
        if scale is not None:
            q = tensor.quantization = schema.QuantizationParametersT()
            q.scale = [float(s) for s in np.atleast_1d(scale)]
            zeros = np.atleast_1d(zero_point)
            q.zeroPoint = [int(z) for z in (zeros if len(zeros) == len(q.scale) else [zeros[0]] * len(q.scale))]
            q.quantizedDimension = axis
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def constant(self, array: Numbers, element: str | None = None, **quantization: Any) -> int:
        """A constant tensor."""
        index = self.tensor(array.shape, element or str(array.dtype), **quantization)
        content = pack4(array) if element == "int4" else array.tobytes()
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(content, np.uint8)
        self.buffers.append(buffer)
        self.tensors[index].buffer = len(self.buffers) - 1
        return index

    def op(
        self, kind: str, inputs: Sequence[int], outputs: Sequence[int], options: str | None = None, **fields: Any
    ) -> None:
        """An operator; `fields` are those of its options."""
        op = schema.OperatorT()
        op.opcodeIndex = self._code(kind, fields.pop("version", 1))
        op.inputs, op.outputs = list(inputs), list(outputs)
        if options is not None:
            op.builtinOptionsType = getattr(schema.BuiltinOptions, options)
            op.builtinOptions = getattr(schema, f"{options}T")()
            for name, value in fields.items():
                assert hasattr(op.builtinOptions, name), name
                setattr(op.builtinOptions, name, value)
        self.operators.append(op)

    def _code(self, kind: str, version: int) -> int:
        number = getattr(schema.BuiltinOperator, kind, schema.BuiltinOperator.CUSTOM)
        custom = kind if not hasattr(schema.BuiltinOperator, kind) else ""
        return self.codes.setdefault((number, version, custom), len(self.codes))

    def model(self, inputs: Sequence[int], outputs: Sequence[int]) -> Any:
        """The file as the schema's objects, to be changed before it is packed."""
        graph = schema.SubGraphT()
        graph.tensors, graph.operators = self.tensors, self.operators
        graph.inputs, graph.outputs, graph.name = list(inputs), list(outputs), "main"
        model = schema.ModelT()
        model.version, model.subgraphs, model.buffers, model.description = 3, [graph], self.buffers, "test"
        model.operatorCodes = []
        for number, version, custom in self.codes:
            code = schema.OperatorCodeT()
            code.deprecatedBuiltinCode, code.builtinCode = min(number, 127), number
            code.version, code.customCode = version, custom or None
            model.operatorCodes.append(code)
        return model

    def content(self, inputs: Sequence[int], outputs: Sequence[int]) -> bytes:
        """The bytes of the file."""
        return packed(self.model(inputs, outputs))


def packed(model: Any) -> bytes:
    """The bytes of a file given as the schema's objects."""
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def pack4(codes: Numbers) -> bytes:
    """4-bit codes, two in a byte, the first in the low half."""
    flat = codes.reshape(-1).astype(np.int64) & 15
    flat = np.concatenate([flat, np.zeros(flat.size % 2, np.int64)])
    return bytes((flat[0::2] | flat[1::2] << 4).astype(np.uint8))


def litert(content: bytes | Path, inputs: Sequence[Numbers], *, default: bool = False) -> list[Numbers]:
    """Outputs of LiteRT's reference kernels, or its `default` ones, in the file's own layout."""
    run = _interpreter(content, default=default)
    for detail, array in zip(run.get_input_details(), inputs, strict=True):
        run.set_tensor(detail["index"], array)
    run.invoke()
    return [run.get_tensor(detail["index"]).copy() for detail in run.get_output_details()]


def litert_tensors(content: bytes | Path, x: Numbers) -> dict[str, Numbers]:
    """Every tensor that LiteRT's reference kernels compute for one input, by its name."""
    run = _interpreter(content, watched=True)
    run.set_tensor(run.get_input_details()[0]["index"], x)
    run.invoke()
    found: dict[str, Numbers] = {}
    for detail in run.get_tensor_details():
        with contextlib.suppress(ValueError):  # scratch tensors have no data
            found[detail["name"]] = run.get_tensor(detail["index"]).copy()
    return found


def _interpreter(content: bytes | Path, *, watched: bool = False, default: bool = False) -> Any:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    source = {"model_path": str(content)} if isinstance(content, Path) else {"model_content": content}
    kernels = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES if default else OpResolverType.BUILTIN_REF
    run = Interpreter(**source, experimental_op_resolver_type=kernels, experimental_preserve_all_tensors=watched)
    run.allocate_tensors()
    return run
