"""A TFLite flatbuffer under construction: tensors, operators and constants, written with the schema's own classes.

Equal constants are stored once. Every buffer is aligned to 16 bytes, as the schema asks, and the same calls give the
same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import flatbuffers
import numpy as np
from numpy.typing import NDArray

from edgeq.errors import MissingDependencyError, UnsupportedError
from edgeq.ir.graph import Array

LARGEST_FILE_BYTES = (1 << 31) - 1
SCHEMA_VERSION = 3
IDENTIFIER = b"TFL3"
_BUFFER_ALIGNMENT = 16
_LAST_BYTE_CODE = 127
"""Operators above it are not in the one-byte field that old readers look at."""

ElementName = Literal["FLOAT32", "INT4", "INT8", "UINT8", "INT16", "INT32", "INT64", "BOOL"]
Index = int
NO_TENSOR: Index = -1


@lru_cache(maxsize=1)
def schema() -> Any:
    """The generated classes of the TFLite schema. Raises MissingDependencyError without ai-edge-litert."""
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError as error:
        raise MissingDependencyError("ai-edge-litert", "tflite", needed_for="writing TFLite files") from error
    return schema_py_generated


class _Builder(flatbuffers.Builder):  # type: ignore[misc]  # ships no types
    """The flatbuffers builder, with the content of buffers aligned."""

    def CreateNumpyVector(self, x: NDArray[np.generic]) -> int:
        if x.dtype == np.uint8:
            self.Prep(_BUFFER_ALIGNMENT, x.nbytes)
        offset: int = super().CreateNumpyVector(x)
        return offset


@dataclass(frozen=True)
class Quantization:
    """real = scale (code - zero point); more than one scale lie along `axis` of the stored tensor."""

    scale: tuple[float, ...]
    zero_point: int = 0
    axis: int = 0


def packed(array: Array, element: ElementName) -> NDArray[np.uint8]:
    """The bytes that hold `array`; two 4-bit codes share one, the first in its low half."""
    if element != "INT4":
        return np.frombuffer(np.ascontiguousarray(array).tobytes(), dtype=np.uint8)
    halves = np.zeros(-(-array.size // 2) * 2, dtype=np.uint8)
    halves[: array.size] = (array.reshape(-1).astype(np.int8) & 0xF).astype(np.uint8)
    joined: NDArray[np.uint8] = halves[0::2] | (halves[1::2] << np.uint8(4))
    return joined


class TfliteFile:
    """Collects the parts of one file with one subgraph."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._schema = schema()
        self._tensors: list[Any] = []
        self._elements: list[ElementName] = []
        self._operators: list[Any] = []
        self._codes: dict[tuple[int, int], Index] = {}
        self._buffers: list[NDArray[np.uint8] | None] = [None]
        self._stored: dict[bytes, Index] = {}
        self._constants: dict[tuple[object, ...], Index] = {}
        self._metadata: list[Any] = []
        self._names: set[str] = set()

    def tensor(
        self, name: str, shape: Sequence[int], element: ElementName, quantization: Quantization | None = None
    ) -> Index:
        """A computed tensor."""
        return self._add(name, shape, element, quantization, 0)

    def constant(
        self, name: str, array: Array, element: ElementName, quantization: Quantization | None = None
    ) -> Index:
        """A constant tensor called `name` or like it; an equal one is used again."""
        content = packed(array, element)
        key = (tuple(array.shape), element, quantization, content.tobytes())
        if key not in self._constants:
            self._constants[key] = self._add(name, array.shape, element, quantization, self._buffer(content))
        return self._constants[key]

    def _add(
        self, name: str, shape: Sequence[int], element: ElementName, quantization: Quantization | None, buffer: Index
    ) -> Index:
        s = self._schema
        tensor = s.TensorT()
        tensor.name = self._fresh(name).encode()
        tensor.shape = np.array(shape, dtype=np.int32)
        tensor.hasRank = True
        tensor.type = getattr(s.TensorType, element)
        tensor.buffer = buffer
        if quantization is not None:
            parameters = s.QuantizationParametersT()
            parameters.scale = np.array(quantization.scale, dtype=np.float32)
            parameters.zeroPoint = np.full(len(quantization.scale), quantization.zero_point, dtype=np.int64)
            parameters.quantizedDimension = quantization.axis
            tensor.quantization = parameters
        self._tensors.append(tensor)
        self._elements.append(element)
        return len(self._tensors) - 1

    def _fresh(self, name: str) -> str:
        candidate, count = name, 0
        while candidate in self._names:
            count += 1
            candidate = f"{name}.{count}"
        self._names.add(candidate)
        return candidate

    def _buffer(self, content: NDArray[np.uint8]) -> Index:
        key = content.tobytes()
        if key not in self._stored:
            self._stored[key] = len(self._buffers)
            self._buffers.append(content)
        return self._stored[key]

    def shape(self, tensor: Index) -> tuple[int, ...]:
        """Shape of a tensor."""
        return tuple(int(size) for size in self._tensors[tensor].shape)

    def element(self, tensor: Index) -> ElementName:
        """How the numbers of a tensor are stored."""
        return self._elements[tensor]

    def tensor_name(self, tensor: Index) -> str:
        """Name of a tensor in the file."""
        name: str = self._tensors[tensor].name.decode()
        return name

    def operator(
        self,
        kind: str,
        inputs: Sequence[Index],
        outputs: Sequence[Index],
        version: int = 1,
        options: str | None = None,
        **fields: object,
    ) -> None:
        """Append a builtin operator; `options` names its table in the schema, `fields` are its content."""
        s = self._schema
        key = (getattr(s.BuiltinOperator, kind), version)
        operator = s.OperatorT()
        operator.opcodeIndex = self._codes.setdefault(key, len(self._codes))
        operator.inputs = np.array(inputs, dtype=np.int32)
        operator.outputs = np.array(outputs, dtype=np.int32)
        if options is not None:
            table = getattr(s, f"{options}T")()
            for name, content in fields.items():
                setattr(table, name, content)
            operator.builtinOptionsType = getattr(s.BuiltinOptions, options)
            operator.builtinOptions = table
        self._operators.append(operator)

    def metadata(self, name: str, content: bytes) -> None:
        """Add a named buffer of metadata."""
        entry = self._schema.MetadataT()
        entry.name = name.encode()
        entry.buffer = self._buffer(np.frombuffer(content, dtype=np.uint8))
        self._metadata.append(entry)

    def to_bytes(self, inputs: Mapping[str, Index], outputs: Mapping[str, Index], description: str) -> bytes:
        """The file; `inputs` and `outputs` are also the names of its one signature.

        Raises UnsupportedError from 2 GiB on.
        """
        size = sum(0 if content is None else content.nbytes for content in self._buffers)
        if size > LARGEST_FILE_BYTES:
            raise UnsupportedError("the TFLite file would exceed 2 GiB", value=size)
        s = self._schema
        model = s.ModelT()
        model.version = SCHEMA_VERSION
        model.description = description.encode()
        model.operatorCodes = [self._operator_code(code, version) for code, version in self._codes]
        model.buffers = [self._buffer_table(content) for content in self._buffers]
        model.subgraphs = [self._subgraph(list(inputs.values()), list(outputs.values()))]
        model.metadata = self._metadata or None
        model.signatureDefs = [self._signature(inputs, outputs)]
        builder = _Builder(size + (1 << 16))
        builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
        return bytes(builder.Output())

    def _operator_code(self, code: int, version: int) -> Any:
        table = self._schema.OperatorCodeT()
        table.deprecatedBuiltinCode = min(code, _LAST_BYTE_CODE)
        table.builtinCode = code
        table.version = version
        return table

    def _buffer_table(self, content: NDArray[np.uint8] | None) -> Any:
        table = self._schema.BufferT()
        table.data = content
        return table

    def _subgraph(self, inputs: list[Index], outputs: list[Index]) -> Any:
        graph = self._schema.SubGraphT()
        graph.name = self.name.encode()
        graph.tensors = self._tensors
        graph.operators = self._operators
        graph.inputs = np.array(inputs, dtype=np.int32)
        graph.outputs = np.array(outputs, dtype=np.int32)
        return graph

    def _signature(self, inputs: Mapping[str, Index], outputs: Mapping[str, Index]) -> Any:
        signature = self._schema.SignatureDefT()
        signature.signatureKey = b"serving_default"
        signature.inputs = [self._port(name, tensor) for name, tensor in inputs.items()]
        signature.outputs = [self._port(name, tensor) for name, tensor in outputs.items()]
        return signature

    def _port(self, name: str, tensor: Index) -> Any:
        port = self._schema.TensorMapT()
        port.name = name.encode()
        port.tensorIndex = tensor
        return port
