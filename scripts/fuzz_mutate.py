"""Mutations of model files: bytes without regard to what they mean, and single fields of the parsed file.

Mutation number n of a seed is the same in every run, so that a finding can be made again from its number.
"""

from __future__ import annotations

import math
import pickle
import random
import struct
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import onnx
from google.protobuf.descriptor import FieldDescriptor as Field  # type: ignore[import-untyped]
from google.protobuf.message import Message  # type: ignore[import-untyped]

from tests.tflite_files import packed, schema

INTEGERS = (0, 1, -1, 2, 3, 4, 7, 8, 15, 16, 31, 32, 64, 127, 128, 255, 256, 1 << 15, 1 << 16, 1 << 20, 1 << 24,
            (1 << 31) - 1, -(1 << 31), 1 << 31, (1 << 32) - 1, 1 << 40, (1 << 63) - 1, -(1 << 63))  # fmt: skip
REALS = (0.0, -0.0, 1.0, -1.0, math.nan, math.inf, -math.inf, 1e-45, 1.1754942e-38, 3.4e38, -1e-3, 2.0**-33, 2.0**31)
Mutation = Callable[[random.Random, bytes], bytes]


def mutation(seeds: Sequence[bytes], format_: str, seed: int, number: int) -> bytes:
    """Input `number` of a run: one of the seeds with a few fields changed, then perhaps a few bytes."""
    rng = random.Random(f"{format_}/{seed}/{number}")
    content = seeds[int(len(seeds) * rng.random() ** 2)]  # the networks come first, and are the richer start
    changes = rng.choice((1, 1, 1, 2, 3, 5))
    fields = sum(rng.random() < 0.85 for _ in range(changes))
    if fields:
        content = (_mutated_onnx if format_ == "onnx" else _mutated_tflite)(rng, content, fields)
    for _ in range(changes - fields):
        content = rng.choice(_ON_BYTES)(rng, content)
    return _spliced(rng, content, rng.choice(seeds)) if rng.random() < 0.02 else content


# --- bytes --------------------------------------------------------------------------------------------------------


def _flipped(rng: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _overwritten(rng: random.Random, content: bytes) -> bytes:
    """A number that readers trip over, at an aligned place."""
    if len(content) < 8:
        return content
    size = rng.choice((1, 2, 4, 4, 4, 8))
    position = rng.randrange(0, len(content) - size + 1, min(size, 4))
    number = rng.choice((*INTEGERS, len(content), len(content) - 4, position, -position, rng.randrange(1 << 16)))
    new = (number % (1 << (8 * size))).to_bytes(size, "little")
    if size == 4 and rng.random() < 0.3:
        new = struct.pack("<f", rng.choice(REALS))
    return content[:position] + new + content[position + size :]


def _truncated(rng: random.Random, content: bytes) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def _moved(rng: random.Random, content: bytes) -> bytes:
    """A piece removed, doubled, or copied over another."""
    start, end = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    end = min(end, start + rng.choice((1, 4, 16, 256)))
    piece, other = content[start:end], rng.randrange(len(content) + 1)
    match rng.randrange(3):
        case 0:
            return content[:start] + content[end:]
        case 1:
            return content[:other] + piece + content[other:]
        case _:
            return content[:other] + piece + content[other + len(piece) :]


def _spliced(rng: random.Random, content: bytes, other: bytes) -> bytes:
    return content[: rng.randrange(len(content) + 1)] + other[rng.randrange(len(other) + 1) :]


_ON_BYTES: tuple[Mutation, ...] = (_flipped, _flipped, _overwritten, _overwritten, _truncated, _moved)


# --- fields of an ONNX file ---------------------------------------------------------------------------------------


def _mutated_onnx(rng: random.Random, content: bytes, changes: int) -> bytes:
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
        for _ in range(changes):
            _mutate_message(rng, model, _texts(model))
        return bytes(model.SerializeToString())
    except Exception:  # what no longer parses is mutated as bytes
        return _flipped(rng, content)


def _texts(model: onnx.ModelProto) -> list[str]:
    """Names of the file, of which one in place of another gives cycles, duplicates and wrong operands."""
    nodes = list(model.graph.node)
    names = [name for node in nodes for name in (*node.input, *node.output, node.op_type)]
    return [*names, *(tensor.name for tensor in model.graph.initializer), "", "../x", "\udfff".encode(
        "utf-8", "replace").decode(), "x" * 300, "Loop", "Constant", "QuantizeLinear"]  # fmt: skip


def _mutate_message(rng: random.Random, model: Message, texts: list[str]) -> None:
    """One field of one message, all messages of the file being equally likely."""
    message = rng.choice([*_messages(model)])
    lists = [field for field, _ in message.ListFields() if field.is_repeated and field.type == Field.TYPE_MESSAGE]
    if lists and rng.random() < 0.3:
        _mutate_list(rng, getattr(message, rng.choice(lists).name))
        return
    plain = [field for field in message.DESCRIPTOR.fields if field.type != Field.TYPE_MESSAGE]
    present = [field for field, _ in message.ListFields() if field.type != Field.TYPE_MESSAGE]
    if plain:
        chosen = rng.choice(present if present and rng.random() < 0.7 else plain)
        _mutate_field(rng, message, chosen, texts)


def _messages(message: Message) -> Iterator[Message]:
    yield message
    for field, value in message.ListFields():
        if field.type == Field.TYPE_MESSAGE:
            for below in value if field.is_repeated else (value,):
                yield from _messages(below)


def _mutate_list(rng: random.Random, items: Any) -> None:
    if not items:
        return
    match rng.randrange(4):
        case 0:
            del items[rng.randrange(len(items))]
        case 1:
            items.add().CopyFrom(rng.choice(list(items)))
        case 2:
            items.reverse()
        case _:
            a, b = rng.choice(list(items)), rng.choice(list(items))
            a.MergeFrom(b)


def _mutate_field(rng: random.Random, message: Message, field: Any, texts: list[str]) -> None:
    new = _new_value(rng, field, texts)
    if not field.is_repeated:
        if rng.random() < 0.2:
            message.ClearField(field.name)
        else:
            setattr(message, field.name, new)
        return
    values = getattr(message, field.name)
    match rng.randrange(3):
        case 0 if values:
            del values[rng.randrange(len(values))]
        case 1 if values:
            values[rng.randrange(len(values))] = new
        case _:
            values.append(new)


def _new_value(rng: random.Random, field: Any, texts: list[str]) -> Any:
    match field.type:
        case Field.TYPE_STRING:
            return rng.choice(texts)
        case Field.TYPE_BYTES:
            return rng.choice((b"", b"\x00" * 7, b"\xff" * 64, b"linear", b"SAME_UPPER"))
        case Field.TYPE_FLOAT | Field.TYPE_DOUBLE:
            return rng.choice(REALS)
        case Field.TYPE_ENUM:
            return rng.choice([value.number for value in field.enum_type.values])
        case Field.TYPE_INT32 | Field.TYPE_UINT32:
            return rng.choice([number for number in INTEGERS if 0 <= number < 1 << 31])
        case Field.TYPE_UINT64:
            return rng.choice([number for number in INTEGERS if number >= 0])
        case _:
            return rng.choice(INTEGERS)


# --- fields of a .tflite file -------------------------------------------------------------------------------------


def _mutated_tflite(rng: random.Random, content: bytes, changes: int) -> bytes:
    try:
        model = pickle.loads(_unpacked(content))
        for _ in range(changes):
            _mutate_object(rng, model)
        return packed(model)
    except Exception:  # the schema's own accessors check nothing; what they cannot read is mutated as bytes
        return _overwritten(rng, content)


@lru_cache(maxsize=64)
def _unpacked(content: bytes) -> bytes:
    """The objects of a seed, pickled: a copy to change costs a tenth of unpacking again."""
    return pickle.dumps(schema.ModelT.InitFromObj(schema.Model.GetRootAs(content)))


def _mutate_object(rng: random.Random, model: Any) -> None:
    """One field of one object, all objects of the file being equally likely."""
    item = rng.choice([*_all_objects(model)])
    fields = vars(item)
    lists = sorted(name for name, value in fields.items() if isinstance(value, list) and _objects(value))
    if lists and rng.random() < 0.3:
        _mutate_objects(rng, fields[rng.choice(lists)])
        return
    names = sorted(name for name, value in fields.items() if value is not None and not _objects(value))
    if names:
        name = rng.choice(names)
        setattr(item, name, _changed(rng, fields[name]))


def _all_objects(item: Any) -> Iterator[Any]:
    yield item
    for value in vars(item).values():
        for below in _objects(value):
            yield from _all_objects(below)


def _objects(value: Any) -> list[Any]:
    found = value if isinstance(value, list) else [value]
    return [entry for entry in found if type(entry).__name__.endswith("T") and hasattr(entry, "__dict__")]


def _mutate_objects(rng: random.Random, items: list[Any]) -> None:
    match rng.randrange(3):
        case 0:
            del items[rng.randrange(len(items))]
        case 1:
            items.append(rng.choice(items))
        case _:
            rng.shuffle(items)


def _changed(rng: random.Random, value: Any) -> Any:
    number = rng.choice((*INTEGERS, rng.randrange(40), rng.randrange(8)))
    if isinstance(value, bool):
        return not value
    if isinstance(value, float):
        return rng.choice(REALS)
    if isinstance(value, int):
        return number
    if isinstance(value, str | bytes):
        return rng.choice(("", "t0", "t1", "../x", "x" * 300, "\x00"))
    if value is None:
        return None
    entries = [entry.item() if hasattr(entry, "item") else entry for entry in value]
    if not entries or rng.random() < 0.3:
        return entries[:-1] if entries and rng.random() < 0.5 else [*entries, rng.choice(entries or [number])]
    position = rng.randrange(len(entries))
    entries[position] = rng.choice(REALS) if isinstance(entries[position], float) else number
    return entries
