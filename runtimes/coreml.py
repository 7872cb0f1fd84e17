"""CoreML packages: on a Mac in CoreML itself, elsewhere operator by operator in an interpreter of the saved file.

The interpreter (runtimes/mil.py) reads nothing but the package, so that what it computes is what the file says. Inputs
and outputs carry the names of the model's values and hold what the model expects; where the file takes an image, the
values are turned back into its pixels.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgeq.emit.coreml_decompress import decompressed
from edgeq.emit.coreml_ports import PORTS_KEY
from edgeq.emit.coreml_read import Constant, MilProgram, Operator, Spot, read_package
from edgeq.errors import MissingDependencyError, UnsupportedError, UsageError
from edgeq.runtimes.latency import MEASURED_RUNS, WARM_UP_RUNS, Latency, measure_latency
from edgeq.runtimes.mil import Call, Content, as_declared, compute

Array = NDArray[np.generic]

PIXEL_TOLERANCE = 0.01
"""Values this close to whole pixels came from pixels."""


@dataclass(frozen=True)
class _Port:
    """`feature = value scale + shift`, per channel."""

    value: str
    feature: str
    scale: tuple[float, ...] = (1.0,)
    shift: tuple[float, ...] = (0.0,)

    def taken(self, array: Array) -> NDArray[np.float32]:
        """What the file takes for the model's value; whole pixels where the value was made of such."""
        if (self.scale, self.shift) == ((1.0,), (0.0,)):
            return array.astype(np.float32)
        shape = (1, -1, 1, 1)
        found = array.astype(np.float64) * np.reshape(self.scale, shape) + np.reshape(self.shift, shape)
        whole = np.rint(found)
        taken = whole if np.abs(found - whole).max(initial=0.0) < PIXEL_TOLERANCE else found
        return np.asarray(taken, dtype=np.float32)


class CoreMLRuntime:
    """A loaded package. `interpret` chooses the interpreter (the default away from a Mac).

    Raises UsageError for a missing package, UnsupportedError for one that cannot be read or computed.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        threads: int | None = None,
        interpret: bool = sys.platform != "darwin",
        watched: Iterable[str] = (),
    ) -> None:
        self._path = Path(path)
        if not self._path.is_dir():
            raise UsageError("there is no such CoreML package", value=path)
        self.threads = threads or os.cpu_count() or 1
        self.name = "edgeq's interpreter of CoreML programs" if interpret else "CoreML"
        self.is_timed = not interpret
        self._program = read_package(self._path)
        self.metadata: Mapping[str, str] = self._program.metadata
        self._inputs, self._outputs = _ports(self._program)
        values = {port.value for port in self._outputs}
        self._watched = tuple(name for name in _computed(watched, self._program) if name not in values)
        self._spots = {spot.name: spot for op in self._program.operators for spot in op.outputs}
        self._spots |= {spot.name: spot for spot in self._program.inputs}
        self.inputs = tuple(port.value for port in self._inputs)
        self.outputs = (*(port.value for port in self._outputs), *self._watched)
        self.input_shapes = {port.value: self._spots[port.feature].shape for port in self._inputs}
        self.output_shapes = {port.value: self._spots[port.feature].shape for port in self._outputs}
        self.output_shapes |= {name: self._spots[name].shape for name in self._watched}
        self._run = _interpreter(self._program, self._watched) if interpret else _apple(self._path, self._program)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name. Raises UsageError if an input is missing, unknown, or has the wrong shape."""
        return self._named(self._run(self._features(inputs)))

    def _features(self, inputs: Mapping[str, Array]) -> dict[str, NDArray[np.float32]]:
        if set(inputs) != set(self.inputs):
            raise UsageError("wrong inputs", value=", ".join(inputs) or "none", allowed=", ".join(self.inputs))
        for name, array in inputs.items():
            if tuple(array.shape) != self.input_shapes[name]:
                raise UsageError(
                    "wrong input shape", where=name, value=tuple(array.shape), allowed=self.input_shapes[name]
                )
        return {port.feature: port.taken(np.asarray(inputs[port.value])) for port in self._inputs}

    def _named(self, found: Mapping[str, Array]) -> dict[str, Array]:
        named = {port.value: found[port.feature] for port in self._outputs}
        return {**named, **{name: found[name] for name in self._watched}}

    def watching(self, tensors: Iterable[str]) -> CoreMLRuntime:
        """The same file in the interpreter, which also puts out `tensors`; CoreML itself shows no inside.

        Raises UsageError for a tensor that the file does not compute.
        """
        return CoreMLRuntime(self._path, threads=self.threads, interpret=True, watched=tensors)

    def latency(
        self, inputs: Mapping[str, Array], *, runs: int = MEASURED_RUNS, warm_up: int = WARM_UP_RUNS
    ) -> Latency:
        """Wall-clock latency of one run."""
        return measure_latency(self.call(inputs), threads=self.threads, runs=runs, warm_up=warm_up)

    def call(self, inputs: Mapping[str, Array]) -> Callable[[], object]:
        """One run on `inputs`, checked beforehand, as a function to be timed."""
        features = self._features(inputs)
        return lambda: self._run(features)


def _ports(program: MilProgram) -> tuple[list[_Port], list[_Port]]:
    """What the file says of its ports; one that edgeq did not write names its values like its ports."""
    try:
        said: dict[str, Any] = json.loads(program.metadata.get(PORTS_KEY, "{}"))
        inputs, outputs = (
            [
                _Port(str(p["value"]), str(p["feature"]), tuple(map(float, p["scale"])), tuple(map(float, p["shift"])))
                for p in said.get(side, [])
            ]
            for side in ("inputs", "outputs")
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnsupportedError("the package's description of its ports is damaged", value=error) from error
    inputs = inputs or [_Port(spot.name, spot.name) for spot in program.inputs]
    outputs = outputs or [_Port(name, name) for name in program.outputs]
    known = {spot.name for spot in program.inputs}
    made = {spot.name for operator in program.operators for spot in operator.outputs}
    features = [{port.feature for port in side} for side in (inputs, outputs)]
    channels = {spot.name: (1, spot.shape[1] if len(spot.shape) == 4 else 1) for spot in program.inputs}
    fit = all(len(part) in channels.get(p.feature, ()) for p in inputs for part in (p.scale, p.shift))
    if features != [known, set(program.outputs)] or not features[1] <= made or not fit:
        raise UnsupportedError("the package's description of its ports does not fit its program", value=known)
    return inputs, outputs


def _computed(tensors: Iterable[str], program: MilProgram) -> tuple[str, ...]:
    known = {spot.name for op in program.operators for spot in op.outputs}
    wanted = tuple(dict.fromkeys(tensors))
    for name in wanted:
        if name not in known:
            raise UsageError("the CoreML file does not compute this tensor", value=name)
    return wanted


# --- the interpreter ------------------------------------------------------------------------------------------

Features = Mapping[str, NDArray[np.float32]]


def _interpreter(program: MilProgram, watched: tuple[str, ...]) -> Callable[[Features], dict[str, Array]]:
    constants, steps = _prepared(program)
    kept = {*program.outputs, *watched}
    last_reader = {name: step for step in steps for part in step.inputs.values() for name in _operands(part)}

    @torch.no_grad()
    def run(features: Features) -> dict[str, Array]:
        values = dict(constants)
        for spot in program.inputs:
            values[spot.name] = as_declared(torch.from_numpy(features[spot.name]), spot.dtype)
        for step in steps:
            values.update(_results(step, values))
            for part in step.inputs.values():
                for name in _operands(part):
                    if last_reader[name] is step and name not in kept and name not in constants:
                        values.pop(name, None)
        return {name: _numpy(values[name]) for name in kept}

    return run


def _prepared(program: MilProgram) -> tuple[dict[str, Content], list[Operator]]:
    """Constants by name, in the element type they have in the program, and the operators that are left."""
    made = {spot.name: operator for operator in program.operators for spot in operator.outputs}
    constants: dict[str, Content] = {}
    steps = []
    for operator in program.operators:
        spot = operator.outputs[0]
        if operator.kind == "const" and "val" in operator.attributes:
            constants[spot.name] = _content(operator.attributes["val"], spot)
        elif operator.kind.startswith("constexpr_"):
            array = np.ascontiguousarray(decompressed(operator, made))
            constants[spot.name] = as_declared(torch.from_numpy(array), spot.dtype)
        else:
            steps.append(operator)
    return constants, steps


def _content(constant: Constant, spot: Spot) -> Content:
    if constant.dtype == "string":
        return str(constant.array)
    return as_declared(torch.from_numpy(np.array(constant.array)), spot.dtype)


def _operands(part: tuple[str, ...] | Constant) -> tuple[str, ...]:
    return () if isinstance(part, Constant) else part


def _results(operator: Operator, values: Mapping[str, Content]) -> dict[str, Content]:
    inputs: dict[str, list[Content]] = {}
    for key, part in operator.inputs.items():
        if isinstance(part, Constant):
            inputs[key] = [_content(part, Spot(key, part.array.shape, part.dtype))]
        elif any(name not in values for name in part):
            raise UnsupportedError("an operand is not computed before it is read", where=operator.kind, value=part)
        else:
            inputs[key] = [values[name] for name in part]
    found = compute(Call(operator.kind, inputs, operator.outputs[0]))
    tensors = found if isinstance(found, tuple) else (found,)
    results: dict[str, Content] = {}
    for spot, tensor in zip(operator.outputs, tensors, strict=True):
        if tuple(tensor.shape) != spot.shape:
            raise UnsupportedError(
                "a result has another shape than declared", where=spot.name, value=tuple(tensor.shape),
                allowed=spot.shape,
            )  # fmt: skip
        results[spot.name] = as_declared(tensor, spot.dtype)
    return results


def _numpy(content: Content) -> Array:
    assert isinstance(content, torch.Tensor)
    return content.numpy()


# --- CoreML itself --------------------------------------------------------------------------------------------


def _apple(path: Path, program: MilProgram) -> Callable[[Features], dict[str, Array]]:
    try:
        from coremltools.models import MLModel
        from PIL import Image
    except ImportError as error:
        raise MissingDependencyError("coremltools", "coreml", needed_for="running a CoreML file on a Mac") from error
    model = MLModel(str(path))

    def as_given(name: str, array: NDArray[np.float32]) -> object:
        if name not in program.images:
            return array
        pixels = np.clip(np.rint(array[0]), 0, 255).astype(np.uint8).transpose(1, 2, 0)
        return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)

    def run(features: Features) -> dict[str, Array]:
        found = model.predict({name: as_given(name, array) for name, array in features.items()})
        return {name: np.asarray(found[name]) for name in program.outputs}

    return run
