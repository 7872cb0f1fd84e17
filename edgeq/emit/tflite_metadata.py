"""What a TFLite file says about itself, in both conventions: for Ultralytics' loader and for the Task library.

Ultralytics reads `metadata.json` from a zip archive that follows the flatbuffer. The Task library reads a flatbuffer
of its own ("TFLITE_METADATA": tensor names, image normalization, label files) and takes the files it names, such as
labels.txt, from the same archive. Readers of flatbuffers do not look behind their end.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import flatbuffers

from edgeq.frontend.tflite_boxes import literal

METADATA_BUFFER = "TFLITE_METADATA"
RECORD_BUFFER = "edgeq"
"""JSON: `layouts`, where each axis of a value lies in its tensor; `reals`, ports of codes that stand for reals;
`divided`, outputs that the file divides by factors along an axis."""
LABELS = "labels.txt"
ULTRALYTICS = "metadata.json"
IDENTIFIER = b"M001"
PREPROCESS_KEY = "edgeq.preprocess"
PARSER_VERSION = "1.0.0"

# Members of unions and enumerations of the metadata schema (metadata_schema.fbs of TFLite Support).
_IMAGE_PROPERTIES, _NORMALIZATION, _AXIS_LABELS, _RGB = 2, 1, 2, 1
_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Port:
    """An input or output of the file; `image` for four axes of pixels."""

    name: str
    image: bool = False


def labels_of(metadata: Mapping[str, object]) -> list[str]:
    """Class names in order of their numbers, from the `names` that models carry; empty if there are none."""
    names = literal(metadata.get("names"))
    if isinstance(names, str):
        return []
    if isinstance(names, Mapping):
        return [str(names[key]) for key in sorted(names, key=int)]
    return [str(name) for name in names] if isinstance(names, Sequence) else []


def archive(metadata: Mapping[str, object]) -> bytes:
    """The zip archive behind the flatbuffer; the same bytes for the same metadata."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as files:
        for name, text in _members(metadata).items():
            files.writestr(zipfile.ZipInfo(name, _EPOCH), text)
    return content.getvalue()


def _members(metadata: Mapping[str, object]) -> dict[str, str]:
    plain = {key: value if key.startswith("edgeq.") else literal(value) for key, value in metadata.items()}
    members = {ULTRALYTICS: json.dumps(plain, indent=2, ensure_ascii=False, default=str)}
    if labels := labels_of(metadata):
        members[LABELS] = "\n".join(labels) + "\n"
    return members


class _Tables(flatbuffers.Builder):  # type: ignore[misc]  # ships no types
    """Tables by the positions of their fields."""

    def table(self, fields: Mapping[int, int], bytes_: Mapping[int, int] | None = None) -> int:
        """A table whose `fields` are offsets of strings, vectors and tables, and `bytes_` small numbers."""
        self.StartObject(10)
        for slot, offset in fields.items():
            self.PrependUOffsetTRelativeSlot(slot, offset, 0)
        for slot, number in (bytes_ or {}).items():
            self.PrependUint8Slot(slot, number, 0)
        ended: int = self.EndObject()
        return ended

    def text(self, content: str) -> int:
        """A string."""
        offset: int = self.CreateString(content)
        return offset

    def vector(self, offsets: Sequence[int]) -> int:
        """A vector of tables."""
        self.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            self.PrependUOffsetTRelative(offset)
        found: int = self.EndVector()
        return found

    def floats(self, numbers: Sequence[float]) -> int:
        """A vector of float32."""
        self.StartVector(4, len(numbers), 4)
        for number in reversed(numbers):
            self.PrependFloat32(number)
        found: int = self.EndVector()
        return found


def task_library_metadata(
    name: str, inputs: Sequence[Port], outputs: Sequence[Port], metadata: Mapping[str, object]
) -> bytes:
    """The flatbuffer of TFLITE_METADATA."""
    b = _Tables(1024)
    fed = b.vector([_input(b, port, metadata) for port in inputs])
    given = b.vector([_output(b, port, metadata) for port in outputs])
    subgraph = b.table({0: b.text(name), 2: fed, 3: given})
    fields = {0: b.text(name), 3: b.vector([subgraph]), 7: b.text(PARSER_VERSION)}
    for slot, key in ((1, "description"), (2, "version"), (4, "author"), (5, "license")):
        if key in metadata:
            fields[slot] = b.text(str(metadata[key]))
    b.Finish(b.table(fields), file_identifier=IDENTIFIER)
    return bytes(b.Output())


def _input(b: _Tables, port: Port, metadata: Mapping[str, object]) -> int:
    if not port.image:
        return b.table({0: b.text(port.name)})
    image = b.table({}, {0: _RGB})
    content = b.table({1: image}, {0: _IMAGE_PROPERTIES})
    mean, std = _normalization(metadata)
    options = b.table({0: b.floats(mean), 1: b.floats(std)})
    unit = b.table({1: options}, {0: _NORMALIZATION})
    return b.table({0: b.text(port.name), 3: content, 4: b.vector([unit])})


def _normalization(metadata: Mapping[str, object]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation over bytes, from the declared preprocessing (which works on pixels in [0, 1])."""
    try:
        declared = json.loads(str(metadata.get(PREPROCESS_KEY, "{}")))
        mean, std = declared.get("mean") or [0.0], declared.get("std") or [1.0]
        return [255.0 * float(m) for m in mean], [255.0 * float(s) for s in std]
    except (ValueError, TypeError, AttributeError):
        return [0.0], [255.0]


def _output(b: _Tables, port: Port, metadata: Mapping[str, object]) -> int:
    if not labels_of(metadata):
        return b.table({0: b.text(port.name)})
    file = b.table({0: b.text(LABELS)}, {2: _AXIS_LABELS})
    return b.table({0: b.text(port.name), 6: b.vector([file])})
