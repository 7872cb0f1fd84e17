"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

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
