"""What folders of generated code have in common as runtimes: the manifest, ports, and codes that enter and leave."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeq.emit.artifact import MANIFEST
from edgeq.errors import UsageError

Array = NDArray[np.generic]
Codes = NDArray[np.signedinteger[Any]]
Port = Mapping[str, Any]


def read_folder(folder: Path, kind: str = "c", what: str = "generated C") -> dict[str, Any]:
    """What the manifest of a generated folder says of its C (or of another `kind`). Raises UsageError."""
    try:
        document = json.loads((folder / MANIFEST).read_text("utf-8"))[kind]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"this is no folder of {what}", where=folder, next_step="edgeq export writes one.") from error
    assert isinstance(document, dict)
    return document


def code_of(array: Array, port: Port) -> Codes:
    """The codes that enter for `array`: quantized if the port is real, saturating."""
    dtype = code_type(port["bits"] // 8)
    if not port["real"]:
        return np.asarray(array, dtype=dtype)
    ratio = np.asarray(array, dtype=np.float32) / np.float32(port["scale"])
    whole = np.trunc(ratio)
    nearest = np.rint(ratio) if port["ties"] == "even" else whole + np.trunc(2 * (ratio - whole))
    codes: Codes = np.clip(nearest + port["zero_point"], np.iinfo(dtype).min, np.iinfo(dtype).max).astype(dtype)
    return codes


def code_type(width: int) -> np.dtype[Any]:
    """The type of codes of `width` bytes, as a little-endian machine holds them."""
    return np.dtype(f"<i{width}")


def value_of(codes: Codes, port: Port) -> Array:
    """What leaves for `codes`: float32 if the port is real, else the codes."""
    if not port["real"]:
        return codes
    return np.asarray((codes.astype(np.float32) - port["zero_point"]) * np.float32(port["scale"]))


class FolderRuntime:
    """Ports of the folder that `_document` describes; `_layers` by value, and the values that are `_watched`."""

    _document: dict[str, Any]
    _layers: dict[str, dict[str, Any]]
    _watched: tuple[str, ...]

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs, in order."""
        return tuple(port["name"] for port in self._document["inputs"])

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs, in order, and of watched values after them."""
        own = tuple(port["name"] for port in self._document["outputs"])
        return (*own, *(name for name in self._watched if name not in own))

    @property
    def input_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each input, channels first."""
        return {port["name"]: tuple(port["shape"]) for port in self._document["inputs"]}

    @property
    def output_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each output, channels first."""
        own = {port["name"]: tuple(port["shape"]) for port in self._document["outputs"]}
        return {name: own.get(name) or tuple(self._layers[name]["shape"]) for name in self.outputs}

    @property
    def metadata(self) -> dict[str, str]:
        """What the folder says of the model."""
        return dict(self._document["metadata"])

    def _check(self, inputs: Mapping[str, Array]) -> None:
        """Raise UsageError if an input is missing, unknown, or has the wrong shape."""
        shapes = self.input_shapes
        if set(inputs) != set(shapes):
            raise UsageError("wrong inputs", value=", ".join(inputs) or "none", allowed=", ".join(shapes))
        for name, array in inputs.items():
            if tuple(array.shape) != shapes[name]:
                raise UsageError("wrong input shape", where=name, value=array.shape, allowed=shapes[name])
