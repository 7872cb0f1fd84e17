"""Our table of messages against coremltools' own: every name, number and kind."""

from __future__ import annotations

from typing import Any

import pytest

from edgeq.emit import coreml_schema as schema


def modules() -> list[Any]:
    from coremltools.proto import FeatureTypes_pb2, MIL_pb2, Model_pb2

    return [MIL_pb2, Model_pb2, FeatureTypes_pb2]


def theirs() -> dict[str, Any]:
    """Every message of theirs by its last name; nested ones too."""
    found: dict[str, Any] = {}

    def add(descriptor: Any) -> None:
        found.setdefault(descriptor.name, descriptor)
        for nested in descriptor.nested_types:
            add(nested)

    for module in modules():
        for descriptor in module.DESCRIPTOR.message_types_by_name.values():
            add(descriptor)
    return found


def kind(field: Any) -> tuple[object, ...]:
    wire = "enum" if field.type == field.TYPE_ENUM else field.type
    if field.message_type and field.message_type.GetOptions().map_entry:
        return ("map", kind(field.message_type.fields_by_name["value"]))
    return (wire, field.is_repeated, field.message_type.name if field.message_type else None)


@pytest.mark.parametrize("name", schema.MESSAGES)
def test_fields(name: str) -> None:
    ours, other = schema.message(name).DESCRIPTOR, theirs()[name]
    for field in ours.fields:
        counterpart = other.fields_by_name[field.name]
        assert field.number == counterpart.number
        assert bool(field.containing_oneof) == bool(counterpart.containing_oneof)
        wanted = kind(counterpart)
        assert kind(field) == ((field.TYPE_INT32, *wanted[1:]) if wanted[0] == "enum" else wanted), field.name
    assert ours.fields


def test_numbers_of_types() -> None:
    mil, model, features = modules()
    names = {"fp16": "FLOAT16", "fp32": "FLOAT32"}
    for name, number in schema.DATA_TYPES.items():
        assert mil.DataType.Value(names.get(name, name.upper())) == number
    for name, number in schema.ARRAY_TYPES.items():
        assert features.ArrayFeatureType.ArrayDataType.Value(names.get(name, name.upper())) == number
    for name, number in schema.COLOR_SPACES.items():
        theirs = {"GRAY": "GRAYSCALE"}.get(name, name)
        assert features.ImageFeatureType.ColorSpace.Value(theirs) == number
    assert model.Model().WhichOneof("Type") is None
