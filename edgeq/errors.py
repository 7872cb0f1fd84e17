"""Every error edgeq raises on purpose, and the exit code that the command line ends with.

    EdgeqError                 1   an internal fault; please report it
    ├── UsageError             2   an option, path or name that cannot be used
    │   ├── DataError          2   calibration or evaluation data that cannot be read
    │   └── OutputError        2   the output cannot be written (read-only, full disk, exists)
    ├── UnsupportedError       3   a model, operator or format this target cannot hold
    ├── BudgetError            4   an accuracy, size, memory or latency budget was missed
    ├── AgreementError         5   an artifact or board differs from the reference
    ├── BoardError             6   a device or its connection failed
    ├── MissingDependencyError 7   an optional package is not installed
    └── UntrustedInputError    8   an input that could run code was refused

A message is one line: what happened, where, the value, what is allowed, and what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class EdgeqError(Exception):
    """Base of all deliberate errors; `exit_code` is what the command line returns."""

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        value: object = None,
        allowed: object = None,
        next_step: str | None = None,
    ) -> None:
        self.what, self.where, self.value = what, where, value
        self.allowed, self.next_step = allowed, next_step
        super().__init__(self._line())

    def _line(self) -> str:
        parts = [self.what]
        if self.where is not None:
            parts.append(f"at {self.where}")
        if self.value is not None:
            parts.append(f"got {self.value}")
        if self.allowed is not None:
            parts.append(f"allowed: {self.allowed}")
        line = "; ".join(parts)
        if self.next_step:
            line += f". {self.next_step}"
        return " ".join(line.split())


class UsageError(EdgeqError):
    """An option, path or name that cannot be used."""

    exit_code = 2


class DataError(UsageError):
    """Calibration or evaluation data that cannot be read."""


class OutputError(UsageError):
    """The output cannot be written."""


class UnsupportedError(EdgeqError):
    """A model, operator or format this target cannot hold."""

    exit_code = 3


class BudgetError(EdgeqError):
    """An accuracy, size, memory or latency budget was missed."""

    exit_code = 4


class AgreementError(EdgeqError):
    """An artifact or a board differs from the reference by more than its target promises."""

    exit_code = 5


class BoardError(EdgeqError):
    """A device or its connection failed."""

    exit_code = 6


class MissingDependencyError(EdgeqError):
    """An optional package is not installed: an extra brings it, or the command `install`."""

    exit_code = 7

    def __init__(self, package: str, extra: str = "", *, needed_for: str, install: str = "") -> None:
        super().__init__(
            f"{needed_for} needs the package {package}",
            next_step="Install it with: " + (install or f'pip install "edgeq[{extra}]"'),
        )


class UntrustedInputError(EdgeqError):
    """An input that could run code was refused."""

    exit_code = 8


def did_you_mean(name: str, choices: Iterable[str]) -> str | None:
    """The sentence that suggests the closest of `choices`, or None when none is close.

    >>> did_you_mean("jetson-in8", ["jetson-int8", "onnx-int8"])
    'Did you mean jetson-int8?'
    """
    close = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.6)
    return f"Did you mean {close[0]}?" if close else None
