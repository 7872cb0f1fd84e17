"""A line of text read from left to right; every failure says where it is and what was expected there."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import NoReturn, TypeVar

from edgeq.errors import UsageError

T = TypeVar("T")

_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')


class Line:
    """A line of text and how far it has been read."""

    def __init__(self, text: str, number: int) -> None:
        self.text, self.number, self.position = text, number, 0

    def fail(self, expected: str) -> NoReturn:
        rest = self.text[self.position : self.position + 40]
        raise UsageError(
            "graph text cannot be read",
            where=f"line {self.number}, column {self.position + 1}",
            value=repr(rest) if rest else "the end of the line",
            allowed=expected,
        )

    def take(self, pattern: re.Pattern[str]) -> str | None:
        """The text that matches `pattern` here, now read; None if it does not match."""
        match = pattern.match(self.text, self.position)
        if match is None:
            return None
        self.position = match.end()
        return match[0]

    def need(self, pattern: re.Pattern[str], expected: str) -> str:
        found = self.take(pattern)
        return self.fail(expected) if found is None else found

    def has(self, literal: str) -> bool:
        """Whether `literal` stands here; if so it is read."""
        found = self.text.startswith(literal, self.position)
        self.position += len(literal) * found
        return found

    def skip(self, literal: str) -> None:
        if not self.has(literal):
            self.fail(repr(literal))

    def end(self) -> None:
        if self.position != len(self.text):
            self.fail("the end of the line")

    def quoted(self) -> str:
        start = self.position
        text = self.need(_QUOTED, "a quoted string")
        try:
            return str(json.loads(text))
        except ValueError:
            self.position = start
            self.fail("a JSON string")

    def several(self, item: Callable[[Line], T], close: str) -> tuple[T, ...]:
        """Items separated by ", " up to `close`; one trailing comma is allowed."""
        found: list[T] = []
        while not self.has(close):
            if found:
                self.skip(",")
                if self.has(close):
                    break
                self.skip(" ")
            found.append(item(self))
        return tuple(found)
