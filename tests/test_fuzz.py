"""scripts/fuzz: a few hundred mutated files, the files that once broke a reader, and the watch over the worker."""

from __future__ import annotations

import importlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeq.errors import EdgeqError

ROOT = Path(__file__).resolve().parents[1]
CORPUS = sorted((ROOT / "tests" / "corpus").iterdir())
COUNT = 200


@pytest.fixture
def fuzzing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """scripts/fuzz_run.py, whose worker imports its neighbours and the tests by name."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "scripts")]))
    module = importlib.import_module("fuzz_run")
    yield module
    module.stop_workers()


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_files_that_once_broke_a_reader(fuzzing: Any, path: Path) -> None:
    try:
        fuzzing.read(path.suffix[1:], path.read_bytes())
    except EdgeqError as error:
        assert error.exit_code != 1
        assert "\n" not in str(error)


def test_the_corpus_is_there() -> None:
    assert len([path for path in CORPUS if path.suffix == ".tflite"]) >= 15
    assert len([path for path in CORPUS if path.suffix == ".onnx"]) >= 5


@pytest.mark.parametrize("format_", ["onnx", "tflite"])
def test_a_few_hundred_mutated_files(fuzzing: Any, format_: str) -> None:
    tally = fuzzing.fuzz(format_, COUNT, 2)
    assert tally.findings == []
    assert tally.inputs == COUNT
    assert tally.read > COUNT // 20  # the mutations leave enough of a file to get past its first bytes
    assert tally.refused["UnsupportedError"] > COUNT // 20


def test_mutations_repeat(fuzzing: Any) -> None:
    mutate, seeds = importlib.import_module("fuzz_mutate").mutation, importlib.import_module("fuzz_seeds")
    for format_, files in (("onnx", seeds.onnx_seeds()), ("tflite", seeds.tflite_seeds())):
        first, again = ([mutate(files, format_, 4, number) for number in range(40)] for _ in range(2))
        assert first == again
        assert len(set(first)) > 30


def test_a_worker_that_dies_is_a_finding(fuzzing: Any) -> None:
    fuzzing.fuzz("onnx", 1, 3)
    worker = fuzzing._worker("onnx", 3)
    os.kill(worker.process.pid, signal.SIGKILL)
    worker.process.join()
    tally = fuzzing.fuzz("onnx", 20, 3)
    assert [finding.kind for finding in tally.findings] == ["crash (-9)"]
    assert tally.inputs == 20
