"""ONNX files run by ONNX Runtime on this machine's CPU.

A session for validation must compute what the file says, so matrix products with 4-bit weights keep float accuracy
(qdq_matmulnbits_accuracy_level=1) instead of ONNX Runtime's quicker default, and sums of bytes are exact
(x64quantprecision=1) on x86 without VNNI, where pairs of products of unsigned and signed bytes saturate at 16 bits
otherwise, up to 100 codes off.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, ValueInfoProto

from edgeq.errors import UnsupportedError, UsageError
from edgeq.runtimes.device.bench import saturates
from edgeq.runtimes.latency import MEASURED_RUNS, WARM_UP_RUNS, Latency, measure_latency

Array = NDArray[np.generic]

_ERRORS_ONLY = 3
_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
}


class OnnxRuntime:
    """A loaded file. `inputs` and `outputs` are its tensors' names in order; `threads` is what runs use.

    `input_shapes` and `output_shapes` have 1 where the file leaves a size open; `metadata` is the file's.

    `optimize` off executes the file node by node. Raises UsageError for a missing file and UnsupportedError for
    content that ONNX Runtime cannot execute.
    """

    name = "ONNX Runtime"
    is_timed = True

    def __init__(self, source: str | Path | bytes, *, threads: int | None = None, optimize: bool = True) -> None:
        self.threads = threads or os.cpu_count() or 1
        self.optimize = optimize
        self._source = source
        self._session = self._load(source)
        self.inputs = tuple(port.name for port in self._session.get_inputs())
        self.outputs = tuple(port.name for port in self._session.get_outputs())
        self.input_shapes = {port.name: _static(port.shape) for port in self._session.get_inputs()}
        self.output_shapes = {port.name: _static(port.shape) for port in self._session.get_outputs()}
        self.metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)

    def _load(self, source: str | Path | bytes) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _ERRORS_ONLY
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        if not self.optimize:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        if not isinstance(source, bytes) and not Path(source).is_file():
            raise UsageError("there is no such ONNX file", value=source)
        content = source if isinstance(source, bytes) else str(source)
        if saturates() and (own := _with_own_bytes(source)) is not None:
            content = own
            options.add_session_config_entry("session.x64quantprecision", "1")
        try:
            return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's own exceptions have no common base but Exception
            raise UnsupportedError("ONNX Runtime cannot load the model", where=_named(source), value=error) from error

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name. Raises UsageError if an input is missing, unknown, or has the wrong shape."""
        feeds = self._checked(inputs)
        try:
            results = self._session.run(self.outputs, feeds)
        except Exception as error:  # see _load
            raise UnsupportedError("ONNX Runtime failed on the model", value=error) from error
        return dict(zip(self.outputs, results, strict=True))

    def _checked(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        ports = {port.name: port for port in self._session.get_inputs()}
        if set(inputs) != set(ports):
            raise UsageError("wrong inputs", value=", ".join(inputs) or "none", allowed=", ".join(ports))
        for name, array in inputs.items():
            sizes = ports[name].shape
            known = len(sizes) == array.ndim and all(
                not isinstance(size, int) or size == actual for size, actual in zip(sizes, array.shape, strict=True)
            )
            if not known:
                raise UsageError("wrong input shape", where=name, value=array.shape, allowed=sizes)
        return {name: np.asarray(array, dtype=_DTYPES.get(ports[name].type)) for name, array in inputs.items()}

    def stored(self, name: str, array: Array) -> Array:
        """`array` as the file takes it at an input."""
        return self._checked({**{other: np.zeros(self.input_shapes[other]) for other in self.inputs}, name: array})[
            name
        ]

    def given(self, name: str, array: Array) -> Array:
        """What the file gave at an output, as the model has it: the same."""
        return array

    def watching(self, tensors: Iterable[str]) -> OnnxRuntime:
        """The same file in a session that also puts out `tensors`, which may undo fusions around them.

        Raises UsageError for a tensor that the file does not compute.
        """
        content = self._source if isinstance(self._source, bytes) else Path(self._source).read_bytes()
        return OnnxRuntime(_with_outputs(content, tensors), threads=self.threads, optimize=self.optimize)

    def latency(
        self, inputs: Mapping[str, Array], *, runs: int = MEASURED_RUNS, warm_up: int = WARM_UP_RUNS
    ) -> Latency:
        """Wall-clock latency of one run."""
        return measure_latency(self.call(inputs), threads=self.threads, runs=runs, warm_up=warm_up)

    def call(self, inputs: Mapping[str, Array]) -> Callable[[], object]:
        """One run on `inputs`, checked beforehand, as a function to be timed."""
        feeds = self._checked(inputs)
        return lambda: self._session.run(self.outputs, feeds)


def _with_own_bytes(source: str | Path | bytes) -> bytes | None:
    """The model with each constant of signed bytes read once, since ONNX Runtime makes exact sums from such alone; None
    where it cannot be read here, lies in several files or has blocks, whose zero points ONNX Runtime would make wrongly."""
    try:
        model = ModelProto.FromString(source if isinstance(source, bytes) else Path(source).read_bytes())
    except Exception:  # protobuf's errors have no common base; ONNX Runtime says what is wrong
        return None
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    blocks = any(attribute.name == "block_size" for node in model.graph.node for attribute in node.attribute)
    if blocks or any(tensor.data_location == TensorProto.EXTERNAL for tensor in constants.values()):
        return None
    signed = {name for name, tensor in constants.items() if tensor.data_type == TensorProto.INT8}
    seen = set[str]()
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name in seen:
                copy = TensorProto()
                copy.CopyFrom(constants[name])
                copy.name = f"{name}.read.{len(model.graph.initializer)}"
                model.graph.initializer.append(copy)
                node.input[index] = copy.name
            elif name in signed:
                seen.add(name)
    own: bytes = model.SerializeToString()
    return own


def _static(shape: list[int | str | None]) -> tuple[int, ...]:
    """`shape` with dynamic sizes taken as 1."""
    return tuple(size if isinstance(size, int) else 1 for size in shape)


def _with_outputs(content: bytes, tensors: Iterable[str]) -> bytes:
    model = ModelProto.FromString(content)
    known = {output.name for output in model.graph.output}
    computed = {name for node in model.graph.node for name in node.output}
    for name in dict.fromkeys(tensors):
        if name not in computed | known:
            raise UsageError("the ONNX file does not compute this tensor", value=name)
        if name not in known:
            model.graph.output.append(ValueInfoProto(name=name))
    watched: bytes = model.SerializeToString()
    return watched


def _named(source: str | Path | bytes) -> str:
    return f"{len(source)} bytes" if isinstance(source, bytes) else str(source)
