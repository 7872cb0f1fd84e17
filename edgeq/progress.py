"""Progress of long work: stages with a count, shown as bars on a terminal and not at all elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

T = TypeVar("T")


class Progress(Protocol):
    """Called as work goes on: `progress(stage, done, total)`, total 0 when unknown."""

    def __call__(self, stage: str, done: int, total: int) -> None: ...


def silent(stage: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


def track(items: Iterable[T], stage: str, total: int, progress: Progress) -> Iterator[T]:
    """`items`, reporting each one to `progress`."""
    progress(stage, 0, total)
    for done, item in enumerate(items, start=1):
        yield item
        progress(stage, done, total)


@contextmanager
def progress_on_terminal(hidden: bool) -> Iterator[Callable[[str, int, int], None]]:
    """Progress bars on stderr, or nothing when `hidden`."""
    if hidden:
        yield silent
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, object] = {}

        def show(stage: str, done: int, total: int) -> None:
            task = tasks.setdefault(stage, bars.add_task(stage, total=total or None))
            bars.update(task, completed=done, total=total or None)  # type: ignore[arg-type]

        yield show
