"""Files that nobody vouches for: .tflite bytes are read, or refused with one line, quickly and without much memory."""

from __future__ import annotations

import resource
import struct
import time
import zipfile
from pathlib import Path

import flatbuffers
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeq.errors import EdgeqError, UnsupportedError, UsageError
from edgeq.frontend.flatbuffer import MAX_TABLES
from edgeq.frontend.tflite import import_tflite
from edgeq.frontend.tflite_file import read_tflite
from edgeq.ir.verify import verify
from tests.tflite_files import File, packed
from tests.tflite_nets import float_net, integer_net, layout_net

SEEDS = (float_net(), layout_net(), integer_net())


def refused(content: bytes | str | Path, error: type[EdgeqError] = UnsupportedError) -> str:
    """The one line that refuses `content`."""
    with pytest.raises(error) as caught:
        import_tflite(content)
    message = str(caught.value)
    assert "\n" not in message
    return message


def read_or_refused(content: bytes) -> bool:
    """Whether it was read; anything but a typed error is raised here."""
    try:
        verify(import_tflite(content))
    except EdgeqError as error:
        assert error.exit_code != 1, error
        return False
    return True


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(SEEDS), st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(1, 255)), min_size=1, max_size=6)
)
def test_changed_bytes(content: bytes, changes: list[tuple[int, int]]) -> None:
    changed = bytearray(content)
    for position, mask in changes:
        changed[position % len(changed)] ^= mask
    read_or_refused(bytes(changed))


@pytest.mark.parametrize("content", SEEDS)
def test_every_truncation(content: bytes) -> None:
    assert read_or_refused(content)
    assert not any(read_or_refused(content[:length]) for length in range(0, len(content) - 64, 7))


def test_every_offset_that_points_to_the_end() -> None:
    """Each aligned word in turn becomes an offset just inside, just outside, or far outside the file."""
    content = SEEDS[2]
    for position in range(0, len(content) - 3, 4):
        targets = (len(content) - position - 4, len(content) - position, 0x7FFFFFFF, 0xFFFFFFFF)
        target = targets[position // 4 % 4]
        read_or_refused(content[:position] + struct.pack("<I", target) + content[position + 4 :])


def test_no_file_and_no_model(tmp_path: Path) -> None:
    assert "no such model file" in refused(tmp_path / "nothing.tflite", UsageError)
    assert "no such model file" in refused(tmp_path, UsageError)
    for content in (b"", b"TFL3", b"\x08\x00\x00\x00TFL3", b"\x00" * 64, b"PK\x03\x04" + b"\x00" * 64):
        refused(content)


def shared(tensors: int, entries: int) -> bytes:
    """Tables of tensors that are all one table, whose shape is one long vector."""
    builder = flatbuffers.Builder(1024)
    shape = builder.CreateNumpyVector(np.ones(entries, np.int32))
    builder.StartObject(10)
    builder.PrependUOffsetTRelativeSlot(0, shape, 0)
    tensor = builder.EndObject()
    builder.StartVector(4, tensors, 4)
    for _ in range(tensors):
        builder.PrependUOffsetTRelative(tensor)
    vector = builder.EndVector()
    builder.StartObject(5)
    builder.PrependUOffsetTRelativeSlot(0, vector, 0)
    graph = builder.EndObject()
    builder.StartVector(4, 1, 4)
    builder.PrependUOffsetTRelative(graph)
    graphs = builder.EndVector()
    builder.StartObject(8)
    builder.PrependUOffsetTRelativeSlot(2, graphs, 0)
    builder.Finish(builder.EndObject(), b"TFL3")
    return bytes(builder.Output())


@pytest.mark.parametrize(("tensors", "entries"), [(60_000, 60_000), (MAX_TABLES + 1, 1), (60_000, 8)])
def test_tables_that_share_a_vector_cost_little(tensors: int, entries: int) -> None:
    content = shared(tensors, entries)
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    refused(content)
    assert time.process_time() - started < 10  # the promise to users of untrusted files: no hang
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20  # KiB


def test_a_weight_with_too_few_bytes() -> None:
    f = File()
    x, y = f.tensor((1, 4)), f.tensor((1, 4))
    w = f.constant(np.ones((4, 4), np.float32))
    f.tensors[w].shape = [400_000_000, 4]
    f.op("FULLY_CONNECTED", [x, w, -1], [y], "FullyConnectedOptions")
    assert "wrong number of bytes" in refused(f.content([x], [y]))


def test_results_that_grow_without_bound() -> None:
    f = File()
    x = f.tensor((1, 4, 4, 4))
    value = x
    for _ in range(20):
        bigger = f.tensor((1, 4, 4, 4))
        pads = f.constant(np.array([[0, 0], [0, 2**30], [0, 2**30], [0, 0]], np.int32))
        f.op("PAD", [value, pads], [bigger])
        value = bigger
    assert "impossible shape" in refused(f.content([x], [value]))


def test_constants_that_grow_without_bound() -> None:
    f = File()
    value = f.constant(np.ones((1, 64), np.float32))
    x, y = f.tensor((1, 64)), f.tensor((1, 64))
    for _ in range(12):
        bigger = f.tensor((1, 64))
        f.op("TILE", [value, f.constant(np.array([200, 1], np.int32))], [bigger])
        value = bigger
    f.op("ADD", [x, value], [y], "AddOptions")
    message = refused(f.content([x], [y]))
    assert "too large" in message or "impossible shape" in message


def test_operators_in_a_circle() -> None:
    f = File()
    x, a, b = (f.tensor((1, 4)) for _ in range(3))
    f.op("ADD", [x, b], [a], "AddOptions")
    f.op("RELU", [a], [b])
    assert "not computed before it is used" in refused(f.content([x], [b]))


def test_one_name_for_all_tensors() -> None:
    f = File()
    x, a, y = (f.tensor((1, 4), name="same") for _ in range(3))
    f.op("RELU", [x], [a])
    f.op("NEG", [a], [y])
    graph = import_tflite(f.content([x], [y]))
    assert graph.inputs == ("same",)
    assert graph.outputs == ("same.1",)


def test_subgraphs_of_control_flow_are_named() -> None:
    f = File()
    x, y = f.tensor((1, 4)), f.tensor((1, 4))
    f.op("IF", [x, x], [y])
    model = f.model([x], [y])
    model.subgraphs *= 3
    assert "IF" in refused(packed(model))


def test_the_appended_archive(tmp_path: Path) -> None:
    """What Ultralytics appends is read; one that lies about its sizes, or holds no object, is left alone."""
    path = tmp_path / "net.tflite"

    def appended(name: str, text: bytes) -> dict[str, str]:
        path.write_bytes(float_net())
        with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(name, text)
        return dict(read_tflite(path).metadata)

    assert appended("metadata.json", b'{"task": "detect", "stride": 32}') == {"task": "detect", "stride": "32"}
    assert appended("temp_meta.txt", b'{"a": 1}') == {"a": "1"}
    for text in (b"[1, 2]", b"{", b"[" * 100_000, b" " * (1 << 21)):
        assert appended("metadata.json", text) == {}
    damaged = bytearray(path.read_bytes())
    damaged[-40:-30] = b"\xff" * 10
    assert read_tflite(bytes(damaged)).metadata == {}
