"""TFLite files run by LiteRT on this machine's CPU, with its default kernels (XNNPACK) or its reference kernels.

Values come and go as the model has them: values of four axes are NHWC in the file and NCHW here, except at ports of
foreign files that have their channels first already; tensors whose order of axes the file records (edgeq's own do) are
given back in the value's own order. Inputs and outputs that the
file holds as codes are quantized and dequantized here, as the kernels do it.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import MissingDependencyError, UnsupportedError, UsageError
from edgeq.frontend.tflite_file import TfliteFile, read_tflite
from edgeq.frontend.tflite_record import read_record
from edgeq.frontend.tflite_types import is_channels_last
from edgeq.runtimes.latency import MEASURED_RUNS, WARM_UP_RUNS, Latency, measure_latency

Array = NDArray[np.generic]
Kernels = Literal["default", "reference"]

NCHW_OF_NHWC = (0, 3, 1, 2)
DEFAULT_KERNELS, REFERENCE_KERNELS = "LiteRT default", "LiteRT reference"
"""The two sets of kernels that a file can run in, by name."""


def _interpreter_module() -> Any:
    try:
        from ai_edge_litert import interpreter
    except ImportError as error:
        raise MissingDependencyError("ai-edge-litert", "tflite", needed_for="running TFLite files") from error
    return interpreter


def _checked(content: bytes) -> TfliteFile:
    """The file, read with every offset checked: LiteRT itself follows them wherever they point."""
    try:
        return read_tflite(content)
    except UnsupportedError as error:
        raise UnsupportedError("LiteRT cannot load the model", value=error) from error


class LiteRtRuntime:
    """A loaded file. `inputs` and `outputs` are the names of its ports in order; `threads` is what runs use.

    `input_shapes` and `output_shapes` are those of the model's values (NCHW). Raises UsageError for a missing file
    and UnsupportedError for content that LiteRT cannot execute.
    """

    name = "LiteRT"
    is_timed = True

    def __init__(
        self,
        source: str | Path | bytes,
        *,
        threads: int | None = None,
        kernels: Kernels = "default",
        keep_tensors: bool = False,
    ) -> None:
        self.threads = threads or os.cpu_count() or 1
        self.kernels = kernels
        if not isinstance(source, bytes) and not Path(source).is_file():
            raise UsageError("there is no such TFLite file", value=source)
        self._content = source if isinstance(source, bytes) else Path(source).read_bytes()
        file = _checked(self._content)
        self._record, self.metadata = read_record(file), file.metadata
        self._interpreter = self._load(keep_tensors)
        self._watched: tuple[str, ...] = ()
        ports = _ports(self._interpreter)
        self._inputs, self._outputs = ports
        self.inputs, self.outputs = tuple(self._inputs), tuple(self._outputs)
        self.input_shapes = {name: _turned(self._shape(port), self._port_axes(port)) for name, port in ports[0].items()}
        self.output_shapes = {
            name: _turned(self._shape(port), self._port_axes(port)) for name, port in ports[1].items()
        }

    def _load(self, keep_tensors: bool) -> Any:
        module = _interpreter_module()
        resolver = {
            "default": module.OpResolverType.AUTO,
            "reference": module.OpResolverType.BUILTIN_REF,
        }[self.kernels]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # that keeping tensors takes memory
                interpreter = module.Interpreter(
                    model_content=self._content,
                    num_threads=self.threads,
                    experimental_op_resolver_type=resolver,
                    experimental_preserve_all_tensors=keep_tensors,
                )
            interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise UnsupportedError("LiteRT cannot load the model", value=error) from error
        return interpreter

    @staticmethod
    def _shape(port: Mapping[str, Any]) -> tuple[int, ...]:
        return tuple(int(size) for size in port["shape"])

    def _port_axes(self, port: Mapping[str, Any]) -> tuple[int, ...]:
        shape = self._shape(port)
        last = len(shape) == 4 and (self._record.is_there or is_channels_last(shape))
        return NCHW_OF_NHWC if last else tuple(range(len(shape)))

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs (and watched tensors) by name. Raises UsageError for a wrong or missing input."""
        self._feed(inputs)
        self._invoke()
        read = self._interpreter.get_tensor
        found = {name: self.given(name, read(port["index"])) for name, port in self._outputs.items()}
        return found | {name: self._tensor(name) for name in self._watched}

    def _feed(self, inputs: Mapping[str, Array]) -> None:
        if set(inputs) != set(self._inputs):
            raise UsageError("wrong inputs", value=", ".join(inputs) or "none", allowed=", ".join(self._inputs))
        for name, array in inputs.items():
            self._interpreter.set_tensor(self._inputs[name]["index"], self.stored(name, array))

    def stored(self, name: str, array: Array) -> Array:
        """`array` as the file takes it: NHWC, codes where it has them. Raises UsageError for a wrong shape."""
        port, shape = self._inputs[name], self.input_shapes[name]
        if tuple(array.shape) != shape:
            raise UsageError("wrong input shape", where=name, value=array.shape, allowed=shape)
        turned = np.asarray(array).transpose(_stored_order(self._port_axes(port)))
        if self._record.stands_for_reals(name):
            turned = coded(turned, port)
        return np.ascontiguousarray(turned.astype(port["dtype"]))

    def given(self, name: str, array: Array) -> Array:
        """What the file gave at an output, in the value's own order; reals where its codes stand for them."""
        port = self._outputs[name]
        if self._record.stands_for_reals(name):
            array = decoded(array, port)
        return self._record.whole(name, np.ascontiguousarray(array.transpose(self._port_axes(port))))

    def _invoke(self) -> None:
        try:
            self._interpreter.invoke()
        except RuntimeError as error:
            raise UnsupportedError("LiteRT failed on the model", value=error) from error

    def _tensor(self, name: str) -> Array:
        array: Array = self._interpreter.get_tensor(self._indices[name])
        axes = self._record.layouts.get(name, tuple(range(array.ndim)))
        return np.ascontiguousarray(array.transpose(axes))

    @cached_property
    def _indices(self) -> dict[str, int]:
        return {item["name"]: item["index"] for item in self._interpreter.get_tensor_details()}

    def watching(self, tensors: Iterable[str]) -> LiteRtRuntime:
        """The same file with `tensors` among the outputs, codes as codes; default kernels are not fused around them.

        Raises UsageError for a tensor that the file does not hold.
        """
        watcher = LiteRtRuntime(self._content, threads=self.threads, kernels=self.kernels, keep_tensors=True)
        known = watcher._indices
        names = tuple(dict.fromkeys(tensors))
        for name in names:
            if name not in known:
                raise UsageError("the TFLite file does not hold this tensor", value=name)
        watcher._watched = names
        return watcher

    def latency(
        self, inputs: Mapping[str, Array], *, runs: int = MEASURED_RUNS, warm_up: int = WARM_UP_RUNS
    ) -> Latency:
        """Wall-clock latency of one run."""
        return measure_latency(self.call(inputs), threads=self.threads, runs=runs, warm_up=warm_up)

    def call(self, inputs: Mapping[str, Array]) -> Callable[[], object]:
        """One run on `inputs`, set beforehand, as a function to be timed."""
        self._feed(inputs)
        return self._interpreter.invoke  # type: ignore[no-any-return]


def _ports(interpreter: Any) -> tuple[dict[str, Mapping[str, Any]], dict[str, Mapping[str, Any]]]:
    """Inputs and outputs by the names of the file's signature, or of its tensors where it has none."""
    details = interpreter.get_input_details(), interpreter.get_output_details()
    signatures = interpreter._get_full_signature_list()
    plain = tuple({item["name"]: item for item in side} for side in details)
    if not signatures:
        return plain[0], plain[1]
    signature = next(iter(signatures.values()))
    named = []
    for side, items in zip(("inputs", "outputs"), details, strict=True):
        by_index = {index: name for name, index in signature[side].items()}
        named.append({by_index.get(item["index"], item["name"]): item for item in items})
    return named[0], named[1]


def _turned(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(shape[axis] for axis in axes)


def _stored_order(axes: tuple[int, ...]) -> tuple[int, ...]:
    """The inverse of `axes`: from the value's order to the tensor's."""
    return tuple(axes.index(axis) for axis in range(len(axes)))


def coded(array: Array, port: Mapping[str, Any]) -> Array:
    """Reals as the codes of a port, nearest, ties away from zero; other numbers, and other ports, as they are."""
    dtype = np.dtype(port["dtype"])
    scale, zero_point = port["quantization"]
    if dtype.kind not in "iu" or not scale or array.dtype.kind != "f":
        return array
    ratio = (array.astype(np.float32) / np.float32(scale)).astype(np.float64)
    nearest = np.trunc(ratio) + np.trunc(2 * (ratio - np.trunc(ratio)))
    limits = np.iinfo(dtype)
    codes: Array = np.clip(nearest + zero_point, limits.min, limits.max).astype(dtype)
    return codes


def decoded(array: Array, port: Mapping[str, Any]) -> Array:
    """Codes of a port as float32; other numbers as they are."""
    scale, zero_point = port["quantization"]
    if array.dtype.kind not in "iu" or not scale:
        return array
    reals: Array = (array.astype(np.int64) - zero_point).astype(np.float32) * np.float32(scale)
    return reals
