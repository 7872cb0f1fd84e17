"""Progress on a terminal."""

from __future__ import annotations

from typing import Any

import pytest
from rich.progress import Progress as Bars

from edgeq.progress import progress_on_terminal


def test_every_stage_has_one_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Bars] = []
    start = Bars.start

    def started(bars: Bars, *args: Any) -> None:
        shown.append(bars)
        start(bars, *args)

    monkeypatch.setattr(Bars, "start", started)
    with progress_on_terminal(hidden=False) as progress:
        for done in range(4):
            progress("measuring", done, 3)
            progress("writing", done, 0)
        (bars,) = shown
        told = [(task.description, task.completed, task.total) for task in bars.tasks]
    assert told == [("measuring", 3, 3), ("writing", 3, None)]
