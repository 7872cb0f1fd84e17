"""Graph files: exact, deterministic, and closed to damage and harm."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from edgeq.errors import EdgeqError, OutputError, UnsupportedError, UntrustedInputError, UsageError
from edgeq.formats import BOOL, INDEX, INT8, Int
from edgeq.ir import ops as o
from edgeq.ir.file import digest, load, save
from edgeq.ir.graph import Editor, Graph, Type
from edgeq.reference.interpret import run
from tests.draws import random_inputs
from tests.ir.test_text import assert_same
from tests.nets import integer_graphs
from tests.real_nets import real_graphs


def every_kind_of_constant() -> Graph:
    editor = Editor("constants", ["x"], {"x": Type((2, 3))})
    weight = editor.constant("/odd: name\n", np.arange(6, dtype=np.float32).reshape(3, 2).T * 0.1, Type((2, 3)))
    total = editor.append(o.Add("x", weight, "total"))
    scalar = editor.constant("scalar", np.array(1.5, np.float32), Type(()))
    scaled = editor.append(o.Mul(total, scalar, "scaled"))
    mask = editor.constant("mask", np.array([True, False, True]), Type((3,), BOOL))
    kept = editor.append(o.Where(mask, scaled, total, "kept"))
    index = editor.constant("index", np.array([1, 0]), Type((2,), INDEX))
    moved = editor.append(o.Gather(kept, index, "moved", 0))
    codes = editor.append(o.Quantize(moved, "codes"), Type((2, 3), INT8, (0.1,)))
    w = editor.constant("w", np.array([[1, -2, 3]], np.int8), Type((1, 3), INT8, (0.5,)))
    acc = editor.append(o.Linear(codes, w, None, "acc"), Type((2, 1), Int(32), (0.05,)))
    return editor.graph([acc])


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(integer_graphs() | real_graphs())
def test_every_random_graph_comes_back(tmp_path: Path, graph: Graph) -> None:
    path = tmp_path / "graph.eq"
    save(graph, path)
    copy = load(path)
    assert_same(copy, graph)
    assert digest(copy) == digest(graph)
    assert os.listdir(tmp_path) == ["graph.eq"]


def test_every_kind_of_constant_comes_back(tmp_path: Path) -> None:
    graph, path = every_kind_of_constant(), tmp_path / "graph.eq"
    save(graph, str(path))
    copy = load(path)
    assert {name: (a.dtype, a.shape) for name, a in copy.constants.items()} == {
        name: (a.dtype, a.shape) for name, a in graph.constants.items()
    }
    inputs = random_inputs(graph, 1)
    assert run(copy, inputs)["acc"].equal(run(graph, inputs)["acc"])


def test_the_same_graph_gives_the_same_bytes(tmp_path: Path) -> None:
    graph = every_kind_of_constant()
    reordered = replace(graph, constants=dict(list(graph.constants.items())[::-1]))
    for index, same in enumerate((graph, reordered)):
        save(same, tmp_path / str(index))
    save(load(tmp_path / "0"), tmp_path / "2")
    assert len({(tmp_path / name).read_bytes() for name in "012"}) == 1


def test_the_digest_sees_every_change_but_not_storage() -> None:
    graph = every_kind_of_constant()
    wide = {name: a.astype(np.int64) if a.dtype == np.int8 else a for name, a in graph.constants.items()}
    assert digest(replace(graph, constants=wide)) == digest(graph)
    nudged = {**graph.constants, "w": np.array([[1, -2, 4]], np.int8)}
    changed = [
        replace(graph, name="other"),
        replace(graph, constants=nudged),
        replace(graph, types={**graph.types, "codes": replace(graph.types["codes"], scale=(0.1 + 2**-56,))}),
        replace(graph, outputs=(*graph.outputs, "total")),
        replace(graph, ops=tuple(replace(op, axis=1) if isinstance(op, o.Gather) else op for op in graph.ops)),
    ]
    assert len({digest(other) for other in [graph, *changed]}) == 6


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "graph.eq"
    save(every_kind_of_constant(), path)
    return path


def test_every_truncation_is_refused(saved: Path) -> None:
    content = saved.read_bytes()
    for length in [0, 1, 30, *range(100, len(content), 97), len(content) - 1]:
        saved.write_bytes(content[:length])
        with pytest.raises(UsageError, match="damaged or no edgeq graph"):
            load(saved)


def test_no_flipped_bit_changes_the_graph(saved: Path) -> None:
    """Times and other facts of the archive that say nothing about the graph may change; the graph may not."""
    content, expected = saved.read_bytes(), digest(every_kind_of_constant())
    chooser = random.Random(0)
    refused = 0
    for position in range(0, len(content), 3):
        damaged = bytearray(content)
        damaged[position] ^= 1 << chooser.randrange(8)
        saved.write_bytes(damaged)
        try:
            assert digest(load(saved)) == expected
        except EdgeqError:
            refused += 1
    assert refused > len(content) // 3 * 0.7


def rewritten(path: Path, **entries: bytes | None) -> None:
    """Replace entries of the archive (names with _ for . and /), drop those that are None, append new ones."""
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    names = {"edgeq": "edgeq.json", "graph": "graph.txt", "first": "constants/0.npy", "more": "more.txt"}
    for key, content in entries.items():
        if content is None:
            del contents[names[key]]
        else:
            contents[names[key]] = content
    write(path, contents)


def write(path: Path, contents: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)


def npy(array: object) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)  # type: ignore[arg-type]
    return stream.getvalue()


def label(path: Path, **changes: object) -> bytes:
    with zipfile.ZipFile(path) as archive:
        return json.dumps({**json.loads(archive.read("edgeq.json")), **changes}).encode()


def test_tampering_is_refused(saved: Path) -> None:
    with zipfile.ZipFile(saved) as archive:
        text = archive.read("graph.txt")
    original = saved.read_bytes()
    tampered: list[tuple[dict[str, bytes | None], str]] = [
        ({"graph": text.replace(b"0.05", b"0.06")}, "does not match its digest"),
        ({"graph": text.replace(b"linear(", b"linnear(")}, "line 1"),
        ({"graph": b"\xff\xfe"}, "codec"),
        ({"graph": None}, "graph.txt"),
        ({"first": None}, "constants/0.npy"),
        ({"more": b"x"}, "other entries: more.txt"),
        ({"edgeq": label(saved, **{"edgeq graph": 2})}, "another version; this edgeq reads version 1"),
        ({"edgeq": label(saved, sha256="0" * 64)}, "does not match its digest"),
        ({"edgeq": label(saved, constants=["a"])}, "entries|differ"),
        ({"edgeq": label(saved, constants="abc")}, "not strings"),
        ({"edgeq": label(saved, constants=[["a"]])}, "not strings"),
        ({"edgeq": b"[" * 100_000}, "damaged"),
        ({"edgeq": b"[]"}, "another version"),
        ({"edgeq": b"{}"}, "another version"),
        ({"first": npy(np.zeros(3))}, "not stored as edgeq stores it"),
        ({"first": npy(np.array([print, "x"], dtype=object))}, "not stored as edgeq stores it"),
        ({"first": pickle.dumps(print)}, "not stored as edgeq stores it"),
        ({"first": npy(np.zeros(3, np.int64)).replace(b"(3,)", b"(9,)")}, r"shape \(9,\) has 24 bytes"),
        ({"first": npy(np.zeros(3, np.int64)).replace(b"(3,), }         ", b"(99999999999,), }")}, "has 24 bytes"),
    ]
    for entries, message in tampered:
        saved.write_bytes(original)
        rewritten(saved, **entries)
        with pytest.raises(UsageError, match=message):
            load(saved)


def test_a_graph_that_verify_refuses_is_neither_written_nor_read(tmp_path: Path) -> None:
    graph = every_kind_of_constant()
    narrow = replace(graph, types={**graph.types, "acc": replace(graph.types["acc"], format=Int(9))})
    with pytest.raises(UnsupportedError, match="needs 11 bits"):
        save(narrow, tmp_path / "graph.eq")
    assert os.listdir(tmp_path) == []
    save(graph, tmp_path / "good")
    with zipfile.ZipFile(tmp_path / "good") as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    contents["graph.txt"] = contents["graph.txt"].replace(b"%acc: int32", b"%acc: int9")
    contents["edgeq.json"] = label(tmp_path / "good", sha256=digest(narrow))
    write(tmp_path / "bad", contents)
    with pytest.raises(UsageError, match="needs 11 bits"):
        load(tmp_path / "bad")


def test_an_archive_that_unpacks_to_more_is_refused(saved: Path) -> None:
    with zipfile.ZipFile(saved, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("graph.txt", b"0" * 10_000_000)
    with pytest.raises(UntrustedInputError, match="compressed, overlapping or repeated"):
        load(saved)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_repeated_entries_are_refused(saved: Path) -> None:
    with zipfile.ZipFile(saved, "a") as archive:
        archive.writestr("graph.txt", b"again")
    with pytest.raises(UntrustedInputError, match="repeated entries"):
        load(saved)


def test_an_entry_that_claims_a_huge_size_is_refused(saved: Path) -> None:
    content = bytearray(saved.read_bytes())
    with zipfile.ZipFile(saved) as archive:
        directory = archive.start_dir
    content[directory + 20 : directory + 28] = (0xF0000000).to_bytes(4, "little") * 2  # both sizes of the first entry
    saved.write_bytes(content)
    with pytest.raises((UntrustedInputError, UsageError)):
        load(saved)


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot be read.*No such file"):
        load(tmp_path / "missing")
    with pytest.raises(UsageError, match=r"cannot be read.*Is a directory"):
        load(tmp_path)
    (tmp_path / "text").write_text("edgeq graph 1\n")
    with pytest.raises(UsageError, match="damaged or no edgeq graph"):
        load(tmp_path / "text")


def test_what_cannot_be_written_leaves_nothing_behind(tmp_path: Path, saved: Path) -> None:
    graph = every_kind_of_constant()
    before = saved.read_bytes()
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "folder", tmp_path / "missing" / "graph.eq", saved / "below-a-file"):
        with pytest.raises(OutputError, match="cannot be written"):
            save(graph, path)
    assert sorted(os.listdir(tmp_path)) == ["folder", "graph.eq"]
    assert saved.read_bytes() == before
