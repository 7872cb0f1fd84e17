"""The calibration cache: what it depends on, that it gives back what was stored, and that damage costs nothing."""

from __future__ import annotations

import logging
import multiprocessing
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from edgeq.calibrate import cache
from edgeq.calibrate.observe import observe
from edgeq.calibrate.statistics import LAYOUT, Statistics, statistics_of, to_arrays
from edgeq.datasets.folder import pixel_sha256
from edgeq.errors import OutputError, UsageError
from tests.calibrate.small_net import images, small_net

PARTS = {
    "model": "model digest",
    "preprocess": {"size": [640, 640], "scale": 255.0},
    "images": ["a", "b", "c"],
    "settings": {"values": ["x", "y"]},
    "degradation": {"name": "blur", "seed": 42},
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache home é"))
    return tmp_path / "cache home é" / "edgeq" / "statistics"


def key(**changed: object) -> str:
    return cache.key(**{**PARTS, **changed})  # type: ignore[arg-type]


def some_statistics(seed: int = 0) -> dict[str, Statistics]:
    random = torch.Generator().manual_seed(seed)
    return {name: statistics_of(torch.randn(1, 4, 6, 6, generator=random)) for name in ("x", "y/z", "é")}


def same(a: dict[str, Statistics] | None, b: dict[str, Statistics]) -> bool:
    if a is None or list(a) != list(b):
        return False
    left, right = to_arrays(a), to_arrays(b)
    return all(np.array_equal(left[name], right[name]) for name in right)


def test_one_changed_pixel_of_one_image_changes_the_key() -> None:
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 256, (12, 9, 3), dtype=np.uint8) for _ in range(3)]
    before = key(images=[pixel_sha256(picture) for picture in pictures])
    assert before == key(images=[pixel_sha256(picture) for picture in reversed(pictures)])
    pictures[1][5, 5, 2] ^= 1
    assert before != key(images=[pixel_sha256(picture) for picture in pictures])


@pytest.mark.parametrize(
    "changed",
    [
        {"model": "another"},
        {"preprocess": {"size": [640, 640], "scale": 1.0}},
        {"images": ["a", "b"]},
        {"images": ["a", "b", "c", "c"]},
        {"settings": {"values": ["x"]}},
        {"degradation": {"name": "blur", "seed": 43}},
        {"degradation": None},
    ],
)
def test_everything_that_matters_changes_the_key(changed: dict[str, object]) -> None:
    assert key(**changed) != key()


def test_what_does_not_matter_leaves_the_key() -> None:
    assert key(preprocess={"scale": 255.0, "size": (640, 640)}) == key()
    assert key(images=("c", "a", "b")) == key()


def test_the_versions_are_part_of_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = key()
    monkeypatch.setattr(cache, "LAYOUT", LAYOUT + 1)
    after = key()
    monkeypatch.setattr(cache, "__version__", "9.9.9")
    assert len({before, after, key()}) == 3


def test_stored_statistics_come_back(folder: Path) -> None:
    stored = observe(small_net(), images(2))
    assert cache.load(key()) is None
    cache.store(key(), stored)
    assert same(cache.load(key()), stored)
    assert cache.load(key(model="another")) is None
    assert [path.suffix for path in folder.iterdir()] == [".npz"]
    cache.store(key(), some_statistics())
    assert same(cache.load(key()), some_statistics())


def corruptions(content: bytes) -> dict[str, bytes]:
    middle = len(content) // 2
    return {
        "empty": b"",
        "cut short": content[:middle],
        "one bit": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
        "not a zip": b"statistics" * 100,
    }


@pytest.mark.parametrize("damage", ["empty", "cut short", "one bit", "not a zip"])
def test_a_damaged_entry_is_reported_and_counts_as_absent(
    folder: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    cache.store(key(), some_statistics())
    (path,) = folder.iterdir()
    path.write_bytes(corruptions(path.read_bytes())[damage])
    with caplog.at_level(logging.WARNING):
        assert cache.load(key()) is None
    assert "damaged" in caplog.text
    cache.store(key(), some_statistics())
    assert same(cache.load(key()), some_statistics())


def test_every_single_byte_may_be_damaged(folder: Path) -> None:
    """No flipped byte gives other statistics or an exception: zip checksums cover what is read."""
    stored = some_statistics()
    cache.store(key(), stored)
    (path,) = folder.iterdir()
    content = path.read_bytes()
    absent = 0
    for position in range(0, len(content), max(1, len(content) // 250)):
        path.write_bytes(content[:position] + bytes([content[position] ^ 0xFF]) + content[position + 1 :])
        found = cache.load(key())
        assert found is None or same(found, stored)
        absent += found is None
    assert absent > 50


def test_an_entry_under_the_wrong_name_is_not_used(folder: Path) -> None:
    cache.store(key(), some_statistics())
    (path,) = folder.iterdir()
    path.rename(folder / f"{key(model='another')}.npz")
    assert cache.load(key(model="another")) is None


def test_an_entry_that_would_unpack_to_too_much_is_not_opened(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cache.store(key(), some_statistics())
    (path,) = folder.iterdir()
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
    monkeypatch.setattr(cache, "LARGEST_BYTES", unpacked - 1)
    assert cache.load(key()) is None
    assert "unpacks to more" in caplog.text


def test_entries_hold_no_pickles(folder: Path) -> None:
    folder.mkdir(parents=True)
    np.savez(folder / f"{key()}.npz", allow_pickle=True, key=np.array(key()), values=np.array([{"a": 1}], dtype=object))
    assert cache.load(key()) is None


def test_list_and_remove(folder: Path) -> None:
    assert cache.list_entries() == []
    names = [key(model=str(k)) for k in range(3)]
    for name in names:
        cache.store(name, some_statistics())
    (folder / "notes.txt").write_text("not an entry")
    (folder / "short.npz").write_text("not an entry")
    entries = cache.list_entries()
    assert {entry.key for entry in entries} == set(names)
    assert all(entry.size_bytes > 1000 and entry.written > 0 for entry in entries)
    assert cache.remove([names[0], names[0]]) == 1
    assert cache.load(names[0]) is None
    assert cache.remove() == 2
    assert cache.list_entries() == []
    assert (folder / "notes.txt").exists()


@pytest.mark.parametrize("bad", ["", "../../etc/passwd", "A" * 64, "0" * 63])
def test_a_key_is_not_a_path(bad: str) -> None:
    for use in (cache.load, lambda k: cache.store(k, {}), lambda k: cache.remove([k])):
        with pytest.raises(UsageError):
            use(bad)


def test_a_folder_that_cannot_be_written_is_an_error(folder: Path) -> None:
    folder.parent.mkdir(parents=True)
    folder.write_text("a file where the folder should be")
    with pytest.raises(OutputError, match="XDG_CACHE_HOME"):
        cache.store(key(), some_statistics())


def test_a_failing_write_leaves_nothing_behind(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OutputError, match="No space"):
        cache.store(key(), some_statistics())
    assert list(folder.iterdir()) == []


def test_a_relative_cache_home_is_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in ("", "relative/path"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache.cache_folder() == tmp_path / ".cache" / "edgeq" / "statistics"


def _write_and_read(name: str) -> bool:
    for _ in range(8):
        cache.store(name, some_statistics())
        if not same(cache.load(name), some_statistics()):
            return False
    return True


def test_simultaneous_writers_do_not_disturb_each_other(folder: Path) -> None:
    with multiprocessing.get_context("fork").Pool(4) as pool:
        assert pool.map(_write_and_read, [key()] * 4) == [True] * 4
    assert [path.name for path in folder.iterdir()] == [f"{key()}.npz"]
