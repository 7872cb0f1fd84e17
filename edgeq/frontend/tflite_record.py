"""The record that edgeq's own TFLite files carry: what its tensors are of the model's values.

Other files have none, but those of Ultralytics divide a detector's boxes like ours, and say what they detect.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import UnsupportedError
from edgeq.frontend.tflite_boxes import box_factors
from edgeq.frontend.tflite_file import OWN_RECORD, TfliteFile
from edgeq.frontend.tflite_types import is_channels_last

Array = NDArray[np.generic]


@dataclass(frozen=True)
class Record:
    """What an edgeq file says of its tensors; see edgeq/emit/tflite_metadata.py. Of other files only `divided` is known."""

    layouts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    reals: tuple[str, ...] | None = None
    divided: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def is_there(self) -> bool:
        """Whether the file has a record, so that edgeq wrote it."""
        return self.reals is not None

    def whole(self, port: str, array: Array) -> Array:
        """`array` times the factors that the file divided this output by."""
        if port not in self.divided:
            return array
        axis, factors = self.divided[port]["axis"], np.asarray(self.divided[port]["factors"], dtype=np.float32)
        product: Array = np.multiply(array, factors.reshape([-1 if k == axis else 1 for k in range(array.ndim)]))
        return product

    def stands_for_reals(self, port: str) -> bool:
        """Whether codes at this port are to be quantized and dequantized on the way."""
        return self.reals is None or port in self.reals


def read_record(file: TfliteFile) -> Record:
    """The record in a TFLite file. Raises UnsupportedError if it is damaged."""
    if OWN_RECORD not in file.notes:
        return Record(divided=_divided(file))
    try:
        record = json.loads(file.notes[OWN_RECORD])
        layouts = {name: tuple(map(int, axes)) for name, axes in record["layouts"].items()}
        divided = {
            name: {"axis": int(item["axis"]), "factors": list(map(float, item["factors"]))}
            for name, item in record.get("divided", {}).items()
        }
        return Record(layouts, tuple(map(str, record["reals"])), divided)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UnsupportedError("the record in the TFLite file is damaged", value=error) from error


def _divided(file: TfliteFile) -> dict[str, dict[str, object]]:
    """What a file of Ultralytics divides, by the port's name; nothing of one whose metadata is damaged."""
    image = file.tensors[file.inputs[0]].shape if len(file.inputs) == 1 else ()
    if len(image) != 4 or not file.outputs:
        return {}
    size = (image[1], image[2]) if is_channels_last(image) else (image[2], image[3])
    index, detections = file.outputs[0], file.tensors[file.outputs[0]]
    try:
        found = box_factors(detections.shape, size, file.metadata)
    except (ValueError, TypeError, IndexError):
        return {}
    return {} if found is None else {file.port_names.get(index) or detections.name: found.document()}
