"""`edgeq profile-ops`: operators timed on boards, the table that bit allocation reads, and how far sums are from wholes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeq.boards.entries import FILE_VARIABLE, add_entry
from edgeq.flow.latency_store import store_path
from tests.board_artifacts import pi
from tests.command_line import edgeq, write_noise_images, write_small_classifier
from tests.ssh_server import SshServer, running

LAYERS = ("a", "c", "logits")


@pytest.fixture(autouse=True)
def board_list(server: SshServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(FILE_VARIABLE, str(tmp_path / "boards.toml"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    add_entry(pi(server))
    yield
    assert server.is_clean_within(10), (server.left(), server.processes())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_classifier(tmp_path_factory.mktemp("model") / "net.onnx")


def profiled(model: Path, out: Path, *more: object) -> dict[str, object]:
    ran = edgeq("profile-ops", model, "--preprocess", "cifar", "--out", out, "--threads", 1, "--json", *more)
    assert ran.exit == 0, ran.stderr
    return ran.document


def figures(document: dict[str, object], metric: str) -> dict[str, float]:
    return {row["where"]: row["value"] for row in document["rows"] if row["metric"] == metric}  # type: ignore[attr-defined]


def test_c_on_a_board_behind_ssh(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "pi.json"
    choices = ("--choices", "w8a8", "--choices", "w4a8")
    document = profiled(model, out, "-t", "c-int8", "--board", "pi", "--runs", 20, *choices)
    table = json.loads(out.read_text())
    assert {name: set(table["layers"][name]) for name in LAYERS} == {name: {"w8a8", "w4a8"} for name in LAYERS}
    assert all(ms > 0 for name in ("a", "c") for ms in table["layers"][name].values()) and table["rest_ms"] > 0
    whole, added, error = (figures(document, name) for name in ("whole_ms", "sum_ms", "additive_error"))
    assert whole.keys() == {"w8a8", "w4a8", "mixed"}
    for name in whole:
        assert error[name] == pytest.approx(100 * (added[name] - whole[name]) / whole[name])
    mixed = {layer["value"]: layer["kind"] for layer in document["layers"] if layer["board"] == "pi mixed"}  # type: ignore[attr-defined]
    assert mixed == {"a": "w8a8", "c": "w4a8", "logits": "w8a8"}
    told = sum(table["layers"][name][formats] for name, formats in mixed.items()) + table["rest_ms"]
    assert added["mixed"] == pytest.approx(told)
    assert any(note.startswith("additive model: ") for note in document["notes"])  # type: ignore[attr-defined]
    again = profiled(model, out, "-t", "c-int8", "--board", "pi", "--runs", 20, "--choices", "w8a8")
    assert figures(again, "whole_ms") == {"w8a8": whole["w8a8"]}
    repeated = json.loads(out.read_text())["layers"]
    assert all(repeated[name] == {"w8a8": table["layers"][name]["w8a8"]} for name in LAYERS)
    (known,) = [note for note in again["notes"] if "not measured" in note]  # type: ignore[attr-defined]
    assert known.startswith("known from an earlier run, not measured: w8a8 (")
    fresh = profiled(model, out, "-t", "c-int8", "--board", "pi", "--runs", 20, "--fresh", "--choices", "w8a8")
    assert not [note for note in fresh["notes"] if "not measured" in note]  # type: ignore[attr-defined]


def test_the_nodes_of_onnxruntime_on_a_board_behind_ssh(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "pi.json"
    document = profiled(model, out, "-t", "onnx-int8", "--board", "pi", "--runs", 10)
    table = json.loads(out.read_text())
    assert set(table["layers"]["c"]) == set(table["layers"]["logits"]) == {"w8a8", "w4a8"}
    assert table["layers"]["c"]["w8a8"] > 0 and table["rest_ms"] > 0  # the first convolution is real there
    assert figures(document, "additive_error").keys() == {"w8a8", "w4a8", "mixed"}


def test_the_table_feeds_the_allocation(model: Path, tmp_path: Path) -> None:
    """On a simulated board counts repeat, so that budgets can be set between what two allocations take."""
    out, images = tmp_path / "sim.json", write_noise_images(tmp_path / "images", 4)
    board, mhz = ("--board", "rv32imc-sim"), 50.0
    document = profiled(model, out, "-t", "c-int8", *board, "--mhz", mhz, "--choices", "w8a8", "--choices", "w4a8")
    assert all(abs(error) < 1e-9 for name, error in figures(document, "additive_error").items() if name != "mixed")
    assert abs(figures(document, "additive_error")["mixed"]) < 5
    quickest = figures(document, "sum_ms")["w8a8"]  # unpacking narrower weights takes instructions
    slowest = figures(document, "sum_ms")["w4a8"]
    assert slowest > 1.05 * quickest

    def exported(budget: float, folder: str) -> tuple[int, str, list[dict[str, object]]]:
        ran = edgeq(
            "export", model, "-t", "c-int8", "--calib", images, "--preprocess", "cifar", "--threads", 1, "--json",
            "--latency-table", out, "--choices", "w8a8", "--choices", "w4a8", "--max-latency-ms", budget, "--avg-bits", 5, "--format", "a=w8a8", "--format",
            "logits=w8a8", "--out", tmp_path / folder,
        )  # fmt: skip
        found = ran.document.get("manifest", {}).get("allocation", [])
        return ran.exit, ran.stderr, found

    between = (quickest + slowest) / 2
    code, _, found = exported(between, "between")
    assert code == 0
    formats = {entry["operator"]: entry["formats"] for entry in found}
    assert formats["a"] == formats["logits"] == "w8a8" and formats["c"] == "w4a8"  # what --avg-bits forces
    ran = edgeq("bench", tmp_path / "between", *board, "--json")
    taken = figures(ran.document, "instructions")["rv32imc-sim"] / (1000 * mhz)
    assert quickest < taken <= between
    code, message, _ = exported(0.999 * quickest, "below")
    assert code == 4 and "ms" in message and not (tmp_path / "below").exists()
    rest = json.loads(out.read_text())["rest_ms"]
    assert rest > 0 and exported(quickest - rest / 2, "rest")[0] == 4  # what has no weights counts, too


def test_times_of_a_board_that_was_held_back_are_not_kept(model: Path, tmp_path: Path) -> None:
    """As the firmware of a Raspberry Pi says it: bit 2 of get_throttled, throttled now."""
    tool = tmp_path / "bin" / "vcgencmd"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho throttled=0x4\n")
    tool.chmod(0o755)
    with running(SshServer(tmp_path / "sshd", environment={"PATH": f"{tool.parent}:/usr/bin:/bin"})) as hot:
        add_entry(pi(hot, "hot"))
        document = profiled(
            model, tmp_path / "t.json", "-t", "c-int8", "--board", "hot", "--runs", 3, "--choices", "w8a8"
        )
        assert hot.is_clean_within(10)
    assert "hot was held back, so its times are not kept for other runs: throttled now" in document["notes"]  # type: ignore[operator]
    assert (tmp_path / "t.json").exists() and not store_path().exists()


def test_what_cannot_be_profiled(model: Path, tmp_path: Path) -> None:
    same = ("--preprocess", "cifar", "--out", tmp_path / "t.json", "--threads", 1)
    ran = edgeq("profile-ops", model, "-t", "rpi-int8", "--board", "pi", *same)
    assert ran.exit == 3 and ran.stderr == (
        "error: this target's runtime does not tell the times of operators; got rpi-int8; allowed: targets of generated C,"
        " ONNX Runtime and TensorRT\n"
    )
    ran = edgeq("profile-ops", model, "-t", "onnx-int8", "--board", "rv32imc-sim", *same)
    assert ran.exit == 2 and "a simulated board runs generated C alone" in ran.stderr
    ran = edgeq("profile-ops", model, "-t", "c-int8", "--board", "pi,local", *same)
    assert ran.exit == 2 and "operators are profiled on one board" in ran.stderr
    assert not (tmp_path / "t.json").exists()
