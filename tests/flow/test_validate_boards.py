"""`edgeq validate --board`: accuracy of outputs that were made on boards, by the code that measures those made here."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeq.boards.entries import FILE_VARIABLE, add_entry
from edgeq.flow import validate_boards
from tests.board_artifacts import export_all, pi
from tests.command_line import edgeq, write_noise_images
from tests.ssh_server import SshServer

CLASSES = 5
IMAGES = 11


@pytest.fixture(autouse=True)
def board_list(server: SshServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(FILE_VARIABLE, str(tmp_path / "boards.toml"))
    add_entry(pi(server, "pi"))
    add_entry(pi(server, "pi-too"))
    yield
    assert server.is_clean_within(10), (server.left(), server.processes())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Artifacts, and images with labels that a noisy classifier sometimes hits."""
    made = tmp_path_factory.mktemp("validate")
    write_noise_images(made / "labelled", IMAGES, seed=5)
    with (made / "labelled" / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "label"])
        writer.writerows([f"{k}.png", k % CLASSES] for k in range(IMAGES))
    export_all(made)
    return made


def artifact(place: Path, kind: str) -> Path:
    return place / "c" if kind == "c" else next((place / kind).glob(f"*.{kind}"))


def by_place(document: dict[str, object]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for row in document["rows"]:  # type: ignore[attr-defined]
        found.setdefault(row["where"], {})[row["metric"]] = row["value"]
    return found


@pytest.mark.parametrize(
    ("kind", "boards"), [("onnx", "pi,pi-too"), ("tflite", "pi"), ("c", "pi,local,rv32imc-sim")]
)  # fmt: skip
def test_accuracy_on_boards_is_that_of_the_same_outputs(
    place: Path, kind: str, boards: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validate_boards, "BYTES_AT_A_TIME", 5 * 3 * 32 * 32 * 4)  # so that 11 images take three rounds
    ran = edgeq(
        "validate", artifact(place, kind), "--data", place / "labelled", "--against", place / "net.onnx",
        "--board", boards, "--threads", 1, "--json",
    )  # fmt: skip
    assert ran.exit == 0, ran.stderr
    found = by_place(ran.document)
    metrics = [name for name in found["artifact"] if not name.startswith("latency")]
    assert "top1" in metrics
    for board in boards.split(","):
        assert {name: found[board][name] for name in metrics} == {name: found["artifact"][name] for name in metrics}
        assert found[board]["equal_to_this_machine"] == 1.0
        assert any(f" on {board}, beside " in item["value"] for item in ran.document["agreement"])
    assert found["pi"]["latency_p50_ms"] > 0
    counted = [row for row in ran.document["rows"] if (row["where"], row["metric"]) == ("pi", "top1")]
    assert counted[0]["n"] == IMAGES


def test_a_board_that_fails_ends_the_command(server: SshServer, place: Path) -> None:
    add_entry(pi(server, "pi-too", python="/no/python"), replace=True)
    ran = edgeq("validate", artifact(place, "onnx"), "--data", place / "labelled", "--board", "pi,pi-too")
    assert ran.exit == 6 and ran.stderr.startswith(
        "error: the board has no Python that runs; at pi-too; got /no/python."
    )


def test_a_budget_counts_on_every_board(place: Path) -> None:
    ran = edgeq(
        "validate", artifact(place, "onnx"), "--data", place / "labelled", "--against", place / "net.onnx",
        "--board", "pi", "--max-drop", "nothing=1", "--json",
    )  # fmt: skip
    assert ran.exit == 4
    assert any(note.startswith("budget missed: nothing was not measured on pi") for note in ran.document["notes"])
