"""Checkpoints are read without running what is in them, and every damaged or hostile file ends in a typed error."""

from __future__ import annotations

import functools
import io
import os
import pickle
import struct
import subprocess
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from edgeq.errors import EdgeqError, UnsupportedError, UntrustedInputError, UsageError
from edgeq.frontend import safe_load
from edgeq.frontend.safe_load import load_pickled, load_tensors
from edgeq.frontend.ultralytics import find_network

UINT32 = struct.Struct("<I")


class Calls:
    """Pickles as the call `function(*arguments)`, where the function may itself be such a call."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.function, self.arguments

    def __call__(self) -> None:
        raise AssertionError("only pickled")


def touch(marker: Path) -> str:
    return f"open({str(marker)!r}, 'w').close()"


def weights() -> dict[str, Tensor]:
    return {"conv.weight": torch.arange(24.0).reshape(2, 3, 2, 2), "conv.bias": torch.tensor([0.5, -2.0])}


def save_zip(value: object, path: Path) -> None:
    torch.save(value, path)


def save_legacy(value: object, path: Path) -> None:
    torch.save(value, path, _use_new_zipfile_serialization=False)


def save_pickle(pickled: bytes, path: Path) -> None:
    """A torch zip archive whose object is `pickled`, byte for byte."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", "3\n")


HOSTILE: dict[str, Callable[[Path], object]] = {
    "os.system": lambda m: Calls(os.system, f"touch {m}"),
    "nested": lambda m: {"state_dict": {**weights(), "extra": [{"deep": (1, Calls(os.system, f"touch {m}"))}]}},
    "beside weights": lambda m: OrderedDict([*weights().items(), ("hook", Calls(exec, touch(m)))]),
    "eval": lambda m: Calls(eval, touch(m)),
    "getattr of a module": lambda m: Calls(Calls(getattr, Calls(__import__, "os"), "system"), f"touch {m}"),
    "getattr of builtins": lambda m: Calls(Calls(getattr, Calls(__import__, "builtins"), "exec"), touch(m)),
    "partial": lambda m: Calls(functools.partial(exec, touch(m))),
    "process": lambda m: Calls(subprocess.check_call, ["touch", str(m)]),
    "make a folder": lambda m: Calls(os.mkdir, str(m)),
    "method of a path": lambda m: Calls(Path.touch, m),
    "class with a constructor": lambda m: Calls(nn.Flatten, Calls(exec, touch(m))),
}


@pytest.mark.parametrize("save", [save_zip, save_legacy])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_run_nothing(tmp_path: Path, name: str, save: Callable[[object, Path], None]) -> None:
    marker, file = tmp_path / "marker", tmp_path / "model.pt"
    save(HOSTILE[name](marker), file)
    with pytest.raises(UntrustedInputError, match=r"--trust-pickle") as refused:
        load_pickled(file, find_network=find_network)
    assert not marker.exists()
    assert refused.value.exit_code == 8
    load_pickled(file, trust_pickle=True)
    assert marker.exists()  # the file was live


OPCODES: dict[str, Callable[[bytes], bytes]] = {
    "inst": lambda code: b"(" + code + b"ios\nsystem\n.",
    "obj": lambda code: b"(cos\nsystem\n" + code + b"o.",
    "newobj": lambda code: b"\x80\x02csubprocess\nPopen\n(" + code + b"t\x81.",
    "stack global": lambda code: b"\x80\x04\x8c\x05posix\x8c\x06system\x93" + code + b"\x85R.",
    "python 2 name": lambda code: b"\x80\x02c__builtin__\nexecfile\n" + code + b"\x85R.",
    "dotted name": lambda code: b"\x80\x04\x8c\x05torch\x8c\x09os.system\x93" + code + b"\x85R.",
    "dotted storage": lambda code: b"\x80\x04\x8c\x05torch\x8c\x15FloatStorage.__init__\x93" + code + b"\x85R.",
    "called class": lambda code: b"\x80\x02ctorch.nn.modules.module\nModule\n" + code + b"\x85R.",
    "forward of a class": lambda code: (
        b"\x80\x02cbuiltins\ngetattr\nctorch.nn.modules.module\nModule\n" + b"X\x08\x00\x00\x00__init__\x86R."
    ),
    "extension": lambda code: b"\x80\x02\x82\x01.",
    "memo of 32 GB": lambda code: b"\x80\x02Nr\xff\xff\xff\x7f.",
}


@pytest.mark.parametrize("name", OPCODES)
def test_every_way_to_name_a_function_is_refused(tmp_path: Path, name: str) -> None:
    command = f"touch {tmp_path / 'marker'}".encode()
    file = tmp_path / "model.pt"
    save_pickle(OPCODES[name](b"X" + UINT32.pack(len(command)) + command), file)
    with pytest.raises(UntrustedInputError):
        load_pickled(file, find_network=find_network)
    assert not (tmp_path / "marker").exists()


def test_the_message_names_what_was_found(tmp_path: Path) -> None:
    save_zip(Calls(os.system, "true"), tmp_path / "model.pt")
    with pytest.raises(
        UntrustedInputError, match=rf"model\.pt; got {os.system.__module__}\.system\. Pass --trust-pickle"
    ):
        load_pickled(tmp_path / "model.pt")


def test_pickles_that_torch_does_not_read_stay_unread(tmp_path: Path) -> None:
    marker, file = tmp_path / "marker", tmp_path / "model.pt"
    save_zip(weights(), file)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("model/extra/payload.pkl", pickle.dumps(Calls(exec, touch(marker))))
    assert load_tensors(file).keys() == weights().keys()
    assert not marker.exists()


def test_a_tar_archive_is_refused_and_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    payload = pickle.dumps(Calls(exec, touch(tmp_path / "marker")))
    for first in ("sys_info", "\x80storages"):  # a name that begins as a pickle does
        with tarfile.open("model.pt", "w", encoding="latin1") as archive:
            for name in (first, "storages", "tensors", "pickle", "../escaped"):
                member = tarfile.TarInfo(name)
                member.size = len(payload)
                archive.addfile(member, io.BytesIO(payload))
        for trust in (False, True):
            with pytest.raises(UsageError, match="torch checkpoint"):
                load_pickled(Path("model.pt"), trust_pickle=trust)
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]
    assert not (tmp_path.parent / "escaped").exists()


def test_torchscript_and_programs_are_told_apart(tmp_path: Path) -> None:
    for member, kind in (("constants.pkl", "TorchScript"), ("archive_format", "torch.export")):
        with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
            archive.writestr(f"model/{member}", b"")
        with pytest.raises(UnsupportedError, match=kind):
            load_pickled(tmp_path / "model.pt")


def test_a_zip_bomb_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}, 2))
        archive.writestr("archive/data/0", bytes(8 << 20))
    with pytest.raises(UntrustedInputError, match="unpacks to far more"):
        load_pickled(tmp_path / "model.pt")


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safe_load, "MAX_FILE_BYTES", 100)
    save_zip(weights(), tmp_path / "model.pt")
    with pytest.raises(UsageError, match="too large"):
        load_pickled(tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [((1 << 40,), (0,), 0), ((24,), (1,), 1), ((5, 6), (6, 1), 0), ((2,), (-1,), 3), ((24,), (1,), -1)],
)
def test_tensors_outside_their_storage_are_refused(
    tmp_path: Path, size: tuple[int, ...], stride: tuple[int, ...], offset: int
) -> None:
    storage = torch.arange(24.0).untyped_storage()
    typed = torch.storage.TypedStorage(wrap_storage=storage, dtype=torch.float32, _internal=True)  # type: ignore[no-untyped-call]
    rebuild = Calls(torch._utils._rebuild_tensor_v2, typed, offset, size, stride, False, OrderedDict())
    save_zip({"a": rebuild}, tmp_path / "model.pt")
    with pytest.raises(UsageError, match="not a readable torch checkpoint"):
        load_tensors(tmp_path / "model.pt")


@pytest.mark.parametrize("save", [save_zip, save_legacy])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda w: w,
        OrderedDict,
        lambda w: {"state_dict": w, "best_prec1": 91.7, "epoch": 3},
        lambda w: {"model": OrderedDict({f"module.{k}": v for k, v in w.items()})},
        lambda w: {f"_orig_mod.{k}": nn.Parameter(v) for k, v in w.items()},
        lambda w: {"ema": None, "model_state_dict": {k: v[..., ::1] for k, v in w.items()}},
    ],
)
def test_weights_load_from_every_wrapping(
    tmp_path: Path,
    save: Callable[[object, Path], None],
    wrap: Callable[[dict[str, Tensor]], object],
) -> None:
    save(wrap(weights()), tmp_path / "model.pth")
    same(load_tensors(tmp_path / "model.pth"), weights())


def test_weights_load_from_safetensors(tmp_path: Path) -> None:
    save_file(weights(), tmp_path / "model.safetensors")
    same(load_tensors(tmp_path / "model.safetensors"), weights())


@pytest.mark.parametrize("save", [save_zip, save_legacy])
def test_weights_load_from_a_whole_torch_network(tmp_path: Path, save: Callable[[object, Path], None]) -> None:
    network = nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 2, 2), norm=nn.BatchNorm2d(2), act=nn.LeakyReLU()))
    save(network, tmp_path / "model.pt")
    same(load_tensors(tmp_path / "model.pt"), network.state_dict())
    loaded = load_pickled(tmp_path / "model.pt")
    image = torch.rand(1, 3, 5, 5)
    assert torch.equal(loaded.eval()(image), network.eval()(image))


def same(loaded: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("model.pt", b"", "neither a zip archive nor a pickle"),
        ("model.pt", b"PK\x03\x04 but not a zip", "not a readable torch checkpoint"),
        ("model.pt", b"\x80\x02}q\x00.", "not a readable torch checkpoint"),
        ("model.safetensors", b"\xff" * 32, "not a readable safetensors file"),
        ("model.safetensors", b"", "not a readable safetensors file"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=reason):
        load_tensors(tmp_path / name)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.pt", tmp_path):
        with pytest.raises(UsageError, match="cannot be read"):
            load_pickled(path)


def test_a_checkpoint_without_weights_is_named(tmp_path: Path) -> None:
    save_zip({"epoch": 3}, tmp_path / "model.pt")
    with pytest.raises(UsageError, match="holds no state dict"):
        load_tensors(tmp_path / "model.pt")


def _bytes_of(save: Callable[..., None], value: object) -> bytes:
    buffer = io.BytesIO()
    save(value, buffer)
    return buffer.getvalue()


ORIGINALS = [_bytes_of(save_zip, weights()), _bytes_of(save_legacy, {"state_dict": weights()})]


@settings(max_examples=300, deadline=None)
@given(
    original=st.sampled_from(ORIGINALS),
    edits=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4),
    keep=st.floats(0.2, 1.2),
)
def test_mutated_files_end_in_a_value_or_a_typed_error(
    tmp_path_factory: pytest.TempPathFactory, original: bytes, edits: list[tuple[float, int]], keep: float
) -> None:
    mutated = bytearray(original)
    for place, value in edits:
        mutated[int(place * len(mutated))] = value
    file = tmp_path_factory.getbasetemp() / "mutated.pt"
    file.write_bytes(mutated[: int(keep * len(mutated))])
    try:
        loaded = load_tensors(file)
    except EdgeqError as refused:
        assert "\n" not in str(refused)
    else:
        assert all(isinstance(tensor, Tensor) for tensor in loaded.values())
