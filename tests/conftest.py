"""Fixtures that every test may use."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples in every run: a failure is a change of the code, not of the dice.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")

# A shell that starts the tests in the background ignores Ctrl-C for all its children; the tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is marked `whole` unless -m names it."""
    left_out = [] if "whole" in config.getoption("-m") else [i for i in items if i.get_closest_marker("whole")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("whole")]


BESIDE_THE_PROJECT = Path(__file__).resolve().parents[2] / "shared" / "real"


@pytest.fixture(scope="session")
def real() -> Path:
    """The folder of real models and images; without one the test is skipped, with a wrong one it fails."""
    named = os.environ.get("EDGEQ_REAL")
    folder = Path(named) if named else BESIDE_THE_PROJECT
    if named and not folder.is_dir():
        pytest.fail(f"EDGEQ_REAL names no folder: {named}")
    if not folder.is_dir():
        pytest.skip("set EDGEQ_REAL to the folder of real models and images")
    return folder
