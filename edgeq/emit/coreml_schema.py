"""The messages of a CoreML model file that an ML program uses, declared here so that writing one needs no Apple package.

Names and numbers are those of Apple's published `Model.proto`, `FeatureTypes.proto` and `MIL.proto`; fields that edgeq
neither writes nor reads are left out. A test compares this table with coremltools' own.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory  # type: ignore[import-untyped]  # it ships no types

from edgeq.errors import UnsupportedError

PACKAGE = "edgeq.coreml"

# message: fields, as "name number type" with "*" for repeated, "<" for a map from text, "|" for a member of a choice.
MESSAGES: dict[str, str] = {
    "Model": "specificationVersion 1 int32, description 2 ModelDescription, mlProgram 502 |Program",
    "ModelDescription": "input 1 *FeatureDescription, output 10 *FeatureDescription, metadata 100 Metadata",
    "FeatureDescription": "name 1 string, shortDescription 2 string, type 3 FeatureType",
    "Metadata": "shortDescription 1 string, versionString 2 string, author 3 string, license 4 string,"
    " userDefined 100 <string",
    "FeatureType": "imageType 4 |ImageFeatureType, multiArrayType 5 |ArrayFeatureType",
    "ImageFeatureType": "width 1 int64, height 2 int64, colorSpace 3 enum",
    "ArrayFeatureType": "shape 1 *int64, dataType 2 enum",
    "Program": "version 1 int64, functions 2 <Function, attributes 4 <Value",
    "Function": "inputs 1 *NamedValueType, opset 2 string, block_specializations 3 <Block",
    "Block": "inputs 1 *NamedValueType, outputs 2 *string, operations 3 *Operation",
    "Operation": "type 1 string, inputs 2 <Argument, outputs 3 *NamedValueType, blocks 4 *Block, attributes 5 <Value",
    "Argument": "arguments 1 *Binding",
    "Binding": "name 1 |string, value 2 |Value",
    "NamedValueType": "name 1 string, type 2 ValueType",
    "ValueType": "tensorType 1 |TensorType, listType 2 |ListType, dictionaryType 4 |DictionaryType",
    "TensorType": "dataType 1 enum, rank 2 int64, dimensions 3 *Dimension",
    "ListType": "type 1 ValueType, length 2 Dimension",
    "DictionaryType": "keyType 1 ValueType, valueType 2 ValueType",
    "Dimension": "constant 1 |ConstantDimension",
    "ConstantDimension": "size 1 uint64",
    "Value": "type 2 ValueType, immediateValue 3 |ImmediateValue, blobFileValue 5 |BlobFileValue",
    "ImmediateValue": "tensor 1 |TensorValue, dictionary 4 |DictionaryValue",
    "BlobFileValue": "fileName 1 string, offset 2 uint64",
    "TensorValue": "floats 1 |RepeatedFloats, ints 2 |RepeatedInts, bools 3 |RepeatedBools,"
    " strings 4 |RepeatedStrings, bytes 7 |RepeatedBytes",
    "RepeatedFloats": "values 1 *float",
    "RepeatedInts": "values 1 *int32",
    "RepeatedBools": "values 1 *bool",
    "RepeatedStrings": "values 1 *string",
    "RepeatedBytes": "values 1 bytes",
    "DictionaryValue": "values 1 *KeyValuePair",
    "KeyValuePair": "key 1 Value, value 2 Value",
}

# Numbers of element types in the program, and of the same types in the weight file.
DATA_TYPES = {
    "bool": 1, "string": 2, "fp16": 10, "fp32": 11, "int8": 21, "int16": 22, "int32": 23, "int4": 25, "uint8": 31,
    "uint16": 32, "uint32": 33, "uint4": 35, "uint2": 36, "uint1": 37, "uint6": 38, "uint3": 39,
}  # fmt: skip
BLOB_TYPES = {
    "fp16": 1, "fp32": 2, "uint8": 3, "int8": 4, "int16": 6, "uint16": 7, "int4": 8, "uint1": 9, "uint2": 10,
    "uint4": 11, "uint3": 12, "uint6": 13, "int32": 14, "uint32": 15,
}  # fmt: skip
ARRAY_TYPES = {"fp32": 65568, "int32": 131104}
COLOR_SPACES = {"GRAY": 10, "RGB": 20, "BGR": 30}

_FIELD = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "int32": _FIELD.TYPE_INT32, "int64": _FIELD.TYPE_INT64, "uint64": _FIELD.TYPE_UINT64, "bool": _FIELD.TYPE_BOOL,
    "float": _FIELD.TYPE_FLOAT, "string": _FIELD.TYPE_STRING, "bytes": _FIELD.TYPE_BYTES,
    "enum": _FIELD.TYPE_INT32,  # on the wire an enumeration is an int32
}  # fmt: skip


def _add_field(message: descriptor_pb2.DescriptorProto, text: str) -> None:
    name, number, kind = text.split()
    field = message.field.add(name=name, number=int(number), label=_FIELD.LABEL_OPTIONAL)
    if kind[0] in "*<":
        field.label = _FIELD.LABEL_REPEATED
    if kind[0] == "|":
        if not message.oneof_decl:
            message.oneof_decl.add(name="choice")
        field.oneof_index = 0
    kind_name = kind.lstrip("*<|")
    if kind[0] == "<":
        entry = message.nested_type.add(name=f"{name[0].upper()}{_camel(name[1:])}Entry")
        entry.options.map_entry = True
        _add_field(entry, "key 1 string")
        _add_field(entry, f"value 2 {kind_name}")
        field.type, field.type_name = _FIELD.TYPE_MESSAGE, f".{PACKAGE}.{message.name}.{entry.name}"
    elif kind_name in _SCALARS:
        field.type = _SCALARS[kind_name]
    else:
        field.type, field.type_name = _FIELD.TYPE_MESSAGE, f".{PACKAGE}.{kind_name}"


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def _pool() -> descriptor_pool.DescriptorPool:
    file = descriptor_pb2.FileDescriptorProto(name="edgeq_coreml.proto", package=PACKAGE, syntax="proto3")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for text in fields.split(", "):
            _add_field(message, text)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool


_POOL = _pool()


def message(name: str) -> Any:
    """The class of the message `name`."""
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"{PACKAGE}.{name}"))


Model = message("Model")
FeatureDescription = message("FeatureDescription")
Operation = message("Operation")
Value = message("Value")
Argument = message("Argument")
ValueType = message("ValueType")


def data_type_name(number: int, where: object) -> str:
    """The name of an element type. Raises UnsupportedError for one that edgeq does not know."""
    for name, known in DATA_TYPES.items():
        if known == number:
            return name
    raise UnsupportedError("an element type that edgeq does not read", where=where, value=number)
